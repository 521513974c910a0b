//! One pipe of a session: bytes between a channel of libssh2 and a socket of ours, without ever waiting.

use std::io;
use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::event::PollFlags;
use ssh2::Channel;

/// The stream of a channel on which a command says its errors.
const ERRORS: i32 = 1;

/// How much is under way in each direction.
const BUFFER: usize = 64 * 1024;

/// How much of what is said on the error stream is kept.
const KEPT: usize = 16 * 1024;

/// What came of an attempt to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Moved,
    Waits,
    Ended,
}

/// How far one direction of a pipe is, from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Open,
    /// No more comes in.
    Ended,
    /// And that was told at the other end.
    Told,
}

/// One pipe.
pub(super) struct Lane {
    channel: Channel,
    local: UnixStream,
    to_remote: Pending,
    from_remote: Pending,
    said: Arc<Mutex<Vec<u8>>>,
    upwards: Direction,
    downwards: Direction,
    is_abandoned: bool,
}

/// Bytes that were read on one side and not all written on the other.
struct Pending {
    bytes: Vec<u8>,
    written: usize,
    length: usize,
}

impl Pending {
    fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER],
            written: 0,
            length: 0,
        }
    }

    fn is_empty(&self) -> bool {
        self.written == self.length
    }

    /// Reads more; nothing where none can be had now.
    fn fill(&mut self, from: &mut impl io::Read) -> io::Result<Option<usize>> {
        let read = without_waiting(from.read(&mut self.bytes))?;
        if let Some(n_read) = read {
            self.written = 0;
            self.length = n_read;
        }
        Ok(read)
    }

    /// Writes some; says whether any went.
    fn empty(&mut self, to: &mut impl io::Write) -> io::Result<bool> {
        let mut has_moved = false;
        while !self.is_empty() {
            match without_waiting(to.write(&self.bytes[self.written..self.length]))? {
                Some(0) | None => break,
                Some(n_written) => {
                    self.written += n_written;
                    has_moved = true;
                }
            }
        }
        Ok(has_moved)
    }
}

fn without_waiting<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Lane {
    pub(super) fn new(channel: Channel, local: UnixStream, said: Arc<Mutex<Vec<u8>>>) -> Self {
        Self {
            channel,
            local,
            to_remote: Pending::new(),
            from_remote: Pending::new(),
            said,
            upwards: Direction::Open,
            downwards: Direction::Open,
            is_abandoned: false,
        }
    }

    /// Passes on what can be passed on now. An error means that the session is of no use any more.
    pub(super) fn advance(&mut self) -> io::Result<Flow> {
        if self.is_abandoned {
            return Ok(Flow::Ended);
        }
        let mut has_moved = self.go_up()?;
        has_moved |= self.listen()?;
        has_moved |= self.go_down()?;
        if self.is_abandoned || (self.upwards == Direction::Told && self.downwards == Direction::Told) {
            return Ok(Flow::Ended);
        }
        Ok(if has_moved { Flow::Moved } else { Flow::Waits })
    }

    fn go_up(&mut self) -> io::Result<bool> {
        let mut has_moved = false;
        if self.to_remote.is_empty() && self.upwards == Direction::Open {
            match self.to_remote.fill(&mut self.local) {
                Ok(Some(0)) | Err(_) => self.upwards = Direction::Ended,
                Ok(Some(_)) => has_moved = true,
                Ok(None) => {}
            }
        }
        let is_heard = self.downwards == Direction::Open;
        if is_heard {
            has_moved |= self.to_remote.empty(&mut self.channel)?;
        }
        if self.upwards == Direction::Ended && (self.to_remote.is_empty() || !is_heard) {
            let sent = self.channel.send_eof().map_err(io::Error::from);
            if without_waiting(sent)?.is_some() {
                self.upwards = Direction::Told;
                has_moved = true;
            }
        }
        Ok(has_moved)
    }

    fn listen(&mut self) -> io::Result<bool> {
        let mut heard = [0; 1024];
        let Some(n_read) = without_waiting(self.channel.stream(ERRORS).read(&mut heard))? else {
            return Ok(false);
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(said.len()).min(n_read);
        said.extend_from_slice(&heard[..room]);
        Ok(n_read > 0)
    }

    fn go_down(&mut self) -> io::Result<bool> {
        let mut has_moved = false;
        if self.from_remote.is_empty() && self.downwards == Direction::Open {
            match self.from_remote.fill(&mut self.channel)? {
                Some(0) if self.channel.eof() => self.downwards = Direction::Ended,
                // Nothing for now, though it may be said as a length of nothing.
                Some(0) | None => {}
                Some(_) => has_moved = true,
            }
        }
        match self.from_remote.empty(&mut self.local) {
            Ok(passed) => has_moved |= passed,
            // Whoever read it is gone, and nobody else ever will.
            Err(_) => self.is_abandoned = true,
        }
        if self.downwards == Direction::Ended && self.from_remote.is_empty() {
            // Where the other end is closed already, there is nobody to tell.
            drop(self.local.shutdown(Shutdown::Write));
            self.downwards = Direction::Told;
            if self.upwards == Direction::Open {
                // What is still to be sent is for nobody, either.
                self.upwards = Direction::Ended;
            }
            has_moved = true;
        }
        Ok(has_moved)
    }

    /// Returns what to wait on for our own side, and for what.
    pub(super) fn local(&self) -> io::Result<UnixStream> {
        self.local.try_clone()
    }

    pub(super) fn awaits(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        if self.to_remote.is_empty() && self.upwards == Direction::Open {
            flags |= PollFlags::IN;
        }
        if !self.from_remote.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    /// Gives it up: whoever opened it has dropped it.
    pub(super) fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    /// Closes the channel. It may wait for the host, as long as the session does.
    pub(super) fn close(mut self) {
        if let Err(error) = self.channel.close() {
            tracing::debug!(%error, "a channel could not be closed");
        }
    }
}
