//! The way to a node: a byte pipe to our own program there.

pub mod direct;
pub mod local;
pub mod ssh;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::NodeAddress;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::class::Classify;
use crate::class::ErrorClass;
use crate::process::ProcessError;

/// Both directions of a byte pipe.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open byte pipe to our program on a node. Dropping it closes both directions.
pub type Channel = Box<dyn Duplex>;

/// What a channel is for; a transport may carry bulk data another way than orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Orders and reports.
    Control,
    /// The bytes of one snapshot.
    Transfer,
}

/// How nodes are reached.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// Opens a byte pipe to our program on a node. Dropped half way: nothing remains.
    async fn open(&self, node: &NodeAddress, purpose: Purpose) -> Result<Channel, TransportError>;
}

/// Why a node could not be reached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody answers there.
    #[error("no node answers at {address}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// This transport does not know such addresses.
    #[error("{address} cannot be reached by this transport")]
    Unsupported {
        /// Where it was looked for.
        address: String,
    },
    /// Nobody knows a host of this name.
    #[error("there is no host `{host}`")]
    NoSuchHost {
        /// The host.
        host: String,
    },
    /// The key of a host is not known, so it may be any host.
    #[error("the host key of `{host}` is not known")]
    UnknownHostKey {
        /// The host.
        host: String,
    },
    /// A host shows another key than the one that is known.
    #[error("`{host}` shows another host key than the known one")]
    ChangedHostKey {
        /// The host.
        host: String,
    },
    /// A host shows a key that was revoked.
    #[error("`{host}` shows a host key that was revoked")]
    RevokedHostKey {
        /// The host.
        host: String,
    },
    /// A host does not let us in.
    #[error("`{host}` does not let us in: {said}")]
    Denied {
        /// The host.
        host: String,
        /// What was said of it.
        said: String,
    },
    /// Something there did not work that is none of the others.
    #[error("`{host}` did not start our program: {said}")]
    Refused {
        /// The host.
        host: String,
        /// What was said of it.
        said: String,
    },
    /// The machine cannot be the node that it is to be.
    #[error("`{host}` is not a node: {said}")]
    NotANode {
        /// The host.
        host: String,
        /// Why not.
        said: String,
    },
    /// Our program could not be copied to the host.
    #[error("our program could not be copied to `{host}`: {said}")]
    NotInstalled {
        /// The host.
        host: String,
        /// What was said of it.
        said: String,
    },
    /// Our program does not run on such machines.
    #[error("our program is for {} and `{host}` is {machine}", std::env::consts::ARCH)]
    OtherMachine {
        /// The host.
        host: String,
        /// What it is.
        machine: String,
    },
    /// It took too long.
    #[error("{what} of `{host}` took longer than {} s", after.as_secs())]
    Late {
        /// The host.
        host: String,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The program `ssh` could not be used.
    #[error("`ssh` could not be used")]
    Program {
        /// Why not.
        source: ProcessError,
    },
    /// The program that is copied to nodes could not be read.
    #[error("our own program could not be read")]
    OwnProgram {
        /// Why not.
        source: std::io::Error,
    },
}

impl TransportError {
    /// Says what to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownHostKey { host } => Some(format!(
                "compare its fingerprint with the host's own, and add it to your known hosts: `ssh {host}` asks for that"
            )),
            Self::ChangedHostKey { host } => Some(format!(
                "where it was installed anew, `ssh-keygen -R {host}` forgets the old key; where not, somebody is in between"
            )),
            Self::RevokedHostKey { .. } => Some("your known hosts have a line `@revoked` for it".into()),
            Self::Denied { host, .. } => Some(format!(
                "`ssh {host} true` must work without a question: with a key in an agent, or one without a passphrase"
            )),
            Self::NoSuchHost { host } => Some(format!(
                "`address` in the deployment file says where a node is; `flocker local up {host}` makes one on this machine"
            )),
            Self::Program { .. } => Some("install OpenSSH's client".into()),
            Self::OtherMachine { .. } => {
                Some("use a flocker that was built for that machine on a machine of the same kind".into())
            }
            Self::NotInstalled { .. } => {
                Some("is there room on its disk, and `sha256sum` in its `PATH`?".into())
            }
            Self::Unreachable { .. }
            | Self::Unsupported { .. }
            | Self::Refused { .. }
            | Self::NotANode { .. }
            | Self::Late { .. }
            | Self::OwnProgram { .. } => None,
        }
    }
}

impl Classify for TransportError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. }
            | Self::NoSuchHost { .. }
            | Self::Refused { .. }
            | Self::NotInstalled { .. }
            | Self::NotANode { .. }
            | Self::Late { .. } => ErrorClass::Transient,
            Self::Program { source } => source.class(),
            // Only a person can change these.
            Self::Unsupported { .. }
            | Self::UnknownHostKey { .. }
            | Self::ChangedHostKey { .. }
            | Self::RevokedHostKey { .. }
            | Self::Denied { .. }
            | Self::OtherMachine { .. }
            | Self::OwnProgram { .. } => ErrorClass::Permanent,
        }
    }
}
