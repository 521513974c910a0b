//! A saved plan holds as long as planning again says the same, and no longer.

use flocker_model::{
    BootId, ByteSize, ClusterState, Deployment, Epoch, Generation, NodeId, NodeState, Observed, Role,
    SnapshotName,
};
use flocker_plan::{CutOver, Difference, Policy, Refusal, SavedPlan, SavedPlanError, Waiting, plan};

use crate::world::{application, application_name, container, node_name, silent, snapshot};
use crate::{cluster, holder, world};

/// An application of some version on the second node.
fn desired(version: usize, with_data: bool) -> Deployment {
    let mut builder =
        Deployment::builder().application(application_name(0), application(0, version, with_data));
    for number in 0..2 {
        builder = builder.node(node_name(number), flocker_model::Member::empty());
    }
    let builder = builder.place(&application_name(0), &node_name(1));
    builder.build().unwrap().at(Generation(2))
}

/// It runs on the first node, with its data; a copy of that is on the second.
fn moving(lineage: u128) -> ClusterState {
    let warm = || vec![snapshot(SnapshotName::warm(Epoch(2), 1), lineage)];
    let mut from = holder(0, Role::Primary { epoch: Epoch(1) }, 1, warm());
    for copy in from.datasets.values_mut() {
        copy.unsent = ByteSize(1 << 40);
    }
    let user = container(Some(&application(0, 0, true)), &from);
    from.containers.insert(application_name(0), user);
    cluster([from, holder(1, Role::Replica, 0, warm())])
}

fn nothing() -> ClusterState {
    cluster([world::node(0), world::node(1)])
}

fn save(desired: &Deployment, actual: &ClusterState) -> SavedPlan {
    let policy = Policy::default();
    SavedPlan::new(plan(desired, actual, &policy), policy, actual)
}

fn change(actual: &mut ClusterState, number: usize, change: impl FnOnce(&mut NodeState)) {
    match actual.nodes.get_mut(&node_name(number)) {
        Some(Observed::Known(node)) => change(node),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_again() {
    let actual = moving(1);
    let policy = Policy {
        cut_over: CutOver::Hold,
        ..Policy::default()
    };
    let made = plan(&desired(0, true), &actual, &policy);
    assert!(!made.steps().is_empty());
    let saved = SavedPlan::new(made.clone(), policy.clone(), &actual);
    let text = saved.write().unwrap();
    let read = SavedPlan::read(&text).unwrap();
    assert_eq!((read.plan(), read.policy()), (&made, &policy));
    assert_eq!(read, saved);
    let newer = text.replacen("\"version\": 1", "\"version\": 2", 1);
    let error = SavedPlan::read(&newer).unwrap_err();
    assert!(matches!(error, SavedPlanError::Version { found: 2 }), "{error}");
    for text in ["", "{}", "{\"version\": 1}"] {
        let error = SavedPlan::read(text).unwrap_err();
        assert!(matches!(error, SavedPlanError::Format { .. }), "{error}");
    }
}

#[test]
fn byte_counts_and_free_space_are_noise() {
    let (desired, mut actual) = (desired(0, true), moving(1));
    let saved = save(&desired, &actual);
    assert_eq!(saved.check(&desired, &actual), Ok(()));
    change(&mut actual, 0, |node| {
        node.free = Some(ByteSize(1 << 50));
        for copy in node.datasets.values_mut() {
            copy.unsent = copy.unsent.plus(ByteSize(1 << 40));
            for snapshot in &mut copy.snapshots {
                snapshot.written = ByteSize(5);
            }
        }
    });
    assert_eq!(saved.check(&desired, &actual), Ok(()));
}

/// How much is missing changes with every byte that anybody writes; that it does not fit stays.
#[test]
fn by_how_much_something_is_refused_is_noise() {
    let (desired, mut actual) = (desired(0, true), moving(1));
    change(&mut actual, 1, |node| node.free = Some(ByteSize(0)));
    let saved = save(&desired, &actual);
    let [Refusal::NoRoom { needed, .. }] = saved.plan().refused() else {
        panic!("{:?}", saved.plan().refused())
    };
    let needed = *needed;
    change(&mut actual, 0, |node| {
        for copy in node.datasets.values_mut() {
            copy.unsent = copy.unsent.plus(ByteSize(1));
        }
    });
    change(&mut actual, 1, |node| node.free = Some(ByteSize(7)));
    let now = plan(&desired, &actual, &Policy::default());
    assert!(matches!(now.refused(), [Refusal::NoRoom { needed: now, .. }] if *now != needed));
    assert_eq!(saved.check(&desired, &actual), Ok(()));
    change(&mut actual, 1, |node| node.free = None);
    assert!(saved.check(&desired, &actual).is_err());
}

#[test]
fn another_machine_another_boot_and_silence_are_differences() {
    let (desired, actual) = (desired(0, true), moving(1));
    let saved = save(&desired, &actual);
    let other = || uuid::Uuid::from_u128(99);
    let says = |actual: &ClusterState, expected: &'static str| {
        let differences = saved.check(&desired, actual).unwrap_err();
        let node = Difference::Node {
            node: node_name(0),
            what: expected,
        };
        assert_eq!(differences.first(), Some(&node));
        differences.len()
    };
    let mut replaced = actual.clone();
    change(&mut replaced, 0, |node| node.id = NodeId(other()));
    assert_eq!(says(&replaced, "is another machine now"), 1);
    let mut rebooted = actual.clone();
    change(&mut rebooted, 0, |node| node.boot = BootId(other()));
    assert_eq!(says(&rebooted, "was started again since"), 1);
    let mut hidden = actual.clone();
    hidden.nodes.insert(node_name(0), silent());
    assert!(says(&hidden, "is silent now") > 1);
}

#[test]
fn a_step_that_would_be_another_is_gone_and_new() {
    let (desired, actual) = (desired(0, true), moving(1));
    let saved = save(&desired, &actual);
    // The same name of the same snapshots, and other data in them.
    let push = saved
        .plan()
        .steps()
        .iter()
        .find(|step| step.action.verb() == "push");
    let push = push.unwrap().id().to_string();
    let differences = saved.check(&desired, &moving(2)).unwrap_err();
    assert_eq!(
        differences,
        [Difference::Gone(push.clone()), Difference::New(push)]
    );
}

#[test]
fn another_definition_is_another_plan() {
    let saved = save(&desired(0, false), &nothing());
    assert_eq!(saved.check(&desired(0, false), &nothing()), Ok(()));
    let differences = saved.check(&desired(1, false), &nothing()).unwrap_err();
    assert!(
        differences.contains(&Difference::Gone("n1/start/a0".into())),
        "{differences:?}"
    );
    assert!(
        differences.contains(&Difference::New("n1/start/a0".into())),
        "{differences:?}"
    );
}

#[test]
fn what_was_done_since_is_no_longer_to_be_done() {
    let (none, some) = (nothing(), desired(0, false));
    let saved = save(&some, &none);
    let mut later = none.clone();
    for step in saved.plan().steps() {
        flocker_plan::predict(&mut later, step, &some).unwrap();
    }
    let gone: Vec<_> = saved.plan().steps().iter().map(flocker_plan::Step::id).collect();
    let differences = saved.check(&some, &later).unwrap_err();
    assert_eq!(differences.len(), gone.len());
    assert!(
        differences
            .iter()
            .all(|difference| matches!(difference, Difference::Gone(_)))
    );
    let again = save(&some, &later).check(&some, &none).unwrap_err();
    assert_eq!(again.len(), gone.len());
    assert!(
        again
            .iter()
            .all(|difference| matches!(difference, Difference::New(_)))
    );
}

#[test]
fn what_waits_or_is_refused_now_is_a_difference() {
    let wanted = desired(0, false);
    let mut hidden = nothing();
    hidden.nodes.insert(node_name(1), silent());
    let waits = save(&wanted, &hidden);
    assert!(matches!(waits.plan().waiting(), [Waiting::ForSight { .. }]));
    assert_eq!(waits.check(&wanted, &hidden), Ok(()));
    let mut taken = nothing();
    change(&mut taken, 1, |node| {
        node.foreign_ports.insert(world::port_of(0));
    });
    let blocked = |saved: &SavedPlan, actual: &ClusterState| {
        let differences = saved.check(&wanted, actual).unwrap_err();
        let mut said = differences.into_iter().filter_map(|difference| match difference {
            Difference::Blocked(said) => Some(said),
            _ => None,
        });
        said.next()
    };
    let refused = save(&wanted, &taken);
    assert_eq!(refused.check(&wanted, &taken), Ok(()));
    let free = save(&wanted, &nothing());
    let now = free.plan();
    assert!(now.waiting().is_empty() && now.refused().is_empty());
    assert_eq!(
        blocked(&waits, &nothing()).as_deref(),
        Some("nothing waits any more")
    );
    assert_eq!(
        blocked(&refused, &nothing()).as_deref(),
        Some("nothing waits any more")
    );
    let said = refused.plan().refused()[0].to_string();
    assert_eq!(blocked(&free, &taken), Some(said));
    let said = waits.plan().waiting()[0].to_string();
    assert_eq!(blocked(&free, &hidden), Some(said));
}
