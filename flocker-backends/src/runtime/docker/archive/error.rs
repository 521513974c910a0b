//! Why an archive is not passed on.

use std::io;

use thiserror::Error;

/// Why an archive is not passed on to the engine.
#[derive(Debug, Error)]
pub(crate) enum ArchiveError {
    /// It ends early, or is no archive.
    #[error("the archive cannot be read, or not be passed on")]
    Io(#[from] io::Error),
    /// Such a path is in no archive of an image.
    #[error("`{path}` is nothing that the archive of an image has")]
    Foreign {
        /// The path, made readable.
        path: String,
    },
    /// It is a link, a device or anything else than what belongs at its path.
    #[error("`{path}` is of another kind than what an image has there")]
    Kind {
        /// The path.
        path: String,
    },
    /// Which of the two is meant would be the engine's choice.
    #[error("`{path}` is there twice")]
    Twice {
        /// The path.
        path: String,
    },
    /// It would be kept in memory.
    #[error("`{path}` is too long for what it is")]
    Long {
        /// The path.
        path: String,
    },
    /// It is not what its name, or the image, says.
    #[error("`{path}` does not have the digest that it should have")]
    Digest {
        /// The path.
        path: String,
    },
    /// It belongs to another image.
    #[error("`{path}` is of another image than the one that was announced")]
    Other {
        /// The path.
        path: String,
    },
    /// It does not say what it should.
    #[error("`{path}` does not say what it should: {reason}")]
    Senseless {
        /// The path.
        path: String,
        /// What is missing.
        reason: String,
    },
    /// More than any image has.
    #[error("the archive has too many members")]
    TooMany,
    /// More than a program fills up with.
    #[error("something follows the end of the archive")]
    Rest,
    /// What the image is known by is not there.
    #[error("the archive does not have the image that was announced")]
    Absent,
    /// The two engines know images by different things.
    #[error(
        "the two engines know images by different things, since one of them keeps them in containerd and the other does \
         not: give the image to this node with `docker pull` or `docker load`"
    )]
    OtherStore,
}

impl ArchiveError {
    /// Tells whether nobody reads what is passed on any more; who read it knows why.
    pub(crate) fn is_unread(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Somebody else's text is neither long nor anything that a terminal obeys.
    pub(super) fn foreign(path: &str) -> Self {
        let path = path.chars().take(100).flat_map(char::escape_debug).collect();
        Self::Foreign { path }
    }

    pub(super) fn kind(path: &str) -> Self {
        Self::Kind { path: path.into() }
    }

    pub(super) fn senseless(path: &str, reason: &(impl ToString + ?Sized)) -> Self {
        Self::Senseless {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
