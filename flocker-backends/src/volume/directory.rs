//! Volumes that are plain directories: for any Linux filesystem, without root.
//!
//! A snapshot is a manifest: every entry of the directory, and the digest of
//! every block of its files. Increments carry the blocks that differ. The
//! directory knows nothing of atomic snapshots, so one that is taken while the
//! application writes is blurred: good as a base for the next, never for a
//! hand-off. The one that a release takes is exact, or the release fails; and
//! nobody may still have anything of the data open for writing then. The lists
//! of earlier snapshots travel along, so that a third node's older
//! copy can be brought up to date too.
//!
//! What it cannot do: keep the application itself within the dataset's
//! maximum size, for which a filesystem needs quotas, and quotas root. The
//! limit is checked where data is sent and received and where it is changed,
//! and an inventory says how much there is of how much there may be.
//!
//! Entries that are not named as we name things are nobody's concern: they are
//! logged once and left alone. What is ours and cannot be read makes the
//! inventory an error that names it.
//!
//! Read `home` first: it has the order of the durable changes.

mod apply;
mod clock;
mod codec;
mod context;
mod counted;
mod difference;
mod dir;
mod earlier;
mod effects;
mod fences;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod home;
mod incoming;
mod inventory;
mod lock;
mod manifest;
mod receiving;
mod record;
mod roles;
mod scan;
mod sending;
mod snapshots;
mod stat;
mod stream;
#[cfg(test)]
mod tests;
mod trash;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Role;
use flocker_model::SnapshotName;
use nix::sys::statfs;

use self::clock::Clock;
use self::context::Context as _;
use self::counted::Counted;
use self::dir::Dir;
use self::effects::Effects;
use self::fences::Fences;
use self::home::Home;
use self::lock::Held;
use self::lock::Locks;
use self::lock::Scope;
use self::receiving::Receiving;
use self::record::Record;
use self::sending::Sending;
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
use crate::pipe;
use crate::reserve::Reserve;

/// How much room is kept for the list of a snapshot before one was written: some eight thousand files, or three gigabytes.
const LIST: u64 = 1 << 20;

/// How directories are used as volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryOptions {
    /// Whether a received file keeps the bits that let a program act as the file's owner.
    pub keep_set_id: bool,
    /// How long the manifest of a received snapshot may be. It takes about 40 bytes for each 128 KiB of data.
    pub manifest_limit: ByteSize,
}

impl DirectoryOptions {
    /// No set-id bits, and manifests for some terabytes.
    #[must_use]
    pub const fn cautious() -> Self {
        Self {
            keep_set_id: false,
            manifest_limit: ByteSize(1 << 30),
        }
    }
}

/// Volumes that are directories below one root.
///
/// Several processes may use one root at a time: their changes of one dataset
/// wait for each other.
#[derive(Clone, Debug)]
pub struct DirectoryVolumes {
    shared: Arc<Shared>,
}

/// What all calls share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    datasets: Dir,
    trash: Dir,
    staging: Dir,
    clock: Clock,
    locks: Locks,
    fences: Fences,
    options: DirectoryOptions,
    foreign: inventory::Foreign,
    counted: Counted,
    reserve: Arc<Reserve>,
    /// Whether a file that was written always has another time than before.
    trusts_times: bool,
}

impl DirectoryVolumes {
    /// Opens the root, and creates it where it is missing. An empty one is closed to others.
    ///
    /// Refused where anybody but its owner may enter it, or where that is not us.
    pub fn open(root: &Path, options: &DirectoryOptions) -> Result<Self, VolumeError> {
        Self::open_with(root, options, Effects::default())
    }

    fn open_with(root: &Path, options: &DirectoryOptions, effects: Effects) -> Result<Self, VolumeError> {
        let shared = Shared::open(root, options, effects)
            .to(|| format!("open the volumes in `{}`", root.display()))?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Makes one change of a dataset, on a thread that may block.
    ///
    /// Dropped before the lock is taken, nothing happens; dropped later, the change is completed.
    async fn change<T: Send + 'static>(
        &self,
        dataset: DatasetId,
        change: impl FnOnce(&Arc<Shared>, &Held) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let held = self.shared.lock(dataset, Scope::State).await?;
        let shared = Arc::clone(&self.shared);
        on_a_thread(move || change(&shared, &held)).await
    }

    /// The same for a dataset that has to be here.
    async fn change_here<T: Send + 'static>(
        &self,
        dataset: DatasetId,
        change: impl FnOnce(&Shared, &Home) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        self.change(dataset, move |shared, _| {
            change(shared, &shared.require(dataset)?)
        })
        .await
    }
}

#[async_trait]
impl VolumeBackend for DirectoryVolumes {
    async fn inventory(&self) -> Result<Inventory, VolumeError> {
        let shared = Arc::clone(&self.shared);
        on_a_thread(move || inventory::take(&shared)).await
    }

    async fn find(&self, dataset: DatasetId) -> Result<Option<Manifestation>, VolumeError> {
        let shared = Arc::clone(&self.shared);
        on_a_thread(move || inventory::find(&shared, dataset)).await
    }

    fn path(&self, dataset: DatasetId) -> PathBuf {
        self.shared
            .path
            .join("datasets")
            .join(dataset.to_string())
            .join("data")
    }

    async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let dataset = dataset.clone();
        self.change(dataset.id, move |shared, _| shared.create(&dataset, epoch))
            .await
    }

    async fn resize(&self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        self.change_here(dataset, move |shared, home| shared.resize(home, to))
            .await
    }

    async fn snapshot(&self, dataset: DatasetId, name: &SnapshotName) -> Result<Change, VolumeError> {
        let name = name.clone();
        self.change_here(dataset, move |shared, home| roles::snapshot(shared, home, &name))
            .await
    }

    async fn send(&self, request: &SendRequest) -> Result<ByteStream, VolumeError> {
        let request = request.clone();
        let sending = self
            .change(request.dataset, move |shared, held| {
                let home = shared.require(request.dataset)?;
                Sending::prepare(shared, home, &request, held)
            })
            .await?;
        let (outlet, stream) = pipe::stream();
        // It ends with the stream: by its end, or because nobody reads it any more.
        drop(tokio::task::spawn_blocking(move || sending.run(outlet)));
        Ok(stream)
    }

    async fn receive(&self, request: &ReceiveRequest, stream: ByteStream) -> Result<Change, VolumeError> {
        let arrival = self.shared.lock(request.dataset.id, Scope::Arrival).await?;
        let receiving = Receiving {
            shared: Arc::clone(&self.shared),
            request: request.clone(),
        };
        let (pump, mut intake) = pipe::intake();
        let received = on_a_thread(move || {
            let received = receiving.run(&mut intake);
            drop(arrival);
            received
        });
        let ((), received) = tokio::join!(pump.run(stream), received);
        received
    }

    async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError> {
        let handoff = handoff.clone();
        self.change_here(handoff.dataset, move |shared, home| {
            roles::release(shared, home, &handoff)
        })
        .await
    }

    async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        let acquisition = acquisition.clone();
        self.change_here(acquisition.dataset, move |shared, home| {
            roles::acquire(shared, home, &acquisition)
        })
        .await
    }

    async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        self.change(dataset, move |shared, _| {
            match Home::open(&shared.datasets, dataset)? {
                Some(home) => roles::renounce(shared, &home, epoch),
                None => Ok(Change::AlreadySo),
            }
        })
        .await
    }

    async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        self.change(dataset, move |shared, _| shared.destroy(dataset))
            .await
    }

    async fn restore(&self, entry: &str) -> Result<Change, VolumeError> {
        let no_trash = || VolumeError::NoTrash { entry: entry.into() };
        let (entry, dataset, _) = inventory::parse_trash(entry.as_bytes()).ok_or_else(no_trash)?;
        self.change(dataset, move |shared, _| shared.restore(dataset, &entry))
            .await
    }

    async fn reclaim(&self, what: &Reclaim) -> Result<Change, VolumeError> {
        match what {
            Reclaim::Snapshots { dataset, names } => {
                let (dataset, names) = (*dataset, names.clone());
                self.change(dataset, move |shared, _| shared.drop_snapshots(dataset, &names))
                    .await
            }
            Reclaim::Partial { dataset } => {
                let dataset = *dataset;
                // Whatever arrives just now has to end first.
                let arrival = self.shared.lock(dataset, Scope::Arrival).await?;
                self.change(dataset, move |shared, _| {
                    let dropped = shared.drop_partial(dataset);
                    drop(arrival);
                    dropped
                })
                .await
            }
            Reclaim::Trash { entry } => {
                let Some((entry, dataset, _)) = inventory::parse_trash(entry.as_bytes()) else {
                    return Ok(Change::AlreadySo);
                };
                self.change(dataset, move |shared, _| shared.drop_trash(dataset, &entry))
                    .await
            }
        }
    }
}

impl Shared {
    fn open(root: &Path, options: &DirectoryOptions, effects: Effects) -> std::io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)?;
        let path = root.canonicalize()?;
        let top = Dir::open(&path, effects)?;
        // An empty directory of ours is ours to close; any other may be open for a reason.
        if top.names()?.is_empty() && stat::Stat::of(&top)?.mode != 0o700 {
            top.set_mode(b"", 0o700)?;
        }
        require_private(&top)?;
        let below = |name: &[u8]| -> std::io::Result<Dir> {
            if top.stat(name)?.is_none()
                && let Err(error) = top.make_dir(name, 0o700)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(error);
            }
            top.dir(name)
        };
        // Room for what a move off a full disk writes down: the records, and the lists of two snapshots, or of as large
        // ones as there were.
        below(b"reserve")?;
        let reserve = Arc::new(Reserve::new(path.join("reserve"), LIST));
        reserve.make();
        let below = |name: &[u8]| Ok::<_, std::io::Error>(below(name)?.with_reserve(Arc::clone(&reserve)));
        let datasets = below(b"datasets")?;
        let trash = below(b"trash")?;
        let staging = below(b"staging")?;
        let locks = below(b"locks")?;
        let fences = below(b"fences")?;
        top.sync()?;
        let trusts_times = [
            statfs::EXT4_SUPER_MAGIC,
            statfs::XFS_SUPER_MAGIC,
            statfs::BTRFS_SUPER_MAGIC,
            statfs::F2FS_SUPER_MAGIC,
        ]
        .contains(&statfs::fstatfs(&top)?.filesystem_type());
        Ok(Self {
            path,
            datasets,
            trash,
            staging,
            clock: Clock::open(&top)?,
            locks: Locks::new(locks),
            fences: Fences::new(fences),
            options: options.clone(),
            foreign: inventory::Foreign::default(),
            counted: Counted::default(),
            reserve: Arc::clone(&reserve),
            trusts_times,
        })
    }

    async fn lock(&self, dataset: DatasetId, scope: Scope) -> Result<Held, VolumeError> {
        self.locks
            .lock(dataset, scope)
            .await
            .to(|| format!("lock dataset {dataset}"))
    }

    fn require(&self, dataset: DatasetId) -> Result<Home, VolumeError> {
        Home::open(&self.datasets, dataset)?.ok_or(VolumeError::NotHere { dataset })
    }

    fn settle(&self, home: &Home) -> Result<Record, VolumeError> {
        home.settle(&self.clock, self.options.keep_set_id)
    }

    fn now(&self) -> Result<i64, VolumeError> {
        let now = self.clock.now().to(|| "ask the time".into())?;
        Ok(now.seconds)
    }

    fn since(&self, seconds: i64) -> Result<Duration, VolumeError> {
        self.clock.since(seconds).to(|| "ask the time".into())
    }

    fn free(&self) -> Result<u64, VolumeError> {
        self.datasets.free().to(|| "see how much is free".into())
    }

    fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let role = Role::Primary { epoch };
        if let Some(home) = Home::open(&self.datasets, dataset.id)? {
            let record = self.settle(&home)?;
            if record.role == role {
                return Ok(Change::AlreadySo);
            }
            return Err(VolumeError::AlreadyHere {
                dataset: dataset.id,
                role: record.role_word(),
            });
        }
        self.beyond_fence(dataset.id, epoch)?;
        let record = Record::new(dataset, role, epoch, self.now()?);
        Home::create(&self.datasets, &self.staging, &record)?;
        Ok(Change::Made)
    }

    fn resize(&self, home: &Home, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        let dataset = home.dataset;
        let mut record = self.settle(home)?;
        if record.maximum_size == to {
            return Ok(Change::AlreadySo);
        }
        if let Some(available) = to {
            let (used, _) = inventory::measure(&home.dir, None)
                .to(|| format!("measure the data of dataset {dataset}"))?;
            if used > available.0 {
                return Err(VolumeError::NoSpace {
                    dataset,
                    needed: ByteSize(used),
                    available,
                });
            }
        }
        record.maximum_size = to;
        home.set_record(&record)?;
        Ok(Change::Made)
    }

    /// Refuses an ownership that this node has known, or a newer one than that, under an earlier copy.
    fn beyond_fence(&self, dataset: DatasetId, epoch: Epoch) -> Result<(), VolumeError> {
        let fence = self.fences.of(dataset)?;
        if epoch > fence {
            return Ok(());
        }
        Err(VolumeError::Fenced {
            dataset,
            epoch,
            fence,
        })
    }

    fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let name = dataset.to_string();
        // Before the copy goes: its trash may be emptied, and what it knew must not be forgotten.
        if let Some(home) = Home::open(&self.datasets, dataset)? {
            self.fences.raise(dataset, home.record()?.fence)?;
        }
        let now = self.now()?;
        let moved = || -> std::io::Result<Change> {
            if self.datasets.stat(name.as_bytes())?.is_none() {
                return Ok(Change::AlreadySo);
            }
            let mut number = 0;
            loop {
                let entry = inventory::trash_name(dataset, now, number);
                match self
                    .datasets
                    .rename(name.as_bytes(), &self.trash, entry.as_bytes())
                {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                    other => break other?,
                }
            }
            self.trash.sync()?;
            self.datasets.sync()?;
            Ok(Change::Made)
        };
        moved().to(|| format!("move dataset {dataset} to the trash"))
    }

    fn restore(&self, dataset: DatasetId, entry: &str) -> Result<Change, VolumeError> {
        let what = || format!("bring back the trash `{entry}`");
        if self.trash.stat(entry.as_bytes()).to(what)?.is_none() {
            return Err(VolumeError::NoTrash { entry: entry.into() });
        }
        if let Some(home) = Home::open(&self.datasets, dataset)? {
            return Err(VolumeError::AlreadyHere {
                dataset,
                role: home.record()?.role_word(),
            });
        }
        let home = Home {
            dataset,
            dir: self.trash.dir(entry.as_bytes()).to(what)?,
        };
        self.raise_fence(&home)?;
        trash::forget(&home.dir).to(what)?;
        let name = dataset.to_string();
        let moved = || -> std::io::Result<()> {
            self.trash
                .rename(entry.as_bytes(), &self.datasets, name.as_bytes())?;
            self.datasets.sync()?;
            self.trash.sync()
        };
        moved().to(what)?;
        Ok(Change::Made)
    }

    /// Makes a copy that comes back know what this node has learnt since. An owner that was followed stays away.
    fn raise_fence(&self, home: &Home) -> Result<(), VolumeError> {
        let fence = self.fences.of(home.dataset)?;
        let mut record = home.record()?;
        if record.fence >= fence {
            return Ok(());
        }
        match record.role {
            Role::Primary { epoch } => Err(VolumeError::Fenced {
                dataset: home.dataset,
                epoch,
                fence,
            }),
            Role::Released { .. } | Role::Replica => {
                record.fence = fence;
                home.set_record(&record)
            }
        }
    }

    /// Removes a dataset's directory; in one step as far as anybody can see.
    fn remove(&self, from: &Dir, name: &str) -> std::io::Result<()> {
        let name = name.as_bytes();
        self.staging.remove_all(name)?;
        from.rename(name, &self.staging, name)?;
        from.sync()?;
        self.staging.remove_all(name)
    }
}

fn require_private(top: &Dir) -> std::io::Result<()> {
    let stat = stat::Stat::of(top)?;
    let us = nix::unistd::geteuid().as_raw();
    if stat.uid != us {
        let reason = format!("it belongs to user {}, and we are user {us}", stat.uid);
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason));
    }
    if stat.mode & 0o077 != 0 {
        let reason = format!("others may enter it: its mode is {:o}, not 700", stat.mode);
        return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}

/// Runs what blocks where it may.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(context::broken(
                "finish a change of a volume".into(),
                "the runtime shuts down",
            )),
        },
    }
}
