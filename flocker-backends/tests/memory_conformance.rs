//! The twins keep the promises.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use flocker_backends::ContainerRuntime;
use flocker_backends::Router;
use flocker_backends::Transport;
use flocker_backends::VolumeBackend;
use flocker_backends::VolumeError;
use flocker_backends::conformance::Program;
use flocker_backends::conformance::RouterHarness;
use flocker_backends::conformance::RuntimeHarness;
use flocker_backends::conformance::TransportHarness;
use flocker_backends::conformance::VolumeHarness;
use flocker_backends::memory::Fault;
use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::MemoryProgram;
use flocker_backends::memory::MemoryRouter;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::NodeAddress;
use flocker_model::PortNumber;
use flocker_model::SnapshotName;
use flocker_model::Volume;

/// A node whose process can be killed and started again.
struct Node {
    node: MemoryNode,
    n_others: AtomicU16,
}

impl Node {
    fn new(name: &str) -> Self {
        Self {
            node: MemoryNode::alone(name.parse().unwrap()),
            n_others: AtomicU16::new(0),
        }
    }
}

fn to_io(error: VolumeError) -> io::Error {
    io::Error::other(error)
}

#[async_trait]
impl VolumeHarness for Node {
    fn backend(&self) -> Arc<dyn VolumeBackend> {
        Arc::new(self.node.volumes())
    }

    async fn reopen(&self) {
        self.node.kill();
        self.node.restart();
    }

    async fn second(&self) -> Box<dyn VolumeHarness> {
        let n = self.n_others.fetch_add(1, Ordering::Relaxed);
        Box::new(Self::new(&format!("other-{n}")))
    }

    async fn write(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.node.volumes().put(dataset, file, bytes).map_err(to_io)
    }

    async fn remove(&self, dataset: DatasetId, file: &str) -> io::Result<()> {
        let was_there = self.node.volumes().remove(dataset, file).map_err(to_io)?;
        let missing = || io::ErrorKind::NotFound.into();
        was_there.then_some(()).ok_or_else(missing)
    }

    async fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>> {
        self.node.volumes().read(dataset, file)
    }

    async fn take_blurred(&self, dataset: DatasetId, name: &SnapshotName) -> bool {
        let mut application = Application::new("mongo".parse().unwrap());
        application.volume = Some(volume_of(dataset));
        let spec = flocker_backends::ContainerSpec {
            name: "mongodb".parse().unwrap(),
            definition: application.definition_hash(&flocker_model::DefinitionKey::new([0; 32])),
            application,
            volume: Some(self.node.volumes().path(dataset)),
            node_address: self.node.address(),
        };
        let runtime = self.node.runtime();
        runtime.start(&spec).await.unwrap();
        self.node.set_blurred_snapshots(true);
        self.node.volumes().snapshot(dataset, name).await.unwrap();
        runtime
            .stop(&spec.name, spec.application.stop_grace)
            .await
            .unwrap();
        true
    }

    async fn leave_free(&self, room: Option<ByteSize>) -> bool {
        self.node.set_capacity(room);
        true
    }

    async fn bring_earlier(&self) -> bool {
        self.node.set_blurred_snapshots(true);
        true
    }

    fn enforces_sizes(&self) -> bool {
        true
    }
}

fn volume_of(dataset: DatasetId) -> Volume {
    Volume {
        dataset,
        mountpoint: "/data".into(),
        maximum_size: None,
    }
}

/// A node whose power is taken away instead, and where everything takes a while.
struct PowerCut(Node);

impl PowerCut {
    fn new(name: &str) -> Self {
        let node = Node::new(name);
        // So that a call can be dropped while it is under way.
        node.node.faults().decide(|_| Some(Fault::Slow { turns: 3 }));
        Self(node)
    }
}

#[async_trait]
impl VolumeHarness for PowerCut {
    fn backend(&self) -> Arc<dyn VolumeBackend> {
        self.0.backend()
    }

    async fn reopen(&self) {
        let boot = self.0.node.boot();
        self.0.node.reboot();
        assert_ne!(self.0.node.boot(), boot);
    }

    async fn second(&self) -> Box<dyn VolumeHarness> {
        let n = self.0.n_others.fetch_add(1, Ordering::Relaxed);
        Box::new(Self::new(&format!("other-{n}")))
    }

    async fn write(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.write(dataset, file, bytes).await
    }

    async fn remove(&self, dataset: DatasetId, file: &str) -> io::Result<()> {
        self.0.remove(dataset, file).await
    }

    async fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>> {
        self.0.read(dataset, file).await
    }

    fn enforces_sizes(&self) -> bool {
        true
    }
}

mod volumes_after_a_kill {
    use super::Node;
    flocker_backends::volume_conformance!(Node::new("alpha"));
}

mod volumes_after_a_loss_of_power {
    use super::PowerCut;
    flocker_backends::volume_conformance!(PowerCut::new("alpha"));
}

#[async_trait]
impl RuntimeHarness for Node {
    fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(self.node.runtime())
    }

    async fn reopen(&self) {
        self.node.kill();
        self.node.restart();
    }

    fn application(&self, program: &Program) -> Application {
        let (image, program) = match program {
            Program::RunsForEver => ("runs".into(), MemoryProgram::Runs),
            Program::IgnoresTermination => ("ignores".into(), MemoryProgram::Runs),
            Program::Exits(code) => (format!("exits-{code}"), MemoryProgram::Exits((*code).into())),
            Program::Prints(text) => {
                let name: String = text.split_whitespace().collect();
                (format!("prints-{name}"), MemoryProgram::Prints(text.clone()))
            }
            Program::PrintsVariable(name) => (
                format!("variable-{name}"),
                MemoryProgram::PrintsVariable(name.clone()),
            ),
            Program::Listens(port) => (format!("listens-{port}"), MemoryProgram::Listens(*port)),
            Program::IsMissing => ("missing".into(), MemoryProgram::IsMissing),
        };
        let image: flocker_model::Image = image.parse().unwrap();
        self.node.runtime().install(image.clone(), program);
        Application::new(image)
    }

    async fn volume(&self) -> (Volume, PathBuf) {
        let owner: ApplicationName = "mongodb".parse().unwrap();
        let id = DatasetId::derived(&owner);
        let dataset = Dataset {
            id,
            owner,
            maximum_size: None,
        };
        self.node.volumes().create(&dataset, Epoch::FIRST).await.unwrap();
        (volume_of(id), self.node.volumes().path(id))
    }

    fn free_port(&self) -> PortNumber {
        PortNumber::new(27017).unwrap()
    }
}

mod runtime {
    use super::Node;
    flocker_backends::runtime_conformance!(Node::new("alpha"));
    flocker_backends::runtime_resuming_conformance!(Node::new("alpha"));
}

/// A node with routes, and what is served around it.
struct Crossroads {
    node: MemoryNode,
    served: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

impl Crossroads {
    fn new() -> Self {
        Self {
            node: MemoryNode::alone("alpha".parse().unwrap()),
            served: Arc::default(),
        }
    }
}

/// Does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[async_trait]
impl RouterHarness for Crossroads {
    fn router(&self) -> Arc<dyn Router> {
        Arc::new(self.node.router())
    }

    async fn reopen(&self) {
        self.node.kill();
        self.node.restart();
    }

    fn node_address(&self) -> IpAddr {
        self.node.address()
    }

    fn local_address(&self) -> IpAddr {
        Ipv4Addr::new(172, 17, 0, 2).into()
    }

    fn other_node(&self, number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    fn port(&self, number: u8) -> PortNumber {
        PortNumber::new(8000 + u16::from(number)).unwrap()
    }

    async fn serve(&self, at: SocketAddr) -> Box<dyn Any + Send> {
        self.served.lock().unwrap().insert(at);
        let served = Arc::clone(&self.served);
        Box::new(OnDrop(move || {
            served.lock().unwrap().remove(&at);
        }))
    }

    async fn occupy(&self, port: ExternalPort) -> Option<Box<dyn Any + Send>> {
        let router: MemoryRouter = self.node.router();
        router.occupy(port);
        Some(Box::new(OnDrop(move || router.vacate(port))))
    }

    async fn ends_at(&self, port: ExternalPort) -> Option<SocketAddr> {
        let end = self.node.router().ends_at(port)?;
        self.served.lock().unwrap().contains(&end).then_some(end)
    }
}

mod router {
    use super::Crossroads;
    flocker_backends::router_conformance!(Crossroads::new());
}

fn local(directory: &str) -> NodeAddress {
    NodeAddress::Local {
        directory: directory.into(),
    }
}

/// Two nodes of one network.
struct Wire(MemoryNetwork);

#[async_trait]
impl TransportHarness for Wire {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.0.transport("alpha"))
    }

    async fn echo(&self) -> NodeAddress {
        let mut acceptor = self.0.listen("beta");
        tokio::spawn(async move {
            while let Some(incoming) = acceptor.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(incoming.channel);
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                    tokio::io::AsyncWriteExt::shutdown(&mut writer).await.ok();
                });
            }
        });
        local("beta")
    }

    fn nobody(&self) -> NodeAddress {
        local("nobody")
    }

    fn unsupported(&self) -> NodeAddress {
        NodeAddress::Ssh {
            host: "beta".into(),
            user: None,
            port: None,
        }
    }
}

mod transport {
    use super::{MemoryNetwork, Wire};
    flocker_backends::transport_conformance!(Wire(MemoryNetwork::new()));
}
