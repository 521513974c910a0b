//! A node as whoever commands it sees it: it can be looked at, and told to do one thing.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::ErrorClass;
use flocker_backends::ImageId;
use flocker_backends::LogRequest;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::KeyPin;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::Generation;
use flocker_model::Image;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use crate::fault::Fault;
pub use crate::node_error::NodeError;
pub use flocker_model::Peer;

/// A node, here or elsewhere.
///
/// Every method may be dropped half way. What a dropped
/// [`perform`](NodeHandle::perform) leaves behind is what the backend's method
/// says; a look tells.
#[async_trait]
pub trait NodeHandle: fmt::Debug + Send + Sync {
    /// Returns what the deployment calls it.
    fn name(&self) -> &NodeName;

    /// Returns where it is reached, by who holds this handle.
    fn address(&self) -> &NodeAddress;

    /// Looks at everything that the node has. Changes nothing.
    async fn observe(&self) -> Result<NodeState, NodeError>;

    /// Returns the key that this node proves itself with where it sends directly, or nothing where it cannot.
    ///
    /// Asked twice it is the same, until the node's program is started anew.
    async fn offer(&self) -> Result<Option<KeyPin>, NodeError> {
        Ok(None)
    }

    /// Announces a transfer to its receiver, and returns what the sender needs.
    ///
    /// The ticket is good for one transfer of one snapshot of one dataset into
    /// this node, for minutes; it replaces an unused one for the same dataset.
    async fn admit(&self, transfer: &Transfer, generation: Generation) -> Result<Ticket, NodeError>;

    /// Opens a byte pipe to one end of a transfer that goes through whoever holds this handle.
    ///
    /// What comes out of the pipe to the sender belongs into the one to the
    /// receiver, and the other way round. A handle that opens no pipes says so.
    async fn pipe(&self, _end: PipeEnd) -> Result<Channel, NodeError> {
        Err(NodeError::Unreachable {
            node: self.name().clone(),
            source: Fault::new("no pipes are opened by this handle", ErrorClass::Permanent),
        })
    }

    /// Carries one action out.
    ///
    /// Refuses an older generation than it has obeyed. Records a newer one
    /// durably first, and waits until no order of an older one is under way.
    /// Done twice it is as if done once.
    async fn perform(&self, order: &Order, progress: &dyn Progress) -> Result<Change, NodeError>;

    /// Takes the deploy lock and tells the node which others there are.
    ///
    /// `AlreadySo` where this very claim holds it. The lock of a remote node
    /// ends with the connection it was taken on; claimed again over another
    /// one it moves there, and orders that come by the first are refused.
    async fn lock(&self, claim: &Claim) -> Result<Change, NodeError>;

    /// Obeys a generation from now on, durably, before any order of it; refused unless the claim holds the deploy lock.
    ///
    /// Returns nothing, and nothing has changed, where the node's program is too old to be told that.
    async fn obey(&self, generation: Generation, lock: LockToken) -> Result<Option<Change>, NodeError>;

    /// Gives the deploy lock back. `AlreadySo` where the claim does not hold it.
    async fn unlock(&self, token: LockToken) -> Result<Change, NodeError>;

    /// Takes the deploy lock away from whoever holds it, once no order is under way.
    async fn break_lock(&self) -> Result<Change, NodeError>;

    /// Records durably that another node is lost for ever: the one that is remembered under this name.
    ///
    /// Where another machine answers under it by now, that one is remembered
    /// instead, and is not forgotten.
    async fn forget(&self, node: &NodeName, instead: Option<NodeId>) -> Result<Change, NodeError>;

    /// Takes that back.
    async fn remember(&self, node: &NodeName) -> Result<Change, NodeError>;

    /// Opens the output of an application.
    async fn logs(&self, application: &ApplicationName, request: LogRequest)
    -> Result<ByteStream, NodeError>;

    /// Returns what an image is on this node, or nothing where it is not there.
    ///
    /// Refused, as the other two are, by a node that makes its applications from no images.
    async fn image(&self, _image: &Image) -> Result<Option<ImageId>, NodeError> {
        Err(no_images())
    }

    /// Returns an image of this node as a stream, for another node to take in.
    async fn export_image(&self, _image: &Image) -> Result<ByteStream, NodeError> {
        Err(no_images())
    }

    /// Takes in what another node has exported, and makes sure that it is what was announced.
    ///
    /// No more bytes go in a second than the bandwidth says. `AlreadySo` where it is here; the stream is not read then. Dropped half
    /// way: parts of it, which the runtime uses or clears up.
    async fn import_image(
        &self,
        _cargo: &ImageCargo,
        _stream: ByteStream,
        _bandwidth: Option<ByteSize>,
        _progress: &dyn Progress,
    ) -> Result<Change, NodeError> {
        Err(no_images())
    }

    /// Opens a door for an image from the sender with this key, or says that it comes in no such way.
    ///
    /// The door is good once, for that image, and for minutes.
    async fn admit_image(
        &self,
        _cargo: &ImageCargo,
        _sender: KeyPin,
    ) -> Result<Option<DoorAddress>, NodeError> {
        Ok(None)
    }

    /// Sends an image of this node through a door of another one, and returns what that one says.
    ///
    /// [`NodeError::NotDirect`] where it cannot get at the door; then nothing was sent.
    async fn push_image(&self, _push: &ImagePush, _progress: &dyn Progress) -> Result<Change, NodeError> {
        Err(no_images())
    }

    /// Opens a door at which the sender with this key may knock, to find out whether it gets there, or says that it opens none.
    ///
    /// The door is good once, for minutes, and nothing comes in by it.
    async fn admit_knock(&self, _sender: KeyPin) -> Result<Option<DoorAddress>, NodeError> {
        Ok(None)
    }

    /// Knocks at a door of another node, which was opened for that. Nothing is sent.
    ///
    /// [`NodeError::NotDirect`] where it cannot get there, which it knows within seconds.
    async fn knock(&self, at: &NodeName, _door: &DoorAddress) -> Result<(), NodeError> {
        Err(NodeError::NotDirect {
            node: at.clone(),
            source: Fault::new("this node goes to no doors", ErrorClass::Permanent),
        })
    }
}

/// The answer of a node that keeps no images.
pub(crate) fn no_images() -> NodeError {
    let why = "this node makes its applications from no images that could be brought there";
    NodeError::Backend(Fault::new(why, ErrorClass::Permanent))
}

/// An image that is brought to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCargo {
    /// What it is called.
    pub image: Image,
    /// What it is.
    pub id: ImageId,
}

/// An image that a node is to send, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePush {
    /// What is sent.
    pub cargo: ImageCargo,
    /// Who awaits it.
    pub to: NodeName,
    /// Where.
    pub door: DoorAddress,
    /// How many bytes may go in a second, or no limit.
    pub bandwidth: Option<ByteSize>,
}

/// One thing that a node is told to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// What.
    pub action: Action,
    /// By which configuration.
    pub generation: Generation,
    /// Who must be told: any other node refuses. Nothing where whoever answers is meant.
    pub expects: Option<NodeId>,
    /// By whose lock: refused when that lock is no longer held, or over another connection than the one by which the
    /// order came. Nothing for agents, which hold none.
    pub lock: Option<LockToken>,
    /// The definition of the application that is started or prepared, secrets and all.
    pub application: Option<Application>,
    /// What the receiver of a push has given.
    pub ticket: Option<Ticket>,
    /// How many bytes a push may send in a second, or no limit.
    pub bandwidth: Option<ByteSize>,
}

impl Order {
    /// Returns an order with nothing but an action and its configuration.
    #[must_use]
    pub fn new(action: Action, generation: Generation) -> Self {
        Self {
            action,
            generation,
            expects: None,
            lock: None,
            application: None,
            ticket: None,
            bandwidth: None,
        }
    }
}

/// A transfer, as it is announced to its receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// The dataset, as it is to be set up where it is new.
    pub dataset: Dataset,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The snapshot that the receiver has already; nothing for a full copy.
    pub base: Option<SnapshotGuid>,
    /// The key of its sender, for whom the receiver is to open a door; nothing where none is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<KeyPin>,
}

/// What the receiver of a transfer gives to its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Where the receiver is reached. It is filled in by the handle, never by the receiver itself.
    pub address: NodeAddress,
    /// How the sender gets at it.
    pub passage: Passage,
    /// What lets the sender in, once.
    pub pass: Pass,
    /// Where an earlier try stopped, or what the receiver takes; its meaning is the backend's own.
    pub resume: Option<String>,
    /// How much of it has arrived already.
    pub received: ByteSize,
}

/// How the bytes of a transfer get from its sender to its receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Passage {
    /// By the sender's own transport, at the receiver's address.
    #[default]
    Own,
    /// Through a door that the receiver has opened for it.
    Door(DoorAddress),
    /// Through whoever gave the order, who pipes.
    Relay,
}

impl Passage {
    /// Says whether it is the one that needs no saying.
    #[must_use]
    pub fn is_own(&self) -> bool {
        *self == Self::Own
    }
}

/// One end of a transfer that goes through whoever ordered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipeEnd {
    /// The sender, and the pass of the transfer that is meant.
    Sender(Pass),
    /// The receiver, who learns from the sender which transfer it is.
    Receiver,
}

/// 128 random bits that let one transfer in. They are never shown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pass(pub u128);

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[pass]")
    }
}

/// What makes two claims on the deploy lock the same claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockToken(pub Uuid);

impl LockToken {
    /// Draws a new one.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

/// A claim on a node's deploy lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Which claim this is.
    pub token: LockToken,
    /// Who claims it, for people: `ann@laptop`.
    pub holder: String,
    /// Since when, in seconds since 1970: for people.
    pub since: u64,
    /// The other nodes that there are.
    pub peers: BTreeMap<NodeName, Peer>,
}

impl Claim {
    /// Leaves out what a program that is too old to know of it would refuse.
    pub(crate) fn keep_generations_out(&mut self) {
        for peer in self.peers.values_mut() {
            peer.generation = Generation::default();
        }
    }
}

/// Who is told how far a long action is.
pub trait Progress: Send + Sync {
    /// Takes note: so many bytes are done, of so many where that is known.
    fn report(&self, done: ByteSize, total: Option<ByteSize>);
}

/// Progress that nobody wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Progress for Unwatched {
    fn report(&self, _: ByteSize, _: Option<ByteSize>) {}
}
