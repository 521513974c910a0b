//! What a plan does not do, and why: it waits for something, or refuses.

use std::fmt;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::NodeName;
use flocker_model::SnapshotName;
use serde::Deserialize;
use serde::Serialize;

use crate::obstacle::NotPromoted;
use crate::obstacle::NotRestored;
use crate::step::StepId;
pub use crate::waiting::Waiting;

/// Something that is to be, and that only a person may decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "refused")]
pub enum Refusal {
    /// Two nodes say that they alone write a dataset.
    SplitOwnership {
        /// The application that waits for it.
        application: Option<ApplicationName>,
        /// The dataset.
        dataset: DatasetId,
        /// The nodes and their ownerships.
        owners: Vec<(NodeName, Epoch)>,
    },
    /// There are copies, and no node has the right to write.
    NoOwner {
        /// The application that waits for it.
        application: ApplicationName,
        /// The dataset.
        dataset: DatasetId,
        /// Where the copies are.
        nodes: Vec<NodeName>,
        /// In whose trash the owner's copy is, where it can be brought back.
        in_trash: Option<NodeName>,
    },
    /// A node has something of a dataset that cannot be read, and that may be the owner's.
    Unreadable {
        /// The application that waits for it.
        application: Option<ApplicationName>,
        /// The dataset.
        dataset: DatasetId,
        /// Where.
        on: NodeName,
        /// Why it cannot be read, for people.
        reason: String,
    },
    /// What a node has let go of does not end with its last snapshot: nobody can tell what came after it.
    LastSnapshot {
        /// The application that waits for it.
        application: ApplicationName,
        /// Where.
        on: NodeName,
        /// The snapshot with which it was let go.
        last: SnapshotName,
    },
    /// The only copies are in the trash.
    InTrash {
        /// The application that waits for it.
        application: ApplicationName,
        /// The dataset.
        dataset: DatasetId,
        /// Where.
        nodes: Vec<NodeName>,
    },
    /// The data does not fit.
    NoRoom {
        /// The application.
        application: ApplicationName,
        /// Where it is to go.
        on: NodeName,
        /// How much is needed there.
        needed: ByteSize,
        /// How much there is.
        free: ByteSize,
    },
    /// The data is larger than it is to be allowed.
    LargerThanLimit {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
        /// How much it holds.
        used: ByteSize,
        /// How much it is to hold at most.
        limit: ByteSize,
    },
    /// Something else than Flocker uses a port.
    PortTaken {
        /// The application.
        application: ApplicationName,
        /// The port.
        port: ExternalPort,
        /// Where.
        on: NodeName,
    },
    /// More than half of what runs would be stopped.
    StopAll {
        /// How many would be stopped.
        stopping: usize,
        /// How many run.
        running: usize,
    },
    /// A node that was declared lost for ever answers again.
    Returned {
        /// The node.
        node: NodeName,
    },
    /// Nodes obey a newer configuration by now.
    Outdated {
        /// Which configuration this is.
        generation: Generation,
        /// The newest that is obeyed.
        newest: Generation,
        /// By whom one is obeyed that is newer than this.
        nodes: Vec<NodeName>,
    },
    /// Steps wait for each other, so that none of them can ever begin.
    Circle {
        /// These, and those that wait for them.
        steps: Vec<StepId>,
    },
    /// A copy was to become the owner's, and does not.
    NotPromoted {
        /// The dataset.
        dataset: DatasetId,
        /// The node whose copy was to count.
        on: NodeName,
        /// Why not.
        because: NotPromoted,
    },
    /// Data was to come back from the trash, and does not.
    NotRestored {
        /// The application.
        application: ApplicationName,
        /// The dataset.
        dataset: DatasetId,
        /// In whose trash it is.
        nodes: Vec<NodeName>,
        /// Why not.
        because: NotRestored,
    },
}

impl Refusal {
    /// Returns the application that is refused.
    #[must_use]
    pub fn application(&self) -> Option<&ApplicationName> {
        match self {
            Self::SplitOwnership { application, .. } | Self::Unreadable { application, .. } => {
                application.as_ref()
            }
            Self::NoOwner { application, .. }
            | Self::LastSnapshot { application, .. }
            | Self::InTrash { application, .. }
            | Self::NoRoom { application, .. }
            | Self::LargerThanLimit { application, .. }
            | Self::PortTaken { application, .. }
            | Self::NotRestored { application, .. } => Some(application),
            Self::StopAll { .. }
            | Self::Returned { .. }
            | Self::Outdated { .. }
            | Self::Circle { .. }
            | Self::NotPromoted { .. } => None,
        }
    }

    /// Returns what a person can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::SplitOwnership { dataset, owners, .. } => {
                let newest = owners
                    .iter()
                    .max_by_key(|(_, epoch)| *epoch)
                    .map_or("NODE", |(node, _)| node.as_str());
                format!(
                    "look at both copies; `flocker promote {dataset} --on {newest}` keeps that one and sets the other aside"
                )
            }
            Self::NoOwner {
                application,
                in_trash: Some(node),
                ..
            } => {
                format!(
                    "its owner's copy is in the trash on {node}: `flocker undo {application}` brings it back"
                )
            }
            Self::NoOwner { dataset, nodes, .. } => format!(
                "if its owner is lost for ever, `flocker promote {dataset} --on {}` makes that copy the owner",
                nodes.first().map_or("NODE", NodeName::as_str)
            ),
            Self::Unreadable { on, .. } => format!(
                "repair it on {on}, or move it out of Flocker's directory there if that data is given up; until then nothing is put in its place, and nothing of it is removed"
            ),
            Self::LastSnapshot { on, last, .. } => format!(
                "no node leaves that behind: look at the snapshots on {on}; once {last} is the newest, or the application is placed elsewhere, it goes on"
            ),
            Self::InTrash { application, .. } => format!("`flocker undo {application}` brings it back"),
            Self::NoRoom { on, .. } => format!("make room on {on}; `flocker gc` shows what could be dropped"),
            Self::LargerThanLimit { .. } => "raise `maximum_size`, or remove data first".into(),
            Self::PortTaken { port, on, .. } => {
                format!("stop what listens on port {port} of {on}, or choose another external port")
            }
            Self::StopAll { .. } => "if this is meant, say so with `--allow-stop-all`".into(),
            Self::Returned { node } => {
                format!(
                    "it may hold old data: clear it, or name it again with `flocker node remember {node}`"
                )
            }
            Self::Outdated { .. } => {
                "somebody has deployed newer files; look at them, and deploy again if yours are right".into()
            }
            Self::Circle { .. } => "this is a bug in flocker; please report it with the plan".into(),
            Self::NotPromoted {
                dataset,
                on: _,
                because,
            } => because.hint(*dataset),
            Self::NotRestored {
                application,
                dataset,
                nodes,
                because,
            } => because.hint(application, *dataset, nodes),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SplitOwnership {
                application,
                dataset,
                owners,
            } => split(f, application.as_ref(), *dataset, owners),
            Self::NoOwner {
                application,
                dataset: _,
                nodes,
                in_trash: _,
            } => write!(
                f,
                "{application} cannot have its data: there are copies on {}, and no node owns it",
                list(nodes)
            ),
            Self::Unreadable {
                application,
                dataset,
                on,
                reason,
            } => unreadable(f, application.as_ref(), *dataset, on, reason),
            Self::LastSnapshot {
                application,
                on,
                last,
            } => write!(
                f,
                "{application} cannot have its data back: what {on} has let go of does not end with {last}"
            ),
            Self::InTrash {
                application,
                dataset: _,
                nodes,
            } => {
                write!(
                    f,
                    "{application} would start empty: its data is in the trash on {}",
                    list(nodes)
                )
            }
            Self::NoRoom {
                application,
                on,
                needed,
                free,
            } => write!(
                f,
                "the data of {application} does not fit on {on}: {needed} needed, {free} free"
            ),
            Self::LargerThanLimit {
                application,
                on,
                used,
                limit,
            } => {
                write!(
                    f,
                    "the data of {application} on {on} is {used}, more than the limit of {limit}"
                )
            }
            Self::PortTaken {
                application,
                port,
                on,
            } => {
                write!(
                    f,
                    "port {port} of {application} is in use by another program on {on}"
                )
            }
            Self::StopAll { stopping, running } => {
                write!(f, "{stopping} of {running} running applications would be stopped")
            }
            Self::Returned { node } => write!(f, "{node} was declared lost for ever, and answers again"),
            Self::Outdated {
                generation,
                newest,
                nodes,
            } => write!(
                f,
                "this is generation {generation}, and {} obey{} generation {newest} by now",
                list(nodes),
                if nodes.len() == 1 { "s" } else { "" }
            ),
            Self::Circle { steps } => circle(f, steps),
            Self::NotPromoted { dataset, on, because } => {
                write!(
                    f,
                    "the copy of dataset {dataset} on {on} is not made the owner's: {because}"
                )
            }
            Self::NotRestored {
                application,
                dataset: _,
                nodes,
                because,
            } => because.tell(f, application, nodes),
        }
    }
}

fn unreadable(
    f: &mut fmt::Formatter<'_>,
    application: Option<&ApplicationName>,
    dataset: DatasetId,
    on: &NodeName,
    reason: &str,
) -> fmt::Result {
    match application {
        Some(application) => write!(f, "{application} is left as it is: its data on {on}")?,
        None => write!(f, "dataset {dataset} is left as it is: what {on} has of it")?,
    }
    write!(f, " cannot be read: {reason}")
}

fn circle(f: &mut fmt::Formatter<'_>, steps: &[StepId]) -> fmt::Result {
    let steps: Vec<&str> = steps.iter().map(|step| step.0.as_str()).collect();
    write!(
        f,
        "steps wait for each other, and none can begin: {}",
        steps.join(", ")
    )
}

/// Writes who all claim a dataset.
fn split(
    f: &mut fmt::Formatter<'_>,
    application: Option<&ApplicationName>,
    dataset: DatasetId,
    owners: &[(NodeName, Epoch)],
) -> fmt::Result {
    if let Some(application) = application {
        write!(f, "{application} is left as it is: ")?;
    }
    write!(f, "dataset {dataset} is written by more than one node:")?;
    for (position, (node, epoch)) in owners.iter().enumerate() {
        let comma = if position == 0 { "" } else { "," };
        write!(f, "{comma} {node} in epoch {epoch}")?;
    }
    Ok(())
}

/// Data that no application of the files uses. It is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kept {
    /// The dataset.
    pub dataset: DatasetId,
    /// The application that is defined and placed nowhere, where there is one.
    pub application: Option<ApplicationName>,
    /// Where it is.
    pub nodes: Vec<NodeName>,
    /// How much it holds.
    pub used: ByteSize,
}

/// Joins names as people do: `alpha, beta and gamma`.
#[must_use]
pub fn list(names: &[NodeName]) -> String {
    match names {
        [] => "nobody".into(),
        [only] => only.to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(NodeName::as_str).collect();
            format!("{} and {last}", first.join(", "))
        }
    }
}

/// Writes a duration as people read it, to a tenth of a second: `0.9 s`, `3 min 20 s`.
#[must_use]
pub fn seconds(duration: Duration) -> String {
    let tenths = duration.as_millis().div_ceil(100);
    if tenths < 600 {
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
