//! From what the operating system says to what was to be done.

use std::io;

use flocker_model::ByteSize;
use flocker_model::DatasetId;

use super::codec::Malformed;
use crate::reserve::is_full;
use crate::volume::VolumeError;

/// Adds to an error what was to be done.
pub(super) trait Context<T> {
    /// Says what was to be done, as it goes on after "could not".
    fn to(self, what: impl FnOnce() -> String) -> Result<T, VolumeError>;
}

impl<T> Context<T> for io::Result<T> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T, VolumeError> {
        self.map_err(|source| VolumeError::Io { what: what(), source })
    }
}

impl<T> Context<T> for Result<T, Malformed> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T, VolumeError> {
        self.map_err(|Malformed(reason)| VolumeError::Io {
            what: what(),
            source: io::Error::new(io::ErrorKind::InvalidData, reason),
        })
    }
}

/// An error for something that is there and cannot be right.
pub(super) fn broken(what: String, reason: impl Into<String>) -> VolumeError {
    VolumeError::Io {
        what,
        source: io::Error::new(io::ErrorKind::InvalidData, reason.into()),
    }
}

/// Turns "the disk is full" into numbers.
pub(super) fn or_no_space(
    error: VolumeError,
    dataset: DatasetId,
    needed: u64,
    available: u64,
) -> VolumeError {
    if let VolumeError::Io { source, .. } = &error
        && is_full(source)
    {
        return VolumeError::NoSpace {
            dataset,
            needed: ByteSize(needed),
            available: ByteSize(available),
        };
    }
    error
}
