//! Routes: how every node answers for every port.

#[cfg(any(feature = "nftables", feature = "iptables"))]
pub mod choice;
#[cfg(feature = "iptables")]
pub mod iptables;
#[cfg(any(feature = "nftables", feature = "iptables"))]
mod kernel;
#[cfg(feature = "nftables")]
pub mod nftables;
#[cfg(all(feature = "nftables", feature = "iptables"))]
mod passage;
pub mod proxy;

#[cfg(any(feature = "nftables", feature = "iptables"))]
pub use kernel::served::waiting;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use thiserror::Error;

use crate::change::Change;
use crate::class::Classify;
use crate::class::ErrorClass;
use crate::process::ProcessError;

/// What carries connections and datagrams to where an application is.
///
/// A port of TCP and one of UDP have nothing to do with each other, also where their numbers are the same.
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
        port: ExternalPort,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A program that carries routes out failed.
    #[error("could not {what}")]
    Program {
        /// What was to be done.
        what: String,
        /// How it failed.
        source: ProcessError,
    },
    /// No way to carry routes out works on this node.
    #[error("no packet filter can be used on this node: {tried}")]
    NoFilter {
        /// What was tried, and how each failed.
        tried: String,
    },
    /// Something has the name that ours has, and is somebody else's.
    #[error(
        "{what} is in the way: nothing that it holds is marked as Flocker's, so it stays; rename it, or delete it if nobody needs it"
    )]
    Foreign {
        /// What it is, and where.
        what: String,
    },
    /// What another router of ours has made could not be taken back, so that the same ports would be carried twice.
    #[error("could not take back the routes that Flocker made by `{program}` before")]
    TwoRouters {
        /// The program of that other router.
        program: &'static str,
        /// What is in the way.
        source: Box<RouterError>,
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
            Self::Program { source, .. } => source.class(),
            Self::TwoRouters { source, .. } => source.class(),
            // Somebody has to install one, or give us the privilege.
            Self::NoFilter { .. } | Self::Foreign { .. } => ErrorClass::Permanent,
        }
    }
}
