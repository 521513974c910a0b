//! Clusters in memory, for the tests of this directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::LogRequest;
use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_engine::Connect;
use flocker_engine::Deadlines;
use flocker_engine::Elsewhere;
use flocker_engine::Event;
use flocker_engine::Execution;
use flocker_engine::Handles;
use flocker_engine::LocalNode;
use flocker_engine::MemoryRecord;
use flocker_engine::NoForeignPorts;
use flocker_engine::NodeHandle;
use flocker_engine::NodeParts;
use flocker_engine::Order;
use flocker_engine::RecordStore;
use flocker_engine::RemoteNode;
use flocker_engine::Stop;
use flocker_engine::Unwatched;
use flocker_engine::serve;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Member;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Volume;
use flocker_plan::Action;
use tokio::task::JoinSet;

/// Where whoever commands sits.
pub(crate) const OPERATOR: &str = "/operator";

/// One node, and what serves it.
pub(crate) struct Machine {
    pub(crate) memory: MemoryNode,
    pub(crate) record: Arc<dyn RecordStore>,
    pub(crate) node: Arc<LocalNode>,
    _server: JoinSet<()>,
}

/// Some nodes and the network between them.
pub(crate) struct Cluster {
    pub(crate) network: MemoryNetwork,
    pub(crate) observer: Observer,
    pub(crate) machines: BTreeMap<NodeName, Machine>,
}

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub(crate) fn app(text: &str) -> ApplicationName {
    text.parse().unwrap()
}

pub(crate) fn directory(node: &str) -> PathBuf {
    PathBuf::from("/nodes").join(node)
}

pub(crate) fn address(node: &str) -> NodeAddress {
    NodeAddress::Local {
        directory: directory(node),
    }
}

pub(crate) fn dataset() -> Dataset {
    Dataset {
        id: DatasetId::derived(&app("mongodb")),
        owner: app("mongodb"),
        maximum_size: None,
    }
}

/// An application with data and a port.
pub(crate) fn mongodb() -> Application {
    let mut application = Application::new("mongo:7".parse().unwrap());
    application.volume = Some(Volume {
        dataset: dataset().id,
        mountpoint: "/data/db".into(),
        maximum_size: None,
    });
    application.ports = [Port {
        internal: PortNumber::new(27017).unwrap(),
        external: port(),
    }]
    .into();
    application
}

pub(crate) fn deadlines() -> Deadlines {
    Deadlines::default()
}

impl Machine {
    fn new(
        network: &MemoryNetwork,
        memory: MemoryNode,
        record: Arc<dyn RecordStore>,
        deadlines: Deadlines,
    ) -> Self {
        let node = memory.name().to_string();
        let parts = NodeParts {
            name: memory.name().clone(),
            reached_at: address(&node),
            address: memory.address(),
            boot: memory.boot(),
            volumes: Arc::new(memory.volumes()),
            runtime: Arc::new(memory.runtime()),
            router: Arc::new(memory.router()),
            transport: Arc::new(network.transport(directory(&node))),
            record: Arc::clone(&record),
            foreign_ports: Arc::new(NoForeignPorts),
            deadlines,
        };
        let local = Arc::new(LocalNode::new(parts).unwrap());
        let mut acceptor = network.listen(directory(&node));
        let mut server = JoinSet::new();
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
        Self {
            memory,
            record,
            node: local,
            _server: server,
        }
    }
}

impl Cluster {
    pub(crate) fn new<const N: usize>(names: [&str; N]) -> Self {
        Self::with_deadlines(names, deadlines())
    }

    pub(crate) fn with_deadlines<const N: usize>(names: [&str; N], deadlines: Deadlines) -> Self {
        let network = MemoryNetwork::new();
        let observer = Observer::default();
        let mut machines = BTreeMap::new();
        for (position, text) in (1_u8..).zip(names) {
            let memory = MemoryNode::new(name(text), [192, 0, 2, position].into(), &observer);
            let record = Arc::new(MemoryRecord::default());
            let machine = Machine::new(&network, memory, record, deadlines);
            machines.insert(name(text), machine);
        }
        Self {
            network,
            observer,
            machines,
        }
    }

    pub(crate) fn machine(&self, node: &str) -> &Machine {
        &self.machines[node]
    }

    /// Starts a node's program anew, on the same disks and with the same record.
    pub(crate) fn restart(&mut self, node: &str) {
        let record = Arc::clone(&self.machine(node).record);
        self.restart_with(node, record);
    }

    /// Starts a node's program anew, on the same disks and with another record.
    pub(crate) fn restart_with(&mut self, node: &str, record: Arc<dyn RecordStore>) {
        let old = self.machines.remove(node).unwrap();
        old.memory.restart();
        let memory = old.memory.clone();
        drop(old);
        let machine = Machine::new(&self.network, memory, record, deadlines());
        self.machines.insert(name(node), machine);
    }

    pub(crate) fn remote(&self, node: &str) -> RemoteNode {
        RemoteNode::new(
            name(node),
            address(node),
            Arc::new(self.network.transport(OPERATOR)),
            deadlines(),
        )
    }

    pub(crate) fn elsewhere(&self) -> Elsewhere {
        Elsewhere {
            transport: Arc::new(self.network.transport(OPERATOR)),
            deadlines: deadlines(),
        }
    }

    pub(crate) fn handles(&self) -> Handles {
        Handles::new(Arc::new(self.elsewhere()))
    }

    /// Returns a deployment of all nodes with `mongodb` on one of them.
    pub(crate) fn deployment(&self, home: &str) -> Deployment {
        let mut builder = Deployment::builder().application(app("mongodb"), mongodb());
        for node in self.machines.keys() {
            builder = builder.node(node.clone(), member(node.as_str()));
        }
        builder.place(&app("mongodb"), &name(home)).build().unwrap()
    }

    /// Gives orders one after the other, each of which must succeed.
    pub(crate) async fn perform(
        &self,
        node: &str,
        generation: u64,
        actions: impl IntoIterator<Item = Action>,
    ) {
        let handle = &self.machine(node).node;
        for action in actions {
            let mut order = Order::new(action, Generation(generation));
            if matches!(order.action, Action::Start { .. } | Action::Prepare { .. }) {
                order.application = Some(mongodb());
            }
            handle.perform(&order, &Unwatched).await.unwrap();
        }
    }

    /// Returns the start of `mongodb` as it has to be ordered of a node.
    pub(crate) async fn start(&self, node: &str) -> Action {
        let key = self.machine(node).node.observe().await.unwrap().key;
        Action::Start {
            application: app("mongodb"),
            definition: mongodb().definition_hash(&key),
        }
    }

    /// Writes to the data of `mongodb` as it would.
    pub(crate) fn write(&self, node: &str, file: &str, bytes: &[u8]) {
        let volumes = self.machine(node).memory.volumes();
        volumes.append(dataset().id, file, bytes).unwrap();
    }

    #[track_caller]
    pub(crate) fn assert_nothing_bad(&self) {
        assert_eq!(self.observer.violations(), []);
    }
}

pub(crate) fn member(node: &str) -> Member {
    Member {
        address: Some(address(node)),
        ..Member::empty()
    }
}

pub(crate) fn port() -> ExternalPort {
    "27017".parse().unwrap()
}

/// Keeps every event.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Event>>>);

impl Recorder {
    pub(crate) fn listener(&self) -> Arc<dyn flocker_engine::Listener> {
        let events = Arc::clone(&self.0);
        Arc::new(move |event: &Event| events.lock().unwrap().push(event.clone()))
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Returns what began and ended, in order: `+` and the step, `-` and the step.
    pub(crate) fn steps(&self) -> Vec<String> {
        let events = self.events();
        let line = |event: &Event| match event {
            Event::StepStarted { step, .. } => Some(format!("+{step}")),
            Event::StepDone { step, .. } => Some(format!("-{step}")),
            Event::StepFailed { step, .. } => Some(format!("!{step}")),
            _ => None,
        };
        events.iter().filter_map(line).collect()
    }
}

pub(crate) fn execution(recorder: &Recorder, stop: Stop) -> Execution {
    Execution {
        ids: BTreeMap::new(),
        homes: BTreeMap::new(),
        lock: None,
        per_node: 4,
        bandwidth: None,
        stop,
        stop_grace: Duration::from_secs(5),
        listener: recorder.listener(),
    }
}

/// A handle that reports only after a while.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) node: Arc<dyn NodeHandle>,
    pub(crate) by: Duration,
}

#[async_trait]
impl NodeHandle for Slow {
    fn name(&self) -> &NodeName {
        self.node.name()
    }

    fn address(&self) -> &NodeAddress {
        self.node.address()
    }

    async fn observe(&self) -> Result<flocker_model::NodeState, flocker_engine::NodeError> {
        tokio::time::sleep(self.by).await;
        self.node.observe().await
    }

    async fn admit(
        &self,
        transfer: &flocker_engine::Transfer,
        generation: Generation,
    ) -> Result<flocker_engine::Ticket, flocker_engine::NodeError> {
        self.node.admit(transfer, generation).await
    }

    async fn perform(
        &self,
        order: &Order,
        progress: &dyn flocker_engine::Progress,
    ) -> Result<Change, flocker_engine::NodeError> {
        tokio::time::sleep(self.by).await;
        self.node.perform(order, progress).await
    }

    async fn lock(&self, claim: &flocker_engine::Claim) -> Result<Change, flocker_engine::NodeError> {
        self.node.lock(claim).await
    }

    async fn obey(
        &self,
        generation: Generation,
        lock: flocker_engine::LockToken,
    ) -> Result<Option<Change>, flocker_engine::NodeError> {
        self.node.obey(generation, lock).await
    }

    async fn unlock(&self, token: flocker_engine::LockToken) -> Result<Change, flocker_engine::NodeError> {
        self.node.unlock(token).await
    }

    async fn break_lock(&self) -> Result<Change, flocker_engine::NodeError> {
        self.node.break_lock().await
    }

    async fn forget(
        &self,
        node: &NodeName,
        instead: Option<flocker_model::NodeId>,
    ) -> Result<Change, flocker_engine::NodeError> {
        self.node.forget(node, instead).await
    }

    async fn remember(&self, node: &NodeName) -> Result<Change, flocker_engine::NodeError> {
        self.node.remember(node).await
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, flocker_engine::NodeError> {
        self.node.logs(application, request).await
    }
}

/// Makes the handles of some nodes slow.
#[derive(Debug)]
pub(crate) struct SlowConnect {
    pub(crate) elsewhere: Elsewhere,
    pub(crate) slow: BTreeMap<NodeName, Duration>,
}

impl Connect for SlowConnect {
    fn handle(&self, name: &NodeName, address: &NodeAddress) -> Arc<dyn NodeHandle> {
        let node = self.elsewhere.handle(name, address);
        match self.slow.get(name) {
            Some(by) => Arc::new(Slow { node, by: *by }),
            None => node,
        }
    }
}
