//! The parts of planning by themselves, where no plan of the rules leads: broken plans, refused steps, facts that are not so.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one thing among many"
)]

#[path = "parts/boot.rs"]
mod boot;
#[path = "parts/check.rs"]
mod check;
#[path = "parts/fact.rs"]
mod fact;
#[path = "parts/forecast.rs"]
mod forecast;
#[path = "parts/frontier.rs"]
mod frontier;
#[path = "parts/predict.rs"]
mod predict;
#[path = "parts/rendered.rs"]
mod rendered;
#[path = "parts/said.rs"]
mod said;
#[path = "parts/saved.rs"]
mod saved;
#[path = "support/world.rs"]
#[expect(dead_code, reason = "what is amiss in a cluster is asked by the laws alone")]
mod world;

use flocker_model::{ClusterState, Dataset, Generation, NodeState, Observed, Role};
use flocker_plan::{Action, Need, Plan, Reason, Step};

use world::{application_name, dataset_id, node_name};

/// A cluster of nodes by number.
fn cluster(nodes: impl IntoIterator<Item = NodeState>) -> ClusterState {
    let nodes = nodes.into_iter().enumerate();
    let nodes = nodes.map(|(number, state)| (node_name(number), Observed::Known(state)));
    ClusterState {
        nodes: nodes.collect(),
    }
}

/// A node with one dataset.
fn holder(number: usize, role: Role, fence: u64, snapshots: Vec<flocker_model::Snapshot>) -> NodeState {
    let mut node = world::node(number);
    node.datasets
        .insert(dataset_id(0), world::copy(role, fence, snapshots));
    node
}

fn dataset() -> Dataset {
    Dataset {
        id: dataset_id(0),
        owner: application_name(0),
        maximum_size: None,
    }
}

fn step(actor: usize, action: Action, needs: Vec<Need>) -> Step {
    Step {
        actor: node_name(actor),
        action,
        reason: Reason::Tidies { dataset: None }.into(),
        needs: needs.into(),
    }
}

fn plan_of(steps: Vec<Step>) -> Plan {
    Plan::new(Generation(2), steps, Vec::new(), Vec::new(), Vec::new())
}
