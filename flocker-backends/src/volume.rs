//! Volumes: where datasets live, are copied and change hands.
//!
//! # The hand-off
//!
//! A dataset has at most one primary. Its node [releases](VolumeBackend::release)
//! it: takes the last snapshot, becomes read-only and records for which epoch
//! and to whom it let go, all durable before the call returns. Only then the
//! last snapshot is sent, and only a node that holds that very snapshot
//! [acquires](VolumeBackend::acquire) the dataset. A node never takes an epoch
//! at or below its fence.

#[cfg(feature = "directory")]
pub mod directory;
#[cfg(any(feature = "directory", feature = "zfs"))]
mod holders;
#[cfg(feature = "zfs")]
pub mod zfs;

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;

use async_trait::async_trait;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Keeps;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::Trashed;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;
use tokio::io::AsyncRead;

use crate::change::Change;
use crate::class::Classify;
use crate::class::ErrorClass;

/// The bytes of a snapshot on their way. An error while reading means that the rest never comes.
pub type ByteStream = Pin<Box<dyn AsyncRead + Send>>;

/// Everything of ours that a node's volumes hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every dataset that has any trace here, independent of containers.
    pub datasets: BTreeMap<DatasetId, Manifestation>,
    /// Copies that were destroyed and can still be brought back.
    pub trash: Vec<Trashed>,
    /// Of datasets that have no trace here any more: the newest ownership that was known here. It is never taken again.
    pub fences: BTreeMap<DatasetId, Epoch>,
    /// Datasets of which something is here that cannot be read, and why. None of them is among `datasets`.
    pub unreadable: BTreeMap<DatasetId, String>,
    /// How much more data fits, if that can be told.
    pub free: Option<ByteSize>,
    /// What is kept of snapshots that are not the newest of their copy. Who says that it is their content sends any of them.
    pub keeps: Keeps,
}

/// Which snapshot is to be sent, and from where on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendRequest {
    /// The dataset.
    pub dataset: DatasetId,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The snapshot that the receiver has already; nothing for a full copy.
    pub base: Option<SnapshotGuid>,
    /// Where an earlier try stopped: the token of the receiver's [`PartialReceive`](flocker_model::PartialReceive), or
    /// what its backend [takes](VolumeBackend::takes). What does not fit this request is ignored: the stream starts at
    /// the beginning, and is one that everybody takes.
    pub resume: Option<String>,
}

/// Which snapshot is to arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveRequest {
    /// The dataset, as it is to be set up where it is not here yet.
    pub dataset: Dataset,
    /// The snapshot. A stream of any other is refused.
    pub snapshot: SnapshotName,
    /// The snapshot that the stream starts from; nothing for a full copy.
    pub base: Option<SnapshotGuid>,
}

/// How a primary lets go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// The dataset.
    pub dataset: DatasetId,
    /// The ownership that it lets go for; newer than its own.
    pub epoch: Epoch,
    /// Who may take that ownership.
    pub to: NodeName,
    /// The name of the snapshot that holds everything ever written.
    pub last: SnapshotName,
}

/// How a node becomes the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquisition {
    /// The dataset.
    pub dataset: DatasetId,
    /// The ownership to take; above the fence.
    pub epoch: Epoch,
    /// The snapshot from which it goes on; the newest complete one here.
    pub from: SnapshotName,
    /// The identity of that snapshot, which proves that the copy is the right one; nothing where only its name is known, as of
    /// one that was taken after everything was looked at.
    pub guid: Option<SnapshotGuid>,
}

/// What is no longer needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reclaim {
    /// Snapshots of ours. The newest complete one is never dropped.
    Snapshots {
        /// The dataset.
        dataset: DatasetId,
        /// Their names.
        names: Vec<SnapshotName>,
    },
    /// The beginning of a copy that will not be completed.
    Partial {
        /// The dataset.
        dataset: DatasetId,
    },
    /// A piece of trash, for ever.
    Trash {
        /// Which one.
        entry: String,
    },
}

/// Where datasets live.
#[async_trait]
pub trait VolumeBackend: fmt::Debug + Send + Sync {
    /// Lists what is here: ours only, independent of containers, from the volumes themselves.
    ///
    /// A dataset that cannot be read is listed as such or is an error, never an absence.
    async fn inventory(&self) -> Result<Inventory, VolumeError>;

    /// Returns one dataset as it stands in the list, for who needs no other: some need not look at them all.
    ///
    /// Sizes may be those of a moment ago. Nothing where nothing of it is here; an error where it cannot be read.
    async fn find(&self, dataset: DatasetId) -> Result<Option<Manifestation>, VolumeError> {
        let mut inventory = self.inventory().await?;
        match inventory.unreadable.remove(&dataset) {
            None => Ok(inventory.datasets.remove(&dataset)),
            Some(reason) => Err(VolumeError::Io {
                what: format!("read dataset {dataset}"),
                source: std::io::Error::new(std::io::ErrorKind::InvalidData, reason),
            }),
        }
    }

    /// Returns what a dataset is here, for who is about to start a program on it: a primary is then at its
    /// [path](Self::path) and can be written there. An error where that cannot be.
    ///
    /// Nothing where nothing of it is here. Dropped half way: as a [look](Self::inventory) that is dropped.
    async fn ready(&self, dataset: DatasetId) -> Result<Option<Role>, VolumeError> {
        Ok(self.find(dataset).await?.map(|found| found.role))
    }

    /// Returns what whoever sends to here has to know of the volumes, where no earlier try has left a token: its meaning is
    /// the backend's own. Nothing where every stream of the same backend is taken.
    fn takes(&self) -> Option<String> {
        None
    }

    /// Says where the data of a primary is mounted. The path does not depend on who owns it.
    fn path(&self, dataset: DatasetId) -> PathBuf;

    /// Creates an empty dataset as primary of `epoch`.
    ///
    /// `AlreadySo` where it is primary of just that epoch here. Refused where
    /// any other trace of it is here, so that data is never hidden by an empty
    /// volume, and at or below the fence that an earlier copy has left. Dropped
    /// half way: either nothing or the whole.
    async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError>;

    /// Sets how much the dataset may hold. Refused below what it holds.
    async fn resize(&self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError>;

    /// Takes a snapshot of a primary. `AlreadySo` where one of that name exists.
    ///
    /// A backend without atomic snapshots may take a blurred one while the
    /// application writes; it serves as a base for the next copy and can never
    /// be acquired. Dropped half way: no snapshot.
    async fn snapshot(&self, dataset: DatasetId, name: &SnapshotName) -> Result<Change, VolumeError>;

    /// Opens the stream of a snapshot: an increment when a base is given.
    ///
    /// Only a primary or a released copy is sent. A backend whose snapshots are lists may let those travel along that come
    /// between the base and this one, so that the receiver can bring older copies up to date later.
    async fn send(&self, request: &SendRequest) -> Result<ByteStream, VolumeError>;

    /// Returns how many bytes [`send`](Self::send) would bring, where that can be told without reading them; an estimate.
    ///
    /// Nothing where it cannot be told any better than from what the volumes are [seen](Self::find) to hold.
    async fn size_to_send(&self, request: &SendRequest) -> Result<Option<ByteSize>, VolumeError> {
        let _ = request;
        Ok(None)
    }

    /// Takes a stream in. It counts only when it is complete, verified and durable.
    ///
    /// `AlreadySo` where the snapshot is here already. Refused by a primary,
    /// and where the base is not the newest snapshot here: nothing is ever
    /// rolled back or overwritten. A released copy that receives becomes a
    /// replica and keeps its fence. Of two at once for one dataset at most one
    /// makes the snapshot: the other waits and finds it there, or fails, and
    /// what is sent again then arrives. Cut or dropped half way: the last
    /// complete snapshot is untouched, and what arrived is kept as a
    /// [`PartialReceive`](flocker_model::PartialReceive). What came along with
    /// it is listed before it, and never as the newest.
    async fn receive(&self, request: &ReceiveRequest, stream: ByteStream) -> Result<Change, VolumeError>;

    /// Lets go: takes the last snapshot, makes the data read-only and records the new epoch and its taker.
    ///
    /// Durable before it returns. `AlreadySo` where just this hand-off was
    /// made. A released copy may be released again for a newer epoch, with the
    /// same last snapshot. Dropped half way: still primary, or released.
    async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError>;

    /// Becomes the primary of `epoch`, durable before it returns.
    ///
    /// `AlreadySo` where it is primary of just that epoch. Refused at or below
    /// the fence, and unless the newest snapshot here is the one named, has the
    /// identity that is told, if one is, and is complete, not blurred. Dropped half way: as before, or primary.
    async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError>;

    /// Records, durable, that this node never takes `epoch` or an older one.
    ///
    /// Refused by a primary. `AlreadySo` where the fence is as high, or where
    /// nothing of the dataset is here.
    async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError>;

    /// Moves a copy to the trash, whatever its role. `AlreadySo` where none is here.
    ///
    /// Its fence stays for good, also when the trash is emptied: whatever
    /// comes to be here of the dataset later begins with it.
    async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError>;

    /// Brings a piece of trash back as it was. Refused where the dataset has a trace here.
    ///
    /// What this node has learnt since is not unlearnt: the fence stays as high
    /// as it was, and an owner's copy below it is refused.
    async fn restore(&self, entry: &str) -> Result<Change, VolumeError>;

    /// Drops what is no longer needed. `AlreadySo` where it is gone.
    async fn reclaim(&self, what: &Reclaim) -> Result<Change, VolumeError>;
}

/// Why a volume could not be changed or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// Nothing of the dataset is here.
    #[error("dataset `{dataset}` is not on this node")]
    NotHere {
        /// The dataset.
        dataset: DatasetId,
    },
    /// A trace of the dataset is here already.
    #[error("dataset `{dataset}` is on this node already, as {role}")]
    AlreadyHere {
        /// The dataset.
        dataset: DatasetId,
        /// What it is here.
        role: &'static str,
    },
    /// The copy's role does not allow this.
    #[error("could not {verb} dataset `{dataset}`: it is {role} here")]
    WrongRole {
        /// The dataset.
        dataset: DatasetId,
        /// What was to be done.
        verb: &'static str,
        /// What it is here.
        role: &'static str,
    },
    /// The ownership is one that this node must not take.
    #[error("could not take epoch {epoch} of dataset `{dataset}`: this node must not go below {fence}")]
    Fenced {
        /// The dataset.
        dataset: DatasetId,
        /// The ownership asked for.
        epoch: Epoch,
        /// The newest that it must not take.
        fence: Epoch,
    },
    /// The snapshot is not here.
    #[error("dataset `{dataset}` has no snapshot {snapshot} here")]
    NoSnapshot {
        /// The dataset.
        dataset: DatasetId,
        /// What was looked for.
        snapshot: String,
    },
    /// The copy here is not what the stream or the acquisition starts from.
    #[error("the copy of dataset `{dataset}` here does not fit: {reason}")]
    Diverged {
        /// The dataset.
        dataset: DatasetId,
        /// What does not fit.
        reason: String,
    },
    /// The stream is not what was asked for, or was damaged on its way.
    #[error("the stream of dataset `{dataset}` was refused: {reason}")]
    Stream {
        /// The dataset.
        dataset: DatasetId,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream ended early; what arrived is kept.
    #[error("the stream of dataset `{dataset}` was cut after {received}")]
    Cut {
        /// The dataset.
        dataset: DatasetId,
        /// How much has arrived.
        received: ByteSize,
        /// What cut it.
        source: std::io::Error,
    },
    /// It does not fit.
    #[error("dataset `{dataset}` does not fit: {needed} needed, {available} available")]
    NoSpace {
        /// The dataset.
        dataset: DatasetId,
        /// How much is needed.
        needed: ByteSize,
        /// How much there is.
        available: ByteSize,
    },
    /// There is no such piece of trash.
    #[error("there is no trash `{entry}` on this node")]
    NoTrash {
        /// What was looked for.
        entry: String,
    },
    /// The operating system refused.
    #[error("could not {what}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Classify for VolumeError {
    fn class(&self) -> ErrorClass {
        match self {
            // What a system cannot do it cannot do the next time either.
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::Unsupported => {
                ErrorClass::Permanent
            }
            Self::Cut { .. } | Self::Io { .. } | Self::NoSpace { .. } | Self::Stream { .. } => {
                ErrorClass::Transient
            }
            // Only a new plan can change these.
            Self::NotHere { .. }
            | Self::AlreadyHere { .. }
            | Self::WrongRole { .. }
            | Self::Fenced { .. }
            | Self::NoSnapshot { .. }
            | Self::Diverged { .. }
            | Self::NoTrash { .. } => ErrorClass::Permanent,
        }
    }
}
