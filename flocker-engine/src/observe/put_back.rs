//! Nodes that were put back from an older copy of their disk.
//!
//! What such a node says was so once. It may say that it owns what it has
//! handed over since, and whoever took that over may be the one that is
//! silent. Others remember which generation it has obeyed
//! ([`announce()`](crate::announce())).

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ClusterState;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Silence;

/// Takes every node as silent that says less than others remember of it, as long as any other is silent.
///
/// Where all others are seen, or lost for ever, it is believed: what it says
/// can be compared with what everybody says. All are judged by what was seen
/// of all, so that two that were put back are witnesses of each other: what a
/// node remembers was so, however old it is. Who was declared lost is no
/// witness, and is not judged; whoever is judged has no say in who is lost.
pub(super) fn doubt_put_back(state: &mut ClusterState) {
    let mut doubtful: BTreeMap<NodeName, (Generation, BTreeMap<NodeName, Generation>)> = BTreeMap::new();
    for (witness, saying) in state.all_known() {
        for (name, peer) in &saying.peers {
            if let Some(seen) = state.known(name)
                && peer.id == Some(seen.id)
                && peer.generation > seen.generation
            {
                let (_, remembered) = doubtful
                    .entry(name.clone())
                    .or_insert_with(|| (seen.generation, BTreeMap::new()));
                remembered.insert(witness.clone(), peer.generation);
            }
        }
    }
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
    for (name, (obeys, mut remembered)) in doubtful {
        remembered.retain(|witness, _| !others.is_forgotten(witness));
        if !remembered.is_empty() && !others.is_forgotten(&name) {
            let silence = Silence::PutBack {
                obeys,
                remembered,
                silent: silent.clone(),
            };
            state.nodes.insert(name, Observed::Unknown(silence));
        }
    }
}
