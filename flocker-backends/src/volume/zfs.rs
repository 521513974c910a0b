//! Volumes that are ZFS filesystems.
//!
//! Everything that is known of a dataset is in properties of its filesystem.
//! Its name in the pool says nothing, and what has no such property of its own
//! is not ours: it is never touched. A snapshot of ZFS is atomic, so each may
//! be acquired, and it has the same identity in every pool that it was sent to.
//!
//! Any ZFS will do, OpenZFS or one by way of FUSE that is ten years older: what
//! the tool can do is asked of the tool. What none of them can do is kept a
//! promise all the same: the tool gets only bytes whose digest was found right.
//! A copy that was cut goes on where it stopped: where both tools can do that,
//! from what the pool itself has kept; else from what of the stream arrived so
//! slowly that it was kept beside the datasets.
//!
//! Read `standing` first, then `roles`: they have the order of the durable changes.

mod able;
mod begin;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inventory;
mod keeping;
pub mod listing;
mod lock;
mod mounts;
mod name;
mod partial;
mod receiving;
mod roles;
mod seen;
mod sending;
mod shared;
mod spool;
mod standing;
mod taking;
mod tool;
mod trash;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Role;
use flocker_model::SnapshotName;

pub use self::name::{ParentName, ParentNameError};

use self::lock::Scope;
use self::shared::Shared;
use super::Acquisition;
use super::ByteStream;
use super::Handoff;
use super::Inventory;
use super::ReceiveRequest;
use super::Reclaim;
use super::SendRequest;
use super::VolumeBackend;
use super::VolumeError;
use crate::change::Change;

/// Where datasets are kept and seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZfsOptions {
    /// The filesystem below which ours are. It is made where it is missing; one that exists must be ours.
    pub parent: ParentName,
    /// The directory that has one directory for each dataset, named by its id.
    pub mounts: PathBuf,
    /// The directory that has the locks. It need not outlive a restart of the machine.
    pub state: PathBuf,
    /// The file that is locked while something is mounted: the same for all parents of a machine.
    pub mounting: PathBuf,
    /// The tool: its path, or its name where it is in one of the usual places.
    pub program: PathBuf,
}

impl ZfsOptions {
    /// Datasets in `/flocker`, locks in `/run/flocker/zfs`, and the tool `zfs`.
    #[must_use]
    pub fn new(parent: ParentName) -> Self {
        Self {
            parent,
            mounts: "/flocker".into(),
            state: "/run/flocker/zfs".into(),
            mounting: "/run/flocker/zfs/mounting".into(),
            program: "zfs".into(),
        }
    }
}

/// Volumes that are filesystems below one filesystem of a pool.
///
/// Needs the rights of root. Several processes may use one parent at a time:
/// their changes of one dataset wait for each other.
#[derive(Clone, Debug)]
pub struct ZfsVolumes {
    shared: Arc<Shared>,
}

impl ZfsVolumes {
    /// Opens the parent, and creates it where it is missing. The pool must exist.
    ///
    /// Refused where the parent exists and is not marked as ours.
    pub async fn open(options: &ZfsOptions) -> Result<Self, VolumeError> {
        let shared = Arc::new(Shared::open(options).await?);
        Ok(Self { shared })
    }
}

#[async_trait]
impl VolumeBackend for ZfsVolumes {
    /// Lists what is here, and mounts what a restart of the machine left unmounted.
    async fn inventory(&self) -> Result<Inventory, VolumeError> {
        inventory::take(&self.shared).await
    }

    async fn find(&self, dataset: DatasetId) -> Result<Option<Manifestation>, VolumeError> {
        inventory::find(&self.shared, dataset).await
    }

    async fn ready(&self, dataset: DatasetId) -> Result<Option<Role>, VolumeError> {
        inventory::ready(&self.shared, dataset).await
    }

    fn takes(&self) -> Option<String> {
        Some(inventory::takes(&self.shared))
    }

    fn path(&self, dataset: DatasetId) -> PathBuf {
        self.shared.mounts.path(dataset)
    }

    async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let dataset = dataset.clone();
        let change = self.shared.change(dataset.id, move |shared| async move {
            shared.create(&dataset, epoch).await
        });
        change.await
    }

    async fn resize(&self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        let change = self.shared.change(
            dataset,
            move |shared| async move { shared.resize(dataset, to).await },
        );
        change.await
    }

    async fn snapshot(&self, dataset: DatasetId, name: &SnapshotName) -> Result<Change, VolumeError> {
        let name = name.clone();
        let change = self.shared.change(dataset, move |shared| async move {
            shared.snapshot(dataset, &name).await
        });
        change.await
    }

    async fn send(&self, request: &SendRequest) -> Result<ByteStream, VolumeError> {
        sending::open(&self.shared, request).await
    }

    /// Asks the tool for a dry run, where it has one.
    async fn size_to_send(&self, request: &SendRequest) -> Result<Option<ByteSize>, VolumeError> {
        sending::size(&self.shared, request).await
    }

    async fn receive(&self, request: &ReceiveRequest, stream: ByteStream) -> Result<Change, VolumeError> {
        receiving::receive(&self.shared, request, stream).await
    }

    async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError> {
        let handoff = handoff.clone();
        let change = self.shared.change(handoff.dataset, move |shared| async move {
            shared.release(&handoff).await
        });
        change.await
    }

    async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        let acquisition = acquisition.clone();
        let change = self.shared.change(acquisition.dataset, move |shared| async move {
            shared.acquire(&acquisition).await
        });
        change.await
    }

    async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        let change = self.shared.change(dataset, move |shared| async move {
            shared.renounce(dataset, epoch).await
        });
        change.await
    }

    /// Sets the mark of trash, and unmounts. What was still arriving is dropped and does not come back.
    async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let change = self.shared.change(
            dataset,
            move |shared| async move { shared.destroy(dataset).await },
        );
        change.await
    }

    async fn restore(&self, entry: &str) -> Result<Change, VolumeError> {
        let Some(dataset) = trash::dataset_of(entry) else {
            return Err(VolumeError::NoTrash { entry: entry.into() });
        };
        let entry = entry.to_owned();
        let change = self.shared.change(dataset, move |shared| async move {
            shared.restore(&entry, dataset).await
        });
        change.await
    }

    async fn reclaim(&self, what: &Reclaim) -> Result<Change, VolumeError> {
        match what {
            Reclaim::Snapshots { dataset, names } => {
                let (dataset, names) = (*dataset, names.clone());
                let change = self.shared.change(dataset, move |shared| async move {
                    shared.drop_snapshots(dataset, &names).await
                });
                change.await
            }
            Reclaim::Partial { dataset } => {
                let dataset = *dataset;
                // Whatever arrives just now has to end first.
                let arrival = self.shared.lock(dataset, Scope::Arrival).await?;
                let change = self.shared.change(dataset, move |shared| async move {
                    let dropped = shared.drop_partial(dataset).await;
                    drop(arrival);
                    dropped
                });
                change.await
            }
            Reclaim::Trash { entry } => {
                let Some(dataset) = trash::dataset_of(entry) else {
                    return Ok(Change::AlreadySo);
                };
                let entry = entry.clone();
                let change =
                    self.shared.change(
                        dataset,
                        move |shared| async move { shared.drop_trash(&entry).await },
                    );
                change.await
            }
        }
    }
}
