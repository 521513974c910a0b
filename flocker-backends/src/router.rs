//! Routes: how every node answers for every port.

pub mod proxy;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use thiserror::Error;

use crate::change::Change;
use crate::class::Classify;
use crate::class::ErrorClass;

/// What carries connections to where an application is.
#[async_trait]
pub trait Router: fmt::Debug + Send + Sync {
    /// Returns the routes that are in force: ours only.
    async fn current(&self) -> Result<RouteTable, RouterError>;

    /// Makes a change in one transaction: a connection sees the old routes or the new ones, whole.
    ///
    /// `local` says where the applications of this node listen. A route whose
    /// homes include this node's own address ends there, any other at its
    /// first home. `AlreadySo` where all of it is in force. Refused, with the
    /// old routes kept, where a port is in use by somebody else. Dropped half
    /// way: the old routes or the new ones.
    async fn apply(
        &self,
        change: &RouteChange,
        local: &BTreeMap<ApplicationName, IpAddr>,
    ) -> Result<Change, RouterError>;
}

/// Why routes could not be changed or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RouterError {
    /// Something else than Flocker uses the port.
    #[error("port {port} is in use by another program on this node")]
    PortInUse {
        /// The port.
        port: PortNumber,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The operating system refused.
    #[error("could not {what}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Classify for RouterError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::PortInUse { .. } | Self::Io { .. } => ErrorClass::Transient,
        }
    }
}
