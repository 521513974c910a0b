//! The process of a node, by a descriptor that can never mean another one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use flocker_backends::transport::local::serving_process;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;

use super::LOOK_INTERVAL;

/// Whether a process can do anything at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// As far as the kernel is concerned, it can.
    Beats,
    /// A signal, or a debugger, keeps it from it.
    Halted,
}

impl Pulse {
    /// Asks the kernel; of one that has ended meanwhile, no harm is assumed.
    pub(super) fn of(process: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // What it is called comes before, in parentheses, and may have any in it.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        match state {
            Some('T' | 't') => Self::Halted,
            Some(_) | None => Self::Beats,
        }
    }
}

/// A process that lived when it was found.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: u32,
    descriptor: OwnedFd,
}

impl Live {
    /// Finds the process that answers at the directory of a node.
    pub(crate) fn find(directory: &Path) -> io::Result<Option<Self>> {
        while let Some(id) = serving_process(directory)? {
            // The id may have been reused before it was opened; that it still answers proves that it was not.
            if let Some(live) = Self::of(id)?
                && serving_process(directory)? == Some(id)
            {
                return Ok(Some(live));
            }
        }
        Ok(None)
    }

    /// Takes a process by its id, which the caller knows to be right.
    pub(crate) fn of(id: u32) -> io::Result<Option<Self>> {
        let Some(process) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(process, PidfdFlags::NONBLOCK) {
            Ok(descriptor) => Ok(Some(Self { id, descriptor })),
            Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends a signal. That it has ended already is no error.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns when it has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        while !self.has_ended()? {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Says whether it runs the very program that we are; nothing where that cannot be told.
    pub(crate) fn runs_our_program(&self) -> Option<bool> {
        let program = |process: &str| {
            let file = std::fs::metadata(format!("/proc/{process}/exe")).ok()?;
            Some((file.dev(), file.ino()))
        };
        let (theirs, ours) = (program(&self.id.to_string())?, program("self")?);
        // What the id stands for by now says nothing of who had it.
        (!self.has_ended().ok()?).then_some(theirs == ours)
    }

    /// Asks it to end when nobody uses it, which is for nodes on real machines to understand.
    pub(crate) fn retire(&self) -> io::Result<()> {
        self.signal(Signal::USR1)
    }

    /// Says whether it has ended, whether or not anybody has collected its exit status.
    fn has_ended(&self) -> io::Result<bool> {
        let mut descriptors = [PollFd::new(&self.descriptor, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(poll(&mut descriptors, Some(&now))? > 0)
    }

    /// Asks it to end, and makes it end where it does not. Returns when it has.
    pub(super) async fn end(&self, grace: Duration) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if let Ok(ended) = tokio::time::timeout(grace, self.ended()).await {
            return ended;
        }
        self.signal(Signal::KILL)?;
        self.ended().await
    }
}
