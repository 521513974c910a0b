//! Machines that are reached by host name, each with its own loopback address: for transfers that leave a machine.
//!
//! The operator reaches every machine over a network in memory; the machines
//! reach each other only by real connections, if at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::Channel;
use flocker_backends::ContainerRuntime;
use flocker_backends::Purpose;
use flocker_backends::Transport;
use flocker_backends::TransportError;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::local::LocalTransport;
use flocker_engine::Deadlines;
use flocker_engine::Elsewhere;
use flocker_engine::Event;
use flocker_engine::Execution;
use flocker_engine::Handles;
use flocker_engine::LocalNode;
use flocker_engine::MemoryRecord;
use flocker_engine::NoForeignPorts;
use flocker_engine::NodeHandle as _;
use flocker_engine::NodeParts;
use flocker_engine::Order;
use flocker_engine::RemoteNode;
use flocker_engine::Report;
use flocker_engine::Stop;
use flocker_engine::Transfer;
use flocker_engine::Unwatched;
use flocker_engine::execute;
use flocker_engine::serve;
use flocker_model::ByteSize;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use flocker_plan::Needs;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Step;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cluster::OPERATOR;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::execution;
use crate::cluster::name;

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Where doors are that are reached only through a [`Between`].
const BEHIND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// The operator's way to machines: by host name.
#[derive(Debug)]
struct ByHost(flocker_backends::memory::MemoryTransport);

#[async_trait]
impl Transport for ByHost {
    async fn open(&self, node: &NodeAddress, purpose: Purpose) -> Result<Channel, TransportError> {
        let NodeAddress::Ssh { host, .. } = node else {
            let address = format!("{node:?}");
            return Err(TransportError::Unsupported { address });
        };
        let directory = directory(host);
        self.0.open(&NodeAddress::Local { directory }, purpose).await
    }
}

pub(crate) fn host(node: &str) -> NodeAddress {
    NodeAddress::Ssh {
        host: node.into(),
        user: None,
        port: None,
    }
}

struct Machine {
    node: Arc<LocalNode>,
    _server: JoinSet<()>,
}

/// Some machines, and who commands them.
pub(crate) struct Machines {
    pub(crate) network: MemoryNetwork,
    pub(crate) handles: Handles,
    pub(crate) deadlines: Deadlines,
    pub(crate) bandwidth: Option<ByteSize>,
    by_name: BTreeMap<NodeName, Machine>,
}

impl Machines {
    pub(crate) fn new() -> Self {
        Self::with_deadlines(Deadlines::default())
    }

    pub(crate) fn with_deadlines(deadlines: Deadlines) -> Self {
        let network = MemoryNetwork::new();
        let elsewhere = Elsewhere {
            transport: Arc::new(ByHost(network.transport(OPERATOR))),
            deadlines,
        };
        Self {
            handles: Handles::new(Arc::new(elsewhere)),
            network,
            deadlines,
            bandwidth: None,
            by_name: BTreeMap::new(),
        }
    }

    /// Adds a machine with these volumes, and a doorstep if transfers may come in directly.
    pub(crate) fn add(
        &mut self,
        node: &str,
        volumes: Arc<dyn VolumeBackend>,
        doorstep: Option<Doorstep>,
    ) -> &mut Self {
        let runtime = MemoryNode::new(name(node), LOOPBACK, &Observer::default()).runtime();
        self.add_with_runtime(node, volumes, Arc::new(runtime), doorstep)
    }

    /// The same, with this runtime.
    pub(crate) fn add_with_runtime(
        &mut self,
        node: &str,
        volumes: Arc<dyn VolumeBackend>,
        runtime: Arc<dyn ContainerRuntime>,
        doorstep: Option<Doorstep>,
    ) -> &mut Self {
        let memory = MemoryNode::new(name(node), LOOPBACK, &Observer::default());
        let parts = NodeParts {
            name: name(node),
            reached_at: host(node),
            address: LOOPBACK,
            boot: memory.boot(),
            volumes,
            runtime,
            router: Arc::new(memory.router()),
            transport: Arc::new(LocalTransport),
            record: Arc::new(MemoryRecord::default()),
            foreign_ports: Arc::new(NoForeignPorts),
            deadlines: self.deadlines,
        };
        let mut local = LocalNode::new(parts).unwrap();
        let mut server = JoinSet::new();
        let mut doors = None;
        if let Some(doorstep) = doorstep {
            let (with_doors, opened) = local.with_doors(doorstep);
            local = with_doors;
            doors = Some(opened);
        }
        let local = Arc::new(local);
        if let Some(doors) = doors {
            server.spawn(doors.keep(Arc::clone(&local)));
        }
        let mut acceptor = self.network.listen(directory(node));
        server.spawn({
            let local = Arc::clone(&local);
            async move {
                let mut connections = JoinSet::new();
                while let Some(incoming) = acceptor.accept().await {
                    let local = Arc::clone(&local);
                    connections.spawn(async move {
                        // A connection that ends badly is the concern of who opened it.
                        drop(serve(incoming.channel, local).await);
                    });
                }
            }
        });
        let machine = Machine {
            node: local,
            _server: server,
        };
        self.by_name.insert(name(node), machine);
        drop(self.handles.reach(&name(node), Some(&host(node))));
        self
    }

    pub(crate) fn node(&self, node: &str) -> &Arc<LocalNode> {
        &self.by_name[&name(node)].node
    }

    pub(crate) fn remote(&self, node: &str) -> RemoteNode {
        let transport = Arc::new(ByHost(self.network.transport(OPERATOR)));
        RemoteNode::new(name(node), host(node), transport, self.deadlines)
    }

    /// Gives an order to a machine, which must succeed.
    pub(crate) async fn perform(&self, node: &str, action: Action) {
        let order = Order::new(action, Generation(1));
        self.node(node).perform(&order, &Unwatched).await.unwrap();
    }

    /// Has alpha push its snapshot to beta, as a plan would.
    pub(crate) async fn push(&self) -> (Report, Vec<Event>) {
        self.push_of(&warm()).await
    }

    pub(crate) async fn push_of(&self, snapshot: &SnapshotName) -> (Report, Vec<Event>) {
        let plan = plan_to_push(snapshot);
        let recorder = Recorder::default();
        let execution = Execution {
            bandwidth: self.bandwidth,
            ..execution(&recorder, Stop::never())
        };
        let report = execute(&plan, &Deployment::default(), &self.handles, &execution).await;
        (report, recorder.events())
    }
}

/// A plan of one step: alpha pushes its snapshot to beta.
pub(crate) fn plan_to_push(snapshot: &SnapshotName) -> Plan {
    let step = Step {
        actor: name("alpha"),
        action: push(snapshot),
        reason: Arc::new(Reason::Starts {
            application: app("mongodb"),
            on: name("beta"),
        }),
        needs: Needs::default(),
    };
    Plan::new(Generation(1), vec![step], Vec::new(), Vec::new(), Vec::new())
}

pub(crate) fn warm() -> SnapshotName {
    SnapshotName::warm(Epoch(2), 1)
}

pub(crate) fn push(snapshot: &SnapshotName) -> Action {
    Action::Push {
        dataset: dataset(),
        snapshot: snapshot.clone(),
        base: None,
        to: name("beta"),
    }
}

pub(crate) fn transfer() -> Transfer {
    Transfer {
        dataset: dataset(),
        snapshot: warm(),
        base: None,
        sender: None,
    }
}

/// Returns bytes that no compression and no accident makes alike.
pub(crate) fn noise(n_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(n_bytes).collect()
}

/// What becomes of a connection that goes through a [`Between`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meddling {
    /// It is closed at once.
    Refuse,
    /// The first of all is cut after so many bytes.
    CutFirstAfter(usize),
    /// So many bytes pass, and then nothing for a while.
    Slow(usize, Duration),
}

/// Somebody between the machines, at the address that is told to senders.
pub(crate) struct Between {
    pub(crate) doorstep: Doorstep,
    n_connections: Arc<std::sync::atomic::AtomicUsize>,
    _task: JoinSet<()>,
}

impl Between {
    pub(crate) async fn new(meddling: Meddling) -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let n_connections = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(meddle(listener, meddling, Arc::clone(&n_connections)));
        Self {
            doorstep: Doorstep {
                listens_on: BEHIND,
                reached_at: LOOPBACK,
                ports: Some(port..=port),
            },
            n_connections,
            _task: task,
        }
    }

    pub(crate) fn n_connections(&self) -> usize {
        self.n_connections.load(std::sync::atomic::Ordering::SeqCst)
    }
}

async fn meddle(
    listener: TcpListener,
    meddling: Meddling,
    n_connections: Arc<std::sync::atomic::AtomicUsize>,
) {
    let behind = SocketAddr::new(BEHIND, listener.local_addr().unwrap().port());
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let is_first = n_connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        let (mut left, piece, pause) = match meddling {
            Meddling::Refuse => continue,
            Meddling::CutFirstAfter(n_bytes) if is_first => (n_bytes, 64 << 10, Duration::ZERO),
            Meddling::CutFirstAfter(_) => (usize::MAX, 64 << 10, Duration::ZERO),
            Meddling::Slow(piece, pause) => (usize::MAX, piece, pause),
        };
        connections.spawn(async move {
            let Ok(mut far) = TcpStream::connect(behind).await else {
                return;
            };
            let (mut near_reader, mut near_writer) = near.split();
            let (mut far_reader, mut far_writer) = far.split();
            let back = tokio::io::copy(&mut far_reader, &mut near_writer);
            let forth = async {
                let mut buffer = vec![0; piece];
                while left > 0 {
                    let most = piece.min(left);
                    match near_reader.read(&mut buffer[..most]).await {
                        Ok(0) | Err(_) => break,
                        Ok(n_bytes) => {
                            left -= n_bytes;
                            if far_writer.write_all(&buffer[..n_bytes]).await.is_err() {
                                break;
                            }
                        }
                    }
                    tokio::time::sleep(pause).await;
                }
            };
            tokio::select! {
                _ = back => {}
                () = forth => {}
            }
        });
    }
}
