//! What no node of ours would say of itself, and a damaged or hostile one may.

use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::Epoch;
use flocker_model::Findings;
use flocker_model::Generation;
use flocker_model::Health;
use flocker_model::Home;
use flocker_model::NodeAddress;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::PartialReceive;
use flocker_model::Peer;
use flocker_model::Role;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use flocker_model::Silence;
use flocker_model::SnapshotName;
use flocker_model::Trashed;

use crate::dice::Dice;
use crate::world::application_name;
use crate::world::dataset_id;
use crate::world::node;
use crate::world::node_name;
use crate::world::port_of;
use crate::world::snapshot;

const LARGE: [u64; 7] = [0, 1, 2, 7, 1 << 32, u64::MAX - 1, u64::MAX];

/// Changes some of what is seen into something strange.
pub(crate) fn make_strange(dice: &mut Dice, state: &mut ClusterState) {
    let n_nodes = state.nodes.len();
    for _ in 0..dice.roll(8) {
        let number = dice.roll(n_nodes + 1);
        let seen = state
            .nodes
            .entry(node_name(number))
            // A node that nobody has listed.
            .or_insert_with(|| Observed::Known(node(number)));
        match seen {
            Observed::Known(seen) => change(dice, n_nodes, seen),
            Observed::Unknown(silence) => *silence = any_silence(dice),
        }
    }
}

fn number(dice: &mut Dice) -> u64 {
    LARGE[dice.roll(LARGE.len())]
}

fn size(dice: &mut Dice) -> ByteSize {
    ByteSize(LARGE[dice.roll(LARGE.len())])
}

fn age(dice: &mut Dice) -> Duration {
    [Duration::ZERO, Duration::from_secs(1 << 30), Duration::MAX][dice.roll(3)]
}

fn any_silence(dice: &mut Dice) -> Silence {
    match dice.roll(5) {
        0 => Silence::NotAsked,
        1 => Silence::Unreachable { reason: "?".into() },
        2 => Silence::SameNode { other: node_name(0) },
        3 => Silence::Impostor {
            found: node(0).id,
            remembered: [(node_name(1), node(1).id)].into(),
        },
        _ => Silence::Forgotten,
    }
}

fn any_role(dice: &mut Dice, n_nodes: usize) -> Role {
    let epoch = Epoch(number(dice));
    match dice.roll(3) {
        0 => Role::Replica,
        1 => Role::Primary { epoch },
        _ => {
            let last = snapshot(any_snapshot(dice), 0);
            Role::Released {
                epoch,
                // Perhaps somebody whom nobody has heard of.
                to: node_name(dice.roll(n_nodes + 2)),
                last: last.name,
                guid: last.guid,
            }
        }
    }
}

fn any_snapshot(dice: &mut Dice) -> SnapshotName {
    let epoch = Epoch(number(dice));
    match dice.roll(4) {
        0 => SnapshotName::handoff(epoch),
        1 => SnapshotName::warm(epoch, [0, 1, u32::MAX][dice.roll(3)]),
        2 => "handoff-".parse().expect("it is a name"),
        _ => "warm-18446744073709551616-1".parse().expect("it is a name"),
    }
}

fn change(dice: &mut Dice, n_nodes: usize, seen: &mut NodeState) {
    let dataset = dataset_id(dice.roll(3) * 2);
    match dice.roll(16) {
        0..6 => {
            if let Some(copy) = seen.datasets.get_mut(&dataset) {
                change_copy(dice, n_nodes, copy);
            }
        }
        6 | 7 => {
            let name = application_name(dice.roll(5));
            if let Some(container) = seen.containers.get_mut(&name) {
                container.status = [
                    ContainerStatus::Running,
                    ContainerStatus::Restarting,
                    ContainerStatus::Prepared,
                    ContainerStatus::Exited { code: None },
                    ContainerStatus::Exited { code: Some(i32::MIN) },
                ][dice.roll(5)];
                container.health = [Health::Healthy, Health::Unhealthy, Health::NotChecked][dice.roll(3)];
                container.dataset = dice.once_in(2).then_some(dataset);
                container.restarts = u32::MAX;
                container.stop_grace = age(dice);
                if dice.once_in(2) {
                    container.definition = DefinitionHash(u128::MAX);
                    container.address = None;
                }
            }
        }
        8 => {
            // Two nodes that say that they are one, at one address.
            let other = node(dice.roll(n_nodes));
            if dice.once_in(2) {
                seen.id = other.id;
            }
            seen.address = other.address;
        }
        9 => {
            let entry = format!("entry-{}", dice.roll(3));
            let role = dice.once_in(2).then(|| any_role(dice, n_nodes));
            let (used, age) = (size(dice), age(dice));
            seen.trash.push(Trashed {
                entry,
                dataset,
                role,
                used,
                age,
            });
        }
        10 => {
            seen.fences.insert(dataset, Epoch(number(dice)));
            if dice.once_in(2) {
                // Perhaps it can be read as well.
                seen.unreadable.insert(dataset, String::new());
            }
        }
        11 => seen.free = Some(size(dice)),
        12 => {
            let peer = Peer {
                address: NodeAddress::Local {
                    directory: "/".into(),
                },
                id: dice.once_in(2).then(|| node(dice.roll(n_nodes)).id),
                generation: Generation::default(),
            };
            seen.peers.insert(node_name(dice.roll(n_nodes + 1)), peer);
        }
        13 => {
            let lost = dice.once_in(2).then(|| node(dice.roll(n_nodes)).id);
            let name = node_name(dice.roll(n_nodes + 1));
            seen.forgotten.insert(name, lost.into_iter().collect());
        }
        14 => seen.generation = Generation([0, 1, 2, u64::MAX][dice.roll(4)]),
        _ => {
            let port = port_of(dice.roll(5));
            let homes = (0..dice.roll(3)).map(|_| {
                let number = dice.roll(n_nodes + 1);
                Home {
                    node: node_name(number),
                    address: node(number / 2).address,
                }
            });
            let target = RouteTarget {
                homes: homes.collect(),
                internal: port_of(dice.roll(5)).number,
                application: application_name(dice.roll(5)),
            };
            let mut change = RouteChange::default();
            change.set.insert(port, target);
            seen.routes.apply(&change);
            seen.foreign_ports.insert(port_of(dice.roll(5)));
        }
    }
}

fn change_copy(dice: &mut Dice, n_nodes: usize, copy: &mut flocker_model::Manifestation) {
    match dice.roll(8) {
        0 => copy.role = any_role(dice, n_nodes),
        1 => copy.fence = Epoch(number(dice)),
        2 => copy.snapshots.reverse(),
        3 => {
            let mut added = snapshot(any_snapshot(dice), u128::from(dice.once_in(2)));
            if dice.once_in(2) {
                // One identity under two names, or the other way round.
                if let Some(first) = copy.snapshots.first() {
                    added.guid = first.guid;
                }
            }
            added.written = size(dice);
            copy.snapshots.push(added);
        }
        4 => {
            copy.partial = Some(Box::new(PartialReceive {
                snapshot: any_snapshot(dice),
                received: size(dice),
                token: String::new(),
            }));
        }
        5 => {
            copy.used = size(dice);
            copy.unsent = size(dice);
            copy.findings = Findings {
                round: std::time::Duration::from_millis(number(dice)),
                altered: None,
            }
            .boxed();
        }
        6 => copy.maximum_size = dice.once_in(2).then(|| size(dice)),
        _ => copy.age = age(dice),
    }
}
