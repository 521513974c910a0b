//! What an action makes true: a step carried out on a value instead of on the world.
//!
//! Property tests and `check` walk plans with it, and so can anyone who wants
//! to see where a plan leads before a node is touched. It is strict: a step
//! whose action a backend would refuse is an error here too.

use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::Health;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::Trashed;
use thiserror::Error;

use crate::action::Action;
use crate::step::Step;

/// Why a step would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{actor} would refuse to {verb}: {why}")]
pub struct Refused {
    /// The node.
    pub actor: NodeName,
    /// What it was to do.
    pub verb: &'static str,
    /// Why not.
    pub why: &'static str,
}

/// Carries a step out on a state. On an error the state is as it was.
pub fn predict(state: &mut ClusterState, step: &Step, desired: &Deployment) -> Result<(), Refused> {
    let refused = |why| Refused {
        actor: step.actor.clone(),
        verb: step.action.verb(),
        why,
    };
    if let Action::Push {
        dataset,
        snapshot,
        base,
        to,
    } = &step.action
    {
        let sent = sent(state, &step.actor, dataset.id, snapshot).map_err(refused)?;
        let receiver = known(state, to).map_err(refused)?;
        can_read(receiver, dataset.id).map_err(refused)?;
        return receive(receiver, dataset, &sent, base.as_deref()).map_err(refused);
    }
    let node = known(state, &step.actor).map_err(refused)?;
    if let Some(dataset) = step.action.dataset() {
        can_read(node, dataset).map_err(refused)?;
    }
    perform(node, &step.action, desired).map_err(refused)
}

/// Makes a node obey a configuration.
pub fn obey(state: &mut ClusterState, node: &NodeName, generation: Generation) {
    if let Some(Observed::Known(node)) = state.nodes.get_mut(node) {
        node.generation = node.generation.max(generation);
    }
}

fn known<'a>(state: &'a mut ClusterState, name: &NodeName) -> Result<&'a mut NodeState, &'static str> {
    match state.nodes.get_mut(name) {
        Some(Observed::Known(node)) => Ok(node),
        Some(Observed::Unknown(_)) | None => Err("it is silent"),
    }
}

fn can_read(node: &NodeState, dataset: DatasetId) -> Result<(), &'static str> {
    if node.unreadable.contains_key(&dataset) {
        return Err("what it has of the dataset cannot be read");
    }
    Ok(())
}

fn copy(node: &mut NodeState, dataset: DatasetId) -> Result<&mut Manifestation, &'static str> {
    node.datasets.get_mut(&dataset).ok_or("the dataset is not there")
}

/// The identity of a snapshot that is only foretold: from what makes it unique, its dataset and its name.
fn foretold(dataset: DatasetId, name: &SnapshotName) -> SnapshotGuid {
    let mut digest: u128 = dataset.0.as_u128();
    for byte in name.as_str().bytes() {
        digest = digest.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b) ^ u128::from(byte);
    }
    SnapshotGuid(digest)
}

fn take(copy: &mut Manifestation, dataset: DatasetId, name: &SnapshotName) {
    if copy.snapshots.iter().all(|snapshot| snapshot.name != *name) {
        let written = if copy.snapshots.is_empty() {
            copy.used
        } else {
            copy.unsent
        };
        copy.snapshots.push(Snapshot {
            name: name.clone(),
            guid: foretold(dataset, name),
            written,
        });
        copy.unsent = ByteSize(0);
    }
}

/// A snapshot on its way, with what the source says of its dataset.
struct Sent {
    snapshot: Snapshot,
    used: ByteSize,
}

fn sent(
    state: &mut ClusterState,
    from: &NodeName,
    dataset: DatasetId,
    name: &SnapshotName,
) -> Result<Sent, &'static str> {
    let source = copy(known(state, from)?, dataset)?;
    if source.role == Role::Replica {
        return Err("only an owner or a last owner sends");
    }
    let snapshot = source.snapshots.iter().find(|snapshot| snapshot.name == *name);
    let snapshot = snapshot.ok_or("the snapshot is not there")?.clone();
    let mut used = source.used;
    if source.snapshots.last() != Some(&snapshot) {
        // How much an earlier one held is known of the copies that ended with it.
        let copies = state
            .all_known()
            .filter_map(|(_, node)| node.datasets.get(&dataset));
        let ends_with_it = |copy: &&Manifestation| {
            let newest = copy.snapshots.last();
            newest.is_some_and(|newest| newest.guid == snapshot.guid)
        };
        used = copies
            .filter(ends_with_it)
            .map(|copy| copy.used)
            .max()
            .unwrap_or(used);
    }
    Ok(Sent { snapshot, used })
}

fn receive(
    node: &mut NodeState,
    dataset: &Dataset,
    sent: &Sent,
    base: Option<&Snapshot>,
) -> Result<(), &'static str> {
    let fence = node.fences.remove(&dataset.id).unwrap_or_default();
    let fresh = || empty(Role::Replica, fence, dataset.maximum_size);
    let copy = node.datasets.entry(dataset.id).or_insert_with(fresh);
    if copy
        .snapshots
        .iter()
        .any(|snapshot| snapshot.guid == sent.snapshot.guid)
    {
        return Ok(());
    }
    if matches!(copy.role, Role::Primary { .. }) {
        return Err("an owner never receives");
    }
    if copy.snapshots.last().map(|newest| newest.guid) != base.map(|base| base.guid) {
        return Err("the base is not the newest snapshot there");
    }
    if let Role::Released { epoch, .. } = copy.role {
        copy.fence = copy.fence.max(epoch);
        copy.age = Duration::ZERO;
    }
    copy.role = Role::Replica;
    copy.maximum_size = dataset.maximum_size;
    copy.partial = None;
    copy.used = sent.used;
    copy.snapshots.push(sent.snapshot.clone());
    Ok(())
}

fn perform(node: &mut NodeState, action: &Action, desired: &Deployment) -> Result<(), &'static str> {
    match action {
        Action::Create { dataset, epoch } => create(node, dataset, *epoch)?,
        Action::Resize { dataset, to } => copy(node, *dataset)?.maximum_size = *to,
        Action::Take { dataset, snapshot } => {
            let copy = copy(node, *dataset)?;
            if !matches!(copy.role, Role::Primary { .. }) {
                return Err("only an owner takes snapshots");
            }
            take(copy, *dataset, snapshot);
        }
        Action::Push { .. } => return Err("a push is not the work of one node"),
        Action::Release {
            dataset,
            epoch,
            to,
            last,
        } => release(node, *dataset, *epoch, to, last)?,
        Action::Acquire {
            dataset,
            epoch,
            from,
            guid,
        } => acquire(copy(node, *dataset)?, *epoch, from, *guid)?,
        Action::Renounce { dataset, epoch } => {
            if let Some(copy) = node.datasets.get_mut(dataset) {
                if matches!(copy.role, Role::Primary { .. }) {
                    return Err("it is the owner");
                }
                copy.fence = copy.fence.max(*epoch);
            }
        }
        Action::Destroy { dataset } => destroy(node, *dataset)?,
        Action::Trim { dataset, snapshots } => {
            copy(node, *dataset)?
                .snapshots
                .retain(|snapshot| !snapshots.contains(&snapshot.name));
        }
        Action::DropPartial { dataset } => {
            if let Some(copy) = node.datasets.get_mut(dataset) {
                copy.partial = None;
            }
        }
        Action::Restore { dataset, entry } => {
            if node.datasets.contains_key(dataset) {
                return Err("a trace of the dataset is there");
            }
            // What comes back is what went; a value does not remember what that was.
            node.trash.retain(|trash| trash.entry != *entry);
        }
        Action::EmptyTrash { entry } => node.trash.retain(|trash| trash.entry != *entry),
        Action::Prepare {
            application,
            definition,
        } => {
            let prepared = ContainerState {
                status: ContainerStatus::Prepared,
                health: Health::NotChecked,
                definition: *definition,
                dataset: None,
                address: None,
                stop_grace: Duration::ZERO,
                restarts: 0,
            };
            let old = node.containers.get(application);
            if !old.is_some_and(ContainerState::is_alive) {
                node.containers.insert(application.clone(), prepared);
            }
        }
        Action::Start {
            application,
            definition,
        } => start(node, application, *definition, desired)?,
        Action::Stop {
            application,
            grace: _,
        } => {
            node.containers.remove(application);
        }
        Action::Route { change } => node.routes.apply(change),
    }
    Ok(())
}

fn is_in_use(node: &NodeState, dataset: DatasetId) -> bool {
    node.containers
        .values()
        .any(|user| user.dataset == Some(dataset) && user.is_alive())
}

fn create(node: &mut NodeState, dataset: &Dataset, epoch: Epoch) -> Result<(), &'static str> {
    if node.datasets.contains_key(&dataset.id) {
        return Err("a trace of the dataset is there");
    }
    if node.fences.get(&dataset.id).is_some_and(|fence| epoch <= *fence) {
        return Err("an earlier copy there had that ownership");
    }
    node.fences.remove(&dataset.id);
    node.datasets.insert(
        dataset.id,
        empty(Role::Primary { epoch }, epoch, dataset.maximum_size),
    );
    Ok(())
}

fn release(
    node: &mut NodeState,
    dataset: DatasetId,
    epoch: Epoch,
    to: &NodeName,
    last: &SnapshotName,
) -> Result<(), &'static str> {
    if is_in_use(node, dataset) {
        return Err("an application still writes");
    }
    let copy = copy(node, dataset)?;
    let own = match copy.role {
        Role::Primary { epoch } | Role::Released { epoch, .. } => epoch,
        Role::Replica => return Err("a copy has nothing to release"),
    };
    if own > epoch {
        return Err("its ownership is newer");
    }
    take(copy, dataset, last);
    let snapshot = copy.snapshots.iter().rfind(|snapshot| snapshot.name == *last);
    let guid = snapshot.ok_or("its last snapshot is gone")?.guid;
    copy.role = Role::Released {
        epoch,
        to: to.clone(),
        last: last.clone(),
        guid,
    };
    copy.fence = copy.fence.max(epoch);
    copy.age = Duration::ZERO;
    Ok(())
}

fn acquire(
    copy: &mut Manifestation,
    epoch: Epoch,
    from: &SnapshotName,
    guid: Option<SnapshotGuid>,
) -> Result<(), &'static str> {
    if copy.role == (Role::Primary { epoch }) {
        return Ok(());
    }
    if epoch <= copy.fence {
        return Err("it has renounced that ownership");
    }
    let newest = copy.snapshots.last().ok_or("no snapshot is there")?;
    if newest.name != *from || guid.is_some_and(|guid| guid != newest.guid) {
        return Err("its newest snapshot is another");
    }
    copy.role = Role::Primary { epoch };
    copy.fence = epoch;
    copy.age = Duration::ZERO;
    Ok(())
}

fn destroy(node: &mut NodeState, dataset: DatasetId) -> Result<(), &'static str> {
    if is_in_use(node, dataset) {
        return Err("an application still uses it");
    }
    if let Some(copy) = node.datasets.remove(&dataset) {
        if copy.fence > Epoch::default() {
            node.fences.insert(dataset, copy.fence);
        }
        let (entry, used) = (dataset.to_string(), copy.used);
        node.trash.push(Trashed {
            entry,
            dataset,
            role: Some(copy.role),
            used,
            age: Duration::ZERO,
        });
    }
    Ok(())
}

fn start(
    node: &mut NodeState,
    application: &ApplicationName,
    definition: DefinitionHash,
    desired: &Deployment,
) -> Result<(), &'static str> {
    let wanted = desired
        .application(application)
        .ok_or("the application is not defined")?;
    let dataset = wanted.volume.as_ref().map(|volume| volume.dataset);
    if let Some(dataset) = dataset {
        let role = node.datasets.get(&dataset).map(|copy| &copy.role);
        if !matches!(role, Some(Role::Primary { .. })) {
            return Err("its data is not there to be written");
        }
    }
    let old = node.containers.get(application);
    if old.is_some_and(|old| old.is_alive() && old.definition != definition) {
        return Err("another definition of it runs");
    }
    let started = ContainerState {
        status: ContainerStatus::Running,
        health: Health::NotChecked,
        definition,
        dataset,
        address: Some(node.address),
        stop_grace: wanted.stop_grace,
        restarts: 0,
    };
    node.containers.insert(application.clone(), started);
    Ok(())
}

fn empty(role: Role, fence: Epoch, maximum_size: Option<ByteSize>) -> Manifestation {
    Manifestation {
        role,
        snapshots: Vec::new(),
        maximum_size,
        used: ByteSize(0),
        unsent: ByteSize(0),
        findings: None,
        partial: None,
        fence,
        age: Duration::ZERO,
    }
}
