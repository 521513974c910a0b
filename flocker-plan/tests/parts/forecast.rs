//! How much is still to be sent, and why each step is there.

use flocker_model::{
    ByteSize, ClusterState, Deployment, Epoch, Generation, Observed, PartialReceive, Role, Snapshot,
    SnapshotName,
};
use flocker_plan::replicate::{by_way_of, expected_since, is_worth_a_stop, least_round};
use flocker_plan::{Action, Policy, Reason, estimate, plan};

use crate::world::{application, application_name, container, copy, node_name, snapshot};
use crate::{cluster, holder, world};

fn warm(round: u32, written: u64) -> Snapshot {
    Snapshot {
        written: ByteSize(written),
        ..snapshot(SnapshotName::warm(Epoch(2), round), 1)
    }
}

#[test]
fn only_after_the_newest_of_several_rounds_is_less_expected_than_is_unsent() {
    let mut source = copy(
        Role::Primary { epoch: Epoch(1) },
        1,
        vec![warm(1, 1000), warm(2, 10)],
    );
    source.unsent = ByteSize(500);
    let expected = |base: Option<&Snapshot>, source: &_| expected_since(source, base, Epoch(2)).0;
    assert_eq!(expected(Some(&warm(2, 10)), &source), 20);
    assert_eq!(expected(Some(&warm(1, 1000)), &source), 510);
    assert_eq!(expected(None, &source), source.used.0);
    // One round held everything, which says nothing of what is written in the same time.
    source.snapshots = vec![warm(1, 10)];
    assert_eq!(expected(Some(&warm(1, 10)), &source), 500);
}

#[test]
fn by_way_of_a_snapshot_comes_what_it_held_or_what_was_written_up_to_it_and_what_was_written_since() {
    let (first, then, last) = (warm(1, 1000), warm(2, 10), warm(3, 70));
    let snapshots = vec![first.clone(), then.clone(), last.clone()];
    let mut source = copy(Role::Primary { epoch: Epoch(1) }, 1, snapshots);
    source.unsent = ByteSize(500);
    let way = |base, over, held| {
        let (up_to_it, all) = by_way_of(&source, base, over, ByteSize(held));
        (up_to_it.0, all.0)
    };
    assert_eq!(way(None, &then, 900), (900, 1470));
    assert_eq!(way(Some(&first), &last, 900), (80, 580));
    // No increment is more than everything.
    assert_eq!(way(Some(&first), &last, 50), (50, 550));
}

#[test]
fn a_stop_on_the_way_is_worth_an_eighth_of_the_whole_or_a_mebibyte() {
    let worth = |all, whole| is_worth_a_stop(ByteSize(all), ByteSize(whole));
    assert!(worth(9 << 30, 8 << 30));
    assert!(!worth((9 << 30) + 1, 8 << 30));
    assert!(worth((1 << 20) + 5, 5));
    assert!(!worth((1 << 20) + 6, 5));
}

#[test]
fn a_round_takes_what_both_ends_take_and_is_counted_where_it_is_forecast() {
    let (seconds, desired) = (std::time::Duration::from_secs, desired());
    let mut actual = actual(None);
    let policy = Policy {
        max_downtime: seconds(60),
        ..Policy::default()
    };
    let forecast = |actual: &ClusterState| {
        let forecast = estimate(&plan(&desired, actual, &policy), actual, &policy);
        let moved = forecast.applications.into_iter().find(|cost| cost.from.is_some());
        moved.map(|cost| (cost.round, cost.downtime)).unwrap()
    };
    let (without, shortest) = forecast(&actual);
    assert_eq!(without, seconds(0));
    for seen in actual.nodes.values_mut() {
        let Observed::Known(node) = seen else { continue };
        for copy in node.datasets.values_mut() {
            let round = seconds(if copy.role == Role::Replica { 3 } else { 2 });
            copy.findings.get_or_insert_default().round = round;
        }
    }
    // Nothing complete is there yet: what it takes there is taken to be what it takes here.
    assert_eq!(forecast(&actual), (seconds(4), shortest + seconds(4)));
    let source = copy(Role::Primary { epoch: Epoch(1) }, 1, vec![warm(1, 10)]);
    let (mut source, mut arrived) = (source.clone(), source);
    source.findings.get_or_insert_default().round = seconds(2);
    arrived.findings.get_or_insert_default().round = seconds(3);
    assert_eq!(least_round(&source, Some(&arrived)), seconds(5));
    assert_eq!(least_round(&source, None), seconds(4));
}

/// Two applications on the second node.
fn desired() -> Deployment {
    let mut builder = Deployment::builder();
    for number in 0..2 {
        builder = builder
            .application(application_name(number), application(number, 0, number == 0))
            .node(node_name(number), flocker_model::Member::empty());
    }
    for number in 0..2 {
        builder = builder.place(&application_name(number), &node_name(1));
    }
    builder.build().unwrap().at(Generation(2))
}

/// The first of them, and one that nobody wants, run on the first node; some of the data has arrived on the second.
fn actual(arrived: Option<u32>) -> ClusterState {
    let mut from = holder(0, Role::Primary { epoch: Epoch(1) }, 1, vec![]);
    let user = container(Some(&application(0, 0, true)), &from);
    from.containers.insert(application_name(0), user);
    let other = container(Some(&application(2, 0, false)), &from);
    from.containers.insert(application_name(2), other);
    let mut to = holder(1, Role::Replica, 0, vec![]);
    for copy in to.datasets.values_mut() {
        copy.partial = arrived.map(|round| {
            Box::new(PartialReceive {
                snapshot: SnapshotName::warm(Epoch(2), round),
                received: ByteSize(1 << 20),
                token: "token".into(),
            })
        });
    }
    cluster([from, to])
}

#[test]
fn what_has_arrived_of_the_same_snapshot_is_not_sent_again() {
    let policy = Policy::default();
    let bytes = |arrived| {
        let actual = actual(arrived);
        let plan = plan(&desired(), &actual, &policy);
        estimate(&plan, &actual, &policy).bytes
    };
    assert_eq!(bytes(None), ByteSize(10 << 20));
    assert_eq!(bytes(Some(1)), ByteSize(9 << 20));
    assert_eq!(bytes(Some(7)), ByteSize(10 << 20));
}

#[test]
fn every_step_is_there_for_what_it_is_done_for() {
    let made = plan(&desired(), &actual(None), &Policy::default());
    let mut n_told = 0;
    for step in made.steps() {
        let (reason, own) = (&*step.reason, step.action.application());
        match (&step.action, reason) {
            (Action::Stop { .. }, Reason::Stops { application, .. })
            | (Action::Start { .. }, Reason::Starts { application, .. })
            | (Action::Push { .. }, Reason::Moves { application, .. }) => {
                assert_eq!(own, Some(application), "{}", step.id());
                n_told += 1;
            }
            (Action::Stop { .. } | Action::Start { .. } | Action::Push { .. }, other) => {
                panic!("{}: {other}", step.id());
            }
            (_, _) => {}
        }
    }
    assert_eq!(n_told, 3);
}

/// The dataset was let go and nobody has taken it up; it stays or goes on.
#[test]
fn what_is_taken_back_starts_and_what_is_taken_up_moves() {
    let last = snapshot(SnapshotName::handoff(Epoch(2)), 1);
    let role = Role::Released {
        epoch: Epoch(2),
        to: node_name(1),
        last: last.name.clone(),
        guid: last.guid,
    };
    let why = |by: usize| {
        let released = holder(by, role.clone(), 1, vec![last.clone()]);
        let nodes = if by == 0 {
            [released, world::node(1)]
        } else {
            [world::node(0), released]
        };
        let made = plan(&desired(), &cluster(nodes), &Policy::default());
        let start = made.steps().iter().find(
            |step| matches!(&step.action, Action::Start { application, .. } if *application == application_name(0)),
        );
        (*start.unwrap().reason).clone()
    };
    assert!(matches!(why(0), Reason::Moves { .. }));
    assert!(matches!(why(1), Reason::Starts { .. }));
}
