//! The plan as people read it, for the move that every document of this project tells of.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use flocker_model::Application;
use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Health;
use flocker_model::Home;
use flocker_model::Manifestation;
use flocker_model::Member;
use flocker_model::NodeId;
use flocker_model::NodeState;
use flocker_model::Observed;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Role;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::Volume;
use flocker_plan::Policy;

const GIB: u64 = 1 << 30;

fn key() -> DefinitionKey {
    DefinitionKey::new([7; 32])
}

fn application() -> Application {
    let name = "mongodb".parse().unwrap();
    let port = PortNumber::new(27017).unwrap();
    let mut application = Application::new("clusterhq/mongodb".parse().unwrap());
    application.ports = [Port {
        internal: port,
        external: ExternalPort::tcp(port),
    }]
    .into();
    application.volume = Some(Volume {
        dataset: DatasetId::derived(&name),
        mountpoint: "/data/db".into(),
        maximum_size: None,
    });
    application
}

fn desired() -> Deployment {
    let name = "mongodb".parse().unwrap();
    let nodes: [flocker_model::NodeName; 3] = ["alpha", "beta", "gamma"].map(|node| node.parse().unwrap());
    let builder = Deployment::builder().application("mongodb".parse().unwrap(), application());
    let builder = nodes.iter().fold(builder, |builder, node| {
        builder.node(node.clone(), Member::empty())
    });
    builder.place(&name, &nodes[1]).build().unwrap().at(Generation(3))
}

fn node(number: u8) -> NodeState {
    NodeState {
        id: NodeId(uuid::Uuid::from_u128(number.into())),
        boot: BootId(uuid::Uuid::from_u128(number.into())),
        address: [192, 0, 2, number].into(),
        generation: Generation(2),
        key: key(),
        datasets: BTreeMap::new(),
        containers: BTreeMap::new(),
        routes: RouteTable::default(),
        trash: Vec::new(),
        fences: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        free: None,
        keeps: flocker_model::Keeps::Lists,
        foreign_ports: BTreeSet::new(),
        peers: BTreeMap::new(),
        forgotten: BTreeMap::new(),
    }
}

fn actual(snapshots: &[Snapshot], unsent: u64) -> ClusterState {
    let dataset = DatasetId::derived(&"mongodb".parse().unwrap());
    let copy = |role, snapshots: &[Snapshot]| Manifestation {
        role,
        snapshots: snapshots.to_vec(),
        maximum_size: None,
        used: ByteSize(GIB),
        unsent: ByteSize(unsent),
        findings: None,
        partial: None,
        fence: Epoch(7),
        age: Duration::ZERO,
    };
    let mut alpha = node(1);
    alpha
        .datasets
        .insert(dataset, copy(Role::Primary { epoch: Epoch(7) }, snapshots));
    let container = ContainerState {
        status: ContainerStatus::Running,
        health: Health::NotChecked,
        definition: application().definition_hash(&key()),
        dataset: Some(dataset),
        address: None,
        stop_grace: Duration::from_secs(10),
        restarts: 0,
    };
    alpha.containers.insert("mongodb".parse().unwrap(), container);
    let mut beta = node(2);
    if !snapshots.is_empty() {
        let mut replica = copy(Role::Replica, snapshots);
        replica.fence = Epoch(0);
        beta.datasets.insert(dataset, replica);
    }
    let port = PortNumber::new(27017).unwrap();
    let homes = vec![Home {
        node: "alpha".parse().unwrap(),
        address: alpha.address,
    }];
    let target = RouteTarget {
        application: "mongodb".parse().unwrap(),
        internal: port,
        homes,
    };
    let routes = RouteTable::from(BTreeMap::from([(ExternalPort::tcp(port), target)]));
    let nodes = [("alpha", alpha), ("beta", beta), ("gamma", node(3))].map(|(name, mut state)| {
        state.routes = routes.clone();
        (name.parse().unwrap(), Observed::Known(state))
    });
    ClusterState {
        nodes: BTreeMap::from(nodes),
    }
}

fn text(actual: &ClusterState) -> String {
    let (desired, policy) = (desired(), Policy::default());
    let plan = flocker_plan::plan(&desired, actual, &policy);
    flocker_plan::check::plan(&plan, &desired, actual).unwrap();
    let estimate = flocker_plan::estimate(&plan, actual, &policy);
    flocker_plan::render::text(&plan, &desired, &estimate)
}

#[test]
fn a_move_begins_with_a_copy_made_while_the_application_runs() {
    assert_eq!(text(&actual(&[], GIB)), include_str!("render/warm.txt"));
}

#[test]
fn a_move_ends_with_a_short_pause() {
    let warm = Snapshot {
        name: SnapshotName::warm(Epoch(8), 1),
        guid: SnapshotGuid(1),
        written: ByteSize(GIB),
    };
    assert_eq!(
        text(&actual(&[warm], 40 << 20)),
        include_str!("render/cut_over.txt")
    );
}
