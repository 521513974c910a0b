//! The deploy lock: one person deploys at a time.

use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use flocker_backends::Change;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use crate::node::Claim;
use crate::node::LockToken;
use crate::node_error::NodeError;
use crate::sync::Mutex;
use crate::sync::MutexGuard;

/// Over which connection a lock is held. A call that comes over none has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session(u64);

impl Session {
    /// The session of calls that come over no connection.
    pub(crate) const HERE: Self = Self(0);

    /// Returns one that no other connection of this process has had; none is known beyond it.
    pub(crate) fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

#[derive(Debug)]
struct Holder {
    token: LockToken,
    session: Session,
    name: String,
    since: u64,
}

/// How the lock was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) change: Change,
    /// It was not held until now, or over another connection.
    pub(crate) is_new: bool,
}

/// The deploy lock of a node. It is not written down: it ends with the node's program.
#[derive(Debug, Default)]
pub(crate) struct DeployLock(Mutex<Option<Holder>>);

impl DeployLock {
    fn holder(&self) -> MutexGuard<'_, Option<Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it, or says who holds it. The same claim over a new connection moves there, and is good over that one alone.
    pub(crate) fn take(&self, claim: &Claim, session: Session) -> Result<Taken, NodeError> {
        let mut holder = self.holder();
        let is_new = holder.as_ref().is_none_or(|holder| holder.session != session);
        let change = match holder.as_ref() {
            Some(other) if other.token != claim.token && !is_planted(Bug::LockGivenTwice) => {
                return Err(NodeError::Held {
                    holder: other.name.clone(),
                    since: other.since,
                });
            }
            Some(_) => Change::AlreadySo,
            None => Change::Made,
        };
        *holder = Some(Holder {
            token: claim.token,
            session,
            name: claim.holder.clone(),
            since: claim.since,
        });
        Ok(Taken { change, is_new })
    }

    /// Gives it back, where this claim holds it.
    pub(crate) fn release(&self, token: LockToken) -> Change {
        self.release_if(|holder| holder.token == token)
    }

    /// Gives back what was taken over a connection that has ended.
    pub(crate) fn release_session(&self, session: Session) -> Change {
        self.release_if(|holder| holder.session == session)
    }

    /// Takes it away from whoever holds it.
    pub(crate) fn clear(&self) -> Change {
        self.release_if(|_| true)
    }

    /// Refuses an order that was given under a lock which is no longer held, or is held over another connection by now.
    ///
    /// What comes late over a connection that its sender has given up would
    /// undo what the same sender has ordered since.
    pub(crate) fn check(&self, session: Session, token: Option<LockToken>) -> Result<(), NodeError> {
        let is_held = |token| {
            let holder = self.holder();
            let mut holder = holder.iter();
            holder.any(|holder| holder.token == token && holder.session == session)
        };
        match token {
            _ if is_planted(Bug::LockNotChecked) => Ok(()),
            Some(token) if !is_held(token) => Err(NodeError::LockLost),
            Some(_) | None => Ok(()),
        }
    }

    /// Returns the connection over which a claim holds it.
    #[cfg(feature = "sim")]
    pub(crate) fn session_of(&self, token: LockToken) -> Option<Session> {
        let holder = self.holder();
        holder
            .as_ref()
            .filter(|holder| holder.token == token)
            .map(|holder| holder.session)
    }

    fn release_if(&self, test: impl Fn(&Holder) -> bool) -> Change {
        if self.holder().take_if(|holder| test(holder)).is_some() {
            Change::Made
        } else {
            Change::AlreadySo
        }
    }
}
