//! Between threads that may block and tasks that may not.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::ReadBuf;
use tokio::sync::mpsc;

use crate::volume::ByteStream;

/// How many bytes go over at once.
const CHUNK: usize = 256 * 1024;

/// How many chunks wait at most.
const DEPTH: usize = 4;

enum Piece {
    Bytes(Vec<u8>),
    Failed(io::Error),
    End,
}

/// The end of a pipe that a thread writes into. Dropped before its [`end`](Self::end), it is cut.
pub(crate) struct Outlet {
    pieces: mpsc::Sender<Piece>,
    pending: Vec<u8>,
}

/// The end of a pipe that tasks read from.
struct Inlet {
    pieces: mpsc::Receiver<Piece>,
    current: io::Cursor<Vec<u8>>,
    is_done: bool,
}

/// Makes a stream that a thread writes.
pub(crate) fn stream() -> (Outlet, ByteStream) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    let outlet = Outlet {
        pieces: sender,
        pending: Vec::with_capacity(CHUNK),
    };
    let inlet = Inlet {
        pieces,
        current: io::Cursor::default(),
        is_done: false,
    };
    (outlet, Box::pin(inlet))
}

impl Outlet {
    /// Writes bytes; fails where nobody reads any more.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands over what was written so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        self.push(Piece::Bytes(bytes))
    }

    /// Says that this was all.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.push(Piece::End)
    }

    /// Says that the rest never comes, and why.
    pub(crate) fn fail(self, error: io::Error) {
        // Where nobody reads any more, nobody needs to know.
        drop(self.pieces.blocking_send(Piece::Failed(error)));
    }

    fn push(&self, piece: Piece) -> io::Result<()> {
        let sent = self.pieces.blocking_send(piece);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(feature = "docker")]
impl io::Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Self::flush(self)
    }
}

impl AsyncRead for Inlet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let filled = buffer.filled().len();
            ready!(Pin::new(&mut self.current).poll_read(context, buffer))?;
            if buffer.filled().len() > filled || self.is_done {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.pieces.poll_recv(context)) {
                Some(Piece::Bytes(bytes)) => self.current = io::Cursor::new(bytes),
                Some(Piece::End) => self.is_done = true,
                Some(Piece::Failed(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }
}

/// What a thread reads that takes a stream in.
pub(crate) struct Intake {
    pieces: mpsc::Receiver<Piece>,
    current: io::Cursor<Vec<u8>>,
    is_done: bool,
}

/// Carries a stream to a thread, until either side is done.
pub(crate) struct Pump {
    pieces: mpsc::Sender<Piece>,
}

/// Makes a pipe into a thread.
pub(crate) fn intake() -> (Pump, Intake) {
    let (sender, pieces) = mpsc::channel(DEPTH);
    let intake = Intake {
        pieces,
        current: io::Cursor::default(),
        is_done: false,
    };
    (Pump { pieces: sender }, intake)
}

impl Pump {
    /// Carries everything over. Dropped half way, the thread sees a cut.
    pub(crate) async fn run(self, mut stream: ByteStream) {
        loop {
            let mut bytes = Vec::with_capacity(CHUNK);
            let read = tokio::select! {
                read = stream.read_buf(&mut bytes) => read,
                () = self.pieces.closed() => return,
            };
            let (piece, is_last) = match read {
                Ok(0) => (Piece::End, true),
                Ok(_) => (Piece::Bytes(bytes), false),
                Err(error) => (Piece::Failed(error), true),
            };
            if self.pieces.send(piece).await.is_err() || is_last {
                return;
            }
        }
    }
}

impl io::Read for Intake {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n_read = io::Read::read(&mut self.current, buffer)?;
            if n_read > 0 || buffer.is_empty() || self.is_done {
                return Ok(n_read);
            }
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = io::Cursor::new(bytes),
                Some(Piece::Failed(error)) => return Err(error),
                Some(Piece::End) => self.is_done = true,
                None => {
                    let reason = "the receiver was told to stop";
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
                }
            }
        }
    }
}

#[cfg(feature = "directory")]
impl Intake {
    /// Fills a buffer; a stream that ends before that was cut.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match io::Read::read(self, &mut buffer[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n_read => filled += n_read,
            }
        }
        Ok(())
    }

    /// Reads so many bytes, taking memory only as they come.
    pub(crate) fn read_vec(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut left = length;
        while left > 0 {
            let start = bytes.len();
            let step = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            bytes.resize(start + step, 0);
            self.read_exact(&mut bytes[start..])?;
            left -= step as u64;
        }
        Ok(bytes)
    }
}
