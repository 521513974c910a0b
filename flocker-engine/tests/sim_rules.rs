//! The rules of the house, each held to by whole clusters.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use flocker_backends::Change;
use flocker_engine::NodeHandle as _;
use flocker_engine::Order;
use flocker_engine::Transfer;
use flocker_engine::Unwatched;
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
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Observed;
use flocker_plan::Action;
use flocker_plan::Policy;
use flocker_plan::Step;
use flocker_plan::StopAll;
use flocker_plan::holds;

fn policy() -> Policy {
    Policy {
        stop_all: StopAll::Allow,
        ..Policy::default()
    }
}

fn cluster(n_nodes: usize) -> Arc<Cluster> {
    Cluster::new(Layout {
        nodes: (0..n_nodes).map(node).collect(),
        reach: Reach::Calls,
        blurred: false,
        twice: false,
        seed: 5,
    })
}

fn desired(n_nodes: usize, wishes: &Wishes) -> Deployment {
    let nodes: Vec<_> = (0..n_nodes).map(node).collect();
    wishes.deployment(&nodes)
}

async fn look(cluster: &Cluster) -> ClusterState {
    let mut state = ClusterState::default();
    for number in 0..4 {
        if let Some(program) = cluster.program(&node(number)) {
            let seen = program.observe().await.expect("it is so in memory");
            state.nodes.insert(node(number), Observed::Known(seen));
        }
    }
    state
}

/// Rule 7. After every effect of a swap the command or a machine dies, and at every effect of what follows again.
#[test]
fn at_most_one_node_may_write_in_every_state_a_crash_can_leave() {
    let mut n_states = 0;
    for first in 1..=24 {
        for second in [1, 3, 6, 10] {
            for (one, other) in [
                (
                    Mishap::CommandKill(When::After),
                    Mishap::PowerLoss(When::After, None),
                ),
                (
                    Mishap::PowerLoss(When::Before, Some(5)),
                    Mishap::CommandKill(When::Before),
                ),
                (
                    Mishap::ProcessKill(When::After, Some(1)),
                    Mishap::OtherPowerLoss(0, None),
                ),
            ] {
                in_stopped_time(crash_twice(first, one, second, other));
                n_states += 1;
            }
        }
    }
    println!("{n_states} pairs of crashes");
}

async fn crash_twice(first: u64, one: Mishap, second: u64, other: Mishap) {
    let cluster = cluster(3);
    let before = Wishes::at(&[Some(0), Some(1)]);
    let after = Wishes::at(&[Some(1), Some(0)]);
    cluster.serve(&before);
    cluster.deploy(&desired(3, &before), None, &policy()).await;
    cluster.plan_mishaps([Planned {
        at: cluster.n_effects() + first,
        mishap: one,
    }]);
    cluster.deploy(&desired(3, &after), None, &policy()).await;
    cluster.plan_mishaps([Planned {
        at: cluster.n_effects() + second,
        mishap: other,
    }]);
    cluster.deploy(&desired(3, &before), None, &policy()).await;
    cluster.cancel_mishaps();
    cluster.repair();
    let given = cluster.deploy(&desired(3, &after), None, &policy()).await;
    assert!(given.is_settled(), "{first} {one}, {second} {other}: {given:?}");
    cluster.check_at_rest(&desired(3, &after));
    let broken = cluster.broken();
    assert_eq!(
        broken,
        None,
        "{first} {one}, {second} {other}: {:#?}",
        cluster.history()
    );
}

/// Rule 5. Every step of every plan is done twice, and what it makes is looked for in a fresh look.
#[test]
fn every_action_can_be_done_twice_and_every_fact_can_be_seen() {
    let done = in_stopped_time(async {
        let cluster = cluster(3);
        let mut wishes = Wishes::at(&[Some(0), Some(1)]);
        let mut done = BTreeMap::new();
        go(&cluster, &wishes, &mut done).await;
        for homes in [[1, 0], [2, 2], [0, 1]] {
            for (wish, home) in wishes.applications.iter_mut().zip(homes) {
                wish.home = Some(home);
                wish.version += 1;
            }
            cluster.write_bulk();
            go(&cluster, &wishes, &mut done).await;
        }
        wishes.applications[0].maximum_size = Some(ByteSize(1 << 20));
        go(&cluster, &wishes, &mut done).await;
        // An offer that is withdrawn has to be renounced.
        wishes.applications[0].home = Some(2);
        release_only(&cluster, &wishes, &mut done).await;
        wishes.applications[0].home = Some(0);
        go(&cluster, &wishes, &mut done).await;
        wishes.delete(1);
        go(&cluster, &wishes, &mut done).await;
        assert_eq!(cluster.broken(), None, "{:#?}", cluster.history());
        done
    });
    println!("done twice: {done:?}");
    let verbs: BTreeSet<&str> = done.keys().copied().collect();
    for verb in [
        "create", "resize", "take", "push", "release", "acquire", "renounce", "destroy", "trim", "prepare",
        "start", "stop", "route",
    ] {
        assert!(verbs.contains(verb), "no plan had the action `{verb}`");
    }
}

/// Plans and does until nothing is left to do.
async fn go(cluster: &Cluster, wishes: &Wishes, done: &mut BTreeMap<&'static str, usize>) {
    cluster.serve(wishes);
    for _ in 0..20 {
        if !one_turn(cluster, wishes, done, |_| false).await {
            return;
        }
    }
    panic!("it does not come to rest: {:#?}", cluster.history());
}

/// Plans and does until the data is released, and no further.
async fn release_only(cluster: &Cluster, wishes: &Wishes, done: &mut BTreeMap<&'static str, usize>) {
    for _ in 0..20 {
        let is_release = |action: &Action| matches!(action, Action::Release { .. });
        if !one_turn(cluster, wishes, done, is_release).await {
            return;
        }
    }
    panic!("nothing is released");
}

/// Carries one plan out, step by step, until after a step that is the last; says whether there is more to do.
async fn one_turn(
    cluster: &Cluster,
    wishes: &Wishes,
    done: &mut BTreeMap<&'static str, usize>,
    is_last: impl Fn(&Action) -> bool,
) -> bool {
    let seen = look(cluster).await;
    let newest = seen.all_known().map(|(_, state)| state.generation).max();
    let desired = desired(3, wishes).at(newest.unwrap_or_default().next());
    let plan = flocker_plan::plan(&desired, &seen, &policy());
    for step in plan.steps() {
        let before = cluster.history().len();
        perform(cluster, &desired, step).await;
        let once = look(cluster).await;
        for fact in step.makes() {
            assert_eq!(holds(&fact, &once), Some(true), "{}: {fact}", step.id());
        }
        let again = perform(cluster, &desired, step).await;
        assert_eq!(
            again,
            Change::AlreadySo,
            "{}: {:#?}",
            step.id(),
            &cluster.history()[before..]
        );
        for fact in step.makes() {
            assert_eq!(
                holds(&fact, &look(cluster).await),
                Some(true),
                "{}: {fact}",
                step.id()
            );
        }
        *done.entry(step.action.verb()).or_insert(0) += 1;
        if is_last(&step.action) {
            return false;
        }
    }
    !plan.is_settled()
}

async fn perform(cluster: &Cluster, desired: &Deployment, step: &Step) -> Change {
    let mut order = Order::new(step.action.clone(), desired.generation());
    if let Action::Start { application, .. } | Action::Prepare { application, .. } = &step.action {
        order.application = desired.application(application).cloned();
    }
    if let Action::Push {
        dataset,
        snapshot,
        base,
        to,
    } = &step.action
    {
        let transfer = Transfer {
            dataset: dataset.clone(),
            snapshot: snapshot.clone(),
            base: base.as_ref().map(|base| base.guid),
            sender: None,
        };
        let receiver = cluster.program(to).expect("it is so in memory");
        order.ticket = Some(
            receiver
                .admit(&transfer, desired.generation())
                .await
                .expect("it is so in memory"),
        );
    }
    let actor = cluster.program(&step.actor).expect("it is so in memory");
    let done = actor.perform(&order, &Unwatched).await;
    done.unwrap_or_else(|error| panic!("{}: {error}", step.id()))
}

/// Rule 6. Whoever is silent, nothing that it may have is created, taken over or destroyed elsewhere.
#[test]
fn silence_is_never_absence() {
    for silent in 0..3 {
        for home in 0..3 {
            in_stopped_time(async {
                let cluster = cluster(3);
                let before = Wishes::at(&[Some(silent)]);
                cluster.serve(&before);
                cluster.deploy(&desired(3, &before), None, &policy()).await;
                cluster.take_power(&node(silent));
                let n_lines = cluster.history().len();
                let after = Wishes::at(&[Some(home)]);
                let given = cluster.deploy(&desired(3, &after), None, &policy()).await;
                assert!(!given.is_settled());
                for line in &cluster.history()[n_lines..] {
                    let touches = ["Create(", "Acquire(", "Destroy(", "Start("];
                    assert!(!touches.iter().any(|effect| line.contains(effect)), "{line}");
                }
                cluster.repair();
                let given = cluster.deploy(&desired(3, &after), None, &policy()).await;
                assert!(given.is_settled(), "{given:?}");
                cluster.check_at_rest(&desired(3, &after));
                assert_eq!(cluster.broken(), None, "{:#?}", cluster.history());
            });
        }
    }
}
