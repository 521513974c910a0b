//! What two of our programs say to each other, and the one door through which it comes in.
//!
//! Frames have a length and a kind; what they carry is JSON, except the bytes
//! of snapshots and logs. Nothing here trusts a length before the bytes are
//! there, panics on any input, or repeats in an error what it has read: it may
//! be a secret.
//!
//! # How a connection begins
//!
//! Each side says a [`Hello`] with the versions that it speaks, and goes by the
//! newest of both. Who opened the connection says what it is for: a [`Greeting`].
//!
//! # Control
//!
//! [`Request`]s and [`Reply`]s, each reply with the id of its request; output
//! comes in frames of its own kind.
//!
//! # A transfer, and its three passages
//!
//! 1. Where the two nodes are not processes of one machine, whoever orders the
//!    transfer asks its sender for the pin of its key ([`Ask::Offer`]).
//! 2. It announces the transfer to the receiver, with that pin ([`Ask::Admit`]).
//!    The receiver draws a pass, and a door with a key of its own where it can
//!    open one; both are in the ticket.
//! 3. It orders the push, with the ticket ([`Ask::Perform`]).
//! 4. The sender opens the connection. By its own transport: the greeting is
//!    [`Greeting::Transfer`]. Through the door: the same, inside of TLS 1.3, where
//!    each side has proved the key that the other was told of. Through whoever
//!    ordered it: that one opens a [`Greeting::Transfer`] to the receiver and a
//!    [`Greeting::Relay`] to the sender, which it tells by a [`Pickup`] for which
//!    transfer that is, and pipes between the two from then on.
//! 5. On the connection, however it came about, the sender presents the pass
//!    ([`Arrival`]), sends the bytes as chunks, and says how many there were
//!    ([`FromSender::End`]). Between machines a chunk may be packed with zstd; it
//!    counts by what it unpacks to. The receiver says now and then that it works, and at
//!    last how it went ([`ToSender`]).
//!
//! The pass alone would prove the sender: it is 128 bits, good once, and told
//! only to a receiver that has proved its key. The sender's key is asked for
//! all the same, because it makes a pass that leaked worthless: a ticket passes
//! through three programs, the key stays in one. It costs one exchange on a
//! connection that is open, and none on the way of the bytes.
//!
//! # An image
//!
//! Whoever ordered the start of an application asks who has its image
//! ([`Ask::Image`]). Between two machines it asks the one for the pin of its key, has
//! the other open a door for that key and that image ([`Ask::AdmitImage`]), and has the
//! one go there ([`Ask::PushImage`]). Where that cannot be, it lets the one give the
//! image away ([`Ask::ExportImage`]) and goes to the other itself. On the connection,
//! whoever opened it: a [`Greeting::Image`], the announcement, which is an
//! [`ImageCargo`](crate::ImageCargo), then chunks and their end as in a
//! transfer, and the same answers.
//!
//! # A knock
//!
//! Before anything is announced, whoever will order a transfer can find out how its
//! bytes would go: it asks the sender for the pin of its key, has the receiver open a door
//! for that key ([`Ask::AdmitKnock`]), and has the sender go there and away again
//! ([`Ask::Knock`]).
//!
//! # Versions
//!
//! 1. The beginning.
//! 2. [`Ask::Offer`], [`Greeting::Relay`], a pin in the announcement and a passage in the
//!    ticket; packed chunks. Nothing of it is said to who speaks version 1.
//! 3. Images. Nothing of it is said to who speaks version 2.
//! 4. Knocks. Nothing of it is said to who speaks version 3.
//! 5. [`Ask::Obey`], and which generation other nodes have obeyed, in claims and in reports. Nothing of it is said to who
//!    speaks version 4.
//! 6. What a node keeps of older snapshots, in its reports. Nothing of it is said to who speaks version 5.

mod definition;
mod frame;
mod io;
mod message;
mod state;

use thiserror::Error;

use flocker_backends::Classify;
use flocker_backends::ErrorClass;

pub use definition::WrittenApplication;
pub(crate) use frame::packed_header;
pub use frame::{Decoder, Frame, MAX_CHUNK, MAX_FRAME, MAX_MESSAGE};
pub(crate) use io::{
    ChunkReader, FrameReader, FrameWriter, Incoming, Piece, chunk_bytes, chunk_pipe, read_chunk, unpack,
};
pub use message::{
    Arrival, Ask, FromSender, Greeting, Hello, Pickup, Reply, Request, Say, ToSender, WrittenOrder,
};
pub(crate) use message::{check_hello, our_hello};
pub use state::WrittenState;

/// The versions of the protocol that this program speaks, oldest and newest.
pub const PROTOCOL: (u32, u32) = (1, 6);

/// The first version in which transfers need not go by the sender's own transport.
pub(crate) const PASSAGES: u32 = 2;

/// The first version in which images go from node to node.
pub(crate) const IMAGES: u32 = 3;

/// The first version in which a node finds out beforehand whether it gets to another.
pub(crate) const KNOCKS: u32 = 4;

/// The first version in which nodes are told which generation they and others obey.
pub(crate) const GENERATIONS: u32 = 5;

/// The first version in which a node says what it keeps of older snapshots.
pub(crate) const KEEPS: u32 = 6;

/// Why what came in was not understood.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame is longer than its kind may be.
    #[error("a frame of {length} bytes is longer than the {limit} that are allowed")]
    TooLong {
        /// How long it says it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A frame has a kind that there is not.
    #[error("there are no frames of kind {0}")]
    UnknownKind(u8),
    /// A frame is shorter than its kind must be.
    #[error("a frame is shorter than it must be")]
    TooShort,
    /// The text of a frame does not say anything that can be said.
    #[error("{what} could not be understood, at line {line}, column {column}")]
    Malformed {
        /// What it was to be.
        what: &'static str,
        /// Where it went wrong.
        line: usize,
        /// Where in that line.
        column: usize,
    },
    /// A value is one that cannot be.
    #[error("{what} is not valid")]
    Invalid {
        /// Which value.
        what: &'static str,
    },
    /// It is no time to say that.
    #[error("{what} came where it was not expected")]
    Unexpected {
        /// What came.
        what: &'static str,
    },
    /// The two programs have no version of the protocol in common.
    #[error(
        "this program, {our_program}, speaks versions {} to {} of the protocol; the other, {their_program}, versions {} to {}",
        ours.0, ours.1, theirs.0, theirs.1
    )]
    Version {
        /// What this program speaks.
        ours: (u32, u32),
        /// This program's own version.
        our_program: String,
        /// What the other speaks.
        theirs: (u32, u32),
        /// The other's own version.
        their_program: String,
    },
    /// The bytes end in the middle of something.
    #[error("the connection ended in the middle of a message")]
    Cut,
    /// The connection ended where it might, and something was still awaited.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side was silent for too long.
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(std::time::Duration),
    /// The operating system refused.
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
}

impl Classify for WireError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Cut | Self::Closed | Self::Silent(_) | Self::Io(_) => ErrorClass::Transient,
            // The same bytes would come again.
            Self::TooLong { .. }
            | Self::UnknownKind(_)
            | Self::TooShort
            | Self::Malformed { .. }
            | Self::Invalid { .. }
            | Self::Unexpected { .. }
            | Self::Version { .. } => ErrorClass::Permanent,
        }
    }
}

/// Reads one message of a kind. Everything that a peer says passes here.
pub fn read<T: serde::de::DeserializeOwned>(what: &'static str, text: &[u8]) -> Result<T, WireError> {
    // The words of the parser's own error could repeat a secret; only its place is kept.
    serde_json::from_slice(text).map_err(|error| WireError::Malformed {
        what,
        line: error.line(),
        column: error.column(),
    })
}

/// Writes one message.
pub(crate) fn write<T: serde::Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    // Room for most messages: one that grows piece by piece is copied at each.
    let mut text = Vec::with_capacity(1024);
    serde_json::to_writer(&mut text, message).map_err(|error| WireError::Io(error.into()))?;
    Ok(text)
}
