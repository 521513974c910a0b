//! Agents without a control service: each node looks, plans and does its own part, turn by turn.
//!
//! They hold no locks and send each other nothing but reports: they meet in
//! facts. What another node has to do first is left for a later turn.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_engine::Execution;
use flocker_engine::Handles;
use flocker_engine::Logged;
use flocker_engine::Looking;
use flocker_engine::Stop;
use flocker_engine::agent_turn;
use flocker_engine::observe;
use flocker_examples::Cluster;
use flocker_examples::Outcome;
use flocker_examples::check;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_plan::Policy;

/// A move takes a few turns of each agent; more than this many is one that never ends.
const MOST_TURNS: u32 = 20;

fn execution() -> Execution {
    Execution {
        ids: BTreeMap::new(),
        homes: BTreeMap::new(),
        lock: None,
        per_node: 4,
        bandwidth: None,
        stop: Stop::never(),
        stop_grace: Duration::from_secs(5),
        listener: Arc::new(Logged),
    }
}

/// Lets every agent take turns until none of them has anything to do, and returns how many that took.
async fn settle(
    cluster: &Cluster,
    desired: &Deployment,
    handles: &Handles,
) -> Result<u32, Box<dyn std::error::Error>> {
    let looking = Looking {
        deadline: Duration::from_secs(5),
        known: BTreeMap::new(),
    };
    for turn in 1..=MOST_TURNS {
        let mut is_settled = true;
        for me in cluster.nodes.keys() {
            let reports = observe(desired, handles, &looking).await;
            let taken = agent_turn(me, desired, &reports, handles, &Policy::default(), &execution()).await?;
            is_settled &= taken.plan.is_settled();
            for step in &taken.report.steps {
                println!("  turn {turn}: {}", step.step.id());
            }
        }
        if is_settled {
            return Ok(turn);
        }
    }
    Err("the agents never settle".into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let cluster = Cluster::start(&["alpha", "beta", "gamma"])?;
    let handles = cluster.handles();
    for (generation, home) in [(1, "alpha"), (2, "gamma")] {
        println!("generation {generation}: mongodb is to run on {home}");
        let desired = cluster.deployment(home)?.at(Generation(generation));
        let n_turns = settle(&cluster, &desired, &handles).await?;
        println!("  settled after {n_turns} turns");
        let node = &cluster.nodes[home];
        check(
            node.runtime().is_running(&"mongodb".parse()?),
            "it runs where it is to run",
        )?;
        let dataset = DatasetId::derived(&"mongodb".parse()?);
        node.volumes().append(dataset, "journal", home.as_bytes())?;
    }
    let violations = cluster.observer.violations();
    check(violations.is_empty(), "two nodes never wrote one dataset")
}
