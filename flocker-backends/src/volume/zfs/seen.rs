//! What of a pool is ours, and what it means.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::listing;
use super::listing::Filesystem;
use super::listing::Listing;
use super::listing::Taken;
use super::standing::Standing;
use super::tool::broken;
use crate::volume::VolumeError;

/// One filesystem of ours.
#[derive(Clone, Debug)]
pub(super) struct Ours {
    /// What the pool calls it. Says nothing about what it is.
    pub(super) name: String,
    pub(super) dataset: DatasetId,
    pub(super) standing: Standing,
    /// When it was thrown away, in seconds since 1970.
    pub(super) trashed: Option<i64>,
    pub(super) filesystem: Filesystem,
}

/// Everything below our parent.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) here: BTreeMap<DatasetId, Ours>,
    /// By entry.
    pub(super) trash: BTreeMap<String, Ours>,
    /// Where streams wait, if that is here: its name, and whether it is mounted.
    pub(super) spool: Option<(String, bool)>,
    /// Datasets of which something is here that cannot be read, and why. None of them is among the others.
    pub(super) unreadable: BTreeMap<DatasetId, String>,
    /// What is there and is not ours: nothing is ever done with it.
    pub(super) foreign: BTreeMap<String, Filesystem>,
    pub(super) available: u64,
    /// What is remembered of datasets for good: the newest ownership that was known here when a copy left.
    pub(super) fences: BTreeMap<DatasetId, Epoch>,
    names: BTreeSet<String>,
}

impl Seen {
    /// Reads what a listing means.
    ///
    /// A dataset that cannot be read hides no other. It is an error where not even its name can be.
    pub(super) fn of(
        listing: Listing,
        fences: BTreeMap<DatasetId, Epoch>,
        parent: &str,
    ) -> Result<Self, VolumeError> {
        let mut seen = Self {
            fences,
            ..Self::default()
        };
        for (name, filesystem) in listing.filesystems {
            seen.names.insert(name.clone());
            if name == parent {
                seen.available = filesystem.available;
            } else if filesystem.own.contains_key(listing::SPOOL) {
                seen.spool = Some((name, filesystem.is_mounted));
            } else if let Some(dataset) = filesystem.own.get(listing::DATASET) {
                let Ok(dataset) = dataset.parse() else {
                    let reason = format!("`{}` is no dataset", dataset.escape_debug());
                    return Err(broken(format!("read `{name}`"), reason));
                };
                seen.add(&name, dataset, &filesystem);
            } else {
                seen.foreign.insert(name, filesystem);
            }
        }
        for dataset in seen.unreadable.keys() {
            seen.here.remove(dataset);
        }
        Ok(seen)
    }

    /// Adds a filesystem of ours.
    fn add(&mut self, name: &str, dataset: DatasetId, filesystem: &Filesystem) {
        let Some(ours) = Ours::read(name, dataset, filesystem) else {
            let reason = format!("the properties of `{name}` are not as we write them");
            self.unreadable.insert(dataset, reason);
            return;
        };
        if ours.trashed.is_some() {
            self.trash.insert(ours.entry(), ours);
        } else if let Some(other) = self.here.insert(dataset, ours) {
            let reason = format!("`{}` and `{name}` say that they are it", other.name);
            self.unreadable.insert(dataset, reason);
        }
    }

    /// Fails where a dataset is here and cannot be read: nothing is to be done with it then.
    pub(super) fn require_readable(&self, dataset: DatasetId) -> Result<(), VolumeError> {
        match self.unreadable.get(&dataset) {
            None => Ok(()),
            Some(reason) => Err(broken(format!("read dataset {dataset}"), reason.clone())),
        }
    }

    pub(super) fn require(&self, dataset: DatasetId) -> Result<&Ours, VolumeError> {
        self.here.get(&dataset).ok_or(VolumeError::NotHere { dataset })
    }

    /// Returns what an earlier copy of a dataset has left: an ownership that is never taken again.
    pub(super) fn fence_left(&self, dataset: DatasetId) -> Epoch {
        self.fences.get(&dataset).copied().unwrap_or_default()
    }

    /// Returns a name that is free. The same one until it is taken, so that of two who choose it one fails.
    pub(super) fn free_name(&self, parent: &str, dataset: DatasetId) -> String {
        let mut name = format!("{parent}/{dataset}");
        let mut number = 1_u64;
        while self.names.contains(&name) {
            number += 1;
            name = format!("{parent}/{dataset}.{number}");
        }
        name
    }
}

impl Ours {
    fn read(name: &str, dataset: DatasetId, filesystem: &Filesystem) -> Option<Self> {
        let own = |property| filesystem.own.get(property);
        let mut standing = Standing::parse(own(listing::ROLE)?)?;
        let trashed = match own(listing::TRASHED) {
            None => None,
            Some(since) => Some(since.parse().ok()?),
        };
        // A released copy that got something newer is a replica from the moment
        // it got it, whether or not anybody came to write that down.
        if let Role::Released { guid, .. } = &standing.role {
            let newest = filesystem.snapshots.iter().rfind(|taken| taken.is_ours);
            if newest.is_some_and(|newest| guid_of(newest) != *guid) {
                standing.role = Role::Replica;
            }
        }
        Some(Self {
            name: name.to_owned(),
            dataset,
            standing,
            trashed,
            filesystem: filesystem.clone(),
        })
    }

    /// What it is called as a piece of trash.
    pub(super) fn entry(&self) -> String {
        format!("{}.{}", self.dataset, self.filesystem.guid)
    }

    /// Our snapshots, oldest first.
    pub(super) fn snapshots(&self) -> impl DoubleEndedIterator<Item = (SnapshotName, &Taken)> {
        let all = self.filesystem.snapshots.iter();
        all.filter(|taken| taken.is_ours)
            .filter_map(|taken| Some((taken.name.parse().ok()?, taken)))
    }

    pub(super) fn snapshot(&self, name: &SnapshotName) -> Option<&Taken> {
        self.snapshots()
            .find(|(own, _)| own == name)
            .map(|(_, taken)| taken)
    }

    /// The newest snapshot, whoever took it: what an increment can be received onto.
    pub(super) fn newest(&self) -> Option<&Taken> {
        self.filesystem.snapshots.last()
    }

    /// What the pool calls a snapshot of it.
    pub(super) fn full_name(&self, snapshot: &str) -> String {
        format!("{}@{snapshot}", self.name)
    }

    /// Our snapshots as the model has them.
    pub(super) fn model_snapshots(&self) -> Vec<Snapshot> {
        let all = &self.filesystem.snapshots;
        self.snapshots()
            .map(|(name, taken)| {
                let before = all.iter().rfind(|other| other.transaction < taken.transaction);
                Snapshot {
                    name,
                    guid: guid_of(taken),
                    written: ByteSize(taken.written.unwrap_or_else(|| estimate(before, taken))),
                }
            })
            .collect()
    }

    /// How much was written since our newest snapshot.
    pub(super) fn unsent(&self) -> u64 {
        let Filesystem {
            referenced,
            used_by_snapshots,
            written,
            snapshots,
            ..
        } = &self.filesystem;
        let Some(at) = snapshots.iter().rposition(|taken| taken.is_ours) else {
            return *referenced;
        };
        let (older, newer) = (&snapshots[..at], &snapshots[at + 1..]);
        if let Some(written) = written {
            let between: u64 = newer.iter().filter_map(|taken| taken.written).sum();
            return written.saturating_add(between);
        }
        // The tool does not tell. What was overwritten since then is what only
        // snapshots still have, without what each older one alone has.
        let overwritten = used_by_snapshots.saturating_sub(older.iter().map(|taken| taken.used).sum());
        referenced
            .saturating_add(overwritten)
            .saturating_sub(snapshots[at].referenced)
    }
}

/// How much was written between two snapshots, where the tool does not tell: at least this.
fn estimate(before: Option<&Taken>, taken: &Taken) -> u64 {
    match before {
        None => taken.referenced,
        Some(before) => (taken.referenced.saturating_add(before.used)).saturating_sub(before.referenced),
    }
}

pub(super) fn guid_of(taken: &Taken) -> SnapshotGuid {
    SnapshotGuid(taken.guid.into())
}

/// Says that an ownership must not be taken or promised.
pub(super) fn fenced(dataset: DatasetId, epoch: Epoch, fence: Epoch) -> VolumeError {
    VolumeError::Fenced {
        dataset,
        epoch,
        fence,
    }
}

/// Says that a copy does not fit.
pub(super) fn diverged(dataset: DatasetId, reason: impl Into<String>) -> VolumeError {
    VolumeError::Diverged {
        dataset,
        reason: reason.into(),
    }
}

/// Says that a role does not allow something.
pub(super) fn wrong_role(ours: &Ours, verb: &'static str) -> VolumeError {
    VolumeError::WrongRole {
        dataset: ours.dataset,
        verb,
        role: ours.standing.role_word(),
    }
}
