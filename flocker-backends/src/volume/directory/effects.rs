//! The one gate that every lasting change to the disk goes through, so that tests can pull the plug at each.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Counts changes, and refuses them from a chosen one on.
///
/// Refusing *all* later ones is what makes it a crash: code that would tidy
/// up after the failure does not get to.
#[derive(Clone, Debug, Default)]
pub(super) struct Effects(Option<Arc<Plug>>);

#[derive(Debug)]
struct Plug {
    allowed: u64,
    seen: AtomicU64,
}

impl Effects {
    /// Allows so many changes and none after them.
    #[cfg(test)]
    pub(super) fn only(allowed: u64) -> Self {
        Self(Some(Arc::new(Plug {
            allowed,
            seen: AtomicU64::new(0),
        })))
    }

    /// Says whether a change was refused.
    #[cfg(test)]
    pub(super) fn is_spent(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|plug| plug.seen.load(Ordering::SeqCst) > plug.allowed)
    }

    /// Stands before every change.
    pub(super) fn before(&self) -> io::Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(plug) if plug.seen.fetch_add(1, Ordering::SeqCst) < plug.allowed => Ok(()),
            Some(_) => Err(io::Error::other("the plug was pulled")),
        }
    }
}
