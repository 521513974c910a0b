//! Clusters to measure with: one shape and one seed, one desired and one actual state.
//!
//! Every application has an image, a dataset and two variables. One in ten has
//! an external port, up to a hundred in all unless a shape says otherwise:
//! ports are unique in a cluster, so that there can never be more than 65 535,
//! and every node answers on all of them. One in four links to one that has a
//! port. One dataset in ten has a spare copy on the next node, as
//! after a move. All nodes share one route table, as they do once reports
//! were compared; names are not shared between desired and actual state.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::DefinitionKey;
use flocker_model::Deployment;
use flocker_model::EnvironmentValue;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Health;
use flocker_model::Home;
use flocker_model::Link;
use flocker_model::Manifestation;
use flocker_model::NodeId;
use flocker_model::NodeName;
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
use uuid::Uuid;

/// How large a cluster is, and which of all clusters of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many nodes it has.
    pub n_nodes: u32,
    /// How many applications it has.
    pub n_applications: u32,
    /// How many external ports it has at most.
    pub most_ports: u32,
    /// What every choice is drawn from.
    pub seed: u64,
}

/// What is to be done to a cluster that has settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Everything, on nodes that have nothing.
    FromNothing,
    /// Nothing.
    Settled,
    /// One application moves with its data, of which a copy is there already.
    One,
    /// One application in a hundred moves.
    OnePercent,
    /// Every application moves.
    Everything,
}

impl Change {
    /// All changes, from the planner's worst start to its worst end.
    pub const ALL: [Self; 5] = [
        Self::FromNothing,
        Self::Settled,
        Self::One,
        Self::OnePercent,
        Self::Everything,
    ];

    /// Returns what it is called in a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FromNothing => "from nothing",
            Self::Settled => "settled",
            Self::One => "one changed",
            Self::OnePercent => "1 % changed",
            Self::Everything => "everything moves",
        }
    }

    /// Says whether an application moves.
    fn moves(self, application: u32, shape: &Shape) -> bool {
        match self {
            Self::FromNothing | Self::Settled => false,
            Self::One => application == shape.n_applications / 2,
            Self::OnePercent => application % 100 == 37,
            Self::Everything => true,
        }
    }
}

/// What there is to plan from.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What is to be.
    pub desired: Deployment,
    /// What is.
    pub actual: ClusterState,
}

impl Shape {
    /// Returns the shape of a cluster of this size.
    #[must_use]
    pub fn new(n_nodes: u32, n_applications: u32) -> Self {
        Self {
            n_nodes,
            n_applications,
            most_ports: 100,
            seed: 1,
        }
    }

    /// Returns desired and actual state for a change.
    #[must_use]
    pub fn cluster(&self, change: Change) -> Cluster {
        Cluster {
            desired: self.desired(change),
            actual: self.actual(change),
        }
    }

    /// Returns what is to be.
    ///
    /// # Panics
    ///
    /// Where the generator is wrong.
    #[must_use]
    pub fn desired(&self, change: Change) -> Deployment {
        let mut builder = Deployment::builder();
        for application in 0..self.n_applications {
            let home = self.home(application, change.moves(application, self));
            let name = application_name(application);
            builder = builder
                .application(name.clone(), self.definition(application))
                .place(&name, &node_name(home));
        }
        match builder.build() {
            Ok(deployment) => deployment.at(Generation(2)),
            Err(errors) => panic!("the generator made a deployment that is not one: {errors:?}"),
        }
    }

    /// Returns what is, before the change.
    #[must_use]
    pub fn actual(&self, change: Change) -> ClusterState {
        let mut nodes: Vec<NodeState> = (0..self.n_nodes).map(|node| self.empty_node(node)).collect();
        if change != Change::FromNothing {
            let routes = self.routes();
            for node in &mut nodes {
                node.routes = routes.clone();
            }
            for application in 0..self.n_applications {
                self.run(&mut nodes, application, change.moves(application, self));
            }
        }
        let named = (0_u32..).zip(nodes);
        ClusterState {
            nodes: named
                // As whoever reads a node's report keeps it.
                .map(|(node, state)| (node_name(node), Observed::Known(state.compact())))
                .collect(),
        }
    }

    /// Puts a running application, its data and perhaps a spare copy where they are.
    fn run(&self, nodes: &mut [NodeState], application: u32, moves: bool) {
        let definition = self.definition(application);
        let name = application_name(application);
        let dataset = DatasetId::derived(&name);
        let container = ContainerState {
            status: ContainerStatus::Running,
            health: Health::NotChecked,
            definition: hash(&definition),
            dataset: Some(dataset),
            address: Some(IpAddr::V4(Ipv4Addr::from(0xac11_0000 | application & 0xffff))),
            stop_grace: Application::DEFAULT_STOP_GRACE,
            restarts: 0,
        };
        let has_copy = moves || application % 10 == 3;
        let snapshots = || {
            let snapshot = Snapshot {
                name: SnapshotName::warm(Epoch(2), 1),
                guid: SnapshotGuid(u128::from(self.draw(application, 7)) << 64 | u128::from(application)),
                written: ByteSize(1 << 20),
            };
            Vec::from_iter(has_copy.then_some(snapshot))
        };
        let owner = Manifestation {
            role: Role::Primary { epoch: Epoch(1) },
            snapshots: snapshots(),
            maximum_size: None,
            used: ByteSize(u64::from(application) << 12),
            unsent: ByteSize(4096),
            findings: None,
            partial: None,
            fence: Epoch(1),
            age: Duration::from_secs(3600),
        };
        let copy = Manifestation {
            role: Role::Replica,
            snapshots: snapshots(),
            unsent: ByteSize(0),
            fence: Epoch(0),
            ..owner.clone()
        };
        let home = self.home(application, false) as usize;
        nodes[home].containers.insert(name, container);
        nodes[home].datasets.insert(dataset, owner);
        if has_copy {
            let next = self.home(application, true) as usize;
            nodes[next].datasets.insert(dataset, copy);
        }
    }

    /// Returns the node on which an application is, or the next one, to which it moves.
    fn home(&self, application: u32, moved: bool) -> u32 {
        (application + u32::from(moved)) % self.n_nodes
    }

    fn n_ports(&self) -> u32 {
        (self.n_applications / 10).min(self.most_ports)
    }

    /// Returns the external port of an application: every tenth has one until there are enough.
    fn port(&self, application: u32) -> Option<ExternalPort> {
        let has_one = application.is_multiple_of(10) && application / 10 < self.n_ports();
        let number = has_one.then(|| u16::try_from(10_000 + application / 10).ok());
        number.flatten().and_then(PortNumber::new).map(ExternalPort::tcp)
    }

    fn definition(&self, application: u32) -> Application {
        let tag = self.draw(application, 1) % 50;
        let image = format!("registry.example/team/service-{}:1.{tag}", application % 200);
        let mut definition = Application::new(image.parse().expect("an image"));
        let name = application_name(application);
        definition.volume = Some(Volume {
            dataset: DatasetId::derived(&name),
            mountpoint: "/var/lib/service".into(),
            maximum_size: None,
        });
        let level = if tag == 0 { "debug" } else { "info" };
        for (variable, value) in [("LOG_LEVEL", level), ("REGION", "eu-west-1")] {
            let value = EnvironmentValue::Plain(value.into());
            definition.environment.insert(variable.into(), value);
        }
        if let Some(external) = self.port(application) {
            let internal = PortNumber::new(8080).expect("not zero");
            definition.ports.push(Port { internal, external });
        }
        let n_ports = self.n_ports();
        if application % 4 == 1 && n_ports > 0 {
            let drawn = u32::try_from(self.draw(application, 2) % u64::from(n_ports)).unwrap_or(0);
            if let Some(remote_port) = self.port(drawn * 10) {
                definition.links.push(Link {
                    local_port: PortNumber::new(80).expect("not zero"),
                    remote_port,
                    alias: "upstream".parse().expect("a name"),
                });
            }
        }
        definition
    }

    fn routes(&self) -> RouteTable {
        let ports = (0..self.n_ports()).map(|port| port * 10);
        let entries: BTreeMap<ExternalPort, RouteTarget> = ports
            .filter_map(|application| {
                let home = self.home(application, false);
                let target = RouteTarget {
                    application: application_name(application),
                    internal: PortNumber::new(8080)?,
                    homes: vec![Home {
                        node: node_name(home),
                        address: node_address(home),
                    }],
                };
                Some((self.port(application)?, target))
            })
            .collect();
        entries.into()
    }

    fn empty_node(&self, node: u32) -> NodeState {
        NodeState {
            id: NodeId(Uuid::from_u64_pair(self.draw(node, 3), self.draw(node, 4))),
            boot: BootId(Uuid::from_u64_pair(self.draw(node, 5), self.draw(node, 6))),
            address: node_address(node),
            generation: Generation(1),
            key: DefinitionKey::new([7; 32]),
            datasets: BTreeMap::new(),
            containers: BTreeMap::new(),
            routes: RouteTable::default(),
            trash: Vec::new(),
            fences: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            free: Some(ByteSize(1 << 50)),
            keeps: flocker_model::Keeps::Lists,
            foreign_ports: BTreeSet::new(),
            peers: BTreeMap::new(),
            forgotten: BTreeMap::new(),
        }
    }

    /// `SplitMix64` of the seed, the number of a thing and what is drawn for it.
    fn draw(&self, number: u32, purpose: u64) -> u64 {
        let mut state = self.seed ^ purpose << 56;
        state = state.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^ state >> 31
    }
}

fn hash(definition: &Application) -> DefinitionHash {
    definition.definition_hash(&DefinitionKey::new([7; 32]))
}

/// Returns the name of an application by its number.
///
/// # Panics
///
/// Where the generator is wrong.
#[must_use]
pub fn application_name(application: u32) -> ApplicationName {
    format!("service-{application:07}").parse().expect("a name")
}

/// Returns the name of a node by its number.
///
/// # Panics
///
/// Where the generator is wrong.
#[must_use]
pub fn node_name(node: u32) -> NodeName {
    format!("node-{node:05}").parse().expect("a name")
}

fn node_address(node: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | node))
}

#[cfg(test)]
mod tests {
    use flocker_plan::Policy;

    use super::*;

    #[test]
    fn each_change_is_what_its_name_says() {
        let shape = Shape::new(10, 300);
        for (change, n_moved) in [
            (Change::Settled, 0),
            (Change::One, 1),
            (Change::OnePercent, 3),
            (Change::Everything, 300),
        ] {
            let Cluster { desired, actual } = shape.cluster(change);
            let plan = flocker_plan::plan(&desired, &actual, &Policy::default());
            assert_eq!(plan.refused(), [], "{change:?}");
            assert_eq!(plan.waiting(), [], "{change:?}");
            let n_acquired = plan.steps().iter().filter(|step| step.action.verb() == "acquire");
            assert_eq!(n_acquired.count(), n_moved, "{change:?}");
            assert_eq!(plan.is_settled(), n_moved == 0, "{change:?}");
        }
        let Cluster { desired, actual } = shape.cluster(Change::FromNothing);
        let plan = flocker_plan::plan(&desired, &actual, &Policy::default());
        let n_created = plan.steps().iter().filter(|step| step.action.verb() == "create");
        assert_eq!(n_created.count(), 300);
    }

    #[test]
    fn one_seed_is_one_cluster_and_another_is_another() {
        let shape = Shape::new(3, 40);
        let other = Shape { seed: 2, ..shape };
        assert_eq!(shape.actual(Change::Settled), shape.actual(Change::Settled));
        assert_ne!(shape.actual(Change::Settled), other.actual(Change::Settled));
    }
}
