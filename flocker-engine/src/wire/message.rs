//! What is said: one type per speaker.

use flocker_backends::Change;
use flocker_backends::ImageId;
use flocker_backends::LogRequest;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::KeyPin;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Generation;
use flocker_model::Image;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use serde::Deserialize;
use serde::Serialize;

use super::PROTOCOL;
use super::WireError;
use super::definition::Revealed;
use super::definition::WrittenApplication;
use super::state::WrittenState;
use crate::node::Claim;
use crate::node::ImageCargo;
use crate::node::ImagePush;
use crate::node::LockToken;
use crate::node::Order;
use crate::node::Pass;
use crate::node::Passage;
use crate::node::Ticket;
use crate::node::Transfer;
use crate::node_error::NodeError;
use flocker_model::NodeAddress;

/// A program's first words. They are the same in every version of the protocol, so unknown fields are let pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions of the protocol that it speaks, oldest and newest.
    pub protocol: (u32, u32),
    /// Its own version, for people.
    pub program: String,
    /// What the connection is for, said by who opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub greeting: Option<Greeting>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Greeting {
    /// Orders and reports.
    Control,
    /// The bytes of one snapshot, to the node that was connected to.
    Transfer,
    /// The bytes of one snapshot, from the node that was connected to, through whoever connected. From version 2.
    Relay,
    /// The bytes of an image, to the node that was connected to. From version 3.
    Image,
}

/// Returns this program's first words.
pub(crate) fn our_hello(greeting: Option<Greeting>) -> Hello {
    Hello {
        protocol: PROTOCOL,
        program: env!("CARGO_PKG_VERSION").into(),
        greeting,
    }
}

/// Returns the newest version that both sides speak.
pub(crate) fn check_hello(theirs: &Hello) -> Result<u32, WireError> {
    let newest = PROTOCOL.1.min(theirs.protocol.1);
    if newest >= PROTOCOL.0.max(theirs.protocol.0) {
        Ok(newest)
    } else {
        Err(WireError::Version {
            ours: PROTOCOL,
            our_program: env!("CARGO_PKG_VERSION").into(),
            theirs: theirs.protocol,
            their_program: theirs.program.chars().take(64).collect(),
        })
    }
}

/// What the commanding side says on a control connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What the replies to it are marked with; used once on a connection.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What a node is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// A sign of life.
    Ping,
    /// To drop the request of this id.
    Cancel,
    /// What it has.
    Observe,
    /// For the key that it sends directly with. From version 2.
    Offer,
    /// To let a transfer in.
    Admit {
        /// The transfer.
        transfer: Transfer,
        /// By which configuration.
        generation: Generation,
    },
    /// To do something.
    Perform(Box<WrittenOrder>),
    /// For its deploy lock.
    Lock(Claim),
    /// To obey a generation from now on, for who holds its deploy lock. From version 5.
    Obey {
        /// The generation.
        generation: Generation,
        /// By whose lock.
        lock: LockToken,
    },
    /// To take its deploy lock back.
    Unlock(LockToken),
    /// To take its deploy lock away from whoever holds it.
    BreakLock,
    /// To take another node as lost for ever.
    Forget {
        /// The node.
        node: NodeName,
        /// Who answers under its name by now.
        instead: Option<NodeId>,
    },
    /// To take that back.
    Remember(NodeName),
    /// For the output of an application.
    Logs {
        /// The application.
        application: ApplicationName,
        /// How much of it.
        request: LogRequest,
    },
    /// What an image is there. From version 3.
    Image(Image),
    /// For the bytes of an image. From version 3.
    ExportImage(Image),
    /// To let an image in directly. From version 3.
    AdmitImage {
        /// The image.
        cargo: ImageCargo,
        /// The key of its sender.
        sender: KeyPin,
    },
    /// To send an image to another node directly. From version 3.
    PushImage(ImagePush),
    /// To open a door to knock at. From version 4.
    AdmitKnock {
        /// The key of who will knock.
        sender: KeyPin,
    },
    /// To knock at such a door. From version 4.
    Knock {
        /// Whose it is.
        at: NodeName,
        /// Where.
        door: DoorAddress,
    },
}

/// What a node says on a control connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The request that it answers.
    pub id: u64,
    /// What it says.
    pub say: Say,
}

/// What a node answers. All but [`Say::Progress`] and [`Say::Opened`] end the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Say {
    /// A sign of life.
    Pong,
    /// How far it is.
    Progress {
        /// So many bytes are done.
        done: ByteSize,
        /// Of so many.
        total: Option<ByteSize>,
    },
    /// What it has.
    State(Box<WrittenState>),
    /// The key that it sends directly with.
    Offered(Option<KeyPin>),
    /// The transfer may come.
    Admitted(WrittenTicket),
    /// It was done.
    Changed(Change),
    /// What the image is there, or that it is not there.
    Image(Option<ImageId>),
    /// Where the image may come in, or that it may not come directly.
    ImageAdmitted(Option<DoorAddress>),
    /// Where to knock, or that there is no door.
    KnockAdmitted(Option<DoorAddress>),
    /// It was reached.
    Knocked,
    /// The output follows.
    Opened,
    /// The output has ended; what broke it, if anything did.
    Ended(Option<NodeError>),
    /// It was not done.
    Failed(NodeError),
}

/// A ticket as its receiver writes it: it does not say where the receiver is, for whoever asked knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenTicket {
    pass: Revealed,
    resume: Option<String>,
    received: ByteSize,
    // Version 1 knows no other than the one that is left out.
    #[serde(default, skip_serializing_if = "Passage::is_own")]
    passage: Passage,
}

impl From<&Ticket> for WrittenTicket {
    fn from(ticket: &Ticket) -> Self {
        let Ticket {
            address: _,
            passage,
            pass,
            resume,
            received,
        } = ticket;
        Self {
            pass: write_pass(*pass),
            resume: resume.clone(),
            received: *received,
            passage: *passage,
        }
    }
}

impl WrittenTicket {
    /// Reads it, for a receiver that is reached there.
    pub fn read(self, address: NodeAddress) -> Result<Ticket, WireError> {
        let Self {
            pass,
            resume,
            received,
            passage,
        } = self;
        Ok(Ticket {
            address,
            passage,
            pass: read_pass(&pass)?,
            resume,
            received,
        })
    }
}

fn write_pass(pass: Pass) -> Revealed {
    Revealed::new(format!("{:032x}", pass.0))
}

fn read_pass(text: &Revealed) -> Result<Pass, WireError> {
    let text = text.as_str();
    if text.len() != 32 {
        return Err(WireError::Invalid { what: "a pass" });
    }
    u128::from_str_radix(text, 16)
        .map(Pass)
        .map_err(|_| WireError::Invalid { what: "a pass" })
}

/// An order as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenOrder {
    action: Action,
    generation: Generation,
    expects: Option<NodeId>,
    lock: Option<LockToken>,
    application: Option<WrittenApplication>,
    receiver: Option<NodeAddress>,
    ticket: Option<WrittenTicket>,
    bandwidth: Option<ByteSize>,
}

impl From<&Order> for WrittenOrder {
    fn from(order: &Order) -> Self {
        let Order {
            action,
            generation,
            expects,
            lock,
            application,
            ticket,
            bandwidth,
        } = order;
        Self {
            action: action.clone(),
            generation: *generation,
            expects: *expects,
            lock: *lock,
            application: application.as_ref().map(WrittenApplication::from),
            receiver: ticket.as_ref().map(|ticket| ticket.address.clone()),
            ticket: ticket.as_ref().map(WrittenTicket::from),
            bandwidth: *bandwidth,
        }
    }
}

impl TryFrom<WrittenOrder> for Order {
    type Error = WireError;

    fn try_from(order: WrittenOrder) -> Result<Self, WireError> {
        let WrittenOrder {
            action,
            generation,
            expects,
            lock,
            application,
            receiver,
            ticket,
            bandwidth,
        } = order;
        let ticket = match (ticket, receiver) {
            (Some(ticket), Some(receiver)) => Some(ticket.read(receiver)?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(WireError::Invalid { what: "a ticket" }),
        };
        Ok(Self {
            action,
            generation,
            expects,
            lock,
            application: application.map(TryInto::try_into).transpose()?,
            ticket,
            bandwidth,
        })
    }
}

/// What is said first on a connection that a sender is to send through: which transfer it is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pickup {
    pass: Revealed,
}

impl Pickup {
    /// Names a transfer by its pass.
    #[must_use]
    pub fn new(pass: Pass) -> Self {
        Self {
            pass: write_pass(pass),
        }
    }

    /// Returns the pass.
    pub fn pass(&self) -> Result<Pass, WireError> {
        read_pass(&self.pass)
    }
}

/// What the sender says first on a transfer connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arrival {
    pass: Revealed,
    /// The dataset.
    pub dataset: DatasetId,
    /// The snapshot.
    pub snapshot: SnapshotName,
}

impl Arrival {
    /// Presents a pass.
    #[must_use]
    pub fn new(pass: Pass, dataset: DatasetId, snapshot: SnapshotName) -> Self {
        Self {
            pass: write_pass(pass),
            dataset,
            snapshot,
        }
    }

    /// Returns the pass.
    pub fn pass(&self) -> Result<Pass, WireError> {
        read_pass(&self.pass)
    }
}

/// What the sender of a transfer says, beside its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromSender {
    /// What comes.
    Arrival(Arrival),
    /// All of it was sent.
    End {
        /// So many bytes.
        bytes: ByteSize,
    },
}

/// What the receiver of a transfer says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToSender {
    /// It still works.
    Working,
    /// It is done.
    Received(Change),
    /// It refused or failed.
    Failed(NodeError),
}
