//! Looking: at every node at once, and at those that they know of.

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

use crate::fault::one_line;
use crate::handles::Handles;
use crate::node::NodeHandle;
use crate::node_error::NodeError;

/// What is known before anybody looks.
#[derive(Clone, Debug)]
pub struct Looking {
    /// How long one node may take.
    pub deadline: Duration,
    /// Who answered under which name before.
    pub known: BTreeMap<NodeName, NodeId>,
}

/// Looks at the nodes of a deployment and at all that they were told of, all at once.
///
/// A node that was dropped from the files is still looked at, since it may
/// still have what the files speak of. One that was declared lost for ever is
/// listed and not asked, unless the files name it. A slow node delays nobody
/// beyond the deadline.
pub async fn observe(desired: &Deployment, handles: &Handles, looking: &Looking) -> ClusterState {
    let mut seen: BTreeMap<NodeName, Observed<NodeState>> = BTreeMap::new();
    let mut next: BTreeMap<NodeName, Option<NodeAddress>> = desired
        .members()
        .iter()
        .map(|(name, member)| (name.clone(), member.address.clone()))
        .collect();
    while !next.is_empty() {
        let mut looks = JoinSet::new();
        for (name, address) in std::mem::take(&mut next) {
            let handle = handles.reach(&name, address.as_ref());
            let deadline = looking.deadline;
            let pinned = desired.members().get(&name).and_then(|member| member.id);
            let expected = pinned.or_else(|| looking.known.get(&name).copied());
            looks.spawn(async move {
                let look = look(handle, deadline, expected).await;
                (name, look)
            });
        }
        while let Some(look) = looks.join_next().await {
            if let Ok((name, look)) = look {
                seen.insert(name, look);
            }
        }
        let known = || seen.values().filter_map(Observed::known);
        let forgotten: BTreeSet<NodeName> = known().flat_map(|state| state.forgotten.clone()).collect();
        let peers: BTreeMap<NodeName, NodeAddress> = known().flat_map(|state| state.peers.clone()).collect();
        for (name, address) in peers {
            if seen.contains_key(&name) {
                continue;
            }
            if forgotten.contains(&name) {
                seen.insert(name, Observed::Unknown(Silence::NotAsked));
            } else {
                next.insert(name, Some(address));
            }
        }
    }
    // Every name that was asked has an answer, even where looking itself broke down.
    for name in desired.members().keys() {
        seen.entry(name.clone())
            .or_insert(Observed::Unknown(Silence::NotAsked));
    }
    set_doubles_apart(desired, &mut seen);
    ClusterState { nodes: seen }
}

async fn look(
    handle: Arc<dyn NodeHandle>,
    deadline: Duration,
    expected: Option<NodeId>,
) -> Observed<NodeState> {
    match tokio::time::timeout(deadline, handle.observe()).await {
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
