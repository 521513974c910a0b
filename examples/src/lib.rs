//! What the examples share: a small cluster in memory, served in this process.
//!
//! Its nodes are the engine's own [`LocalNode`]s over the strict twins of the
//! backends. Whoever embeds the engine puts real backends in their place and
//! changes nothing else.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_engine::Deadlines;
use flocker_engine::Elsewhere;
use flocker_engine::Handles;
use flocker_engine::LocalNode;
use flocker_engine::MemoryRecord;
use flocker_engine::NoForeignPorts;
use flocker_engine::NodeParts;
use flocker_engine::serve;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::ExternalPort;
use flocker_model::Member;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Volume;
use tokio::task::JoinSet;

/// What an example ends with.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Ends an example where what it shows is not so.
pub fn check(is_so: bool, claim: &str) -> Outcome {
    if is_so {
        Ok(())
    } else {
        Err(format!("it is not so that {claim}").into())
    }
}

/// Some nodes in memory, the network between them, and one who watches their disks.
#[derive(Debug)]
pub struct Cluster {
    network: MemoryNetwork,
    /// Notes every moment in which two nodes could write one dataset.
    pub observer: Observer,
    /// The nodes.
    pub nodes: BTreeMap<NodeName, MemoryNode>,
    servers: JoinSet<()>,
}

impl Cluster {
    /// Starts nodes of these names. It must be called inside a runtime.
    pub fn start(names: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut cluster = Self {
            network: MemoryNetwork::new(),
            observer: Observer::default(),
            nodes: BTreeMap::new(),
            servers: JoinSet::new(),
        };
        for (number, name) in (1_u8..).zip(names) {
            let name: NodeName = name.parse()?;
            let node = MemoryNode::new(name.clone(), [192, 0, 2, number].into(), &cluster.observer);
            cluster.serve(&node)?;
            cluster.nodes.insert(name, node);
        }
        Ok(cluster)
    }

    /// Puts a node together from its parts and answers for it, as the program on a real node does.
    fn serve(&mut self, memory: &MemoryNode) -> Outcome {
        let directory = directory(memory.name());
        let node = Arc::new(LocalNode::new(NodeParts {
            name: memory.name().clone(),
            reached_at: address(memory.name()),
            address: memory.address(),
            boot: memory.boot(),
            volumes: Arc::new(memory.volumes()),
            runtime: Arc::new(memory.runtime()),
            router: Arc::new(memory.router()),
            transport: Arc::new(self.network.transport(directory.clone())),
            record: Arc::new(MemoryRecord::default()),
            foreign_ports: Arc::new(NoForeignPorts),
            deadlines: Deadlines::default(),
        })?);
        let mut acceptor = self.network.listen(directory);
        self.servers.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = acceptor.accept().await {
                let node = Arc::clone(&node);
                connections.spawn(async move {
                    // A connection that ends badly is the concern of who opened it.
                    drop(serve(incoming.channel, node).await);
                });
            }
        });
        Ok(())
    }

    /// Returns a way to every node, as an operator's machine has it.
    #[must_use]
    pub fn handles(&self) -> Handles {
        Handles::new(Arc::new(Elsewhere {
            transport: Arc::new(self.network.transport("/operator")),
            deadlines: Deadlines::default(),
        }))
    }

    /// Returns what is to be: `mongodb` on this node, and every node ready to serve its port.
    pub fn deployment(&self, home: &str) -> Result<Deployment, Box<dyn Error>> {
        let name: ApplicationName = "mongodb".parse()?;
        let mut builder = Deployment::builder().application(name.clone(), mongodb()?);
        for node in self.nodes.keys() {
            let member = Member {
                address: Some(address(node)),
                ..Member::empty()
            };
            builder = builder.node(node.clone(), member);
        }
        let built = builder.place(&name, &home.parse()?).build();
        built.map_err(|errors| errors[0].clone().into())
    }
}

/// Returns an application with data and a port.
pub fn mongodb() -> Result<Application, Box<dyn Error>> {
    let port = PortNumber::new(27017).ok_or("a port is never 0")?;
    let mut application = Application::new("example/mongodb:7".parse()?);
    application.volume = Some(Volume {
        dataset: DatasetId::derived(&"mongodb".parse()?),
        mountpoint: "/data/db".into(),
        maximum_size: None,
    });
    application.ports = [Port {
        internal: port,
        external: ExternalPort::tcp(port),
    }]
    .into();
    Ok(application)
}

fn directory(node: &NodeName) -> PathBuf {
    PathBuf::from("/nodes").join(node.as_str())
}

fn address(node: &NodeName) -> NodeAddress {
    NodeAddress::Local {
        directory: directory(node),
    }
}
