//! Random deployments and random clusters, right and wrong ones, drawn from a string of bytes.

use std::collections::BTreeSet;

use flocker_model::{
    Application, ByteSize, ClusterState, ContainerState, ContainerStatus, DefinitionHash, Deployment, Epoch,
    Generation, Health, Home, Keeps, Link, Manifestation, Member, NodeState, Observed, PartialReceive,
    RestartPolicy, Role, RouteChange, RouteTarget, SnapshotName,
};
use flocker_plan::{CutOver, NotConverging, Policy, StopAll};

use crate::world::{
    application, application_name, container, copy, dataset_id, node, node_name, port_of, silent, snapshot,
};

/// Choices drawn from bytes; the first choice for ever once they are used up.
pub(crate) struct Dice {
    bytes: Vec<u8>,
    position: usize,
}

impl Dice {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, position: 0 }
    }

    /// Returns a number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        let byte = self.bytes.get(self.position).copied().unwrap_or(0);
        self.position += 1;
        usize::from(byte) % sides.max(1)
    }

    /// Says yes once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.roll(times) == times - 1
    }

    /// Splits off dice of their own.
    pub(crate) fn fork(&mut self) -> Self {
        let middle = self.position + self.bytes.len().saturating_sub(self.position) / 2;
        Self::new(self.bytes.split_off(middle.min(self.bytes.len())))
    }

    /// Lets an application that runs with data of its own write some of it, now and then.
    pub(crate) fn write_somewhere(&mut self, state: &mut ClusterState) {
        if !self.once_in(3) {
            return;
        }
        let size = ByteSize((1 << 20) * [1, 20, 100, 400][self.roll(4)]);
        for seen in state.nodes.values_mut() {
            let Observed::Known(seen) = seen else { continue };
            let NodeState {
                datasets, containers, ..
            } = seen;
            for writer in containers.values().filter(|container| container.is_alive()) {
                let copy = writer.dataset.and_then(|dataset| datasets.get_mut(&dataset));
                if let Some(copy) = copy.filter(|copy| matches!(copy.role, Role::Primary { .. })) {
                    copy.unsent = copy.unsent.plus(size);
                    copy.used = copy.used.plus(size);
                }
            }
        }
    }
}

pub(crate) fn any_policy(dice: &mut Dice) -> Policy {
    Policy {
        max_rounds: [8, 0, 2][dice.roll(3)],
        cut_over: if dice.once_in(8) {
            CutOver::Hold
        } else {
            CutOver::WhenReady
        },
        not_converging: if dice.once_in(2) {
            NotConverging::Ask
        } else {
            NotConverging::Accept
        },
        stop_all: if dice.once_in(3) {
            StopAll::Refuse
        } else {
            StopAll::Allow
        },
        ..Policy::default()
    }
}

/// Applications 0, 1, 2... of which the even ones have data, placed anywhere.
pub(crate) fn any_deployment(
    dice: &mut Dice,
    n_nodes: usize,
    n_applications: usize,
    generation: u64,
) -> Deployment {
    let mut builder = Deployment::builder();
    for number in 0..n_nodes {
        // A node that is not listed is unknown to the files.
        if !dice.once_in(8) {
            builder = builder.node(node_name(number), Member::empty());
        }
    }
    for number in 0..n_applications {
        let with_data = number % 2 == 0;
        let mut definition = application(number, dice.roll(2), with_data);
        if let Some(volume) = definition.volume.as_mut().filter(|_| dice.once_in(4)) {
            volume.maximum_size = Some(ByteSize([1 << 30, 5 << 20][dice.roll(2)]));
        }
        if dice.once_in(4) {
            definition.depends_on = [application_name(dice.roll(n_applications))].into();
        }
        if dice.once_in(4) {
            definition.links = [Link {
                local_port: port_of(number).number,
                remote_port: port_of(dice.roll(n_applications)),
                alias: application_name(number),
            }]
            .into();
        }
        if dice.once_in(4) {
            definition.restart_policy = RestartPolicy::Always;
        }
        let name = application_name(number);
        let homes = dice.roll(n_nodes + 1);
        if homes < n_nodes {
            builder = builder.place(&name, &node_name(homes));
            if !with_data && dice.once_in(3) {
                builder = builder.place(&name, &node_name(dice.roll(n_nodes)));
            }
        } else if with_data && dice.once_in(3) {
            builder = builder.delete(dataset_id(number));
        }
        // What is placed nowhere is sometimes not even defined.
        if homes < n_nodes || !dice.once_in(3) {
            builder = builder.application(name, definition);
        }
    }
    builder.build().unwrap().at(Generation(generation))
}

/// Anything that a cluster can be seen to be, sound or not.
pub(crate) fn any_cluster(
    dice: &mut Dice,
    n_nodes: usize,
    n_applications: usize,
    desired: &Deployment,
) -> ClusterState {
    let mut state = ClusterState::default();
    for number in 0..n_nodes {
        let mut seen = node(number);
        for application in 0..n_applications {
            if application % 2 == 0 && dice.once_in(2) {
                let copy = any_copy(dice, n_nodes);
                seen.datasets.insert(dataset_id(application), copy);
            } else if application % 2 == 0 && dice.once_in(16) {
                seen.unreadable
                    .insert(dataset_id(application), "its record was cut".into());
            }
            if dice.once_in(3) {
                let name = application_name(application);
                let definition = desired.application(&name);
                let container = any_container(dice, definition, n_applications, &seen);
                seen.containers.insert(name, container);
            }
            if dice.once_in(3) {
                let change = any_route(dice, n_nodes, application);
                seen.routes.apply(&change);
            }
            if dice.once_in(12) {
                seen.foreign_ports.insert(port_of(application));
            }
        }
        // No throw of its own: the bytes of older cases stay what they are.
        if seen.foreign_ports.is_empty() {
            seen.keeps = Keeps::Content;
        }
        if dice.once_in(8) {
            seen.free = Some(ByteSize([1 << 30, 15 << 20, 5 << 20][dice.roll(3)]));
        }
        if dice.once_in(16) {
            seen.forgotten
                .insert(node_name(dice.roll(n_nodes)), BTreeSet::new());
        }
        let observed = if dice.once_in(8) {
            silent()
        } else {
            Observed::Known(seen)
        };
        state.nodes.insert(node_name(number), observed);
    }
    state
}

fn any_copy(dice: &mut Dice, n_nodes: usize) -> Manifestation {
    let lineage = u128::from(dice.once_in(6));
    let epoch = Epoch(1 + dice.roll(3) as u64);
    let mut snapshots = Vec::new();
    for number in 1..=3 {
        if dice.once_in(3) {
            snapshots.push((number, snapshot(SnapshotName::handoff(Epoch(number)), lineage)));
        }
        if dice.once_in(4) {
            snapshots.push((
                number,
                snapshot(SnapshotName::warm(Epoch(number + 1), 1), lineage),
            ));
        }
    }
    let role = match dice.roll(3) {
        0 => Role::Replica,
        1 => {
            snapshots.retain(|(since, _)| *since <= epoch.0);
            Role::Primary { epoch }
        }
        _ => {
            let last = snapshot(SnapshotName::handoff(epoch), lineage);
            snapshots.retain(|(since, _)| *since < epoch.0);
            snapshots.push((epoch.0, last.clone()));
            Role::Released {
                epoch,
                to: node_name(dice.roll(n_nodes)),
                last: last.name,
                guid: last.guid,
            }
        }
    };
    let fence = dice.roll(3) as u64;
    let snapshots = snapshots.into_iter().map(|(_, snapshot)| snapshot).collect();
    let mut made = copy(role, fence, snapshots);
    made.unsent = ByteSize((1 << 20) * [0, 1, 300][dice.roll(3)]);
    if made.role == Role::Replica && dice.once_in(3) {
        made.partial = Some(Box::new(PartialReceive {
            snapshot: SnapshotName::handoff(epoch),
            received: ByteSize(1 << 20),
            token: "token".into(),
        }));
    }
    made
}

fn any_container(
    dice: &mut Dice,
    definition: Option<&Application>,
    n_applications: usize,
    seen: &NodeState,
) -> ContainerState {
    let mut made = container(definition, seen);
    match dice.roll(6) {
        0 | 1 => {}
        2 => made.status = ContainerStatus::Prepared,
        3 => {
            made.status = ContainerStatus::Exited {
                code: Some(i32::from(dice.once_in(2))),
            }
        }
        4 => made.health = Health::Unhealthy,
        _ => {
            made.definition = DefinitionHash(1);
            let other = dataset_id(dice.roll(n_applications) / 2 * 2);
            made.dataset = dice.once_in(2).then_some(other);
        }
    }
    if made.status == ContainerStatus::Prepared {
        made.dataset = None;
    }
    made
}

fn any_route(dice: &mut Dice, n_nodes: usize, application: usize) -> RouteChange {
    let to = dice.roll(n_nodes);
    let home = Home {
        node: node_name(to),
        address: node(to).address,
    };
    let target = RouteTarget {
        application: application_name(application),
        internal: port_of(application).number,
        homes: vec![home],
    };
    let mut change = RouteChange::default();
    change.set.insert(port_of(application), target);
    change
}
