//! Small clusters made by hand: names by number, nodes with nothing on them, copies, containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use flocker_model::{
    Application, ApplicationName, BootId, ByteSize, ClusterState, ContainerState, ContainerStatus, DatasetId,
    DefinitionHash, DefinitionKey, Deployment, Epoch, ExternalPort, Generation, Health, Keeps, Manifestation,
    NodeId, NodeName, NodeState, Observed, Port, PortNumber, Role, RouteTable, Silence, Snapshot,
    SnapshotGuid, SnapshotName, Volume,
};

pub(crate) fn node_name(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

pub(crate) fn application_name(number: usize) -> ApplicationName {
    format!("a{number}").parse().unwrap()
}

pub(crate) fn dataset_id(number: usize) -> DatasetId {
    format!("00000000-0000-0000-0000-{number:012}").parse().unwrap()
}

/// The external port of an application.
///
/// The first two have one number, and are two ports.
pub(crate) fn port_of(number: usize) -> ExternalPort {
    let shared = PortNumber::new(8001 + u16::try_from(number.saturating_sub(1)).unwrap()).unwrap();
    if number == 0 {
        ExternalPort::udp(shared)
    } else {
        ExternalPort::tcp(shared)
    }
}

/// An application of some version, with a dataset of its own or none.
pub(crate) fn application(number: usize, version: usize, with_data: bool) -> Application {
    let mut application = Application::new(format!("image:{version}").parse().unwrap());
    application.ports = [Port {
        internal: port_of(number).number,
        external: port_of(number),
    }]
    .into();
    application.volume = with_data.then(|| Volume {
        dataset: dataset_id(number),
        mountpoint: "/data".into(),
        maximum_size: None,
    });
    application
}

pub(crate) fn node(number: usize) -> NodeState {
    let id = format!("00000000-0000-4000-8000-{number:012}");
    let last = u8::try_from(number + 1).unwrap();
    NodeState {
        id: id.parse::<NodeId>().unwrap(),
        boot: id.parse::<BootId>().unwrap(),
        address: Ipv4Addr::new(10, 0, 0, last).into(),
        generation: Generation(1),
        key: DefinitionKey::new([last; 32]),
        datasets: BTreeMap::new(),
        containers: BTreeMap::new(),
        routes: RouteTable::default(),
        trash: Vec::new(),
        fences: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        free: None,
        keeps: Keeps::Lists,
        foreign_ports: BTreeSet::new(),
        peers: BTreeMap::new(),
        forgotten: BTreeMap::new(),
    }
}

pub(crate) fn silent<T>() -> Observed<T> {
    Observed::Unknown(Silence::NotAsked)
}

/// A snapshot; an equal name and lineage is an equal snapshot.
pub(crate) fn snapshot(name: SnapshotName, lineage: u128) -> Snapshot {
    let digest = name
        .as_str()
        .bytes()
        .fold(lineage, |sum, byte| sum.wrapping_mul(257) + u128::from(byte));
    Snapshot {
        name,
        guid: SnapshotGuid(digest),
        written: ByteSize(1 << 20),
    }
}

pub(crate) fn copy(role: Role, fence: u64, snapshots: Vec<Snapshot>) -> Manifestation {
    let own = match &role {
        Role::Primary { epoch } => epoch.0,
        Role::Released { epoch, .. } => epoch.0.saturating_sub(1),
        Role::Replica => 0,
    };
    Manifestation {
        role,
        snapshots,
        maximum_size: None,
        used: ByteSize(10 << 20),
        unsent: ByteSize(0),
        findings: None,
        partial: None,
        fence: Epoch(fence.max(own)),
        age: Duration::ZERO,
    }
}

pub(crate) fn container(definition: Option<&Application>, node: &NodeState) -> ContainerState {
    let volume = definition.and_then(|definition| definition.volume.as_ref());
    ContainerState {
        status: ContainerStatus::Running,
        health: Health::NotChecked,
        definition: definition.map_or(DefinitionHash(1), |definition| {
            definition.definition_hash(&node.key)
        }),
        dataset: volume.map(|volume| volume.dataset),
        address: Some(node.address),
        stop_grace: Application::DEFAULT_STOP_GRACE,
        restarts: 0,
    }
}

/// Says what is not as it is to be on the nodes that the deployment lists; judged without the planner.
pub(crate) fn amiss(desired: &Deployment, actual: &ClusterState) -> Option<String> {
    for (name, application) in desired.applications() {
        let homes: Vec<&NodeName> = desired.homes(name).collect();
        for home in &homes {
            let Some(state) = actual.known(home) else {
                return Some(format!("{home} is silent"));
            };
            let right = state.containers.get(name).is_some_and(|container| {
                let done = container.status == ContainerStatus::Exited { code: Some(0) };
                (container.is_alive() || done)
                    && container.definition == application.definition_hash(&state.key)
            });
            if !right {
                return Some(format!("{name} is not right on {home}"));
            }
            if let Some(volume) = &application.volume {
                let role = state.datasets.get(&volume.dataset).map(|copy| &copy.role);
                if !matches!(role, Some(Role::Primary { .. })) {
                    return Some(format!("{name} has no data on {home}"));
                }
            }
        }
        for port in &application.ports {
            for (node, state) in actual.all_known() {
                if !desired.members().contains_key(node) {
                    continue;
                }
                let to = state.routes.get(port.external).map(|target| {
                    let found: Vec<&NodeName> = target.homes.iter().map(|home| &home.node).collect();
                    found
                });
                let to = to.unwrap_or_default();
                // It may go on where the deployment says nothing.
                let unlisted = to.iter().all(|home| !desired.members().contains_key(*home));
                if to != homes && !(homes.is_empty() && unlisted) {
                    return Some(format!("{node} does not route {} to {homes:?}", port.external));
                }
            }
        }
    }
    for (node, member) in desired.members() {
        let Some(state) = actual.known(node) else { continue };
        let stray = state
            .containers
            .keys()
            .find(|name| !member.applications.contains(*name));
        if let Some(stray) = stray {
            return Some(format!("{stray} is left on {node}"));
        }
    }
    None
}

/// Returns a state without what depends on the order of independent steps: the order of trash.
pub(crate) fn in_one_order(mut state: ClusterState) -> ClusterState {
    for seen in state.nodes.values_mut() {
        if let Observed::Known(seen) = seen {
            seen.trash.sort_by(|one, other| one.entry.cmp(&other.entry));
        }
    }
    state
}
