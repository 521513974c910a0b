//! The stream of a snapshot: frames that can be cut, damaged and resumed, and that tell.
//!
//! Each frame is a length, the hash of what follows, and what follows. The
//! first frame is the [`Header`]; the others are pieces of the encoded delta.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;
use serde::Deserialize;
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::ReadBuf;

use super::faults::Life;
use crate::volume::ByteStream;

/// How many bytes of the delta one frame carries.
pub(super) const FRAME_SIZE: usize = 4096;

/// What a receiver says of itself of which nothing has arrived yet: there is only one kind of stream.
pub(super) const TAKES: &str = "everything";

const LARGEST_FRAME: u32 = 64 * 1024;

/// An earlier snapshot that comes along; what it holds comes after the delta, as what differs from the snapshot itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Earlier {
    pub(super) snapshot: Snapshot,
    pub(super) origin: String,
    pub(super) blurred: bool,
    /// How many bytes it takes.
    pub(super) length: usize,
}

/// What the stream is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) dataset: DatasetId,
    pub(super) snapshot: SnapshotName,
    pub(super) guid: SnapshotGuid,
    pub(super) base: Option<SnapshotGuid>,
    pub(super) origin: String,
    pub(super) blurred: bool,
    pub(super) written: ByteSize,
    pub(super) earlier: Vec<Earlier>,
    pub(super) first_frame: usize,
    pub(super) n_frames: usize,
}

impl Header {
    /// Says whether the other stream carries the same frames.
    pub(super) fn is_same_copy(&self, other: &Self) -> bool {
        let begin = |header: &Self| Self {
            first_frame: 0,
            ..header.clone()
        };
        begin(self) == begin(other)
    }

    /// Returns what tells a sender where to go on.
    pub(super) fn token(&self, n_received: usize) -> String {
        let base = self.base.map_or_else(|| "full".into(), |base| base.to_string());
        format!("{}:{base}:{n_received}", self.guid)
    }
}

/// Returns how many frames of this copy the receiver has by its token: none, where it does not fit.
pub(super) fn frames_by_token(token: &str, header: &Header) -> usize {
    let n_received = token.rsplit(':').next().and_then(|text| text.parse().ok());
    match n_received {
        Some(n) if n <= header.n_frames && header.token(n) == token => n,
        Some(_) | None => 0,
    }
}

/// Returns the bytes of one frame.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 36);
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(blake3::hash(bytes).as_bytes());
    out.extend_from_slice(bytes);
    out
}

/// Returns the stream of a delta from the header's first frame on; it fails once the sender's life is over.
pub(super) fn open(header: &Header, delta: &[u8], life: Life) -> ByteStream {
    let mut bytes = frame(&serde_json::to_vec(header).unwrap_or_default());
    for piece in delta.chunks(FRAME_SIZE).skip(header.first_frame) {
        bytes.extend_from_slice(&frame(piece));
    }
    Box::pin(Outgoing {
        bytes: io::Cursor::new(bytes),
        life,
    })
}

struct Outgoing {
    bytes: io::Cursor<Vec<u8>>,
    life: Life,
}

impl AsyncRead for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.life.is_over() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

/// Why a frame did not arrive.
pub(super) enum FrameError {
    /// The rest never comes.
    Cut(io::Error),
    /// It is not what was sent.
    Damaged(&'static str),
}

/// Reads one frame.
pub(super) async fn read_frame(stream: &mut ByteStream) -> Result<Vec<u8>, FrameError> {
    let length = stream.read_u32().await.map_err(FrameError::Cut)?;
    if length > LARGEST_FRAME {
        return Err(FrameError::Damaged("a frame is too long"));
    }
    let mut hash = [0; 32];
    stream.read_exact(&mut hash).await.map_err(FrameError::Cut)?;
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await.map_err(FrameError::Cut)?;
    if *blake3::hash(&bytes).as_bytes() == hash || is_planted(Bug::DamageAccepted) {
        Ok(bytes)
    } else {
        Err(FrameError::Damaged("a frame changed on its way"))
    }
}

/// Reads the first frame.
pub(super) async fn read_header(stream: &mut ByteStream) -> Result<Header, FrameError> {
    let bytes = read_frame(stream).await?;
    serde_json::from_slice(&bytes).map_err(|_| FrameError::Damaged("it does not begin with a header"))
}
