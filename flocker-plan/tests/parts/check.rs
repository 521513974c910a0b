//! What must never be is seen when it is.

use std::time::Duration;

use flocker_model::{ClusterState, ContainerStatus, Deployment, Epoch, Role};
use flocker_plan::check::{Violation, destroys_nothing_last, plan, state};
use flocker_plan::{Action, Because, Fact, Need, Step};

use crate::world::{application, application_name, container, dataset_id, node_name, silent};
use crate::{cluster, dataset, holder, plan_of, step, world};

fn primary(epoch: u64) -> Role {
    Role::Primary { epoch: Epoch(epoch) }
}

/// Nothing is wanted, and a dataset is deleted by name where that is said.
fn desired(deleted: bool) -> Deployment {
    let builder = Deployment::builder().node(node_name(0), flocker_model::Member::empty());
    let builder = if deleted {
        builder.delete(dataset_id(0))
    } else {
        builder
    };
    builder.build().unwrap()
}

#[test]
fn two_owners_are_two_writers() {
    let both = cluster([holder(0, primary(1), 1, vec![]), holder(1, primary(2), 2, vec![])]);
    let found = state(&both).unwrap_err();
    assert!(matches!(found, Violation::TwoWriters { .. }), "{found}");
    let one = cluster([
        holder(0, primary(1), 1, vec![]),
        holder(1, Role::Replica, 0, vec![]),
    ]);
    assert_eq!(state(&one), Ok(()));
}

#[test]
fn what_runs_on_a_copy_writes_what_its_node_does_not_own() {
    let on = |role, status| {
        let mut node = holder(0, role, 0, vec![]);
        let mut user = container(Some(&application(0, 0, true)), &node);
        user.status = status;
        node.containers.insert(application_name(0), user);
        cluster([node])
    };
    let found = state(&on(Role::Replica, ContainerStatus::Running)).unwrap_err();
    assert!(matches!(found, Violation::WritesUnowned { .. }), "{found}");
    let ended = ContainerStatus::Exited { code: Some(0) };
    assert_eq!(state(&on(Role::Replica, ended)), Ok(()));
    assert_eq!(state(&on(primary(1), ContainerStatus::Running)), Ok(()));
}

fn checked(steps: Vec<Step>, actual: &ClusterState) -> Result<(), Violation> {
    plan(&plan_of(steps), &desired(false), actual)
}

fn stop(needs: Vec<Need>) -> Step {
    let application = application_name(0);
    let grace = Duration::ZERO;
    step(0, Action::Stop { application, grace }, needs)
}

#[test]
fn a_plan_that_cannot_be_walked_is_found_out() {
    let actual = cluster([holder(0, primary(1), 1, vec![])]);
    let found = checked(vec![stop(vec![]), stop(vec![])], &actual).unwrap_err();
    assert!(matches!(found, Violation::SameName { .. }), "{found}");
    let prepared = Need {
        fact: Fact::Prepared {
            application: application_name(1),
            on: node_name(0),
        },
        because: Because::NothingStopsInVain,
    };
    let found = checked(vec![stop(vec![prepared])], &actual).unwrap_err();
    assert!(matches!(found, Violation::Unmet { .. }), "{found}");
    let action = Action::Acquire {
        dataset: dataset_id(1),
        epoch: Epoch(2),
        from: flocker_model::SnapshotName::handoff(Epoch(2)),
        guid: None,
    };
    let found = checked(vec![step(0, action, vec![])], &actual).unwrap_err();
    assert!(matches!(found, Violation::Refused { .. }), "{found}");
    assert_eq!(checked(vec![stop(vec![])], &actual), Ok(()));
}

#[test]
fn what_a_plan_breaks_is_its_fault_and_what_was_broken_is_not() {
    let create = || {
        let epoch = Epoch(2);
        let dataset = dataset();
        step(1, Action::Create { dataset, epoch }, vec![])
    };
    let owned = cluster([holder(0, primary(1), 1, vec![]), world::node(1)]);
    let found = checked(vec![create()], &owned).unwrap_err();
    assert!(matches!(found, Violation::CreatesOver { .. }), "{found}");
    let both = cluster([holder(0, primary(1), 1, vec![]), holder(1, primary(2), 2, vec![])]);
    assert_eq!(checked(vec![stop(vec![])], &both), Ok(()));
}

#[test]
fn nothing_is_created_over_what_exists_or_may_be_hidden() {
    let epoch = Epoch(1);
    let dataset = dataset();
    let create = step(0, Action::Create { dataset, epoch }, vec![]);
    let judge = |actual: &ClusterState| destroys_nothing_last(&create, &desired(false), actual);
    assert_eq!(judge(&cluster([world::node(0), world::node(1)])), Ok(()));
    let with_copy = cluster([world::node(0), holder(1, Role::Replica, 0, vec![])]);
    assert!(matches!(judge(&with_copy), Err(Violation::CreatesOver { .. })));
    let mut hidden = cluster([world::node(0)]);
    hidden.nodes.insert(node_name(1), silent());
    assert!(matches!(judge(&hidden), Err(Violation::CreatesOver { .. })));
}

#[test]
fn a_copy_is_destroyed_only_beside_an_owner_elsewhere_or_by_name() {
    let dataset = dataset_id(0);
    let destroy = step(0, Action::Destroy { dataset }, vec![]);
    let judge =
        |deleted, actual: &ClusterState| destroys_nothing_last(&destroy, &desired(deleted), actual).is_ok();
    let alone = cluster([holder(0, primary(1), 1, vec![])]);
    assert!(!judge(false, &alone));
    assert!(judge(true, &alone));
    let beside_a_copy = cluster([
        holder(0, primary(1), 1, vec![]),
        holder(1, Role::Replica, 0, vec![]),
    ]);
    assert!(!judge(false, &beside_a_copy));
    let beside_the_owner = cluster([
        holder(0, Role::Replica, 0, vec![]),
        holder(1, primary(1), 1, vec![]),
    ]);
    assert!(judge(false, &beside_the_owner));
}
