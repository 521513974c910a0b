//! Why a person's request comes to nothing: what stands in the way, and what can be done about it.

use std::fmt;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;

use crate::blocked::list;

/// Why a copy does not become the owner's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotPromoted {
    /// There is no complete copy on that node.
    NoCopy,
    /// Another node owns the data, and is seen.
    Owned {
        /// Which.
        by: NodeName,
    },
    /// The last owner has let go to a node that may have taken it.
    Offered {
        /// Which.
        to: NodeName,
    },
    /// A node that was declared lost answers, and claims the data; nothing tells it anything.
    Returned {
        /// Which.
        by: NodeName,
    },
}

impl NotPromoted {
    /// Returns what a person can do about it.
    #[must_use]
    pub fn hint(&self, dataset: DatasetId) -> String {
        match self {
            Self::NoCopy => format!("`flocker why {dataset}` shows where there are copies"),
            Self::Owned { by } => {
                format!("nothing is needed: {by} owns it; `flocker deploy` moves it")
            }
            Self::Offered { to } => format!(
                "`flocker deploy` finishes this; if {to} is lost for ever, `flocker node forget {to}` says so"
            ),
            Self::Returned { by } => format!(
                "it may write there: switch {by} off, or name it again with `flocker node remember {by}`, and its copy is set aside"
            ),
        }
    }
}

impl fmt::Display for NotPromoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCopy => f.write_str("there is no complete one"),
            Self::Owned { by } => write!(f, "{by} owns the data"),
            Self::Offered { to } => write!(f, "it was let go to {to}, which may have it"),
            Self::Returned { by } => {
                write!(
                    f,
                    "{by} was declared lost for ever, answers again, and claims the data"
                )
            }
        }
    }
}

/// Why data does not come back from the trash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotRestored {
    /// More than one node had the same ownership.
    Split {
        /// Which.
        epoch: Epoch,
    },
    /// What a copy was can no longer be read.
    Unreadable,
    /// There was a newer owner than all of them.
    Followed {
        /// In which ownership.
        by: Epoch,
    },
    /// Another copy is where it would come back.
    InTheWay,
}

impl NotRestored {
    /// Returns what a person can do about it.
    #[must_use]
    pub fn hint(&self, application: &ApplicationName, dataset: DatasetId, nodes: &[NodeName]) -> String {
        let first = nodes.first().map_or("NODE", NodeName::as_str);
        match self {
            Self::Split { .. } | Self::Followed { .. } => {
                format!("look at them; `flocker undo {application} --on {first}` brings that one back")
            }
            Self::Unreadable => format!(
                "look at it by hand; `flocker undo {application} --on NODE` brings back what another node has"
            ),
            Self::InTheWay => {
                format!(
                    "`flocker promote {dataset} --on {first}` makes the copy that is there the owner instead"
                )
            }
        }
    }
}

impl NotRestored {
    /// Writes the whole sentence: whose data does not come back, from where, and why.
    pub(crate) fn tell(
        &self,
        f: &mut fmt::Formatter<'_>,
        application: &ApplicationName,
        nodes: &[NodeName],
    ) -> fmt::Result {
        let nodes = list(nodes);
        write!(
            f,
            "the data of {application} in the trash on {nodes} does not come back: {self}"
        )
    }
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { epoch } => write!(f, "each of them was the owner in epoch {epoch}"),
            Self::Unreadable => f.write_str("it cannot be read what it was"),
            Self::Followed { by } => write!(f, "there was a newer owner, in epoch {by}"),
            Self::InTheWay => f.write_str("another copy is there"),
        }
    }
}
