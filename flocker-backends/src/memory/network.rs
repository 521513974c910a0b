//! The twin of a transport: pipes between nodes that can be parted, cut and slowed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use async_trait::async_trait;
use flocker_model::NodeAddress;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::DuplexStream;
use tokio::io::ReadBuf;
use tokio::sync::mpsc;

use crate::transport::Channel;
use crate::transport::Purpose;
use crate::transport::Transport;
use crate::transport::TransportError;

/// How many bytes a pipe holds before its writer has to wait.
const PIPE_SIZE: usize = 64 * 1024;

/// One direction between two nodes, by the numbers of their directories.
type Way = (usize, usize);

/// What is the matter with one direction.
#[derive(Clone, Debug, Default)]
struct WayState {
    parted: bool,
    /// After how many more bytes it breaks, once.
    cut_after: Option<u64>,
    /// How many turns of the scheduler each write takes longer.
    slow_by: u32,
    n_carried: u64,
    /// How often it broke; a pipe that was opened before the last time is broken.
    n_breaks: u64,
}

#[derive(Default)]
struct Ways {
    /// Every directory that was spoken of, and its number: numbers are cheaper to compare.
    places: BTreeMap<PathBuf, usize>,
    acceptors: BTreeMap<usize, mpsc::UnboundedSender<Incoming>>,
    between: BTreeMap<Way, WayState>,
    waiting: Vec<Waker>,
}

impl Ways {
    fn place(&mut self, directory: &Path) -> usize {
        if let Some(number) = self.places.get(directory) {
            return *number;
        }
        let number = self.places.len();
        self.places.insert(directory.to_owned(), number);
        number
    }

    fn way(&mut self, from: &Path, to: &Path) -> Way {
        (self.place(from), self.place(to))
    }

    fn change(&mut self, way: Way, change: impl FnOnce(&mut WayState)) {
        change(self.between.entry(way).or_default());
        self.wake();
    }

    /// Lets everybody look again whether what they wait on is broken.
    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// A network of nodes in memory. Cloning is cheap and gives the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    ways: Arc<Mutex<Ways>>,
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = self.lock();
        f.debug_struct("MemoryNetwork")
            .field("places", &ways.places)
            .field("nodes", &ways.acceptors.keys())
            .field("ways", &ways.between)
            .finish()
    }
}

/// A pipe that somebody opened to a node.
pub struct Incoming {
    /// The directory of who opened it.
    pub from: PathBuf,
    /// What it is for.
    pub purpose: Purpose,
    /// This node's end of it.
    pub channel: Channel,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("from", &self.from)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Where pipes to a node arrive. Dropping it makes the node one that does not answer.
#[derive(Debug)]
pub struct Acceptor {
    incoming: mpsc::UnboundedReceiver<Incoming>,
}

impl Acceptor {
    /// Waits for the next pipe; nothing once the network is gone or another acceptor has taken over.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }
}

impl MemoryNetwork {
    /// Makes a network without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a node answer from now on, in place of who answered for it before.
    #[must_use = "a node answers as long as its acceptor is kept"]
    pub fn listen(&self, directory: impl Into<PathBuf>) -> Acceptor {
        let (sender, incoming) = mpsc::unbounded_channel();
        let mut ways = self.lock();
        let place = ways.place(&directory.into());
        ways.acceptors.insert(place, sender);
        Acceptor { incoming }
    }

    /// Returns the transport of a node, which opens pipes to `NodeAddress::Local` by directory.
    #[must_use]
    pub fn transport(&self, directory: impl Into<PathBuf>) -> MemoryTransport {
        MemoryTransport {
            network: self.clone(),
            from: directory.into(),
        }
    }

    /// Parts two nodes: nothing new opens between them, and what was open breaks.
    pub fn part(&self, one: impl AsRef<Path>, other: impl AsRef<Path>) {
        self.change_both(one.as_ref(), other.as_ref(), |way| {
            way.parted = true;
            way.n_breaks += 1;
        });
    }

    /// Lets two nodes reach each other again. What broke stays broken.
    pub fn join(&self, one: impl AsRef<Path>, other: impl AsRef<Path>) {
        self.change_both(one.as_ref(), other.as_ref(), |way| way.parted = false);
    }

    /// Lets all nodes reach each other again. What broke stays broken.
    pub fn join_all(&self) {
        let mut ways = self.lock();
        ways.between.values_mut().for_each(|way| way.parted = false);
        ways.wake();
    }

    /// Breaks everything that is open from a node and to it; new pipes open as before.
    pub fn cut_off(&self, node: impl AsRef<Path>) {
        let mut ways = self.lock();
        let place = ways.place(node.as_ref());
        let touching = ways
            .between
            .iter_mut()
            .filter(|((from, to), _)| *from == place || *to == place);
        touching.for_each(|(_, way)| way.n_breaks += 1);
        ways.wake();
    }

    /// Breaks what is open between two nodes; new pipes open as before.
    pub fn cut(&self, one: impl AsRef<Path>, other: impl AsRef<Path>) {
        self.change_both(one.as_ref(), other.as_ref(), |way| way.n_breaks += 1);
    }

    /// Breaks what is open between two nodes once so many more bytes have been carried from the one to the other.
    pub fn cut_after(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, n_bytes: u64) {
        self.change(from.as_ref(), to.as_ref(), |way| way.cut_after = Some(n_bytes));
    }

    /// Lets each write from one node to another take so many turns of the scheduler longer.
    pub fn slow(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, turns: u32) {
        self.change(from.as_ref(), to.as_ref(), |way| way.slow_by = turns);
    }

    /// Returns how many bytes were carried from one node to another.
    #[must_use]
    pub fn carried(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> u64 {
        let mut ways = self.lock();
        let way = ways.way(from.as_ref(), to.as_ref());
        ways.between.get(&way).map_or(0, |way| way.n_carried)
    }

    fn change_both(&self, one: &Path, other: &Path, change: impl Fn(&mut WayState)) {
        self.change(one, other, &change);
        self.change(other, one, &change);
    }

    fn change(&self, from: &Path, to: &Path, change: impl FnOnce(&mut WayState)) {
        let mut ways = self.lock();
        let way = ways.way(from, to);
        ways.change(way, change);
    }

    fn lock(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns one end of a new pipe.
    fn end(&self, stream: DuplexStream, way: Way) -> Channel {
        let n_breaks = self.lock().between.entry(way).or_default().n_breaks;
        Box::new(Pipe {
            stream,
            network: self.clone(),
            way,
            n_breaks,
            n_turns_left: None,
        })
    }
}

/// The way from one node of a [`MemoryNetwork`] to the others.
#[derive(Clone, Debug)]
pub struct MemoryTransport {
    network: MemoryNetwork,
    from: PathBuf,
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn open(&self, node: &NodeAddress, purpose: Purpose) -> Result<Channel, TransportError> {
        let NodeAddress::Local { directory } = node else {
            let address = format!("{node:?}");
            return Err(TransportError::Unsupported { address });
        };
        let unreachable = |kind: io::ErrorKind| TransportError::Unreachable {
            address: directory.display().to_string(),
            source: kind.into(),
        };
        let (acceptor, (here, there)) = {
            let mut ways = self.network.lock();
            let way = ways.way(&self.from, directory);
            if ways.between.get(&way).is_some_and(|way| way.parted) {
                return Err(unreachable(io::ErrorKind::HostUnreachable));
            }
            (ways.acceptors.get(&way.1).cloned(), way)
        };
        let acceptor = acceptor.ok_or_else(|| unreachable(io::ErrorKind::NotFound))?;
        let (near, far) = tokio::io::duplex(PIPE_SIZE);
        let near = self.network.end(near, (here, there));
        let incoming = Incoming {
            from: self.from.clone(),
            purpose,
            channel: self.network.end(far, (there, here)),
        };
        let sent = acceptor.send(incoming);
        sent.map_err(|_| unreachable(io::ErrorKind::ConnectionRefused))?;
        Ok(near)
    }
}

/// One end of a pipe: it writes one way and reads the other.
struct Pipe {
    stream: DuplexStream,
    network: MemoryNetwork,
    way: Way,
    n_breaks: u64,
    n_turns_left: Option<u32>,
}

impl Ways {
    /// Fails once a pipe is broken, and sees to it that whoever waits learns when it breaks.
    fn check(&mut self, way: Way, n_breaks: u64, context: &Context<'_>) -> io::Result<()> {
        let n_breaks_now = self.between.get(&way).map_or(0, |way| way.n_breaks);
        if n_breaks_now != n_breaks {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
        Ok(())
    }
}

impl Pipe {
    /// Returns the stream, unless the pipe is broken.
    fn whole(&mut self, context: &Context<'_>) -> io::Result<Pin<&mut DuplexStream>> {
        self.network.lock().check(self.way, self.n_breaks, context)?;
        Ok(Pin::new(&mut self.stream))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.whole(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            stream,
            network,
            way,
            n_breaks,
            n_turns_left,
        } = &mut *self;
        let mut ways = network.lock();
        ways.check(*way, *n_breaks, context)?;
        let state = ways.between.entry(*way).or_default();
        let n_turns = n_turns_left.unwrap_or(state.slow_by);
        if n_turns > 0 {
            *n_turns_left = Some(n_turns - 1);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = state.cut_after.map_or(bytes.len(), |left| {
            bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
        });
        if most == 0 && !bytes.is_empty() {
            state.cut_after = None;
            let (from, to) = *way;
            for way in [(from, to), (to, from)] {
                ways.change(way, |way| way.n_breaks += 1);
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = Pin::new(stream).poll_write(context, &bytes[..most]);
        if let Poll::Ready(Ok(n_bytes)) = written {
            *n_turns_left = None;
            state.n_carried += n_bytes as u64;
            state.cut_after = state.cut_after.map(|left| left.saturating_sub(n_bytes as u64));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.whole(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
