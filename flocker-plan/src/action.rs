//! Actions: what a node can be told to do, with nothing left to choose.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::Epoch;
use flocker_model::NodeName;
use flocker_model::RouteChange;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use serde::Deserialize;
use serde::Serialize;

/// What one node does in one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Creates an empty dataset.
    Create {
        /// What is created.
        dataset: Dataset,
        /// As primary of which ownership.
        epoch: Epoch,
    },
    /// Sets how much a dataset may hold.
    Resize {
        /// The dataset.
        dataset: DatasetId,
        /// The new limit, or none.
        to: Option<ByteSize>,
    },
    /// Takes a snapshot.
    Take {
        /// The dataset.
        dataset: DatasetId,
        /// What it is called.
        snapshot: SnapshotName,
    },
    /// Sends a snapshot to another node.
    Push {
        /// The dataset, as it is to be set up where it is new.
        dataset: Dataset,
        /// The snapshot.
        snapshot: SnapshotName,
        /// The snapshot that the receiver has already; nothing for a full copy.
        // Boxed: a plan has millions of steps, and each takes as much memory as the largest kind.
        base: Option<Box<Snapshot>>,
        /// The receiver.
        to: NodeName,
    },
    /// Lets a dataset go.
    Release {
        /// The dataset.
        dataset: DatasetId,
        /// For which ownership.
        epoch: Epoch,
        /// Who may take it.
        to: NodeName,
        /// The snapshot that holds everything ever written.
        last: SnapshotName,
    },
    /// Becomes the primary.
    Acquire {
        /// The dataset.
        dataset: DatasetId,
        /// Of which ownership.
        epoch: Epoch,
        /// The snapshot from which it goes on.
        from: SnapshotName,
        /// The identity of that snapshot, where it exists already when the plan is made.
        guid: Option<SnapshotGuid>,
    },
    /// Gives up an ownership that it was offered.
    Renounce {
        /// The dataset.
        dataset: DatasetId,
        /// The ownership.
        epoch: Epoch,
    },
    /// Moves a copy to the trash.
    Destroy {
        /// The dataset.
        dataset: DatasetId,
    },
    /// Drops snapshots that no copy needs any more.
    Trim {
        /// The dataset.
        dataset: DatasetId,
        /// Their names.
        snapshots: Vec<SnapshotName>,
    },
    /// Drops the beginning of a copy that will not be completed.
    DropPartial {
        /// The dataset.
        dataset: DatasetId,
    },
    /// Brings a copy back from the trash, as it was.
    Restore {
        /// The dataset.
        dataset: DatasetId,
        /// Which piece of trash.
        entry: String,
    },
    /// Empties one piece of trash for ever.
    EmptyTrash {
        /// Which one.
        entry: String,
    },
    /// Gets everything in place for an application to start.
    Prepare {
        /// The application.
        application: ApplicationName,
        /// The fingerprint of its definition on this node.
        definition: DefinitionHash,
    },
    /// Starts an application.
    Start {
        /// The application.
        application: ApplicationName,
        /// The fingerprint of its definition on this node.
        definition: DefinitionHash,
    },
    /// Stops an application and removes its container.
    Stop {
        /// The application.
        application: ApplicationName,
        /// How long it may take to end by itself.
        grace: Duration,
    },
    /// Changes routes. What changes on many nodes alike stands in memory once.
    Route {
        /// What to set and what to drop.
        change: Arc<RouteChange>,
    },
}

impl Action {
    /// Returns the word for it, as a person would say it.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Resize { .. } => "resize",
            Self::Take { .. } => "take",
            Self::Push { .. } => "push",
            Self::Release { .. } => "release",
            Self::Acquire { .. } => "acquire",
            Self::Renounce { .. } => "renounce",
            Self::Destroy { .. } => "destroy",
            Self::Trim { .. } => "trim",
            Self::DropPartial { .. } => "drop",
            Self::Restore { .. } => "restore",
            Self::EmptyTrash { .. } => "empty",
            Self::Prepare { .. } => "prepare",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Route { .. } => "route",
        }
    }

    /// Returns the dataset that it is about.
    #[must_use]
    pub fn dataset(&self) -> Option<DatasetId> {
        match self {
            Self::Create { dataset, .. } | Self::Push { dataset, .. } => Some(dataset.id),
            Self::Resize { dataset, .. }
            | Self::Take { dataset, .. }
            | Self::Release { dataset, .. }
            | Self::Acquire { dataset, .. }
            | Self::Renounce { dataset, .. }
            | Self::Destroy { dataset }
            | Self::Trim { dataset, .. }
            | Self::Restore { dataset, .. }
            | Self::DropPartial { dataset } => Some(*dataset),
            Self::EmptyTrash { .. }
            | Self::Prepare { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Route { .. } => None,
        }
    }

    /// Returns the node to which it sends a copy, if it sends one.
    #[must_use]
    pub fn receiver(&self) -> Option<&NodeName> {
        match self {
            Self::Push { to, .. } => Some(to),
            Self::Create { .. }
            | Self::Resize { .. }
            | Self::Take { .. }
            | Self::Release { .. }
            | Self::Acquire { .. }
            | Self::Renounce { .. }
            | Self::Destroy { .. }
            | Self::Trim { .. }
            | Self::DropPartial { .. }
            | Self::Restore { .. }
            | Self::EmptyTrash { .. }
            | Self::Prepare { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Route { .. } => None,
        }
    }

    /// Returns the application that it is about.
    #[must_use]
    pub fn application(&self) -> Option<&ApplicationName> {
        match self {
            Self::Create { dataset, .. } | Self::Push { dataset, .. } => Some(&dataset.owner),
            Self::Prepare { application, .. }
            | Self::Start { application, .. }
            | Self::Stop { application, .. } => Some(application),
            Self::Resize { .. }
            | Self::Take { .. }
            | Self::Release { .. }
            | Self::Acquire { .. }
            | Self::Renounce { .. }
            | Self::Destroy { .. }
            | Self::Trim { .. }
            | Self::DropPartial { .. }
            | Self::Restore { .. }
            | Self::EmptyTrash { .. }
            | Self::Route { .. } => None,
        }
    }

    /// Says whether it makes routes that lead to an application.
    #[must_use]
    pub fn leads_to(&self, application: &ApplicationName) -> bool {
        matches!(self, Self::Route { change } if change.applications().any(|led_to| led_to == application))
    }
}

/// The object of an action as it stands in the id of a step.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { dataset, epoch: _ } => write!(f, "{}", dataset.id),
            Self::Resize { dataset, to: _ } | Self::Destroy { dataset } | Self::DropPartial { dataset } => {
                write!(f, "{dataset}")
            }
            Self::Take { dataset, snapshot } => write!(f, "{dataset}@{snapshot}"),
            Self::Push {
                dataset,
                snapshot,
                base: _,
                to,
            } => write!(f, "{}@{snapshot}/{to}", dataset.id),
            Self::Release {
                dataset,
                epoch,
                to: _,
                last: _,
            }
            | Self::Acquire {
                dataset,
                epoch,
                from: _,
                guid: _,
            }
            | Self::Renounce { dataset, epoch } => write!(f, "{dataset}:{epoch}"),
            Self::Trim { dataset, snapshots } => {
                write!(f, "{dataset}@")?;
                for (position, snapshot) in snapshots.iter().enumerate() {
                    write!(f, "{}{snapshot}", if position == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Self::Restore { dataset, entry } => write!(f, "{dataset}/{entry}"),
            Self::EmptyTrash { entry } => f.write_str(entry),
            Self::Prepare {
                application,
                definition: _,
            }
            | Self::Start {
                application,
                definition: _,
            }
            | Self::Stop {
                application,
                grace: _,
            } => write!(f, "{application}"),
            Self::Route { change } => {
                let mut separator = "";
                for (port, target) in &change.set {
                    write!(f, "{separator}{port}>")?;
                    for (position, home) in target.homes.iter().enumerate() {
                        write!(f, "{}{}", if position == 0 { "" } else { "+" }, home.node)?;
                    }
                    separator = ",";
                }
                for port in &change.drop {
                    write!(f, "{separator}{port}>none")?;
                    separator = ",";
                }
                Ok(())
            }
        }
    }
}
