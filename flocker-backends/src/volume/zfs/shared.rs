//! What all calls share: the tool, the places, the locks, and how a change is made.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;

use super::ZfsOptions;
use super::listing;
use super::lock;
use super::lock::Held;
use super::lock::Locks;
use super::lock::Scope;
use super::mounts::Mounts;
use super::partial::Rests;
use super::seen::Ours;
use super::seen::Seen;
use super::spool::Note;
use super::spool::Spool;
use super::standing::Standing;
use super::tool::Context as _;
use super::tool::Tool;
use super::tool::broken;
use super::tool::says;
use super::tool::while_busy;
use crate::blocking::blocking;
use crate::change::Change;
use crate::volume::VolumeError;
use crate::volume::holders;
use crate::volume::holders::Extent;

/// How long a file may stay open for writing before that counts as a writer: whoever starts a program shares its files
/// with it for a moment, and FUSE closes a little after the one who wrote has ended.
const LAST_WRITER: Duration = Duration::from_secs(1);

/// What all calls share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tool: Tool,
    pub(super) parent: String,
    pub(super) mounts: Mounts,
    pub(super) locks: Locks,
    pub(super) rests: Rests,
    state: PathBuf,
    mounting: PathBuf,
}

impl Shared {
    pub(super) async fn open(options: &ZfsOptions) -> Result<Self, VolumeError> {
        let parent = options.parent.to_string();
        let open = || format!("open the volumes below `{parent}`");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.state)
            .to(open)?;
        if let Some(directory) = options.mounting.parent() {
            std::fs::create_dir_all(directory).to(open)?;
        }
        let pool = options.parent.pool();
        let tool = Tool::ask(options.program.clone(), pool).await.to(open)?;
        let shared = Self {
            tool,
            mounts: Mounts::new(options.mounts.clone()),
            locks: Locks::new(options.state.clone()),
            rests: Rests::default(),
            state: options.state.clone(),
            mounting: options.mounting.clone(),
            parent,
        };
        shared.require_parent().await?;
        Ok(shared)
    }

    /// Makes the filesystem below which ours are, or sees that it is ours.
    ///
    /// What is below it inherits that it is not written and not mounted, and
    /// that nothing in it gets the rights of its owner. So even what was just
    /// received, and has nothing set on itself yet, is safe.
    async fn require_parent(&self) -> Result<(), VolumeError> {
        let parent = &self.parent;
        let what = || format!("set up `{parent}`");
        let arguments = ["get", "-Hp", "-o", "value,source", listing::ROOT, parent];
        match self.tool.tell(arguments).await {
            Ok(output) if output == b"1\tlocal\n" => Ok(()),
            Ok(_) => Err(broken(what(), "it exists, and is not marked as ours")),
            Err(error) if says(&error, "does not exist") => {
                let mark = format!("{}=1", listing::ROOT);
                let mut arguments = vec!["create"];
                for property in [
                    "mountpoint=none",
                    "canmount=off",
                    "readonly=on",
                    "atime=off",
                    "setuid=off",
                    "devices=off",
                    // Snapshots of others would come between ours.
                    "com.sun:auto-snapshot=false",
                    &mark,
                ] {
                    arguments.extend(["-o", property]);
                }
                arguments.push(parent);
                drop(self.tool.run(arguments).await.to(what)?);
                // So that nobody waits for it whose application is stopped already.
                let name = self.create_spool().await?;
                self.mount_spool(&name).await.map(drop)
            }
            Err(error) => Err(error).to(what),
        }
    }

    /// Sees what is here.
    pub(super) async fn look(&self) -> Result<Seen, VolumeError> {
        let listing = self.tool.list(&self.parent).await?;
        // Read last: whatever was destroyed meanwhile has left its fence before.
        let fences = self.tool.fences(&self.parent).await?;
        Seen::of(listing, fences, &self.parent)
    }

    /// Sees what is here, for a change of this dataset: fails where it cannot be read.
    pub(super) async fn look_at(&self, dataset: DatasetId) -> Result<Seen, VolumeError> {
        let seen = self.look().await?;
        seen.require_readable(dataset)?;
        Ok(seen)
    }

    /// Sees what is here, for a change that asks for the snapshots of others, and for what earlier copies have left, only
    /// where no copy is here: they are not read else.
    ///
    /// An application may be waiting, and hundreds of snapshots take longer to read than all the rest.
    pub(super) async fn look_for(&self, dataset: DatasetId) -> Result<Seen, VolumeError> {
        let name = format!("{}/{dataset}", self.parent);
        if let Some(listing) = self.tool.list_near(&self.parent, &name).await? {
            let seen = Seen::of(listing, BTreeMap::new(), &self.parent)?;
            seen.require_readable(dataset)?;
            // Under another name, its snapshots were not read.
            if seen.here.get(&dataset).is_some_and(|ours| ours.name == name) {
                return Ok(seen);
            }
        }
        self.look_at(dataset).await
    }

    /// Remembers an ownership for good, unless a newer one is remembered. Needs the lock of the dataset's state.
    pub(super) async fn raise_fence(
        &self,
        seen: &Seen,
        dataset: DatasetId,
        to: Epoch,
    ) -> Result<Change, VolumeError> {
        if seen.fence_left(dataset) >= to {
            return Ok(Change::AlreadySo);
        }
        let property = format!("{}{dataset}", listing::FENCE);
        let set = self.tool.set(&property, &to.to_string(), &self.parent).await;
        set.to(|| format!("write the fence of dataset {dataset}"))?;
        Ok(Change::Made)
    }

    pub(super) async fn lock(&self, dataset: DatasetId, scope: Scope) -> Result<Held, VolumeError> {
        let locked = self.locks.lock(dataset, scope).await;
        locked.to(|| format!("lock dataset {dataset}"))
    }

    /// Makes one change of a dataset.
    ///
    /// Dropped before the lock is taken, nothing happens; dropped later, the
    /// change is completed: a program that was killed half way may have done
    /// its work or not, and the pool may still be about it.
    pub(super) async fn change<T, F>(
        self: &Arc<Self>,
        dataset: DatasetId,
        change: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, VolumeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, VolumeError>> + Send + 'static,
    {
        let held = self.lock(dataset, Scope::State).await?;
        let change = change(Arc::clone(self));
        let task = tokio::spawn(async move {
            let changed = change.await;
            drop(held);
            changed
        });
        match task.await {
            Ok(changed) => changed,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(io::Error::other(error)).to(|| format!("change dataset {dataset}")),
            },
        }
    }

    /// Says what time it is, in seconds since 1970, by the clock of the filesystem that has the locks.
    pub(super) fn now(&self) -> Result<i64, VolumeError> {
        let asked = || -> io::Result<i64> {
            let path = self.state.join("clock");
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)?;
            let now = rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_NOW,
            };
            let times = rustix::fs::Timestamps {
                last_access: now,
                last_modification: now,
            };
            rustix::fs::futimens(&file, &times)?;
            let since = file.metadata()?.modified()?.duration_since(UNIX_EPOCH);
            Ok(since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)))
        };
        asked().to(|| "ask the time".into())
    }

    /// Writes down what a dataset is here: one property, hence as a whole or not at all.
    pub(super) async fn set_standing(&self, ours: &Ours, standing: &Standing) -> Result<(), VolumeError> {
        let set = self
            .tool
            .set(listing::ROLE, &standing.to_text(), &ours.name)
            .await;
        set.to(|| format!("write down what dataset {} is here", ours.dataset))
    }

    /// Makes what is mounted follow from the role, after a call that was dropped or a restart of the machine.
    pub(super) async fn settle(&self, ours: &Ours) -> Result<(), VolumeError> {
        match ours.standing.role {
            Role::Primary { .. } => {
                if ours.filesystem.is_read_only {
                    self.set_writable(ours).await?;
                }
                self.mount(ours).await?;
                self.follow(ours, false).await
            }
            Role::Released { .. } => {
                if !ours.filesystem.is_read_only {
                    self.set_read_only(ours).await?;
                }
                self.mount(ours).await?;
                self.follow(ours, true).await
            }
            Role::Replica => {
                if !ours.filesystem.is_read_only {
                    self.set_read_only(ours).await?;
                }
                self.unmount(ours).await
            }
        }
    }

    /// Says whether neither [`settle`](Self::settle) would do anything, nor anything is still kept that a primary has left.
    pub(super) fn is_settled(ours: &Ours) -> bool {
        Self::is_as_its_role_says(ours) && !Self::has_left(ours)
    }

    /// Says whether [`settle`](Self::settle) would do nothing.
    pub(super) fn is_as_its_role_says(ours: &Ours) -> bool {
        let (read_only, mounted) = match ours.standing.role {
            Role::Primary { .. } => (false, true),
            Role::Released { .. } => (true, true),
            Role::Replica => (true, false),
        };
        ours.filesystem.is_read_only == read_only && ours.filesystem.is_mounted == mounted
    }

    /// Says whether the pool still keeps, of a primary, what was arriving before it was one.
    ///
    /// It is of a past that this copy has left, nobody goes on with it, and its base cannot be destroyed before it is.
    pub(super) fn has_left(ours: &Ours) -> bool {
        matches!(ours.standing.role, Role::Primary { .. }) && ours.filesystem.partial.is_some()
    }

    /// Shuts writers out. Fails where there is one and stays, and then changes nothing.
    pub(super) async fn set_read_only(&self, ours: &Ours) -> Result<(), VolumeError> {
        // First the kernel: it looks for writers only where a filesystem is writable yet.
        let is_busy = |error: &VolumeError| matches!(error, VolumeError::Io { source, .. } if source.kind() == io::ErrorKind::ResourceBusy);
        match while_busy(LAST_WRITER, is_busy, || self.follow(ours, true)).await {
            Err(error) if is_busy(&error) => return Err(self.who_is_in_the_way(ours, error).await),
            other => other?,
        }
        let set = self.tool.set("readonly", "on", &ours.name).await;
        set.to(|| format!("make dataset {} read-only", ours.dataset))
    }

    /// Names those who are in the way of letting go, where the kernel tells who they are.
    async fn who_is_in_the_way(&self, ours: &Ours, error: VolumeError) -> VolumeError {
        let path = self.mounts.path(ours.dataset);
        let looked = blocking(move || {
            let place = File::open(path)?;
            holders::of(place.as_fd(), Extent::Filesystem)
        });
        match looked.await {
            Ok(holders) if !holders.is_empty() => VolumeError::Io {
                what: format!("let go of dataset {}", ours.dataset),
                source: holders::in_the_way(&holders),
            },
            Ok(_) => error,
            Err(not_seen) => {
                tracing::debug!(dataset = %ours.dataset, error = %not_seen, "who is in the way is not seen");
                error
            }
        }
    }

    /// Lets writers in.
    pub(super) async fn set_writable(&self, ours: &Ours) -> Result<(), VolumeError> {
        let set = self.tool.set("readonly", "off", &ours.name).await;
        set.to(|| format!("make dataset {} writable", ours.dataset))?;
        self.follow(ours, false).await
    }

    /// Has the kernel say the same as the pool of what is mounted.
    async fn follow(&self, ours: &Ours, is_read_only: bool) -> Result<(), VolumeError> {
        let path = self.mounts.path(ours.dataset);
        let followed = blocking(move || super::mounts::follow(&path, is_read_only)).await;
        followed.to(|| {
            let wish = if is_read_only { "read-only" } else { "writable" };
            format!("have the kernel take dataset {} as {wish}", ours.dataset)
        })
    }

    /// Fails where a dataset is not mounted at its path and writable, whatever the pool says.
    pub(super) async fn require_writable(&self, dataset: DatasetId) -> Result<(), VolumeError> {
        let path = self.mounts.path(dataset);
        let what = format!("write to dataset {dataset} at `{}`", path.display());
        let seen = blocking(move || super::mounts::require_writable(&path)).await;
        seen.to(|| what)
    }

    pub(super) async fn mount(&self, ours: &Ours) -> Result<(), VolumeError> {
        if ours.filesystem.is_mounted {
            return Ok(());
        }
        self.mount_at(&ours.name, self.mounts.path(ours.dataset)).await
    }

    pub(super) async fn mount_at(&self, name: &str, path: PathBuf) -> Result<(), VolumeError> {
        let what = || format!("mount `{name}` at `{}`", path.display());
        Mounts::prepare(&path).to(what)?;
        // ZFS by way of FUSE never mounts anything again after it was told to
        // mount two filesystems at once and mixed up the two orders (2026-11-21).
        let turn = lock::wait_for(&self.mounting).await.to(what)?;
        let mounted = self.tool.insist(&["mount", name]).await;
        drop(turn);
        match mounted {
            // Somebody else was faster; it is where it belongs all the same.
            Err(error) if says(&error, "already mounted") => Ok(()),
            other => other.to(what),
        }
    }

    pub(super) async fn unmount(&self, ours: &Ours) -> Result<(), VolumeError> {
        if !ours.filesystem.is_mounted {
            return Ok(());
        }
        match self.tool.insist(&["unmount", &ours.name]).await {
            Err(error) if says(&error, "not currently mounted") => Ok(()),
            other => other.to(|| format!("unmount dataset {}", ours.dataset)),
        }
    }

    /// Returns where streams wait, where that is here and mounted.
    pub(super) async fn spool(&self, seen: &Seen) -> Result<Option<Spool>, VolumeError> {
        let Some((name, is_mounted)) = &seen.spool else {
            return Ok(None);
        };
        if *is_mounted {
            return Ok(Some(Spool(self.mounts.spool())));
        }
        self.mount_spool(name).await.map(Some)
    }

    /// Mounts where streams wait, and closes it to others: streams have everything that the datasets have, without their permissions.
    async fn mount_spool(&self, name: &str) -> Result<Spool, VolumeError> {
        let path = self.mounts.spool();
        self.mount_at(name, path.clone()).await?;
        let closed = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700));
        closed.to(|| format!("close `{}` to others", path.display()))?;
        Ok(Spool(path))
    }

    /// Returns what is noted of what has begun to arrive of a dataset.
    pub(super) async fn note(&self, seen: &Seen, dataset: DatasetId) -> Result<Option<Note>, VolumeError> {
        match self.spool(seen).await? {
            Some(spool) => spool
                .note(dataset)
                .to(|| format!("find what has arrived of dataset {dataset}")),
            None => Ok(None),
        }
    }

    /// Returns where streams wait, and makes it where it is not here yet.
    pub(super) async fn require_spool(&self, seen: &Seen) -> Result<Spool, VolumeError> {
        if let Some(spool) = self.spool(seen).await? {
            return Ok(spool);
        }
        let name = self.create_spool().await?;
        // A foreign filesystem of that name has no mark, and is left alone.
        let seen = self.look().await?;
        let spool = self.spool(&seen).await?;
        spool.ok_or_else(|| broken(format!("use `{name}`"), "it is not marked as ours"))
    }

    /// Makes the filesystem where streams wait, and returns its name.
    async fn create_spool(&self) -> Result<String, VolumeError> {
        let name = format!("{}/incoming", self.parent);
        let path = self.mounts.spool();
        let mountpoint = format!("mountpoint={}", path.display());
        let mark = format!("{}=1", listing::SPOOL);
        let mut arguments = vec!["create"];
        for property in [
            mountpoint.as_str(),
            "canmount=noauto",
            "readonly=off",
            "exec=off",
            &mark,
        ] {
            arguments.extend(["-o", property]);
        }
        arguments.push(&name);
        match self.tool.run(arguments).await {
            // Two streams begin to arrive at once.
            Err(error) if says(&error, "already exists") => {}
            other => drop(other.to(|| format!("create `{name}`"))?),
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "1-0-0-00";

    fn ours(role: Role, is_read_only: bool, partial: Option<&str>) -> Ours {
        let filesystem = super::listing::Filesystem {
            guid: 1,
            referenced: 0,
            available: 0,
            used_by_snapshots: 0,
            written: None,
            is_mounted: !is_read_only,
            mountpoint: "none".into(),
            is_read_only,
            is_mounted_otherwise: false,
            quota: None,
            partial: partial.map(Into::into),
            own: BTreeMap::new(),
            snapshots: Vec::new(),
        };
        Ours {
            name: "p/a".into(),
            dataset: DatasetId(uuid::Uuid::from_u128(7)),
            standing: Standing::new(role, Epoch(2), 5),
            trashed: None,
            filesystem,
        }
    }

    #[test]
    fn a_primary_is_not_settled_while_the_pool_keeps_what_was_arriving_before() {
        let primary = |partial| ours(Role::Primary { epoch: Epoch(2) }, false, partial);
        assert!(Shared::is_settled(&primary(None)));
        assert!(!Shared::is_settled(&primary(Some(STREAM))));
        // A copy is gone on with.
        let replica = ours(Role::Replica, true, Some(STREAM));
        assert!(Shared::is_settled(&replica) && !Shared::has_left(&replica));
    }
}
