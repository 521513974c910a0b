//! What a node has on its disk of datasets, and how each call changes it: the promises, as values.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Keeps;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::SnapshotName;
use flocker_model::Trashed;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::content::Content;
use super::held::Held;
use crate::change::Change;
use crate::volume::Acquisition;
use crate::volume::Handoff;
use crate::volume::Inventory;
use crate::volume::Reclaim;
use crate::volume::VolumeError;

#[derive(Clone, Debug)]
struct Trash {
    dataset: DatasetId,
    held: Arc<Held>,
    since: Duration,
}

/// A node's disk. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) node: NodeName,
    pub(super) now: Duration,
    pub(super) datasets: BTreeMap<DatasetId, Arc<Held>>,
    trash: BTreeMap<String, Trash>,
    /// The newest ownership that was known here of each dataset when a copy left.
    fences: BTreeMap<DatasetId, Epoch>,
    n_taken: u64,
    n_destroyed: u64,
    pub(super) n_arrivals: u64,
    pub(super) capacity: Option<ByteSize>,
    /// How long this end of a round is said to take at least.
    pub(super) round: Duration,
    /// Whether snapshots of what is written meanwhile are blurred.
    pub(super) blurs: bool,
    /// What cannot be mounted.
    pub(super) hidden: BTreeSet<DatasetId>,
}

impl Disk {
    pub(super) fn new(node: NodeName) -> Self {
        Self {
            node,
            now: Duration::ZERO,
            datasets: BTreeMap::new(),
            trash: BTreeMap::new(),
            fences: BTreeMap::new(),
            n_taken: 0,
            n_destroyed: 0,
            n_arrivals: 0,
            capacity: None,
            round: Duration::ZERO,
            blurs: false,
            hidden: BTreeSet::new(),
        }
    }

    pub(super) fn held(&self, dataset: DatasetId) -> Result<&Held, VolumeError> {
        self.datasets
            .get(&dataset)
            .map(Arc::as_ref)
            .ok_or(VolumeError::NotHere { dataset })
    }

    fn held_mut(&mut self, dataset: DatasetId) -> Result<&mut Held, VolumeError> {
        self.datasets
            .get_mut(&dataset)
            .map(Arc::make_mut)
            .ok_or(VolumeError::NotHere { dataset })
    }

    /// Returns a copy that may be written, or why it may not.
    pub(super) fn writable(&mut self, dataset: DatasetId) -> Result<&mut Held, VolumeError> {
        let held = self.held_mut(dataset)?;
        match held.role {
            Role::Primary { .. } => Ok(held),
            Role::Released { .. } | Role::Replica => Err(held.refuse(dataset, "write")),
        }
    }

    /// Refuses what does not fit, into the dataset or onto the disk.
    pub(super) fn fits(&self, dataset: DatasetId, content: &Content) -> Result<(), VolumeError> {
        let needed = ByteSize(content.size());
        let limit = self.datasets.get(&dataset).and_then(|held| held.maximum_size);
        let others = self.datasets.iter().filter(|(id, _)| **id != dataset);
        let others: u64 = others.map(|(_, held)| held.live.size()).sum();
        let room = self.capacity.map(|all| ByteSize(all.0.saturating_sub(others)));
        match [limit, room].into_iter().flatten().min() {
            Some(available) if available < needed => Err(VolumeError::NoSpace {
                dataset,
                needed,
                available,
            }),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn inventory(&self) -> Inventory {
        let used: u64 = self.datasets.values().map(|held| held.live.size()).sum();
        let trash = self.trash.iter().map(|(entry, trash)| Trashed {
            entry: entry.clone(),
            dataset: trash.dataset,
            role: Some(trash.held.role.clone()),
            used: ByteSize(trash.held.live.size()),
            age: self.now.saturating_sub(trash.since),
        });
        Inventory {
            unreadable: BTreeMap::new(),
            datasets: self
                .datasets
                .iter()
                .map(|(id, held)| (*id, held.report(self.now, self.round)))
                .collect(),
            trash: trash.collect(),
            fences: self
                .fences
                .iter()
                .filter(|(id, _)| !self.datasets.contains_key(id))
                .map(|(id, fence)| (*id, *fence))
                .collect(),
            free: self.capacity.map(|all| ByteSize(all.0.saturating_sub(used))),
            keeps: if self.blurs { Keeps::Lists } else { Keeps::Content },
        }
    }

    pub(super) fn create(&mut self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let role = Role::Primary { epoch };
        match self.datasets.get(&dataset.id) {
            Some(held) if held.role == role => Ok(Change::AlreadySo),
            Some(held) => Err(VolumeError::AlreadyHere {
                dataset: dataset.id,
                role: held.role_text(),
            }),
            None => {
                let held = Held::empty(role, dataset.maximum_size, self.now);
                let fence = self.fence_left(dataset.id);
                if epoch <= fence {
                    return Err(VolumeError::Fenced {
                        dataset: dataset.id,
                        epoch,
                        fence,
                    });
                }
                self.datasets.insert(dataset.id, Arc::new(held));
                Ok(Change::Made)
            }
        }
    }

    /// Returns what an earlier copy of a dataset has left: an ownership that is never taken again.
    pub(super) fn fence_left(&self, dataset: DatasetId) -> Epoch {
        self.fences.get(&dataset).copied().unwrap_or_default()
    }

    pub(super) fn resize(&mut self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        let held = self.held_mut(dataset)?;
        let needed = ByteSize(held.live.size());
        if held.maximum_size == to {
            return Ok(Change::AlreadySo);
        }
        if let Some(available) = to.filter(|to| *to < needed) {
            return Err(VolumeError::NoSpace {
                dataset,
                needed,
                available,
            });
        }
        held.maximum_size = to;
        Ok(Change::Made)
    }

    /// Names what is taken now, unlike anything else that is ever taken anywhere.
    fn next_origin(&mut self) -> Arc<str> {
        self.n_taken += 1;
        format!("{}/{}", self.node, self.n_taken).into()
    }

    pub(super) fn snapshot(
        &mut self,
        dataset: DatasetId,
        name: &SnapshotName,
        is_written: bool,
    ) -> Result<Change, VolumeError> {
        let origin = self.next_origin();
        let blurred = self.blurs && is_written;
        let held = self.held_mut(dataset)?;
        if !matches!(held.role, Role::Primary { .. }) {
            return Err(held.refuse(dataset, "take a snapshot of"));
        }
        if held.find(name).is_some() && !is_planted(Bug::SnapshotTwice) {
            return Ok(Change::AlreadySo);
        }
        held.take(name, origin, blurred);
        Ok(Change::Made)
    }

    pub(super) fn release(&mut self, handoff: &Handoff) -> Result<Change, VolumeError> {
        let dataset = handoff.dataset;
        let origin = self.next_origin();
        let now = self.now;
        let held = self.held_mut(dataset)?;
        let (last, guid) = match &held.role {
            Role::Replica => return Err(held.refuse(dataset, "release")),
            Role::Primary { .. } => {
                held.fenced(dataset, handoff.epoch)?;
                if held.find(&handoff.last).is_some() {
                    return Err(VolumeError::Diverged {
                        dataset,
                        reason: format!("it has an older snapshot `{}`", handoff.last),
                    });
                }
                (handoff.last.clone(), held.take(&handoff.last, origin, false))
            }
            Role::Released {
                epoch,
                to,
                last,
                guid,
            } => {
                if *last != handoff.last {
                    return Err(VolumeError::Diverged {
                        dataset,
                        reason: format!("it was released with `{last}`"),
                    });
                }
                if *epoch == handoff.epoch && *to == handoff.to {
                    return Ok(Change::AlreadySo);
                }
                held.fenced(dataset, handoff.epoch)?;
                (last.clone(), *guid)
            }
        };
        if is_planted(Bug::ReleaseStaysWritable) {
            return Ok(Change::Made);
        }
        held.fence = handoff.epoch;
        let released = Role::Released {
            epoch: handoff.epoch,
            to: handoff.to.clone(),
            last,
            guid,
        };
        held.set_role(released, now);
        Ok(Change::Made)
    }

    pub(super) fn acquire(&mut self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        let Acquisition {
            dataset,
            epoch,
            from,
            guid,
        } = acquisition;
        let now = self.now;
        let held = self.held_mut(*dataset)?;
        let primary = Role::Primary { epoch: *epoch };
        if held.role == primary {
            return Ok(Change::AlreadySo);
        }
        if matches!(held.role, Role::Primary { .. }) {
            return Err(held.refuse(*dataset, "acquire"));
        }
        held.fenced(*dataset, *epoch)?;
        let refuse = |reason: String| {
            Err(VolumeError::Diverged {
                dataset: *dataset,
                reason,
            })
        };
        let Some(newest) = held.snapshots.last() else {
            return Err(VolumeError::NoSnapshot {
                dataset: *dataset,
                snapshot: from.to_string(),
            });
        };
        if newest.snapshot.name != *from {
            return refuse(format!("its newest snapshot is `{}`", newest.snapshot.name));
        }
        if guid.is_some_and(|guid| newest.snapshot.guid != guid) {
            return refuse(format!("its snapshot `{from}` is {}", newest.snapshot.guid));
        }
        if newest.blurred {
            return refuse(format!("its snapshot `{from}` was taken while it was written"));
        }
        held.live = newest.content.clone();
        held.synced = held.live.clone();
        held.arrival = None;
        held.fence = *epoch;
        held.set_role(primary, now);
        Ok(Change::Made)
    }

    pub(super) fn renounce(&mut self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        let Some(held) = self.datasets.get_mut(&dataset).map(Arc::make_mut) else {
            return Ok(Change::AlreadySo);
        };
        match held.role {
            Role::Primary { .. } => Err(held.refuse(dataset, "renounce")),
            Role::Released { .. } | Role::Replica if held.fence >= epoch => Ok(Change::AlreadySo),
            Role::Released { .. } | Role::Replica => {
                held.fence = epoch;
                Ok(Change::Made)
            }
        }
    }

    pub(super) fn destroy(&mut self, dataset: DatasetId) -> Change {
        let Some(held) = self.datasets.remove(&dataset) else {
            return Change::AlreadySo;
        };
        let fence = self.fence_left(dataset).max(held.fence);
        if fence > Epoch::default() {
            self.fences.insert(dataset, fence);
        }
        self.n_destroyed += 1;
        let entry = format!("{dataset}-{}", self.n_destroyed);
        let since = self.now;
        self.trash.insert(entry, Trash { dataset, held, since });
        Change::Made
    }

    pub(super) fn restore(&mut self, entry: &str) -> Result<Change, VolumeError> {
        let entry = entry.to_owned();
        let Some(trash) = self.trash.get(&entry) else {
            return Err(VolumeError::NoTrash { entry });
        };
        if let Some(held) = self.datasets.get(&trash.dataset) {
            return Err(VolumeError::AlreadyHere {
                dataset: trash.dataset,
                role: held.role_text(),
            });
        }
        let fence = self.fence_left(trash.dataset);
        if let Role::Primary { epoch } = trash.held.role
            && trash.held.fence < fence
        {
            return Err(VolumeError::Fenced {
                dataset: trash.dataset,
                epoch,
                fence,
            });
        }
        if let Some(mut trash) = self.trash.remove(&entry) {
            let held = Arc::make_mut(&mut trash.held);
            held.fence = held.fence.max(fence);
            self.datasets.insert(trash.dataset, trash.held);
        }
        Ok(Change::Made)
    }

    pub(super) fn reclaim(&mut self, what: &Reclaim) -> Result<Change, VolumeError> {
        let is_changed = match what {
            Reclaim::Trash { entry } => self.trash.remove(entry).is_some(),
            Reclaim::Partial { dataset } => self.reclaim_partial(*dataset),
            Reclaim::Snapshots { dataset, names } => self.reclaim_snapshots(*dataset, names)?,
        };
        Ok(if is_changed {
            Change::Made
        } else {
            Change::AlreadySo
        })
    }

    fn reclaim_partial(&mut self, dataset: DatasetId) -> bool {
        let fence = self.fence_left(dataset);
        let Some(held) = self.datasets.get_mut(&dataset).map(Arc::make_mut) else {
            return false;
        };
        let is_changed = held.arrival.take().is_some();
        // What was nothing but a beginning leaves no trace, unless something was renounced.
        if is_changed && held.snapshots.is_empty() && held.fence <= fence {
            self.datasets.remove(&dataset);
        }
        is_changed
    }

    fn reclaim_snapshots(&mut self, dataset: DatasetId, names: &[SnapshotName]) -> Result<bool, VolumeError> {
        let Some(held) = self.datasets.get_mut(&dataset).map(Arc::make_mut) else {
            return Ok(false);
        };
        let newest = held.snapshots.last().map(|kept| &kept.snapshot.name);
        if newest.is_some_and(|newest| names.contains(newest)) {
            return Err(held.refuse(dataset, "drop the newest snapshot of"));
        }
        Ok(held.drop_snapshots(names))
    }
}
