//! What is said of steps and of what is left undone: about what, what to do, and for how long.

use std::time::Duration;

use flocker_model::{ByteSize, Epoch, Generation, SnapshotName};
use flocker_plan::blocked::seconds;
use flocker_plan::{Action, Refusal, Waiting};

use crate::world::{application_name, dataset_id, node_name, port_of};
use crate::{dataset, plan_of, step};

#[test]
fn a_duration_is_said_as_people_read_it() {
    let said = |millis| seconds(Duration::from_millis(millis));
    assert_eq!(said(0), "0.0 s");
    assert_eq!(said(1), "0.1 s");
    assert_eq!(said(12_300), "12.3 s");
    assert_eq!(said(59_900), "59.9 s");
    assert_eq!(said(60_000), "1 min 0 s");
    assert_eq!(said(200_000), "3 min 20 s");
    assert_eq!(said(3_600_000), "1 h 0 min");
    assert_eq!(said(7_384_000), "2 h 3 min");
}

#[test]
fn an_action_says_what_it_is_about() {
    let (dataset, application) = (dataset_id(0), application_name(0));
    let entry = || "one".to_owned();
    let destroy = Action::Destroy { dataset };
    let create = Action::Create {
        dataset: self::dataset(),
        epoch: Epoch(1),
    };
    let take = Action::Take {
        dataset,
        snapshot: SnapshotName::warm(Epoch(2), 1),
    };
    for action in [&destroy, &create, &take] {
        assert_eq!(action.dataset(), Some(dataset));
    }
    assert_eq!(Action::EmptyTrash { entry: entry() }.dataset(), None);
    assert_eq!(create.application(), Some(&application));
    assert_eq!(destroy.application(), None);
}

#[test]
fn what_waits_and_what_is_refused_say_for_whom() {
    let application = application_name(0);
    let sight = |application| Waiting::ForSight {
        application,
        dataset: None,
        nodes: vec![node_name(1)],
    };
    assert_eq!(sight(None).application(), None);
    assert_eq!(sight(Some(application.clone())).application(), Some(&application));
    let taken = Refusal::PortTaken {
        application: application.clone(),
        port: port_of(0),
        on: node_name(0),
    };
    assert_eq!(taken.application(), Some(&application));
    let pre_copy = Waiting::PreCopy {
        application: application.clone(),
        from: node_name(0),
        to: node_name(1),
        round: 1,
        bytes: ByteSize(1),
        passed_over: Vec::new(),
    };
    assert_eq!(pre_copy.application(), Some(&application));
}

#[test]
fn a_hint_names_what_a_person_can_do() {
    let sight = Waiting::ForSight {
        application: None,
        dataset: None,
        nodes: vec![node_name(1)],
    };
    assert!(
        sight.hint().contains("`flocker node forget n1`"),
        "{}",
        sight.hint()
    );
    let held = Waiting::Held {
        application: application_name(0),
        from: node_name(0),
        to: node_name(1),
        downtime: Duration::ZERO,
    };
    assert_eq!(held.hint(), "`flocker cutover a0` makes the cut-over");
}

#[test]
fn a_plan_has_its_generation_and_the_steps_of_each_node() {
    let dataset = dataset_id(0);
    let destroy = |actor| step(actor, Action::Destroy { dataset }, vec![]);
    let plan = plan_of(vec![destroy(0), destroy(1)]);
    assert_eq!(plan.generation(), Generation(2));
    let node = node_name(1);
    let alone: Vec<_> = plan.for_node(&node).collect();
    assert_eq!(alone, [&plan.steps()[1]]);
}
