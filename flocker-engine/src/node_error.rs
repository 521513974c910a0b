//! Why a node did not do what it was told.

use std::time::Duration;

use flocker_backends::Classify;
use flocker_backends::ErrorClass;
use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::fault::Fault;

/// Why a node could not be looked at or did not do what it was told.
///
/// It is the same on the node where it arose and on the one that is told.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum NodeError {
    /// There is no way to it.
    #[error("{node} could not be reached")]
    Unreachable {
        /// The node.
        node: NodeName,
        /// Why not.
        source: Fault,
    },
    /// The bytes of a transfer could not be sent to it directly. Nothing was sent, and the ticket is unused.
    #[error("{node} could not be reached directly")]
    NotDirect {
        /// The receiver.
        node: NodeName,
        /// Why not.
        source: Fault,
    },
    /// The connection ended before the answer came. Whether the order was carried out is not known.
    #[error("the connection to {node} ended before it answered")]
    Lost {
        /// The node.
        node: NodeName,
        /// What ended it.
        source: Fault,
    },
    /// What it said could not be understood, or it understood nothing.
    #[error("{node} does not speak as expected")]
    Protocol {
        /// The node.
        node: NodeName,
        /// What was wrong.
        source: Fault,
    },
    /// It has obeyed a newer configuration.
    #[error("this order is of generation {theirs}, and the node obeys generation {ours} already")]
    Stale {
        /// The generation that the node obeys.
        ours: Generation,
        /// The generation of the order.
        theirs: Generation,
    },
    /// Another machine answers under this name.
    #[error("another machine answers: expected node {expected}, found node {found}")]
    WrongNode {
        /// Who was meant.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// Somebody else deploys.
    #[error("{holder} holds the deploy lock")]
    Held {
        /// Who.
        holder: String,
        /// Since when, in seconds since 1970.
        since: u64,
    },
    /// The order was given under a lock that is no longer held.
    #[error("the deploy lock of this order is no longer held")]
    LockLost,
    /// A transfer was presented that was not admitted.
    #[error("the transfer was refused: {reason}")]
    NotAdmitted {
        /// Why.
        reason: String,
    },
    /// The order lacks something that its action needs.
    #[error("the order lacks {what}")]
    Incomplete {
        /// What.
        what: String,
    },
    /// The definition that came with the order is not the one that was planned.
    #[error("the definition of `{application}` is not the one that was planned")]
    OtherDefinition {
        /// The application.
        application: ApplicationName,
    },
    /// An application would write data that this node does not own.
    #[error("`{application}` cannot start: this node does not own dataset `{dataset}`")]
    NotPrimary {
        /// The application.
        application: ApplicationName,
        /// The dataset.
        dataset: DatasetId,
    },
    /// A container may still write the dataset.
    #[error("dataset `{dataset}` is in use by `{application}`")]
    InUse {
        /// The dataset.
        dataset: DatasetId,
        /// The application.
        application: ApplicationName,
    },
    /// It took too long.
    #[error("{what} took longer than {} s", after.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The receiver of a transfer refused or failed.
    #[error("{node} could not receive")]
    Receiver {
        /// The receiver.
        node: NodeName,
        /// Why not.
        source: Box<NodeError>,
    },
    /// The world behind a backend refused.
    #[error(transparent)]
    Backend(Fault),
}

impl NodeError {
    /// Takes an error of a backend.
    #[must_use]
    pub fn backend(error: &(impl std::error::Error + Classify + 'static)) -> Self {
        Self::Backend(Fault::of(error))
    }

    /// Says whether a newer configuration has come into force.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }
}

impl Classify for NodeError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Lost { .. }
            | Self::Held { .. }
            | Self::LockLost
            | Self::NotAdmitted { .. }
            | Self::InUse { .. }
            | Self::Deadline { .. } => ErrorClass::Transient,
            Self::Unreachable { source, .. }
            | Self::NotDirect { source, .. }
            | Self::Protocol { source, .. }
            | Self::Backend(source) => source.class(),
            Self::Receiver { source, .. } => source.class(),
            // Only another order, or another person, can change these.
            Self::Stale { .. }
            | Self::WrongNode { .. }
            | Self::Incomplete { .. }
            | Self::OtherDefinition { .. }
            | Self::NotPrimary { .. } => ErrorClass::Permanent,
        }
    }
}
