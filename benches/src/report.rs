//! A generated cluster as `flocker report-state --json` would have printed it.

use flocker_model::ClusterState;
use flocker_model::NodeState;
use serde_json::Value;
use serde_json::json;

/// Returns the document; nodes that were not seen are left out.
#[must_use]
pub fn document(actual: &ClusterState) -> Value {
    let nodes = actual
        .all_known()
        .map(|(name, state)| (name.to_string(), json!({ "seen": node(state) })));
    json!({
        "version": 1,
        "command": "report-state",
        "nodes": nodes.collect::<serde_json::Map<String, Value>>(),
    })
}

fn node(state: &NodeState) -> Value {
    let NodeState {
        id,
        boot,
        address,
        generation,
        key: _,
        datasets,
        containers,
        routes,
        trash,
        fences,
        unreadable,
        free,
        keeps,
        foreign_ports,
        peers,
        forgotten,
    } = state;
    json!({
        "id": id,
        "boot": boot,
        "address": address,
        "generation": generation,
        "key": "withheld",
        "datasets": datasets,
        "containers": containers,
        "routes": routes,
        "trash": trash,
        "fences": fences,
        "unreadable": unreadable,
        "free": free,
        "keeps": keeps,
        "foreign_ports": foreign_ports,
        "peers": peers,
        "forgotten": forgotten,
    })
}
