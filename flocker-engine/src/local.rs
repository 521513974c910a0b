//! This node: what it is told, done by the four backends.
//!
//! Nothing here decides what is to be. It refuses what it must never do, takes
//! turns, and calls.

mod admission;
mod again;
mod arrival;
mod doors;
mod gate;
mod images;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod lock;
mod perform;
mod push;
mod relays;
mod turns;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::ContainerRuntime;
use flocker_backends::ImageId;
use flocker_backends::LogRequest;
use flocker_backends::Router;
use flocker_backends::Transport;
use flocker_backends::VolumeBackend;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::KeyPin;
use flocker_backends::transport::direct::TransferKey;
use flocker_model::ApplicationName;
use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Image;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use crate::clock;
use crate::clock::Deadlines;
use crate::fault::Fault;
use crate::node::Claim;
use crate::node::ImageCargo;
use crate::node::ImagePush;
use crate::node::LockToken;
use crate::node::NodeHandle;
use crate::node::Order;
use crate::node::Passage;
use crate::node::Progress;
use crate::node::Ticket;
use crate::node::Transfer;
use crate::node_error::NodeError;
use crate::record::NodeRecord;
use crate::record::RecordError;
use crate::record::RecordStore;

use admission::Admissions;
pub use again::Awakening;
pub use again::STARTING;
pub use again::Woken;
pub use doors::Doors;
pub(crate) use doors::Guest;
use doors::Porch;
use gate::Entry;
use gate::Gate;
use lock::DeployLock;
pub(crate) use lock::Session;
use lock::Taken;
pub(crate) use perform::stop_limit;
use relays::Relays;
use turns::Subject;
use turns::Turns;
use turns::Use;

/// Who can tell which ports of this node something else uses.
#[async_trait]
pub trait ForeignPorts: fmt::Debug + Send + Sync {
    /// Returns the ports of the node's address that something else than Flocker uses.
    async fn foreign_ports(&self) -> Result<BTreeSet<ExternalPort>, Fault>;
}

/// The answer of who does not look: none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoForeignPorts;

#[async_trait]
impl ForeignPorts for NoForeignPorts {
    async fn foreign_ports(&self) -> Result<BTreeSet<ExternalPort>, Fault> {
        Ok(BTreeSet::new())
    }
}

/// What a node is put together from.
#[derive(Clone, Debug)]
pub struct NodeParts {
    /// What it is called.
    pub name: NodeName,
    /// Where a program on the same machine, or a test, reaches it.
    pub reached_at: NodeAddress,
    /// Where the other nodes reach its applications.
    pub address: IpAddr,
    /// Which boot of its machine this is.
    pub boot: BootId,
    /// Where its datasets live.
    pub volumes: Arc<dyn VolumeBackend>,
    /// Where its applications run.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// What answers for every port.
    pub router: Arc<dyn Router>,
    /// How it reaches the receivers of its pushes.
    pub transport: Arc<dyn Transport>,
    /// What it remembers of itself.
    pub record: Arc<dyn RecordStore>,
    /// Which ports others use.
    pub foreign_ports: Arc<dyn ForeignPorts>,
    /// How long it waits for what.
    pub deadlines: Deadlines,
}

/// This node.
#[derive(Debug)]
pub struct LocalNode {
    parts: NodeParts,
    record: Mutex<NodeRecord>,
    gate: Arc<Gate>,
    lock: DeployLock,
    admissions: Admissions,
    porch: Option<Porch>,
    // Drawn when it is first asked for; it lives and dies with this process.
    sender_key: Mutex<Option<TransferKey>>,
    relays: Relays,
    turns: Turns,
}

impl LocalNode {
    /// Puts a node together. It draws and records its identity where it has none yet.
    pub fn new(parts: NodeParts) -> Result<Self, RecordError> {
        let record = if let Some(record) = parts.record.load()? {
            record
        } else {
            let record = NodeRecord::random()?;
            parts.record.save(&record)?;
            record
        };
        Ok(Self {
            gate: Arc::new(Gate::new(record.generation)),
            record: Mutex::new(record),
            lock: DeployLock::default(),
            admissions: Admissions::default(),
            porch: None,
            sender_key: Mutex::default(),
            relays: Relays::default(),
            turns: Turns::default(),
            parts,
        })
    }

    /// Returns who it is.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.remembered(|record| record.id)
    }

    /// Returns the key that this node proves itself with where it sends directly.
    fn sender_key(&self) -> Result<TransferKey, NodeError> {
        let mut drawn = self.sender_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*drawn {
            return Ok(key.clone());
        }
        let key = TransferKey::draw().map_err(|error| NodeError::backend(&error))?;
        Ok(drawn.insert(key).clone())
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.parts.deadlines
    }

    fn remembered<T>(&self, read: impl FnOnce(&NodeRecord) -> T) -> T {
        read(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the record, durably before anything goes by it.
    fn record(&self, change: impl FnOnce(&mut NodeRecord)) -> Result<Change, NodeError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = record.clone();
        change(&mut changed);
        if changed == *record {
            return Ok(Change::AlreadySo);
        }
        self.parts
            .record
            .save(&changed)
            .map_err(|error| NodeError::backend(&error))?;
        *record = changed;
        Ok(Change::Made)
    }

    /// Lets an order of this generation in, once none of an older one is under way.
    async fn enter(&self, generation: Generation) -> Result<Entry, NodeError> {
        self.gate
            .enter(generation, self.parts.deadlines.answer, |generation| {
                self.record(|record| record.generation = generation).map(drop)
            })
            .await
    }

    /// Waits for a backend, with a limit.
    async fn within<T, E>(
        &self,
        what: impl Into<String>,
        limit: Duration,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, NodeError>
    where
        E: std::error::Error + flocker_backends::Classify + 'static,
    {
        match clock::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| NodeError::backend(&error)),
            Err(_) => Err(NodeError::Deadline {
                what: what.into(),
                after: limit,
            }),
        }
    }

    /// Takes the deploy lock for a connection; it can be given back with [`LocalNode::end_session`].
    ///
    /// Where it is held by the same claim over another connection, what came
    /// over that one is refused from then on, and a change of the routes that
    /// it has begun is over.
    pub(crate) async fn lock_over(&self, session: Session, claim: &Claim) -> Result<Change, NodeError> {
        let Taken { change, is_new } = self.lock.take(claim, session)?;
        let limit = self.parts.deadlines.answer;
        // Other orders say for which ownership they are; one route is as good as another.
        if is_new && let Err(error) = self.turns.take(Subject::Routes, Use::Alone, limit).await {
            self.lock.release(claim.token);
            return Err(error);
        }
        let told = self.record(|record| {
            for (name, peer) in &claim.peers {
                record.learn(name, peer);
            }
        });
        if let Err(error) = told {
            self.lock.release(claim.token);
            return Err(error);
        }
        Ok(change)
    }

    /// Obeys a generation from now on, for who holds the deploy lock over this connection.
    pub(crate) async fn obey_over(
        &self,
        session: Session,
        generation: Generation,
        lock: LockToken,
    ) -> Result<Change, NodeError> {
        self.lock.check(session, Some(lock))?;
        let before = self.gate.obeyed();
        let _entry = self.enter(generation).await?;
        self.lock.check(session, Some(lock))?;
        Ok(if before < generation {
            Change::Made
        } else {
            Change::AlreadySo
        })
    }

    /// Gives back what was taken over a connection that has ended.
    pub(crate) fn end_session(&self, session: Session) {
        self.lock.release_session(session);
    }

    /// Carries out an order that came over a connection; the lock that it names must be held over just this one.
    pub(crate) async fn perform_over(
        &self,
        session: Session,
        order: &Order,
        progress: &dyn Progress,
    ) -> Result<Change, NodeError> {
        let found = self.id();
        if let Some(expected) = order.expects.filter(|expected| *expected != found) {
            return Err(NodeError::WrongNode { expected, found });
        }
        self.lock.check(session, order.lock)?;
        let entry = self.enter(order.generation).await?;
        let _turns = self.turns_for(order).await?;
        // Whoever breaks a lock waits until nobody is inside; who comes in or has its turn after that must find it broken.
        self.lock.check(session, order.lock)?;
        let done = self.carry_out(order, progress, &entry).await;
        if is_planted(Bug::AlwaysMade) {
            return done.map(|_| Change::Made);
        }
        done
    }

    /// Returns the connection over which a claim holds the deploy lock.
    #[cfg(feature = "sim")]
    pub(crate) fn session_of(&self, token: LockToken) -> Option<Session> {
        self.lock.session_of(token)
    }

    /// Gives the deploy lock back, over whichever connection it was taken.
    #[cfg(feature = "sim")]
    pub(crate) fn end_all_sessions(&self) {
        self.lock.clear();
    }
}

#[async_trait]
impl NodeHandle for LocalNode {
    fn name(&self) -> &NodeName {
        &self.parts.name
    }

    fn address(&self) -> &NodeAddress {
        &self.parts.reached_at
    }

    async fn observe(&self) -> Result<NodeState, NodeError> {
        let NodeParts {
            volumes,
            runtime,
            router,
            foreign_ports,
            deadlines,
            ..
        } = &self.parts;
        let limit = deadlines.answer;
        let (inventory, containers, routes, foreign_ports) = tokio::try_join!(
            self.within("the list of the datasets", limit, async {
                let listed = volumes.inventory().await;
                if is_planted(Bug::BrokenListIsEmpty) {
                    return Ok(listed.unwrap_or_default());
                }
                listed
            }),
            self.within("the list of the containers", limit, runtime.list()),
            self.within("the list of the routes", limit, router.current()),
            self.within(
                "the list of the ports in use",
                limit,
                foreign_ports.foreign_ports()
            ),
        )?;
        let record = self.remembered(NodeRecord::clone);
        Ok(NodeState {
            id: record.id,
            boot: self.parts.boot,
            address: self.parts.address,
            generation: record.generation,
            key: record.key,
            datasets: inventory.datasets,
            containers,
            routes,
            trash: inventory.trash,
            fences: inventory.fences,
            unreadable: inventory.unreadable,
            free: inventory.free,
            keeps: inventory.keeps,
            foreign_ports,
            peers: record.peers,
            forgotten: record.forgotten,
        })
    }

    async fn offer(&self) -> Result<Option<KeyPin>, NodeError> {
        Ok(Some(self.sender_key()?.pin()))
    }

    async fn admit(&self, transfer: &Transfer, generation: Generation) -> Result<Ticket, NodeError> {
        let _entry = self.enter(generation).await?;
        let partial = self
            .find(transfer.dataset.id)
            .await?
            .and_then(|seen| seen.partial)
            .filter(|partial| partial.snapshot == transfer.snapshot);
        let door = match (&self.porch, transfer.sender) {
            (Some(porch), Some(sender)) => porch.open(sender).await,
            (None, _) | (_, None) => None,
        };
        let passage = door
            .as_ref()
            .map_or(Passage::Own, |ajar| Passage::Door(ajar.door.address()));
        let lifetime = self.parts.deadlines.ticket;
        let pass = self.admissions.open(transfer, generation, lifetime, |pass| {
            door.map(|ajar| ajar.await_transfer(pass, lifetime))
        })?;
        Ok(Ticket {
            address: self.parts.reached_at.clone(),
            passage,
            pass,
            received: partial.as_ref().map_or(ByteSize(0), |partial| partial.received),
            resume: partial
                .map(|partial| partial.token)
                .or_else(|| self.parts.volumes.takes()),
        })
    }

    async fn perform(&self, order: &Order, progress: &dyn Progress) -> Result<Change, NodeError> {
        self.perform_over(Session::HERE, order, progress).await
    }

    async fn lock(&self, claim: &Claim) -> Result<Change, NodeError> {
        self.lock_over(Session::HERE, claim).await
    }

    async fn obey(&self, generation: Generation, lock: LockToken) -> Result<Option<Change>, NodeError> {
        self.obey_over(Session::HERE, generation, lock).await.map(Some)
    }

    async fn unlock(&self, token: LockToken) -> Result<Change, NodeError> {
        Ok(self.lock.release(token))
    }

    async fn break_lock(&self) -> Result<Change, NodeError> {
        let change = self.lock.clear();
        self.gate.drained(self.parts.deadlines.answer).await?;
        Ok(change)
    }

    async fn forget(&self, node: &NodeName, instead: Option<NodeId>) -> Result<Change, NodeError> {
        self.record(|record| record.forget(node, instead))
    }

    async fn remember(&self, node: &NodeName) -> Result<Change, NodeError> {
        self.record(|record| record.remember(node))
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, NodeError> {
        let what = format!("the output of `{application}`");
        let limit = self.parts.deadlines.answer;
        self.within(what, limit, self.parts.runtime.logs(application, request))
            .await
    }

    async fn image(&self, image: &Image) -> Result<Option<ImageId>, NodeError> {
        self.own_image(image).await
    }

    async fn export_image(&self, image: &Image) -> Result<ByteStream, NodeError> {
        self.give_image(image)
    }

    async fn import_image(
        &self,
        cargo: &ImageCargo,
        stream: ByteStream,
        _bandwidth: Option<ByteSize>,
        _progress: &dyn Progress,
    ) -> Result<Change, NodeError> {
        self.keep_image(cargo, stream).await
    }

    async fn admit_image(
        &self,
        cargo: &ImageCargo,
        sender: KeyPin,
    ) -> Result<Option<DoorAddress>, NodeError> {
        self.await_image(cargo, sender).await
    }

    async fn push_image(&self, push: &ImagePush, progress: &dyn Progress) -> Result<Change, NodeError> {
        self.send_image(push, progress).await
    }

    async fn admit_knock(&self, sender: KeyPin) -> Result<Option<DoorAddress>, NodeError> {
        Ok(self.await_knock(sender).await)
    }

    async fn knock(&self, at: &NodeName, door: &DoorAddress) -> Result<(), NodeError> {
        self.go_in(at, door).await.map(drop)
    }
}
