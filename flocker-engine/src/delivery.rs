//! An image on its way to a node, from whoever has its bytes: the node that has it, or who pipes between the two.

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

use crate::clock;
use crate::clock::Deadlines;
use crate::fault::Fault;
use crate::node::ImageCargo;
use crate::node::Progress;
use crate::node_error::NodeError;
use crate::pace::Pace;
use crate::packing::Packer;
use crate::remote::greet;
use crate::remote::not_greeted;
use crate::wire;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::FromSender;
use crate::wire::Greeting;
use crate::wire::Incoming;
use crate::wire::ToSender;
use crate::wire::WireError;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// How long the node may take to say why it broke the connection.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One image for one node.
pub(crate) struct Delivery<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) cargo: &'a ImageCargo,
    pub(crate) deadlines: &'a Deadlines,
    /// How many bytes may go in a second, or no limit.
    pub(crate) bandwidth: Option<ByteSize>,
    /// Whether the bytes leave this machine; then they are packed where that is faster.
    pub(crate) leaves: bool,
    pub(crate) progress: &'a dyn Progress,
}

impl Delivery<'_> {
    /// Introduces this side on a new connection, sends the image, and returns what the node says.
    pub(crate) async fn deliver(&self, channel: Channel, stream: ByteStream) -> Result<Change, NodeError> {
        let (reader, writer) = tokio::io::split(channel);
        let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
        let limit = self.deadlines.answer;
        let greeted = clock::timeout(limit, greet(&mut reader, &mut writer, Greeting::Image)).await;
        greeted
            .map_err(|_| self.lost(&WireError::Silent(limit)))?
            .map_err(|error| not_greeted(self.node, &error))?;
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
            Err(error @ NodeError::Lost { .. }) => match clock::timeout(LAST_WORDS, verdict).await {
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
        let mut packer = Packer::of_what_leaves(self.leaves)?;
        let pace = Pace::new(self.bandwidth);
        let most = pace.most_at_once();
        let mut chunk = BytesMut::new();
        let mut n_on_way = 0;
        let mut told = clock::now();
        loop {
            let read = wire::read_chunk(&mut stream, most, &mut chunk);
            let read = clock::timeout(self.deadlines.stall, read).await;
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
            let shrunk = packer
                .as_mut()
                .and_then(|packer| packer.pack(wire::chunk_bytes(&chunk)));
            let frame = shrunk.unwrap_or(&chunk);
            self.in_time(writer.chunk(frame)).await?;
            n_sent.fetch_add(n_bytes as u64, Ordering::Relaxed);
            n_on_way += frame.len() as u64;
            if told.elapsed() >= TELL {
                told = clock::now();
                self.tell(n_sent);
            }
            pace.after(n_on_way).await;
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
            let next = clock::timeout(self.deadlines.stall, reader.next()).await;
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
        clock::timeout(self.deadlines.stall, write)
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
