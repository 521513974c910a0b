//! Every small cluster: two nodes, one application with data and one without, in every state that tells them apart.
//!
//! For each, every order of ready steps and every point at which the plug can
//! be pulled.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

#[path = "support/walk.rs"]
mod walk;
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;

use flocker_model::{
    ByteSize, ClusterState, ContainerStatus, Deployment, Epoch, Generation, Manifestation, Member, NodeState,
    Observed, PartialReceive, Role, Snapshot, SnapshotName,
};
use flocker_plan::{Frontier, NotConverging, Outcome, Plan, Policy, StopAll, Waiting, check, holds, plan};

use walk::{Witness, settle, walk, walk_in_order};
use world::{
    amiss, application, application_name, container, copy, dataset_id, in_one_order, node, node_name, silent,
    snapshot,
};

/// Enough for a warm round, the cut-over, what follows it, and tidying up.
const TURNS: usize = 6;
/// How many orders of one plan are followed to the end, at most.
const ORDERS: usize = 24;

/// The applications: number 0 has data, number 1 has none.
const DATA: usize = 0;
const BARE: usize = 1;

fn two_nodes() -> [usize; 2] {
    [0, 1]
}

/// Every place for the one with data, every set of places for the one without.
fn wishes() -> Vec<Deployment> {
    let mut wishes = Vec::new();
    for home in [None, Some(0), Some(1)] {
        for bare in [&[][..], &[0], &[1], &[0, 1]] {
            let mut builder = Deployment::builder()
                .application(application_name(DATA), application(DATA, 0, true))
                .application(application_name(BARE), application(BARE, 0, false));
            for number in two_nodes() {
                builder = builder.node(node_name(number), Member::empty());
            }
            if let Some(home) = home {
                builder = builder.place(&application_name(DATA), &node_name(home));
            }
            for &home in bare {
                builder = builder.place(&application_name(BARE), &node_name(home));
            }
            wishes.push(builder.build().unwrap().at(Generation(2)));
        }
    }
    wishes
}

/// Every role, relation of epochs and relation of snapshots that a copy can have.
fn copies(on: usize) -> Vec<Option<Manifestation>> {
    let base = || snapshot(SnapshotName::handoff(Epoch(2)), 0);
    let warm = || snapshot(SnapshotName::warm(Epoch(3), 1), 0);
    let last = || snapshot(SnapshotName::handoff(Epoch(3)), 0);
    let other = || snapshot(SnapshotName::handoff(Epoch(2)), 1);
    let released = |epoch, to: usize, last: Snapshot| Role::Released {
        epoch: Epoch(epoch),
        to: node_name(to),
        guid: last.guid,
        last: last.name,
    };
    let primary = |epoch| Role::Primary { epoch: Epoch(epoch) };
    let mut copies = vec![
        None,
        Some(copy(Role::Replica, 0, Vec::new())),
        Some(copy(Role::Replica, 0, vec![base()])),
        Some(copy(Role::Replica, 2, vec![base(), warm()])),
        Some(copy(Role::Replica, 3, vec![base()])),
        Some(copy(Role::Replica, 4, vec![base(), last()])),
        Some(copy(Role::Replica, 0, vec![other()])),
        Some(copy(primary(2), 2, vec![base()])),
        Some(copy(primary(2), 2, vec![base(), warm()])),
        Some(copy(primary(3), 3, vec![base(), last()])),
        Some(copy(released(2, 1 - on, base()), 1, vec![base()])),
        Some(copy(released(3, 1 - on, last()), 2, vec![base(), last()])),
        Some(copy(released(3, on, last()), 2, vec![base(), last()])),
    ];
    let mut begun = copy(Role::Replica, 0, vec![base()]);
    begun.partial = Some(Box::new(PartialReceive {
        snapshot: SnapshotName::warm(Epoch(3), 1),
        received: ByteSize(1 << 20),
        token: "token".into(),
    }));
    copies.push(Some(begun));
    let mut busy = copy(primary(2), 2, vec![base()]);
    busy.unsent = ByteSize(1 << 30);
    copies.push(Some(busy));
    copies
}

/// A node: its copy of the data, and how far the applications are.
fn seen(number: usize, copy: Option<&Manifestation>, running: usize, wish: &Deployment) -> NodeState {
    let mut state = node(number);
    let owns = copy.is_some_and(|copy| matches!(copy.role, Role::Primary { .. }));
    if let Some(copy) = copy {
        state.datasets.insert(dataset_id(DATA), copy.clone());
    }
    let mut run = |application: usize, status| {
        let name = application_name(application);
        let mut made = container(wish.application(&name), &state);
        made.status = status;
        if status == ContainerStatus::Prepared {
            made.dataset = None;
        }
        state.containers.insert(name, made);
    };
    match running {
        0 => {}
        // What has data runs only where its data is owned.
        1 if owns => run(DATA, ContainerStatus::Running),
        1 => run(DATA, ContainerStatus::Prepared),
        _ => run(BARE, ContainerStatus::Running),
    }
    state
}

#[derive(Default)]
struct Count {
    wishes: usize,
    orders: usize,
    crashes: usize,
}

#[test]
fn every_small_cluster_is_safe_in_every_order_and_after_every_crash() {
    let policy = Policy {
        not_converging: NotConverging::Accept,
        stop_all: StopAll::Allow,
        ..Policy::default()
    };
    let mut count = Count::default();
    for wish in wishes() {
        for one in copies(0) {
            for other in copies(1) {
                for (one_runs, other_runs) in [(0, 0), (1, 0), (0, 1), (2, 0), (1, 2)] {
                    for hidden in [None, Some(0), Some(1)] {
                        let nodes = [
                            seen(0, one.as_ref(), one_runs, &wish),
                            seen(1, other.as_ref(), other_runs, &wish),
                        ];
                        let mut state = ClusterState::default();
                        for (number, seen) in nodes.into_iter().enumerate() {
                            let silent = hidden == Some(number);
                            let seen = if silent {
                                silent_node()
                            } else {
                                Observed::Known(seen)
                            };
                            state.nodes.insert(node_name(number), seen);
                        }
                        prove(&wish, &policy, &state, &mut count);
                    }
                }
            }
        }
    }
    println!(
        "{} pairs of state and wish, {} orders, {} pairs of plan and crash",
        count.wishes, count.orders, count.crashes
    );
    assert!(count.wishes > 10_000 && count.crashes > 20_000);
}

fn silent_node() -> Observed<NodeState> {
    silent()
}

#[track_caller]
fn prove(wish: &Deployment, policy: &Policy, state: &ClusterState, count: &mut Count) {
    count.wishes += 1;
    let made = plan(wish, state, policy);
    let fail = |what: &str, error: &dyn std::fmt::Display| -> ! {
        let steps: Vec<String> = made.steps().iter().map(|step| step.id().to_string()).collect();
        panic!(
            "{what}: {error}\nwished {:?}\nseen {state:#?}\nplan {steps:#?}",
            wish.members()
        );
    };
    if let Err(violation) = check::plan(&made, wish, state) {
        fail("check", &violation);
    }
    let mut end = state.clone();
    if let Err(error) = walk_in_order(&made, wish, &mut end) {
        fail("in order", &error);
    }
    let end = in_one_order(end);
    if let Err(error) = every_order(&made, wish, state, &end, count) {
        fail("in another order", &error);
    }
    // The plug is pulled after each number of steps, and everything is looked at again.
    for n_steps in 0..=made.steps().len() {
        count.crashes += 1;
        let mut left = state.clone();
        let mut witness = Witness {
            choose: &mut |n_ready| n_ready - 1,
            see: &mut |_, _| Ok(()),
        };
        if let Err(error) = walk(&made, wish, &mut left, n_steps, &mut witness) {
            fail("before the crash", &error);
        }
        match settle(wish, policy, &mut left, TURNS) {
            Err(error) => fail("after the crash", &error),
            Ok((last, _)) => {
                let copying = |waiting: &Waiting| matches!(waiting, Waiting::PreCopy { .. });
                if last.waiting().iter().any(copying) {
                    fail("after the crash", &"it waits for a copy that nobody makes");
                }
                if last.is_settled()
                    && let Some(amiss) = amiss(wish, &left).filter(|_| left.all_known().count() == 2)
                {
                    fail("settled after the crash", &amiss);
                }
            }
        }
    }
}

/// Follows every order in which the steps of a plan can be done; of very many, the first ones.
fn every_order(
    plan: &Plan,
    wish: &Deployment,
    state: &ClusterState,
    end: &ClusterState,
    count: &mut Count,
) -> Result<(), String> {
    let mut orders = BTreeSet::from([Vec::new()]);
    let mut n_orders = 0;
    while let Some(order) = orders.pop_last() {
        let mut frontier = Frontier::new(plan);
        let mut state = state.clone();
        for &position in &order {
            perform(plan, wish, &mut frontier, &mut state, position)?;
        }
        let mut order = order;
        loop {
            let ready: Vec<usize> = frontier.ready().collect();
            let Some((&first, others)) = ready.split_first() else {
                break;
            };
            if n_orders + orders.len() < ORDERS {
                orders.extend(others.iter().map(|&other| [&order[..], &[other]].concat()));
            }
            perform(plan, wish, &mut frontier, &mut state, first)?;
            order.push(first);
        }
        n_orders += 1;
        if in_one_order(state) != *end {
            return Err(format!("{order:?} ends otherwise"));
        }
    }
    count.orders += n_orders;
    Ok(())
}

fn perform(
    plan: &Plan,
    wish: &Deployment,
    frontier: &mut Frontier,
    state: &mut ClusterState,
    position: usize,
) -> Result<(), String> {
    let step = &plan.steps()[position];
    let was_sound = check::state(state).is_ok();
    frontier.start(position);
    check::destroys_nothing_last(step, wish, state).map_err(|violation| violation.to_string())?;
    if let Some(need) = step
        .needs
        .iter()
        .find(|need| holds(&need.fact, state) != Some(true))
    {
        return Err(format!("{} comes though not: {}", step.id(), need.fact));
    }
    flocker_plan::predict(state, step, wish).map_err(|refused| refused.to_string())?;
    flocker_plan::predict::obey(state, &step.actor, plan.generation());
    frontier.settle(position, Outcome::Done);
    if was_sound {
        check::state(state).map_err(|violation| format!("after {}: {violation}", step.id()))?;
    }
    Ok(())
}
