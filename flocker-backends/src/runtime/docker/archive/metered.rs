//! A limit for what is read between two members.

use std::cell::Cell;
use std::io;
use std::io::Read;
use std::rc::Rc;

/// How much may be between two members: long names and further attributes, which the reader of archives keeps in memory.
const HEADS: u64 = 64 * 1024;

/// A source of which only so much is read.
pub(super) struct Metered<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

/// Sets how much that is.
pub(super) struct Meter(Rc<Cell<u64>>);

impl<R> Metered<R> {
    pub(super) fn new(from: R) -> (Self, Meter) {
        let left = Rc::new(Cell::new(HEADS));
        let meter = Meter(Rc::clone(&left));
        (Self { from, left }, meter)
    }
}

impl Meter {
    /// Lets everything through.
    pub(super) fn open(&self) {
        self.0.set(u64::MAX);
    }

    /// Lets through what may be before the next member.
    pub(super) fn close(&self) {
        self.0.set(HEADS);
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "what comes before a member is too long",
            ));
        }
        let n_read = self.from.read(&mut buffer[..most])?;
        self.left.set(left - n_read as u64);
        Ok(n_read)
    }
}
