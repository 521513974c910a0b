//! An image on its way to a node, from whoever holds its bytes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::RuntimeError;
use flocker_model::ByteSize;
use flocker_model::NodeName;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;

use super::connection::ForImage;
use crate::clock;
use crate::clock::Deadlines;
use crate::fault::Fault;
use crate::node::ImageCargo;
use crate::node::Progress;
use crate::node_error::NodeError;
use crate::wire;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::FromSender;
use crate::wire::Incoming;
use crate::wire::MAX_CHUNK;
use crate::wire::ToSender;
use crate::wire::WireError;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// How long the node may take to say why it broke the connection.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One image for one node.
pub(super) struct Delivery<'a> {
    pub(super) node: &'a NodeName,
    pub(super) cargo: &'a ImageCargo,
    pub(super) deadlines: &'a Deadlines,
    pub(super) progress: &'a dyn Progress,
}

impl Delivery<'_> {
    /// Sends it and returns what the node says.
    pub(super) async fn deliver(
        &self,
        connection: ForImage,
        stream: ByteStream,
    ) -> Result<Change, NodeError> {
        let (reader, writer) = connection;
        let n_sent = AtomicU64::new(0);
        let sending = self.send(writer, stream, &n_sent);
        let verdict = self.verdict(reader, &n_sent);
        tokio::pin!(sending, verdict);
        // The node may have it already, or refuse, before all was sent.
        let sent = tokio::select! {
            biased;
            verdict = &mut verdict => return verdict,
            sent = &mut sending => sent,
        };
        match sent {
            Ok(()) => verdict.await,
            // What broke the connection is better told by the node, if it still can.
            Err(error @ NodeError::Lost { .. }) => match tokio::time::timeout(LAST_WORDS, verdict).await {
                Ok(Err(said @ NodeError::Receiver { .. })) => Err(said),
                Ok(Ok(change)) => Ok(change),
                Ok(Err(_)) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn send(
        &self,
        mut writer: FrameWriter<WriteHalf<Channel>>,
        mut stream: ByteStream,
        n_sent: &AtomicU64,
    ) -> Result<(), NodeError> {
        let cargo = wire::write(self.cargo).map_err(|error| self.lost(&error))?;
        self.in_time(async {
            writer.message(&cargo).await?;
            writer.flush().await
        })
        .await?;
        let mut chunk = BytesMut::new();
        let mut told = clock::now();
        loop {
            let read = wire::read_chunk(&mut stream, MAX_CHUNK, &mut chunk);
            let read = tokio::time::timeout(self.deadlines.stall, read).await;
            let n_bytes = match read.map_err(|_| self.late("the next bytes of"))? {
                Ok(n_bytes) => n_bytes,
                Err(source) => {
                    let what = format!("read the image `{}`", self.cargo.image);
                    return Err(NodeError::backend(&RuntimeError::Io { what, source }));
                }
            };
            if n_bytes == 0 {
                break;
            }
            self.in_time(writer.chunk(&chunk)).await?;
            n_sent.fetch_add(n_bytes as u64, Ordering::Relaxed);
            if told.elapsed() >= TELL {
                told = clock::now();
                self.tell(n_sent);
            }
        }
        let bytes = ByteSize(n_sent.load(Ordering::Relaxed));
        let end = wire::write(&FromSender::End { bytes }).map_err(|error| self.lost(&error))?;
        self.in_time(async {
            writer.message(&end).await?;
            writer.flush().await
        })
        .await?;
        self.tell(n_sent);
        Ok(())
    }

    /// Waits for what the node says; while it works, it says so.
    async fn verdict(
        &self,
        mut reader: FrameReader<ReadHalf<Channel>>,
        n_sent: &AtomicU64,
    ) -> Result<Change, NodeError> {
        loop {
            let next = tokio::time::timeout(self.deadlines.stall, reader.next()).await;
            let next = next.map_err(|_| self.lost(&WireError::Silent(self.deadlines.stall)))?;
            let say = match next.map_err(|error| self.lost(&error))? {
                Some(Incoming::Message(text)) => wire::read("what a node says of an image", &text),
                Some(_) => Err(WireError::Unexpected { what: "a frame" }),
                None => return Err(self.lost(&WireError::Closed)),
            };
            match say.map_err(|error| self.senseless(&error))? {
                ToSender::Working => self.tell(n_sent),
                ToSender::Received(change) => return Ok(change),
                ToSender::Failed(error) => {
                    return Err(NodeError::Receiver {
                        node: self.node.clone(),
                        source: Box::new(error),
                    });
                }
            }
        }
    }

    fn tell(&self, n_sent: &AtomicU64) {
        self.progress
            .report(ByteSize(n_sent.load(Ordering::Relaxed)), None);
    }

    async fn in_time(&self, write: impl Future<Output = Result<(), WireError>>) -> Result<(), NodeError> {
        tokio::time::timeout(self.deadlines.stall, write)
            .await
            .map_err(|_| self.late("a chance to send more of"))?
            .map_err(|error| self.lost(&error))
    }

    fn late(&self, what: &str) -> NodeError {
        NodeError::Deadline {
            what: format!("{what} the image `{}`", self.cargo.image),
            after: self.deadlines.stall,
        }
    }

    fn lost(&self, error: &WireError) -> NodeError {
        NodeError::Lost {
            node: self.node.clone(),
            source: Fault::of(error),
        }
    }

    fn senseless(&self, error: &WireError) -> NodeError {
        NodeError::Protocol {
            node: self.node.clone(),
            source: Fault::of(error),
        }
    }
}
