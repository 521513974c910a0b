//! How children end: the one place of a supervisor that collects exit statuses.
//!
//! A supervisor inherits every orphan of its application, so it has to wait
//! for any child at all; nobody else in its process may wait for one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use nix::errno::Errno;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Exited(i32),
    Killed(i32),
    /// Nobody saw it.
    Unseen,
}

impl Ending {
    /// Returns the status as shells have it: 128 and the signal's number for what was killed.
    pub(super) fn code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            Self::Killed(signal) => Some(128 + signal),
            Self::Unseen => None,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "{code}"),
            Self::Killed(signal) => write!(f, "{} (signal {signal})", 128 + signal),
            Self::Unseen => f.write_str("a status that nobody saw"),
        }
    }
}

/// Whether this process has children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Children {
    Some,
    None,
}

/// Hands endings to whoever waits for them. Clones share everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Reaper {
    waiting: Arc<Mutex<BTreeMap<Pid, oneshot::Sender<Ending>>>>,
}

impl Reaper {
    /// Waits for a child. It must have been started since the last [`Reaper::reap`], on this thread.
    pub(super) fn ending_of(&self, process: Pid) -> impl Future<Output = Ending> + use<> {
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(process, sender);
        async move { receiver.await.unwrap_or(Ending::Unseen) }
    }

    /// Collects every child that has ended, and says whether there are others.
    pub(super) fn reap(&self) -> Children {
        loop {
            let (process, ending) = match nix::sys::wait::waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(process, code)) => (process, Ending::Exited(code)),
                Ok(WaitStatus::Signaled(process, signal, _)) => (process, Ending::Killed(signal as i32)),
                Ok(WaitStatus::StillAlive) => return Children::Some,
                Err(Errno::ECHILD) => return Children::None,
                // Stops, continuations and interruptions are no endings.
                Ok(_) | Err(_) => continue,
            };
            let waiting = self
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&process);
            if let Some(waiting) = waiting {
                // A probe that timed out waits no more.
                let _ = waiting.send(ending);
            }
        }
    }
}
