//! One copy of a dataset on a disk.

use std::sync::Arc;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Findings;
use flocker_model::Manifestation;
use flocker_model::PartialReceive;
use flocker_model::Role;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::arrival::Arrival;
use super::content::Content;
use super::content::Delta;
use super::observer::CopySeen;
use crate::volume::VolumeError;

/// A snapshot and what it holds.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) snapshot: Snapshot,
    /// Who took it and when, so that two snapshots of equal content are two snapshots.
    pub(super) origin: Arc<str>,
    pub(super) blurred: bool,
    pub(super) content: Content,
}

impl Kept {
    pub(super) fn identify(origin: &str, name: &SnapshotName, content: &Content) -> SnapshotGuid {
        let mut hasher = blake3::Hasher::new();
        for part in [origin, name.as_str()] {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part.as_bytes());
        }
        content.hash_into(&mut hasher);
        let mut first = [0; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        SnapshotGuid(u128::from_be_bytes(first))
    }
}

/// A dataset's presence on this disk.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) role: Role,
    pub(super) since: Duration,
    pub(super) fence: Epoch,
    pub(super) maximum_size: Option<ByteSize>,
    pub(super) snapshots: Vec<Kept>,
    /// What an application sees.
    pub(super) live: Content,
    /// What of it survives a loss of power.
    pub(super) synced: Content,
    pub(super) arrival: Option<Arrival>,
}

impl Held {
    /// Returns a copy of which nothing is here yet.
    pub(super) fn empty(role: Role, maximum_size: Option<ByteSize>, now: Duration) -> Self {
        let fence = match &role {
            Role::Primary { epoch } | Role::Released { epoch, .. } => *epoch,
            Role::Replica => Epoch(0),
        };
        Self {
            role,
            since: now,
            fence,
            maximum_size,
            snapshots: Vec::new(),
            live: Content::default(),
            synced: Content::default(),
            arrival: None,
        }
    }

    pub(super) fn newest(&self) -> Option<SnapshotGuid> {
        self.snapshots.last().map(|kept| kept.snapshot.guid)
    }

    pub(super) fn find(&self, name: &SnapshotName) -> Option<&Kept> {
        self.snapshots.iter().find(|kept| kept.snapshot.name == *name)
    }

    pub(super) fn set_role(&mut self, role: Role, now: Duration) {
        self.role = role;
        self.since = now;
    }

    /// How the copy is called in a refusal.
    pub(super) fn role_text(&self) -> &'static str {
        match &self.role {
            Role::Primary { .. } => "primary",
            Role::Released { .. } => "released",
            Role::Replica => "a replica",
        }
    }

    pub(super) fn refuse(&self, dataset: DatasetId, verb: &'static str) -> VolumeError {
        VolumeError::WrongRole {
            dataset,
            verb,
            role: self.role_text(),
        }
    }

    pub(super) fn fenced(&self, dataset: DatasetId, epoch: Epoch) -> Result<(), VolumeError> {
        if epoch > self.fence {
            return Ok(());
        }
        Err(VolumeError::Fenced {
            dataset,
            epoch,
            fence: self.fence,
        })
    }

    fn unsent(&self) -> u64 {
        let last = self.snapshots.last();
        last.map_or_else(
            || self.live.size(),
            |last| Delta::size_between(&last.content, &self.live),
        )
    }

    /// Takes a snapshot; everything written before it is durable with it.
    pub(super) fn take(&mut self, name: &SnapshotName, origin: Arc<str>, blurred: bool) -> SnapshotGuid {
        let mut content = self.live.clone();
        if is_planted(Bug::ReleaseWithoutLastWrites) {
            content.clone_from(&self.synced);
        }
        let guid = Kept::identify(&origin, name, &content);
        let written = ByteSize(self.unsent());
        self.synced = self.live.clone();
        self.snapshots.push(Kept {
            snapshot: Snapshot {
                name: name.clone(),
                guid,
                written,
            },
            origin,
            blurred,
            content,
        });
        guid
    }

    /// Drops snapshots; what was written before them counts for the next ones. Says whether any was there.
    pub(super) fn drop_snapshots(&mut self, names: &[SnapshotName]) -> bool {
        let n_before = self.snapshots.len();
        let mut kept: Vec<Kept> = Vec::with_capacity(n_before);
        let mut is_gap = false;
        for mut snapshot in std::mem::take(&mut self.snapshots) {
            let goes = names.contains(&snapshot.snapshot.name);
            if !goes {
                if let Some(before) = kept.last().filter(|_| is_gap) {
                    let written = Delta::size_between(&before.content, &snapshot.content);
                    snapshot.snapshot.written = ByteSize(written);
                }
                kept.push(snapshot);
            }
            is_gap = goes;
        }
        self.snapshots = kept;
        self.snapshots.len() < n_before
    }

    pub(super) fn report(&self, now: Duration, round: Duration) -> Manifestation {
        let partial = self.arrival.as_ref().map(|arrival| {
            Box::new(PartialReceive {
                snapshot: arrival.header.snapshot.clone(),
                received: ByteSize(arrival.size()),
                token: arrival.header.token(arrival.frames.len()),
            })
        });
        Manifestation {
            role: self.role.clone(),
            snapshots: self.snapshots.iter().map(|kept| kept.snapshot.clone()).collect(),
            maximum_size: self.maximum_size,
            used: ByteSize(self.live.size()),
            unsent: ByteSize(self.unsent()),
            findings: Findings { round, altered: None }.boxed(),
            partial,
            fence: self.fence,
            age: now.saturating_sub(self.since),
        }
    }

    pub(super) fn seen(&self) -> CopySeen {
        let primary = match &self.role {
            Role::Primary { epoch } => Some(*epoch),
            Role::Released { .. } | Role::Replica => None,
        };
        CopySeen {
            primary,
            guids: self.snapshots.iter().map(|kept| kept.snapshot.guid).collect(),
            is_dirty: primary.is_some() && self.unsent() > 0,
            has_data: !self.live.is_empty(),
        }
    }
}

impl Held {
    /// Loses what a loss of power takes.
    pub(super) fn lose_power(&mut self) {
        self.live = self.synced.clone();
        if let Role::Released { epoch, .. } = self.role
            && is_planted(Bug::ReleaseNotDurable)
        {
            self.role = Role::Primary {
                epoch: Epoch(epoch.0.saturating_sub(1)),
            };
        }
        if let Some(arrival) = &mut self.arrival {
            arrival.frames.truncate(arrival.n_synced);
        }
    }
}
