//! Nodes that were put back from an older copy of their disk.
//!
//! What such a node says was so once. It may say that it owns what it has
//! handed over since, and whoever took that over may be the one that is
//! silent. Others remember which generation it has obeyed
//! ([`announce()`](crate::announce())).

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Silence;

/// Takes every node as silent that says less than others remember of it, as long as any other is silent.
///
/// Where all others are seen, or lost for ever, it is believed: what it says
/// can be compared with what everybody says. All are judged by what was seen
/// of all, so that two that were put back are witnesses of each other: what a
/// node remembers was so, however old it is. Who was declared lost is no
/// witness, and is not judged; whoever is judged has no say in who is lost.
pub(super) fn doubt_put_back(state: &mut ClusterState) {
    let doubtful = all_doubtful(state);
    if doubtful.is_empty() {
        return;
    }
    let judged = |name: &NodeName| doubtful.contains_key(name);
    let nodes = state.nodes.iter().filter(|(name, _)| !judged(name));
    let others = ClusterState {
        nodes: nodes.map(|(name, look)| (name.clone(), look.clone())).collect(),
    };
    let is_silent = |(name, look): &(&NodeName, &Observed<NodeState>)| {
        look.known().is_none() && !others.is_forgotten(name)
    };
    let silent = others.nodes.iter().filter(is_silent);
    let silent: BTreeSet<NodeName> = silent.map(|(name, _)| name.clone()).collect();
    if silent.is_empty() {
        return;
    }
    for (name, mut doubt) in doubtful {
        doubt
            .remembered
            .retain(|witness, _| !others.is_forgotten(witness));
        if !doubt.remembered.is_empty() && !others.is_forgotten(&name) {
            let silence = doubt.silence(silent.clone(), BTreeSet::new());
            state.nodes.insert(name, Observed::Unknown(silence));
        }
    }
}

/// Takes nodes as not seen that were seen, each for its reason, and with them every node that was put back.
///
/// Who is left out is no witness any more, so what it knows better cannot be
/// held against a node that says less than is remembered of it.
pub(crate) fn leave_out(state: &mut ClusterState, which: Vec<(NodeName, Silence)>) {
    let doubtful = all_doubtful(state);
    let counted = which.iter().map(|(name, _)| name);
    let silent: BTreeSet<NodeName> = counted
        .filter(|name| !state.is_forgotten(name))
        .cloned()
        .collect();
    for (name, silence) in which {
        state.nodes.insert(name, Observed::Unknown(silence));
    }
    if silent.is_empty() {
        return;
    }
    for (name, doubt) in doubtful {
        if state.known(&name).is_some() {
            let silence = doubt.silence(silent.clone(), BTreeSet::new());
            state.nodes.insert(name, Observed::Unknown(silence));
        }
    }
}

/// Takes every node as silent that was put back and says that it owns what was taken over from it, for others to see.
///
/// Whoever deploys does without it. What it is told would hide that it was put
/// back, and it would be believed as soon as the newer owner is silent. A
/// person decides which copy counts; until then, to look and to decide, both
/// owners have to be seen, so [`observe()`](super::observe()) leaves it.
pub fn leave_out_older_owners(state: &mut ClusterState) {
    let older = all_doubtful(state).into_iter().filter_map(|(name, doubt)| {
        let owns = contradicted(state, &name);
        (!owns.is_empty()).then(|| (name, Observed::Unknown(doubt.silence(BTreeSet::new(), owns))))
    });
    // Each is judged by what was seen of all.
    let older: Vec<_> = older.collect();
    state.nodes.extend(older);
}

/// Returns every node that was put back, and of which datasets it says that it owns what others know to be another's by now.
///
/// A person decides each of them, one after the other.
#[must_use]
pub fn older_owners(state: &ClusterState) -> BTreeMap<NodeName, BTreeSet<DatasetId>> {
    let claims = all_doubtful(state).into_keys().map(|name| {
        let claims = contradicted(state, &name);
        (name, claims)
    });
    claims.filter(|(_, claims)| !claims.is_empty()).collect()
}

/// Returns what a node says that it owns, or has let go, and others know better of.
fn contradicted(state: &ClusterState, name: &NodeName) -> BTreeSet<DatasetId> {
    let copies = state.known(name).into_iter().flat_map(|seen| &seen.datasets);
    let claims = copies.filter(|(dataset, copy)| is_contradicted(state, name, **dataset, &copy.role));
    claims.map(|(dataset, _)| *dataset).collect()
}

/// Returns every node that was put back and has to stay known for that, whatever it is told.
///
/// These are the [older owners](older_owners()), and who might take up an
/// offer that was taken up before, or take one back: it does not know that any
/// more, and with the owner of today silent nobody else might. So is who has
/// something that cannot be read: what it claims of that is not known yet.
#[must_use]
pub fn behind(state: &ClusterState) -> BTreeSet<NodeName> {
    let is_unread = |name: &NodeName| state.known(name).is_some_and(|seen| !seen.unreadable.is_empty());
    let is_behind = |name: &NodeName| {
        !contradicted(state, name).is_empty() || has_old_offer(state, name) || is_unread(name)
    };
    all_doubtful(state).into_keys().filter(is_behind).collect()
}

/// Says whether anybody was [behind] who is no more, and all are seen that were; who was put back may count again then.
///
/// Who came into sight meanwhile may contradict it, and who fell silent may know better.
#[must_use]
pub fn has_caught_up(before: &ClusterState, after: &ClusterState) -> bool {
    let seen = |state: &ClusterState| {
        let all = state.all_known();
        all.map(|(_, seen)| seen.id).collect::<BTreeSet<_>>()
    };
    let were_behind = behind(before);
    !were_behind.is_subset(&behind(after)) && seen(before) == seen(after)
}

/// Says whether a node has a part in an offer that was taken up since, of which only the others know.
fn has_old_offer(state: &ClusterState, name: &NodeName) -> bool {
    let all = state.all_known();
    let mut all = all.flat_map(|(by, seen)| {
        seen.datasets
            .iter()
            .map(move |(dataset, copy)| (by, *dataset, copy))
    });
    all.any(|(by, dataset, copy)| match &copy.role {
        Role::Released { epoch, to, .. } if by == name || to == name => {
            // Whoever of the two knows of a newer ownership refuses this one.
            let mut parties = [by, to].into_iter().filter_map(|party| state.known(party));
            parties.all(|party| knows(party, dataset) <= *epoch)
                && state.all_known().any(|(_, seen)| knows(seen, dataset) > *epoch)
        }
        Role::Released { .. } | Role::Primary { .. } | Role::Replica => false,
    })
}

/// Says whether any node that is seen knows better than one that says to own a dataset, or to have let it go; or may, and
/// cannot be read.
fn is_contradicted(state: &ClusterState, claiming: &NodeName, dataset: DatasetId, role: &Role) -> bool {
    let others = || state.all_known().filter(|(name, _)| *name != claiming);
    let mut owners = others().filter_map(|(_, seen)| match seen.datasets.get(&dataset)?.role {
        Role::Primary { epoch } => Some(epoch),
        Role::Released { .. } | Role::Replica => None,
    });
    let is_unread = others().any(|(_, seen)| seen.unreadable.contains_key(&dataset));
    match role {
        Role::Primary { .. } | Role::Released { .. } if is_unread => true,
        Role::Primary { epoch } => {
            owners.next().is_some() || state.all_known().any(|(_, seen)| knows(seen, dataset) > *epoch)
        }
        // Let go for an ownership that is newer than an owner's: one of the two comes from one that was lost.
        Role::Released { epoch, .. } => owners.any(|owned| owned < *epoch),
        Role::Replica => false,
    }
}

/// Returns the newest ownership of a dataset that a node knows of.
fn knows(seen: &NodeState, dataset: DatasetId) -> Epoch {
    let of_copy = seen.datasets.get(&dataset).map(|copy| match copy.role {
        Role::Primary { epoch } | Role::Released { epoch, .. } => epoch.max(copy.fence),
        Role::Replica => copy.fence,
    });
    of_copy
        .max(seen.fences.get(&dataset).copied())
        .unwrap_or_default()
}

/// What a node says that it obeys, and who remembers which newer generation of it.
struct Doubt {
    obeys: Generation,
    remembered: BTreeMap<NodeName, Generation>,
}

impl Doubt {
    fn silence(self, silent: BTreeSet<NodeName>, owns: BTreeSet<DatasetId>) -> Silence {
        let Self { obeys, remembered } = self;
        Silence::PutBack {
            obeys,
            remembered,
            silent,
            owns,
        }
    }
}

/// Returns every seen node that says less than any other remembers of it.
fn all_doubtful(state: &ClusterState) -> BTreeMap<NodeName, Doubt> {
    let mut doubtful: BTreeMap<NodeName, Doubt> = BTreeMap::new();
    for (witness, saying) in state.all_known() {
        for (name, peer) in &saying.peers {
            if let Some(seen) = state.known(name)
                && peer.id == Some(seen.id)
                && peer.generation > seen.generation
            {
                let doubt = doubtful.entry(name.clone()).or_insert_with(|| Doubt {
                    obeys: seen.generation,
                    remembered: BTreeMap::new(),
                });
                doubt.remembered.insert(witness.clone(), peer.generation);
            }
        }
    }
    doubtful
}
