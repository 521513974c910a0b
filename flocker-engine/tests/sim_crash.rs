//! A crash at every effect of every plan: the next command finishes what was begun, and nothing is lost.

#![expect(clippy::print_stdout, reason = "a run of many cases says how many there were")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_engine::sim::Cluster;
use flocker_engine::sim::Layout;
use flocker_engine::sim::Mishap;
use flocker_engine::sim::Planned;
use flocker_engine::sim::Reach;
use flocker_engine::sim::When;
use flocker_engine::sim::Wishes;
use flocker_engine::sim::in_stopped_time;
use flocker_engine::sim::node;
use flocker_model::ByteSize;
use flocker_plan::Policy;
use flocker_plan::StopAll;

/// What goes wrong at each effect.
const CRASHES: [Mishap; 7] = [
    Mishap::CommandKill(When::Before),
    Mishap::CommandKill(When::After),
    Mishap::PowerLoss(When::Before, None),
    Mishap::PowerLoss(When::After, None),
    Mishap::ProcessKill(When::Before, None),
    Mishap::ProcessKill(When::After, None),
    Mishap::LostReply,
];

/// What is wanted first, and what is wanted then, one after the other.
struct Scenario {
    what: &'static str,
    n_nodes: usize,
    wanted: Vec<Wishes>,
}

fn at(homes: &[usize]) -> Wishes {
    let homes: Vec<Option<usize>> = homes.iter().map(|home| Some(*home)).collect();
    Wishes::at(&homes)
}

fn with(mut wishes: Wishes, change: impl FnOnce(&mut Wishes)) -> Wishes {
    change(&mut wishes);
    wishes
}

fn scenarios() -> Vec<Scenario> {
    let scenario = |what, n_nodes, wanted: Vec<Wishes>| Scenario {
        what,
        n_nodes,
        wanted,
    };
    let nowhere = |n: usize| Wishes::at(&vec![None; n]);
    vec![
        scenario("create", 1, vec![nowhere(1), at(&[0])]),
        scenario("create everywhere", 3, vec![nowhere(3), at(&[0, 1, 2])]),
        scenario("move", 2, vec![at(&[0]), at(&[1])]),
        scenario("move past a third", 3, vec![at(&[0]), at(&[1])]),
        scenario("there and back", 2, vec![at(&[0]), at(&[1]), at(&[0])]),
        scenario("move on", 3, vec![at(&[0]), at(&[1]), at(&[2])]),
        scenario("swap", 2, vec![at(&[0, 1]), at(&[1, 0])]),
        scenario("ring", 3, vec![at(&[0, 1, 2]), at(&[1, 2, 0])]),
        scenario("together", 3, vec![at(&[0, 1, 2]), at(&[0, 0, 0])]),
        scenario(
            "remove",
            2,
            vec![at(&[0, 1]), with(at(&[0, 1]), |w| w.applications[0].home = None)],
        ),
        scenario("add again elsewhere", 2, vec![at(&[0]), nowhere(1), at(&[1])]),
        scenario(
            "restart",
            1,
            vec![at(&[0]), with(at(&[0]), |w| w.applications[0].version = 2)],
        ),
        scenario(
            "move and change",
            2,
            vec![at(&[0]), with(at(&[1]), |w| w.applications[0].version = 2)],
        ),
        scenario(
            "resize",
            1,
            vec![
                at(&[0]),
                with(at(&[0]), |w| {
                    w.applications[0].maximum_size = Some(ByteSize(1 << 20));
                }),
            ],
        ),
        scenario(
            "resize and move",
            2,
            vec![
                at(&[0]),
                with(at(&[1]), |w| {
                    w.applications[0].maximum_size = Some(ByteSize(1 << 20));
                }),
            ],
        ),
        scenario("delete", 2, vec![at(&[0, 1]), with(at(&[0, 1]), |w| w.delete(0))]),
    ]
}

fn policy() -> Policy {
    Policy {
        stop_all: StopAll::Allow,
        ..Policy::default()
    }
}

/// Brings a cluster to the wishes before the last, with data.
async fn begin(scenario: &Scenario) -> Arc<Cluster> {
    let cluster = Cluster::new(Layout {
        nodes: (0..scenario.n_nodes).map(node).collect(),
        reach: Reach::Calls,
        blurred: false,
        twice: false,
        seed: 1,
    });
    let before = &scenario.wanted[..scenario.wanted.len() - 1];
    for wishes in before {
        cluster.serve(wishes);
        let given = cluster.deploy(&desired(scenario, wishes), None, &policy()).await;
        assert!(given.is_settled(), "{}: {given:?}", scenario.what);
        cluster.write_bulk();
    }
    cluster
}

fn desired(scenario: &Scenario, wishes: &Wishes) -> flocker_model::Deployment {
    let nodes: Vec<_> = (0..scenario.n_nodes).map(node).collect();
    wishes.deployment(&nodes)
}

fn last(scenario: &Scenario) -> &Wishes {
    &scenario.wanted[scenario.wanted.len() - 1]
}

/// Returns the numbers of the effects of the last command, where nothing goes wrong.
async fn effects(scenario: &Scenario) -> std::ops::RangeInclusive<u64> {
    let cluster = begin(scenario).await;
    let first = cluster.n_effects() + 1;
    cluster.serve(last(scenario));
    let desired = desired(scenario, last(scenario));
    let given = cluster.deploy(&desired, None, &policy()).await;
    assert!(given.is_settled(), "{}: {given:?}", scenario.what);
    cluster.check_at_rest(&desired);
    assert_eq!(cluster.broken(), None, "{}", scenario.what);
    first..=cluster.n_effects()
}

/// Lets one thing go wrong at one effect, then another wish come up, and brings the cluster to rest.
async fn crash(scenario: &Scenario, planned: Planned, then: &Wishes) -> Result<(), String> {
    let cluster = begin(scenario).await;
    cluster.plan_mishaps([planned]);
    cluster.serve(last(scenario));
    cluster
        .deploy(&desired(scenario, last(scenario)), None, &policy())
        .await;
    cluster.serve(then);
    let desired = desired(scenario, then);
    for _ in 0..4 {
        cluster.repair();
        let given = cluster.deploy(&desired, None, &policy()).await;
        if given.is_settled() {
            cluster.check_at_rest(&desired);
            return cluster
                .broken()
                .map_or(Ok(()), |broken| Err(explain(&cluster, &broken)));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Err(explain(&cluster, "it does not come to rest"))
}

fn explain(cluster: &Cluster, wrong: &str) -> String {
    format!("{wrong}\n{}", cluster.history().join("\n"))
}

/// Crashes at every effect of every scenario; `then` says what is wanted after the crash. Returns how many pairs there were.
fn crash_everywhere(then: impl Fn(&Scenario) -> Wishes) -> usize {
    let mut pairs = BTreeMap::new();
    for scenario in scenarios() {
        let effects = in_stopped_time(effects(&scenario));
        for number in effects {
            for mishap in CRASHES {
                let planned = Planned { at: number, mishap };
                let outcome = in_stopped_time(crash(&scenario, planned, &then(&scenario)));
                if let Err(wrong) = outcome {
                    panic!("{}, {planned}: {wrong}", scenario.what);
                }
                *pairs.entry(scenario.what).or_insert(0) += 1;
            }
        }
    }
    println!("plan x crash point: {pairs:?}");
    pairs.values().sum()
}

#[test]
fn i8_a_crash_at_every_effect_of_every_plan_is_finished_by_the_next_command() {
    let n_pairs = crash_everywhere(|scenario| last(scenario).clone());
    println!("{n_pairs} pairs of plan and crash point");
    assert!(n_pairs >= 1000, "{n_pairs}");
}

#[test]
fn a_change_of_mind_after_a_crash_at_every_effect_is_obeyed() {
    let n_pairs = crash_everywhere(|scenario| {
        let mut back = last(scenario).clone();
        let first = &scenario.wanted[0];
        for (wish, was) in back.applications.iter_mut().zip(&first.applications) {
            wish.home = was.home;
        }
        back
    });
    println!("{n_pairs} pairs of plan, crash point and change of mind");
    assert!(n_pairs >= 1000, "{n_pairs}");
}
