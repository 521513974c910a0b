//! One control connection, shared by many calls.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use flocker_backends::Channel;
use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_backends::Purpose;
use flocker_backends::Transport;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock;
use crate::clock::Deadlines;
use crate::fault::Fault;
use crate::node::Pass;
use crate::node::PipeEnd;
use crate::node_error::NodeError;
use crate::wire;
use crate::wire::Ask;
use crate::wire::ChunkReader;
use crate::wire::Frame;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::Greeting;
use crate::wire::Incoming;
use crate::wire::Pickup;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::Say;
use crate::wire::WireError;

/// How many words of one call may wait to be read before the connection waits.
const QUEUE: usize = 16;

/// The id of signs of life, which no call has.
const PING: u64 = 0;

/// Something that was said in answer to a call.
pub(super) enum Said {
    Say(Say),
    Output(Bytes),
}

/// Who waits for an answer.
#[derive(Default)]
struct Waiting {
    last_id: u64,
    calls: BTreeMap<u64, mpsc::Sender<Said>>,
    ended: Option<Fault>,
}

/// One control connection. Dropping it closes it.
pub(super) struct Connection {
    // Requests are few and small beside what they set going, so none waits to be queued.
    asks: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<Mutex<Waiting>>,
    version: u32,
    _task: JoinSet<()>,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Opens one, and makes sure that both sides speak one language.
    pub(super) async fn open(
        name: &NodeName,
        address: &NodeAddress,
        transport: &dyn Transport,
        deadlines: &Deadlines,
    ) -> Result<Self, NodeError> {
        let limit = deadlines.answer;
        let late = |_| NodeError::Deadline {
            what: format!("a connection to {name}"),
            after: limit,
        };
        let channel = clock::timeout(limit, transport.open(address, Purpose::Control))
            .await
            .map_err(late)?
            .map_err(|error| NodeError::Unreachable {
                node: name.clone(),
                source: Fault::of(&error),
            })?;
        let (reader, writer) = tokio::io::split(channel);
        let mut reader = FrameReader::new(reader);
        let mut writer = FrameWriter::new(writer);
        let version = clock::timeout(limit, greet(&mut reader, &mut writer, Greeting::Control))
            .await
            .map_err(late)?
            .map_err(|error| not_greeted(name, &error))?;
        let (asks, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let mut task = JoinSet::new();
        let Deadlines { keep_alive, dead, .. } = *deadlines;
        task.spawn({
            let waiting = Arc::clone(&waiting);
            // On the heap before it is handed over: it is large, and would be moved from hand to hand.
            Box::pin(async move {
                let ended = tokio::select! {
                    biased;
                    ended = read_all(reader, &waiting, dead) => ended,
                    ended = write_all(writer, queue, keep_alive) => ended,
                };
                let mut waiting = lock(&waiting);
                waiting.ended = Some(Fault::of(&ended));
                waiting.calls.clear();
            })
        });
        Ok(Self {
            asks,
            waiting,
            version,
            _task: task,
        })
    }

    /// Returns the version of the protocol that is spoken on it.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn is_alive(&self) -> bool {
        lock(&self.waiting).ended.is_none()
    }
}

/// Opens a byte pipe for one end of a transfer that goes through this side.
pub(super) async fn open_pipe(
    name: &NodeName,
    address: &NodeAddress,
    transport: &dyn Transport,
    deadlines: &Deadlines,
    end: PipeEnd,
) -> Result<Channel, NodeError> {
    let limit = deadlines.answer;
    let open = async {
        let opened = transport.open(address, Purpose::Transfer).await;
        let channel = opened.map_err(|error| NodeError::Unreachable {
            node: name.clone(),
            source: Fault::of(&error),
        })?;
        match end {
            // It is greeted by the sender.
            PipeEnd::Receiver => Ok(channel),
            PipeEnd::Sender(pass) => introduce(channel, pass)
                .await
                .map_err(|error| not_greeted(name, &error)),
        }
    };
    clock::timeout(limit, open)
        .await
        .map_err(|_| NodeError::Deadline {
            what: format!("a pipe to {name}"),
            after: limit,
        })?
}

/// Tells a sender for which transfer this pipe is. What it says from then on is meant for the receiver.
async fn introduce(channel: Channel, pass: Pass) -> Result<Channel, WireError> {
    let (reader, writer) = tokio::io::split(channel);
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::new(writer);
    greet(&mut reader, &mut writer, Greeting::Relay).await?;
    writer.message(&wire::write(&Pickup::new(pass))?).await?;
    writer.flush().await?;
    Ok(reader.into_pipe()?.unsplit(writer.into_pipe()))
}

/// A pipe that ends before a word was said leads to no node; a wrong word comes from a strange one.
pub(crate) fn not_greeted(name: &NodeName, error: &WireError) -> NodeError {
    let node = name.clone();
    let source = Fault::of(error);
    match error.class() {
        ErrorClass::Transient => NodeError::Unreachable { node, source },
        ErrorClass::Permanent => NodeError::Protocol { node, source },
    }
}

/// Says what the connection is for, and returns the version of the protocol that is spoken on it.
pub(crate) async fn greet(
    reader: &mut FrameReader<ReadHalf<Channel>>,
    writer: &mut FrameWriter<WriteHalf<Channel>>,
    greeting: Greeting,
) -> Result<u32, WireError> {
    let ours = wire::write(&wire::our_hello(Some(greeting)))?;
    writer.frame(&Frame::Hello(ours.into())).await?;
    writer.flush().await?;
    match reader.next().await? {
        Some(Incoming::Hello(text)) => {
            let theirs = wire::read("the greeting of a node", &text)?;
            wire::check_hello(&theirs)
        }
        Some(_) => Err(WireError::Unexpected { what: "a frame" }),
        None => Err(WireError::Closed),
    }
}

async fn read_all(
    mut reader: FrameReader<ReadHalf<Channel>>,
    waiting: &Mutex<Waiting>,
    dead: Duration,
) -> WireError {
    loop {
        let incoming = match clock::timeout(dead, reader.next()).await {
            Ok(Ok(Some(incoming))) => incoming,
            Ok(Ok(None)) => return WireError::Closed,
            Ok(Err(error)) => return error,
            Err(_) => return WireError::Silent(dead),
        };
        let (id, said) = match incoming {
            Incoming::Message(text) => match wire::read("an answer", &text) {
                Ok(Reply { id, say }) => (id, Said::Say(say)),
                Err(error) => return error,
            },
            Incoming::Output { id, bytes } => (id, Said::Output(bytes)),
            Incoming::Hello(_) | Incoming::Chunk(_) | Incoming::Packed(_) => {
                return WireError::Unexpected { what: "a frame" };
            }
        };
        let call = lock(waiting).calls.get(&id).cloned();
        // An answer to a call that was dropped meanwhile is for nobody.
        if let Some(call) = call {
            drop(call.send(said).await);
        }
    }
}

async fn write_all(
    mut writer: FrameWriter<WriteHalf<Channel>>,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    keep_alive: Duration,
) -> WireError {
    let write = async {
        let ping = wire::write(&Request {
            id: PING,
            ask: Ask::Ping,
        })?;
        loop {
            let text = match clock::timeout(keep_alive, queue.recv()).await {
                Ok(Some(text)) => text,
                Ok(None) => return Ok(()),
                Err(_) => ping.clone(),
            };
            writer.message(&text).await?;
            writer.flush().await?;
        }
    };
    let written: Result<(), WireError> = write.await;
    written.err().unwrap_or(WireError::Closed)
}

/// One call. Dropping it before its end cancels it on the other side.
pub(super) struct Call {
    id: u64,
    node: NodeName,
    said: mpsc::Receiver<Said>,
    connection: Arc<Connection>,
    has_ended: bool,
}

impl Call {
    pub(super) fn begin(connection: Arc<Connection>, node: &NodeName, ask: Ask) -> Result<Self, NodeError> {
        let (sender, said) = mpsc::channel(QUEUE);
        let id = {
            let mut waiting = lock(&connection.waiting);
            if let Some(ended) = &waiting.ended {
                return Err(NodeError::Lost {
                    node: node.clone(),
                    source: ended.clone(),
                });
            }
            waiting.last_id += 1;
            let id = waiting.last_id;
            waiting.calls.insert(id, sender);
            id
        };
        let call = Self {
            id,
            node: node.clone(),
            said,
            connection,
            has_ended: false,
        };
        let text = wire::write(&Request { id, ask }).map_err(|error| NodeError::Protocol {
            node: node.clone(),
            source: Fault::of(&error),
        })?;
        // Where nobody is left to write it, the call has ended already, and the next word says why.
        drop(call.connection.asks.send(text));
        Ok(call)
    }

    /// Returns the next word, within a limit.
    pub(super) async fn next(&mut self, what: &str, limit: Duration) -> Result<Said, NodeError> {
        clock::timeout(limit, self.unhurried())
            .await
            .map_err(|_| NodeError::Deadline {
                what: what.into(),
                after: limit,
            })?
    }

    /// Returns the next word, however long it takes; the connection has its own signs of life.
    pub(super) async fn unhurried(&mut self) -> Result<Said, NodeError> {
        match self.said.recv().await {
            Some(said) => {
                self.has_ended = match &said {
                    Said::Output(_) | Said::Say(Say::Progress { .. } | Say::Opened) => false,
                    Said::Say(_) => true,
                };
                Ok(said)
            }
            None => Err(NodeError::Lost {
                node: self.node.clone(),
                source: lock(&self.connection.waiting)
                    .ended
                    .clone()
                    .unwrap_or_else(|| Fault::new("the connection was closed", ErrorClass::Transient)),
            }),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        lock(&self.connection.waiting).calls.remove(&self.id);
        if self.has_ended {
            return;
        }
        let cancel = Request {
            id: self.id,
            ask: Ask::Cancel,
        };
        if let Ok(text) = wire::write(&cancel) {
            drop(self.connection.asks.send(text));
        }
    }
}

/// An output on its way, with what keeps it coming.
pub(super) struct Output {
    reader: ChunkReader,
    _pump: JoinSet<()>,
}

impl Output {
    pub(super) fn new(reader: ChunkReader, pump: JoinSet<()>) -> Self {
        Self { reader, _pump: pump }
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}
