//! The way to a node: a byte pipe to our own program there.

pub mod direct;
pub mod local;

use std::fmt;

use async_trait::async_trait;
use flocker_model::NodeAddress;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;

use crate::class::Classify;
use crate::class::ErrorClass;

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
}

impl Classify for TransportError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } => ErrorClass::Transient,
            Self::Unsupported { .. } => ErrorClass::Permanent,
        }
    }
}
