//! What is told before the first order of a generation: to obey it, and who else does.
//!
//! A node that was put back from an older copy of its disk says what was so
//! then, and knows nothing of what it has handed over since. The others know:
//! before anything of a generation is done, each of its nodes has obeyed it
//! durably, and each remembers that of all others. Whoever says less than is
//! remembered of it was put back. The two are told one after the other, so
//! that nothing is remembered of a node that was not so.
//!
//! With one exception. Who was put back may say of several datasets that it
//! owns what is another's by now, and has to be told something where a person
//! decides the first of them; or it may know nothing of an offer that it took
//! up. What it is told must not make it believed about the rest. So all others
//! remember, before it is told, that it has obeyed one generation more:
//! wherever the command dies, it says less than is remembered of it. It obeys
//! that next generation when nothing of this is left.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use flocker_backends::Change;
use flocker_model::Generation;
use flocker_model::NodeName;
use tokio::task::JoinSet;

use crate::node::Claim;
use crate::node::NodeHandle;
use crate::node_error::NodeError;

/// Tells nodes whose deploy lock is held that a generation begins, all at once; returns which could not be told, and why.
///
/// Where that is none, every one of them obeys it and remembers that the
/// others do, those apart whose program is too old for that. Else nothing of
/// the generation may be ordered yet of any of them: look again, and leave out
/// who cannot be told.
///
/// Each claim is the one by which the lock is held. Nothing is written where
/// all of it was told before. Who is `behind`, as
/// [`behind()`](crate::behind()) of the same look says, is still known to be
/// after that.
pub async fn announce(
    generation: Generation,
    held: &[(Arc<dyn NodeHandle>, Claim)],
    behind: &BTreeSet<NodeName>,
) -> BTreeMap<NodeName, NodeError> {
    if !behind.is_empty() {
        let failed = remember(held, |name| behind.contains(name).then(|| generation.next())).await;
        if !failed.is_empty() {
            return failed;
        }
    }
    let mut telling = JoinSet::new();
    for (node, claim) in held {
        let (node, lock) = (Arc::clone(node), claim.token);
        telling.spawn(async move { (node.name().clone(), node.obey(generation, lock).await) });
    }
    let mut obeying = BTreeSet::new();
    let mut failed = BTreeMap::new();
    for (node, obeyed) in telling.join_all().await {
        match obeyed {
            Ok(Some(_)) => drop(obeying.insert(node)),
            // Its program is too old for that; nothing is remembered of it.
            Ok(None) => {}
            Err(error) => drop(failed.insert(node, error)),
        }
    }
    if !failed.is_empty() {
        return failed;
    }
    remember(held, |name| obeying.contains(name).then_some(generation)).await
}

/// Has all remember of each other what each has obeyed, where that is known; returns who could not be told, and why.
async fn remember(
    held: &[(Arc<dyn NodeHandle>, Claim)],
    obeyed: impl Fn(&NodeName) -> Option<Generation>,
) -> BTreeMap<NodeName, NodeError> {
    let mut telling = JoinSet::new();
    for (node, claim) in held {
        let (node, mut claim) = (Arc::clone(node), claim.clone());
        for (name, peer) in &mut claim.peers {
            peer.generation = obeyed(name).unwrap_or(peer.generation);
        }
        telling.spawn(async move { (node.name().clone(), node.lock(&claim).await) });
    }
    let mut failed = BTreeMap::new();
    for (node, told) in telling.join_all().await {
        match told {
            Ok(Change::AlreadySo) => {}
            // The lock was lost meanwhile, and may have been somebody else's.
            Ok(Change::Made) => drop(failed.insert(node, NodeError::LockLost)),
            Err(error) => drop(failed.insert(node, error)),
        }
    }
    failed
}
