//! An independent witness: what is true of all nodes at each effect, and what must never be.
//!
//! The observer believes no report and no plan. The twins tell it what is on
//! their disks after every change, and it compares the nodes with each other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::NodeName;
use flocker_model::SnapshotGuid;

use super::content::Content;
use super::faults::Effect;

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Violation {
    /// Two nodes may write one dataset.
    TwoPrimaries {
        /// The dataset.
        dataset: DatasetId,
        /// The nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// Two nodes may write one dataset and have a container started on it.
    TwoWriters {
        /// The dataset.
        dataset: DatasetId,
        /// The nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// A node became primary of an epoch at or below one that was taken before.
    EpochWentBack {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        node: NodeName,
        /// The epoch that it took.
        epoch: Epoch,
        /// The newest that was ever taken.
        newest: Epoch,
    },
    /// An empty dataset was created while another node has data of it.
    EmptyOverData {
        /// The dataset.
        dataset: DatasetId,
        /// Where it was created.
        node: NodeName,
        /// Where its data is.
        holders: BTreeSet<NodeName>,
    },
    /// A node went on from data that lacks something that was acknowledged to the application.
    LostWrites {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        node: NodeName,
    },
    /// Somebody tried to write a dataset where it is not primary.
    WroteWithoutOwnership {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        node: NodeName,
    },
    /// Somebody tried to start a container whose volume is not primary here, or is somewhere else.
    StartedWithoutOwnership {
        /// The application.
        application: ApplicationName,
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        node: NodeName,
    },
    /// Somebody tried to take a volume away under a container that was started on it.
    TakenFromContainer {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        node: NodeName,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoPrimaries { dataset, nodes } => {
                write!(f, "dataset `{dataset}` has several primaries: {nodes:?}")
            }
            Self::TwoWriters { dataset, nodes } => {
                write!(f, "dataset `{dataset}` is written on several nodes: {nodes:?}")
            }
            Self::EpochWentBack {
                dataset,
                node,
                epoch,
                newest,
            } => write!(
                f,
                "{node} took epoch {epoch} of dataset `{dataset}` after epoch {newest} was taken"
            ),
            Self::EmptyOverData {
                dataset,
                node,
                holders,
            } => write!(
                f,
                "dataset `{dataset}` was created empty on {node} while its data is on {holders:?}"
            ),
            Self::LostWrites { dataset, node } => {
                write!(
                    f,
                    "acknowledged writes of dataset `{dataset}` are missing on {node}"
                )
            }
            Self::WroteWithoutOwnership { dataset, node } => {
                write!(
                    f,
                    "dataset `{dataset}` was to be written on {node}, which is not its primary"
                )
            }
            Self::StartedWithoutOwnership {
                application,
                dataset,
                node,
            } => write!(
                f,
                "`{application}` was to be started on {node}, where dataset `{dataset}` is not primary"
            ),
            Self::TakenFromContainer { dataset, node } => write!(
                f,
                "dataset `{dataset}` was to be taken away on {node} under a container that uses it"
            ),
        }
    }
}

/// A copy that was destroyed or dropped for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where it was.
    pub node: NodeName,
    /// The dataset.
    pub dataset: DatasetId,
    /// Whether no other node had all of its data at that moment.
    pub sole: bool,
}

/// An effect that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub node: NodeName,
    /// Which one.
    pub effect: Effect,
}

/// What is on one node's disk of one dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopySeen {
    pub(super) primary: Option<Epoch>,
    pub(super) guids: Vec<SnapshotGuid>,
    /// Whether something was written since the newest snapshot.
    pub(super) is_dirty: bool,
    pub(super) has_data: bool,
}

impl CopySeen {
    fn is_held_by(&self, other: &Self) -> bool {
        !self.has_data
            || !self.is_dirty
                && self
                    .guids
                    .last()
                    .is_some_and(|newest| other.guids.contains(newest))
    }
}

/// What is true of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeSeen {
    pub(super) copies: BTreeMap<DatasetId, CopySeen>,
    /// The datasets on which a container is started.
    pub(super) started: BTreeSet<DatasetId>,
}

#[derive(Debug, Default)]
struct Notes {
    nodes: BTreeMap<NodeName, NodeSeen>,
    newest: BTreeMap<DatasetId, (Epoch, NodeName)>,
    /// What was acknowledged to applications, by dataset.
    acknowledged: BTreeMap<DatasetId, Content>,
    violations: Vec<Violation>,
    losses: Vec<Loss>,
    history: Vec<Record>,
}

/// The witness of a cluster of twins. Cloning is cheap and gives the same witness.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    notes: Arc<Mutex<Notes>>,
}

impl Observer {
    /// Returns everything that must not have happened and has, in the order in which it did.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// Returns the copies that went to the trash or were dropped for ever.
    #[must_use]
    pub fn losses(&self) -> Vec<Loss> {
        self.lock().losses.clone()
    }

    /// Returns what was added to the violations after the first so many.
    #[must_use]
    pub fn violations_after(&self, n_known: usize) -> Vec<Violation> {
        let notes = self.lock();
        notes.violations.get(n_known..).unwrap_or_default().to_vec()
    }

    /// Returns what was added to the losses after the first so many.
    #[must_use]
    pub fn losses_after(&self, n_known: usize) -> Vec<Loss> {
        let notes = self.lock();
        notes.losses.get(n_known..).unwrap_or_default().to_vec()
    }

    /// Returns how many effects were made.
    #[must_use]
    pub fn n_made(&self) -> usize {
        self.lock().history.len()
    }

    /// Returns since which ownership a node may write the dataset, if it may.
    #[must_use]
    pub fn owns(&self, dataset: DatasetId, node: &NodeName) -> Option<Epoch> {
        let notes = self.lock();
        notes.nodes.get(node)?.copies.get(&dataset)?.primary
    }

    /// Returns every effect that was made, on all nodes, in order.
    #[must_use]
    pub fn history(&self) -> Vec<Record> {
        self.lock().history.clone()
    }

    /// Returns the nodes that may write the dataset now.
    #[must_use]
    pub fn primaries(&self, dataset: DatasetId) -> BTreeSet<NodeName> {
        self.lock().primaries(dataset)
    }

    /// Returns the nodes that may write the dataset now, and since which ownership each.
    #[must_use]
    pub fn owners(&self, dataset: DatasetId) -> BTreeMap<NodeName, Epoch> {
        let notes = self.lock();
        let copies = notes.nodes.iter().filter_map(|(name, seen)| {
            let epoch = seen.copies.get(&dataset)?.primary?;
            Some((name.clone(), epoch))
        });
        copies.collect()
    }

    /// Returns the nodes that may write the dataset now and have a container started on it.
    #[must_use]
    pub fn writers(&self, dataset: DatasetId) -> BTreeSet<NodeName> {
        self.lock().writers(dataset)
    }

    /// Returns everything that was acknowledged to applications as written to the dataset.
    #[must_use]
    pub fn acknowledged(&self, dataset: DatasetId) -> BTreeMap<String, Vec<u8>> {
        let notes = self.lock();
        notes
            .acknowledged
            .get(&dataset)
            .map(Content::to_files)
            .unwrap_or_default()
    }

    /// Notes what is true of a node now, and what led to it.
    pub(super) fn look(&self, node: &NodeName, seen: NodeSeen, effect: Option<&Effect>) {
        let mut notes = self.lock();
        let before = notes.nodes.insert(node.clone(), seen).unwrap_or_default();
        if let Some(effect) = effect {
            notes.history.push(Record {
                node: node.clone(),
                effect: effect.clone(),
            });
            if let Effect::Create(dataset) = effect {
                notes.check_created(node, *dataset);
            }
        }
        let now = notes.nodes.get(node).into_iter().flat_map(|seen| &seen.copies);
        let now: Vec<(DatasetId, Option<Epoch>)> =
            now.map(|(dataset, copy)| (*dataset, copy.primary)).collect();
        let mut is_any_gone = false;
        for (dataset, copy) in &before.copies {
            if now.iter().all(|(there, _)| there != dataset) {
                is_any_gone = true;
                notes.lose(node, *dataset, copy);
            }
        }
        for (dataset, primary) in now {
            let was = before.copies.get(&dataset).and_then(|copy| copy.primary);
            if let Some(epoch) = primary.filter(|_| primary != was) {
                notes.check_epoch(node, dataset, epoch);
            }
            notes.check_owners(dataset);
        }
        if is_any_gone {
            let Notes { nodes, newest, .. } = &mut *notes;
            newest.retain(|dataset, _| nodes.values().any(|seen| seen.copies.contains_key(dataset)));
        }
    }

    /// Notes that a primary was written.
    pub(super) fn look_at_written(&self, node: &NodeName, dataset: DatasetId, copy: CopySeen) {
        let mut notes = self.lock();
        let seen = notes.nodes.entry(node.clone()).or_default();
        seen.copies.insert(dataset, copy);
        notes.check_owners(dataset);
    }

    /// Notes what an application was told to be written.
    pub(super) fn acknowledge(&self, dataset: DatasetId, content: &Content) {
        self.lock().acknowledged.insert(dataset, content.clone());
    }

    /// Compares what a node goes on from with what was acknowledged.
    pub(super) fn expect_acknowledged(&self, node: &NodeName, dataset: DatasetId, content: &Content) {
        let mut notes = self.lock();
        let all = notes.acknowledged.get(&dataset);
        if all.is_some_and(|acknowledged| acknowledged != content) {
            notes.add(Violation::LostWrites {
                dataset,
                node: node.clone(),
            });
        }
    }

    pub(super) fn add(&self, violation: Violation) {
        self.lock().add(violation);
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// Adds a violation, once for as long as it lasts.
    fn add(&mut self, violation: Violation) {
        tracing::warn!(%violation, "an invariant is broken");
        if self.violations.last() != Some(&violation) {
            self.violations.push(violation);
        }
    }

    fn nodes_where(&self, is_so: impl Fn(&NodeSeen) -> bool) -> BTreeSet<NodeName> {
        let nodes = self.nodes.iter().filter(|(_, seen)| is_so(seen));
        nodes.map(|(name, _)| name.clone()).collect()
    }

    fn primaries(&self, dataset: DatasetId) -> BTreeSet<NodeName> {
        self.nodes_where(|seen| {
            seen.copies
                .get(&dataset)
                .is_some_and(|copy| copy.primary.is_some())
        })
    }

    fn writers(&self, dataset: DatasetId) -> BTreeSet<NodeName> {
        let mut nodes = self.primaries(dataset);
        nodes.retain(|node| {
            self.nodes
                .get(node)
                .is_some_and(|seen| seen.started.contains(&dataset))
        });
        nodes
    }

    fn check_owners(&mut self, dataset: DatasetId) {
        let owns = |seen: &NodeSeen| {
            seen.copies
                .get(&dataset)
                .is_some_and(|copy| copy.primary.is_some())
        };
        if self.nodes.values().filter(|seen| owns(seen)).count() < 2 {
            return;
        }
        let nodes = self.primaries(dataset);
        if nodes.len() > 1 {
            self.add(Violation::TwoPrimaries { dataset, nodes });
        }
        let nodes = self.writers(dataset);
        if nodes.len() > 1 {
            self.add(Violation::TwoWriters { dataset, nodes });
        }
    }

    fn check_epoch(&mut self, node: &NodeName, dataset: DatasetId, epoch: Epoch) {
        match self.newest.get(&dataset).cloned() {
            // A copy that comes back from the trash has the epoch that it had.
            Some((newest, holder)) if newest == epoch && holder == *node => {}
            Some((newest, _)) if newest >= epoch => self.add(Violation::EpochWentBack {
                dataset,
                node: node.clone(),
                epoch,
                newest,
            }),
            Some(_) | None => {
                self.newest.insert(dataset, (epoch, node.clone()));
            }
        }
    }

    fn check_created(&mut self, node: &NodeName, dataset: DatasetId) {
        let mut holders = self.nodes_where(|seen| seen.copies.contains_key(&dataset));
        holders.remove(node);
        if !holders.is_empty() {
            self.add(Violation::EmptyOverData {
                dataset,
                node: node.clone(),
                holders,
            });
        }
    }

    fn lose(&mut self, node: &NodeName, dataset: DatasetId, copy: &CopySeen) {
        let others = self.nodes.iter().filter(|(name, _)| *name != node);
        let mut others = others.filter_map(|(_, seen)| seen.copies.get(&dataset));
        let sole = copy.has_data && !others.any(|other| copy.is_held_by(other));
        self.losses.push(Loss {
            node: node.clone(),
            dataset,
            sole,
        });
    }
}
