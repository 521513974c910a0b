//! Whether a failure may pass by itself.

/// Whether the same call may succeed later, with nothing else changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may: the network, a busy volume, a full disk that somebody empties.
    Transient,
    /// It will not: the request itself is refused.
    Permanent,
}

/// An error that knows whether it may pass.
pub trait Classify {
    /// Says whether the same call may succeed later.
    fn class(&self) -> ErrorClass;
}
