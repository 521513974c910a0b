//! Looking: at every node at once, and at those that they know of.

mod put_back;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flocker_model::BootId;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Silence;
use tokio::task::JoinSet;

use crate::clock;
use crate::fault::one_line;
use crate::handles::Handles;
use crate::node::NodeHandle;
use crate::node_error::NodeError;

pub use put_back::behind;
pub use put_back::has_caught_up;
pub(crate) use put_back::leave_out;
pub use put_back::leave_out_older_owners;
pub use put_back::older_owners;

/// After how long people want to know for whom they wait.
const LATE: Duration = Duration::from_secs(2);

/// What is known before anybody looks.
#[derive(Clone, Debug)]
pub struct Looking {
    /// How long one node may take.
    pub deadline: Duration,
    /// Who is expected under which name, beside what the files and the nodes themselves say.
    pub known: BTreeMap<NodeName, NodeId>,
}

/// Looks at the nodes of a deployment and at all that they were told of, all at once.
///
/// A node that was dropped from the files is still looked at, since it may
/// still have what the files speak of. One that was declared lost for ever is
/// listed and not asked, unless the files name it. A slow node delays nobody
/// beyond the deadline.
///
/// A node that answers with another identity than any of the others remembers
/// is not seen: what it has says nothing of what is meant by its name. The
/// files go before what is remembered where they say who a node is.
///
/// A node that says less than others remember of it was put back from an older
/// copy. It is not seen either, as long as any other node is silent.
pub async fn observe(desired: &Deployment, handles: &Handles, looking: &Looking) -> ClusterState {
    observe_telling(desired, handles, looking, |_| {}).await
}

/// Looks as [`observe()`] does, and tells which nodes have not answered while there is still time for them.
///
/// That is told at most once for each round of nodes that are asked together.
pub async fn observe_telling(
    desired: &Deployment,
    handles: &Handles,
    looking: &Looking,
    mut late: impl FnMut(Vec<NodeName>),
) -> ClusterState {
    let mut state = ClusterState::default();
    let mut next: BTreeMap<NodeName, Option<NodeAddress>> = desired
        .members()
        .iter()
        .map(|(name, member)| (name.clone(), member.address.clone()))
        .collect();
    while !next.is_empty() {
        let mut looks = JoinSet::new();
        let mut unanswered = BTreeSet::new();
        for (name, address) in std::mem::take(&mut next) {
            let handle = handles.reach(&name, address.as_ref());
            let deadline = looking.deadline;
            let expected = pinned(desired, &name).or_else(|| looking.known.get(&name).copied());
            unanswered.insert(name.clone());
            // On the heap before it is handed over: it is large, and would be moved from hand to hand.
            looks.spawn(Box::pin(async move {
                let look = look(handle, deadline, expected).await;
                (name, look)
            }));
        }
        let since = clock::now();
        let mut is_told = false;
        loop {
            let next = if is_told {
                looks.join_next().await
            } else {
                let left = LATE.saturating_sub(clock::now().saturating_duration_since(since));
                let Ok(next) = clock::timeout(left, looks.join_next()).await else {
                    is_told = true;
                    late(unanswered.iter().cloned().collect());
                    continue;
                };
                next
            };
            let Some(look) = next else {
                break;
            };
            if let Ok((name, look)) = look {
                unanswered.remove(&name);
                state.nodes.insert(name, look);
            }
        }
        let forgotten: BTreeSet<NodeName> = state.forgotten().into_iter().cloned().collect();
        let peers = state.all_known().flat_map(|(_, seen)| &seen.peers);
        let unlisted: BTreeMap<NodeName, NodeAddress> = peers
            .filter(|(name, _)| !state.nodes.contains_key(*name))
            .map(|(name, peer)| (name.clone(), peer.address.clone()))
            .collect();
        for (name, address) in unlisted {
            if forgotten.contains(&name) {
                state.nodes.insert(name, Observed::Unknown(Silence::Forgotten));
            } else {
                next.insert(name, Some(address));
            }
        }
    }
    // Every name that was asked has an answer, even where looking itself broke down.
    for name in desired.members().keys() {
        state
            .nodes
            .entry(name.clone())
            .or_insert(Observed::Unknown(Silence::NotAsked));
    }
    set_doubles_apart(desired, &mut state.nodes);
    doubt_impostors(desired, &mut state);
    put_back::doubt_put_back(&mut state);
    state
}

fn pinned(desired: &Deployment, name: &NodeName) -> Option<NodeId> {
    desired.members().get(name).and_then(|member| member.id)
}

/// Takes every node as silent that is not who others remember under its name: any disagreement is enough.
///
/// Nothing is said by who was declared lost, nor of whom: those identities are given up.
fn doubt_impostors(desired: &Deployment, state: &mut ClusterState) {
    let forgotten = state.forgotten();
    let mut lost: BTreeSet<(&NodeName, &NodeId)> = BTreeSet::new();
    for (name, ids) in state.all_known().flat_map(|(_, seen)| &seen.forgotten) {
        lost.extend(ids.iter().map(|id| (name, id)));
    }
    let memories = || {
        let witnesses = state.all_known().filter(|(who, _)| !forgotten.contains(who));
        witnesses.flat_map(|(who, seen)| seen.peers.iter().map(move |peer| (who, peer)))
    };
    let mut doubtful: BTreeMap<NodeName, Silence> = BTreeMap::new();
    for (_, (name, peer)) in memories() {
        if let (Some(id), Some(seen)) = (&peer.id, state.known(name))
            && *id != seen.id
            && !lost.contains(&(name, id))
            && pinned(desired, name).is_none()
        {
            let silence = Silence::Impostor {
                found: seen.id,
                remembered: BTreeMap::new(),
            };
            doubtful.insert(name.clone(), silence);
        }
    }
    if doubtful.is_empty() {
        return;
    }
    for (who, (name, peer)) in memories() {
        if let (Some(id), Some(Silence::Impostor { remembered, .. })) = (peer.id, doubtful.get_mut(name))
            && !lost.contains(&(name, &id))
        {
            remembered.insert(who.clone(), id);
        }
    }
    let doubtful = doubtful.into_iter();
    state
        .nodes
        .extend(doubtful.map(|(name, silence)| (name, Observed::Unknown(silence))));
}

async fn look(
    handle: Arc<dyn NodeHandle>,
    deadline: Duration,
    expected: Option<NodeId>,
) -> Observed<NodeState> {
    match clock::timeout(deadline, handle.observe()).await {
        Ok(Ok(state)) => match expected {
            Some(expected) if expected != state.id => Observed::Unknown(Silence::WrongNode {
                expected,
                found: state.id,
            }),
            Some(_) | None => Observed::Known(state),
        },
        Ok(Err(error)) => Observed::Unknown(silence(&error)),
        Err(_) => Observed::Unknown(Silence::Unreachable {
            reason: format!("no report within {} s", deadline.as_secs_f32()),
        }),
    }
}

fn silence(error: &NodeError) -> Silence {
    let reason = one_line(error);
    match error {
        NodeError::Protocol { .. } => Silence::Unreadable { reason },
        NodeError::Unreachable { .. }
        | NodeError::NotDirect { .. }
        | NodeError::Lost { .. }
        | NodeError::Stale { .. }
        | NodeError::WrongNode { .. }
        | NodeError::Held { .. }
        | NodeError::LockLost
        | NodeError::NotAdmitted { .. }
        | NodeError::Incomplete { .. }
        | NodeError::OtherDefinition { .. }
        | NodeError::NotPrimary { .. }
        | NodeError::InUse { .. }
        | NodeError::Deadline { .. }
        | NodeError::Receiver { .. }
        | NodeError::Backend(_) => Silence::Unreachable { reason },
    }
}

/// Leaves one name to a machine that answers under several: one of the files if there is one, else the first.
///
/// An old name of it, which only other nodes remember, is left out: the
/// machine was seen. Two machines with one identity, as copies of a disk have,
/// differ in their boot; then nobody knows which is meant, and the other name stays, silent.
fn set_doubles_apart(desired: &Deployment, seen: &mut BTreeMap<NodeName, Observed<NodeState>>) {
    let mut doubles: BTreeMap<NodeId, Vec<(NodeName, BootId)>> = BTreeMap::new();
    for (name, look) in &*seen {
        if let Some(state) = look.known() {
            let names = doubles.entry(state.id).or_default();
            names.push((name.clone(), state.boot));
        }
    }
    for mut names in doubles.into_values() {
        let is_listed = |name: &NodeName| desired.members().contains_key(name);
        names.sort_by_key(|(name, _)| !is_listed(name));
        let mut names = names.into_iter();
        let Some((first, boot)) = names.next() else {
            continue;
        };
        for (other, other_boot) in names {
            if other_boot == boot && !is_listed(&other) {
                seen.remove(&other);
            } else {
                let silence = Silence::SameNode { other: first.clone() };
                seen.insert(other, Observed::Unknown(silence));
            }
        }
    }
}
