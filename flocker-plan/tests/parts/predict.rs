//! A step that a node would refuse is refused here too, and what is done is done to nothing else.

use flocker_model::{
    ClusterState, ContainerStatus, DatasetId, Deployment, Epoch, Generation, Manifestation, NodeState, Role,
    SnapshotName, Trashed,
};
use flocker_plan::predict::obey;
use flocker_plan::{Action, predict};

use crate::world::{application, application_name, container, dataset_id, node_name, snapshot};
use crate::{cluster, dataset, holder, step, world};

fn desired() -> Deployment {
    let builder = Deployment::builder().application(application_name(0), application(0, 0, true));
    builder
        .node(node_name(0), flocker_model::Member::empty())
        .build()
        .unwrap()
}

fn done(node: NodeState, action: Action) -> Result<NodeState, &'static str> {
    let mut state = cluster([node]);
    predict(&mut state, &step(0, action, vec![]), &desired()).map_err(|refused| refused.why)?;
    Ok(state.known(&node_name(0)).unwrap().clone())
}

fn copy_after(node: NodeState, action: Action) -> Result<Manifestation, &'static str> {
    done(node, action).map(|node| node.datasets[&dataset_id(0)].clone())
}

fn owner(epoch: u64) -> NodeState {
    holder(0, Role::Primary { epoch: Epoch(epoch) }, epoch, vec![])
}

fn with_user(mut node: NodeState, status: ContainerStatus) -> NodeState {
    let mut user = container(Some(&application(0, 0, true)), &node);
    user.status = status;
    node.containers.insert(application_name(0), user);
    node
}

fn release(epoch: u64) -> Action {
    Action::Release {
        dataset: dataset_id(0),
        epoch: Epoch(epoch),
        to: node_name(1),
        last: SnapshotName::handoff(Epoch(epoch)),
    }
}

#[test]
fn an_owner_lets_go_of_an_ownership_that_is_not_older_than_its_own() {
    assert!(done(owner(2), release(1)).is_err());
    assert!(done(owner(2), release(2)).is_ok());
    let released = copy_after(owner(2), release(3)).unwrap();
    assert!(matches!(released.role, Role::Released { epoch: Epoch(3), .. }));
    // It may never take up again what it let go under.
    assert_eq!(released.fence, Epoch(3));
    assert!(done(holder(0, Role::Replica, 0, vec![]), release(3)).is_err());
}

#[test]
fn nothing_is_released_or_destroyed_while_something_writes_it() {
    let destroy = || Action::Destroy {
        dataset: dataset_id(0),
    };
    let running = || with_user(owner(2), ContainerStatus::Running);
    assert!(done(running(), release(3)).is_err());
    assert!(done(running(), destroy()).is_err());
    let ended = || with_user(owner(2), ContainerStatus::Exited { code: Some(0) });
    assert!(done(ended(), release(3)).is_ok());
    assert!(done(ended(), destroy()).is_ok());
    // Another application, and another dataset, are no reason.
    let mut other = with_user(owner(2), ContainerStatus::Running);
    for user in other.containers.values_mut() {
        user.dataset = Some(dataset_id(1));
    }
    assert!(done(other, destroy()).is_ok());
}

#[test]
fn a_copy_is_taken_over_just_where_it_ends_with_what_was_released() {
    let last = snapshot(SnapshotName::handoff(Epoch(3)), 1);
    let acquire = |name: &SnapshotName, guid| Action::Acquire {
        dataset: dataset_id(0),
        epoch: Epoch(3),
        from: name.clone(),
        guid,
    };
    let copy = |fence| holder(0, Role::Replica, fence, vec![last.clone()]);
    let owned = copy_after(copy(2), acquire(&last.name, Some(last.guid))).unwrap();
    assert_eq!(
        (owned.role, owned.fence),
        (Role::Primary { epoch: Epoch(3) }, Epoch(3))
    );
    assert!(done(copy(2), acquire(&last.name, None)).is_ok());
    assert!(done(copy(3), acquire(&last.name, None)).is_err());
    let another = flocker_model::SnapshotGuid(7);
    assert!(done(copy(2), acquire(&last.name, Some(another))).is_err());
    let warm = SnapshotName::warm(Epoch(3), 1);
    assert!(done(copy(2), acquire(&warm, Some(last.guid))).is_err());
    assert!(done(copy(2), acquire(&warm, None)).is_err());
}

#[test]
fn what_is_destroyed_leaves_the_ownership_that_its_node_knew_of() {
    let destroy = Action::Destroy {
        dataset: dataset_id(0),
    };
    let gone = done(holder(0, Role::Replica, 2, vec![]), destroy.clone()).unwrap();
    assert_eq!(gone.fences.get(&dataset_id(0)), Some(&Epoch(2)));
    assert_eq!(gone.trash.len(), 1);
    let gone = done(holder(0, Role::Replica, 0, vec![]), destroy).unwrap();
    assert!(gone.fences.is_empty());
}

fn trashed(entry: &str, dataset: DatasetId) -> Trashed {
    Trashed {
        entry: entry.into(),
        dataset,
        role: Some(Role::Replica),
        used: flocker_model::ByteSize(1),
        age: std::time::Duration::ZERO,
    }
}

#[test]
fn one_piece_of_trash_goes_and_the_others_stay() {
    let mut node = world::node(0);
    node.trash = vec![trashed("one", dataset_id(0)), trashed("two", dataset_id(1))];
    let entries = |action| -> Vec<String> {
        let node = done(node.clone(), action).unwrap();
        node.trash.into_iter().map(|trash| trash.entry).collect()
    };
    let entry = || "one".to_owned();
    assert_eq!(entries(Action::EmptyTrash { entry: entry() }), ["two"]);
    let dataset = dataset_id(0);
    assert_eq!(
        entries(Action::Restore {
            dataset,
            entry: entry()
        }),
        ["two"]
    );
}

#[test]
fn a_snapshot_of_another_name_is_another_snapshot() {
    let guids = |names: &[SnapshotName]| {
        let mut node = owner(1);
        for name in names {
            let action = Action::Take {
                dataset: dataset_id(0),
                snapshot: name.clone(),
            };
            node = done(node, action).unwrap();
        }
        let taken = node.datasets[&dataset_id(0)].snapshots.iter();
        taken.map(|snapshot| snapshot.guid).collect::<Vec<_>>()
    };
    let names: Vec<_> = (1..40).map(|round| SnapshotName::warm(Epoch(2), round)).collect();
    let all: std::collections::BTreeSet<_> = guids(&names).into_iter().collect();
    assert_eq!(all.len(), names.len());
    assert_eq!(guids(&names[..1]), guids(&[names[0].clone(), names[0].clone()]));
}

#[test]
fn an_application_starts_beside_its_own_data_and_never_twice() {
    let start = |version| Action::Start {
        application: application_name(0),
        definition: application(0, version, true).definition_hash(&world::node(0).key),
    };
    assert!(done(owner(1), start(0)).is_ok());
    assert!(done(world::node(0), start(0)).is_err());
    assert!(done(holder(0, Role::Replica, 0, vec![]), start(0)).is_err());
    let running = || with_user(owner(1), ContainerStatus::Running);
    assert!(done(running(), start(0)).is_ok());
    assert!(done(running(), start(1)).is_err());
    let ended = || with_user(owner(1), ContainerStatus::Exited { code: Some(0) });
    assert!(done(ended(), start(1)).is_ok());
}

#[test]
fn nothing_is_created_where_a_trace_of_it_is() {
    let create = |epoch| Action::Create {
        dataset: dataset(),
        epoch: Epoch(epoch),
    };
    assert!(done(world::node(0), create(1)).is_ok());
    assert!(done(holder(0, Role::Replica, 0, vec![]), create(1)).is_err());
    let mut fenced = world::node(0);
    fenced.fences.insert(dataset_id(0), Epoch(2));
    assert!(done(fenced.clone(), create(2)).is_err());
    assert!(done(fenced, create(3)).unwrap().fences.is_empty());
}

#[test]
fn a_node_never_obeys_an_older_configuration_again() {
    let mut state: ClusterState = cluster([world::node(0)]);
    let mut after = |generation| {
        obey(&mut state, &node_name(0), Generation(generation));
        state.known(&node_name(0)).unwrap().generation
    };
    assert_eq!(after(3), Generation(3));
    assert_eq!(after(2), Generation(3));
}
