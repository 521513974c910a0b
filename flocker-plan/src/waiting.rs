//! What a plan waits for: something that is to be, and that no step can bring about yet.

use std::fmt;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::NodeName;
use flocker_model::SnapshotName;
use serde::Deserialize;
use serde::Serialize;

use crate::blocked::list;
use crate::blocked::seconds;

/// Something that is to be, and that no step can bring about yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "waiting")]
pub enum Waiting {
    /// Nodes are silent, and what they may hold decides.
    ForSight {
        /// The application that waits, where one does.
        application: Option<ApplicationName>,
        /// Its dataset, where it is about data.
        dataset: Option<DatasetId>,
        /// The silent nodes.
        nodes: Vec<NodeName>,
    },
    /// An application runs where it is to run, and nobody is served by it; where else it runs, it goes on.
    ForHealth {
        /// The application.
        application: ApplicationName,
        /// Where it is not healthy.
        on: Vec<NodeName>,
    },
    /// Copies are made while the application still runs; the cut-over comes when they are close enough.
    PreCopy {
        /// The application that moves.
        application: ApplicationName,
        /// From where.
        from: NodeName,
        /// To where.
        to: NodeName,
        /// The round that this plan makes.
        round: u32,
        /// How much it has to copy.
        bytes: ByteSize,
        /// What was to be copied before it, because other nodes have it as well, and could not be.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        passed_over: Vec<SnapshotName>,
    },
    /// An earlier snapshot is copied first, because other nodes have it as well; what was written since follows.
    Earlier {
        /// The application that moves.
        application: ApplicationName,
        /// From where.
        from: NodeName,
        /// To where.
        to: NodeName,
        /// The snapshot.
        snapshot: SnapshotName,
        /// How much it has to copy.
        bytes: ByteSize,
        /// Whose newest snapshot it is: with it, increments fit there from the new home.
        also: Vec<NodeName>,
    },
    /// The copies are close enough, and the operator wants to say when.
    Held {
        /// The application that moves.
        application: ApplicationName,
        /// From where.
        from: NodeName,
        /// To where.
        to: NodeName,
        /// How long it would be away.
        downtime: Duration,
    },
    /// Writing is faster than copying.
    NotConverging {
        /// The application that moves.
        application: ApplicationName,
        /// From where.
        from: NodeName,
        /// To where.
        to: NodeName,
        /// How many rounds were made.
        rounds: u32,
        /// How long it would be away.
        downtime: Duration,
        /// How long it may be.
        budget: Duration,
    },
    /// To look at all its files takes longer than it may be away, however little of them has changed.
    TooManyFiles {
        /// The application that moves.
        application: ApplicationName,
        /// From where.
        from: NodeName,
        /// To where.
        to: NodeName,
        /// How long a round takes at least.
        round: Duration,
        /// How long it would be away at least.
        downtime: Duration,
        /// How long it may be.
        budget: Duration,
    },
}

impl Waiting {
    /// Returns the application that waits.
    #[must_use]
    pub fn application(&self) -> Option<&ApplicationName> {
        match self {
            Self::ForSight {
                application,
                dataset: _,
                nodes: _,
            } => application.as_ref(),
            Self::ForHealth { application, .. }
            | Self::PreCopy { application, .. }
            | Self::Earlier { application, .. }
            | Self::Held { application, .. }
            | Self::NotConverging { application, .. }
            | Self::TooManyFiles { application, .. } => Some(application),
        }
    }

    /// Says whether it is a copy that this plan makes: what comes after it follows by itself.
    #[must_use]
    pub fn is_for_a_copy(&self) -> bool {
        match self {
            Self::PreCopy { .. } | Self::Earlier { .. } => true,
            Self::ForSight { .. }
            | Self::ForHealth { .. }
            | Self::Held { .. }
            | Self::NotConverging { .. }
            | Self::TooManyFiles { .. } => false,
        }
    }

    /// Returns what a person can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::ForSight {
                application: _,
                dataset: _,
                nodes,
            } => format!(
                "bring {} back and deploy again; if a node is lost for ever, `flocker node forget {}` says so",
                list(nodes),
                nodes.first().map_or("NODE", NodeName::as_str)
            ),
            Self::ForHealth { application, on } => format!(
                "`flocker logs {application} --on {}` shows why; the next deploy looks again",
                on.first().map_or("NODE", NodeName::as_str)
            ),
            Self::PreCopy { .. } | Self::Earlier { .. } => {
                "nothing to do: the cut-over follows when the copies are close enough".into()
            }
            Self::Held { application, .. } => format!("`flocker cutover {application}` makes the cut-over"),
            Self::NotConverging { application, .. } => format!(
                "`flocker cutover {application}` takes the longer pause; or let it write less, or allow more with `--max-downtime`"
            ),
            Self::TooManyFiles {
                application,
                downtime,
                ..
            } => format!(
                "`flocker cutover {application}` takes the longer pause, and `--max-downtime {}s` allows it; fewer, larger files take less",
                downtime.as_secs().saturating_add(1)
            ),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForSight {
                application,
                dataset,
                nodes,
            } => {
                match (application, dataset) {
                    (Some(application), _) => write!(f, "{application} waits to see {}", list(nodes))?,
                    (None, Some(dataset)) => write!(f, "dataset {dataset} waits to see {}", list(nodes))?,
                    (None, None) => write!(f, "the deploy waits to see {}", list(nodes))?,
                }
                if dataset.is_some() {
                    f.write_str(": its data may be there")
                } else {
                    Ok(())
                }
            }
            Self::ForHealth { application, on } => write!(
                f,
                "{application} serves nobody on {}: it keeps ending, or is not healthy; where else it runs, it goes on",
                list(on)
            ),
            Self::PreCopy {
                application,
                from,
                to,
                round,
                bytes,
                passed_over,
            } => {
                write!(
                    f,
                    "the cut-over of {application} from {from} to {to} waits for copy {round}, {bytes}, made while it still runs"
                )?;
                if passed_over.is_empty() {
                    return Ok(());
                }
                let names: Vec<String> = passed_over.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                write!(
                    f,
                    "; {names} could not be sent before it, so who has nothing newer gets a full copy later"
                )
            }
            Self::Earlier {
                application,
                from,
                to,
                snapshot,
                bytes,
                also,
            } => write!(
                f,
                "the cut-over of {application} from {from} to {to} waits for a copy of {snapshot}, {bytes}, which is the newest that {} {}: what comes after it fits there later",
                list(also),
                if also.len() == 1 { "has" } else { "have" },
            ),
            Self::Held {
                application,
                from,
                to,
                downtime,
            } => write!(
                f,
                "{application} is ready to move from {from} to {to}, with about {} of downtime, and is held",
                seconds(*downtime)
            ),
            Self::NotConverging {
                application,
                from,
                to,
                rounds,
                downtime,
                budget,
            } => write!(
                f,
                "{application} writes faster than it is copied from {from} to {to}: after {rounds} rounds it would be away for about {}, and may for {}",
                seconds(*downtime),
                seconds(*budget)
            ),
            Self::TooManyFiles {
                application,
                from,
                to,
                round,
                downtime,
                budget,
            } => write!(
                f,
                "{application} has too many files to move from {from} to {to} in so short a pause: to look at them takes about {}, however few have changed, so it would be away for about {}, and may for {}",
                seconds(*round),
                seconds(*downtime),
                seconds(*budget)
            ),
        }
    }
}
