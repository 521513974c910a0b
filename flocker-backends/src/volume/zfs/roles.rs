//! Who may write: creation, snapshots, release, acquisition and the fence.
//!
//! Each transition is the write of one property. What has to be so before it
//! is made so first: read-only before released. What has to be so after it,
//! writable for a primary, is made so afterwards, and again whenever somebody
//! looks and nobody holds the lock.

use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotName;

use super::listing;
use super::listing::Taken;
use super::mounts;
use super::seen::Ours;
use super::seen::diverged;
use super::seen::fenced;
use super::seen::guid_of;
use super::seen::wrong_role;
use super::shared::Shared;
use super::standing::Standing;
use super::tool::Context as _;
use super::tool::or_no_space;
use super::tool::says;
use crate::change::Change;
use crate::volume::Acquisition;
use crate::volume::Handoff;
use crate::volume::VolumeError;

/// The tag of our holds.
pub(super) const HOLD: &str = "flocker";

impl Shared {
    pub(super) async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let id = dataset.id;
        let seen = self.look_at(id).await?;
        let role = Role::Primary { epoch };
        if let Some(ours) = seen.here.get(&id) {
            if ours.standing.role != role {
                return Err(VolumeError::AlreadyHere {
                    dataset: id,
                    role: ours.standing.role_word(),
                });
            }
            self.settle(ours).await?;
            return Ok(Change::AlreadySo);
        }
        if self.note(&seen, id).await?.is_some() {
            return Err(VolumeError::AlreadyHere {
                dataset: id,
                role: "the beginning of a copy",
            });
        }
        let fence = seen.fence_left(id);
        if epoch <= fence {
            return Err(fenced(id, epoch, fence));
        }
        let name = seen.free_name(&self.parent, id);
        let path = self.mounts.path(id);
        let standing = Standing::new(role, epoch, self.now()?);
        let mut properties = self.settings(dataset, &standing);
        properties.push("readonly=off".into());
        let mut arguments = vec!["create"];
        for property in &properties {
            arguments.extend(["-o", property]);
        }
        arguments.push(&name);
        let created = self
            .tool
            .run(arguments)
            .await
            .to(|| format!("create dataset {id}"));
        created.map_err(|error| or_no_space(error, id, 0, seen.available))?;
        self.mount_at(&name, path).await?;
        Ok(Change::Made)
    }

    /// What is set on a filesystem that is a dataset. Who it is comes last: before that it is nothing of ours.
    pub(super) fn settings(&self, dataset: &Dataset, standing: &Standing) -> Vec<String> {
        let mut settings = vec![
            "canmount=noauto".to_owned(),
            format!("mountpoint={}", self.mounts.path(dataset.id).display()),
            format!("{}={}", listing::OWNER, dataset.owner),
            format!("{}={}", listing::ROLE, standing.to_text()),
        ];
        if let Some(ByteSize(size)) = dataset.maximum_size {
            settings.push(format!("refquota={size}"));
        }
        settings.push(format!("{}={}", listing::DATASET, dataset.id));
        settings
    }

    pub(super) async fn resize(
        &self,
        dataset: DatasetId,
        to: Option<ByteSize>,
    ) -> Result<Change, VolumeError> {
        self.tool.settle(&self.parent).await?;
        let seen = self.look_at(dataset).await?;
        let ours = seen.require(dataset)?;
        if ours.filesystem.quota == to.map(|to| to.0) {
            return Ok(Change::AlreadySo);
        }
        let no_space = |available| VolumeError::NoSpace {
            dataset,
            needed: ByteSize(ours.filesystem.referenced),
            available,
        };
        let value = match to {
            Some(available) if available.0 < ours.filesystem.referenced => return Err(no_space(available)),
            Some(available) => available.0.to_string(),
            None => "none".to_owned(),
        };
        match self.tool.set("refquota", &value, &ours.name).await {
            // It has grown since we looked.
            Err(error) if says(&error, "size is less than") => Err(no_space(to.unwrap_or(ByteSize(0)))),
            other => {
                other.to(|| format!("resize dataset {dataset}"))?;
                Ok(Change::Made)
            }
        }
    }

    pub(super) async fn snapshot(
        &self,
        dataset: DatasetId,
        name: &SnapshotName,
    ) -> Result<Change, VolumeError> {
        let seen = self.look_for(dataset).await?;
        let ours = seen.require(dataset)?;
        match ours.standing.role {
            Role::Primary { .. } => {}
            Role::Released { .. } | Role::Replica => return Err(wrong_role(ours, "take a snapshot of")),
        }
        if let Some(taken) = ours.snapshot(name) {
            if taken.n_holds == 0 {
                self.hold(&ours.full_name(&taken.name)).await?;
            }
            return Ok(Change::AlreadySo);
        }
        self.mount(ours).await?;
        self.take(ours, name).await?;
        Ok(Change::Made)
    }

    /// Takes a snapshot, and a hold on it.
    async fn take(&self, ours: &Ours, name: &SnapshotName) -> Result<(), VolumeError> {
        self.take_unheld(ours, name).await?;
        self.hold(&ours.full_name(name.as_str())).await
    }

    async fn take_unheld(&self, ours: &Ours, name: &SnapshotName) -> Result<(), VolumeError> {
        let what = || format!("take snapshot {name} of dataset {}", ours.dataset);
        let full_name = ours.full_name(name.as_str());
        let mark = format!("{}=1", listing::SNAPSHOT);
        let taken = self
            .tool
            .run(["snapshot", "-o", &mark, &full_name])
            .await
            .map(drop)
            .to(what);
        taken.map_err(|error| or_no_space(error, ours.dataset, 0, ours.filesystem.available))
    }

    /// Takes a hold on a snapshot of ours, so that nobody destroys by accident what a copy starts from.
    pub(super) async fn hold(&self, full_name: &str) -> Result<(), VolumeError> {
        match self.tool.run(["hold", HOLD, full_name]).await {
            Err(error) if says(&error, "tag already exists") => Ok(()),
            other => other.map(drop).to(|| format!("hold snapshot `{full_name}`")),
        }
    }

    /// Destroys a snapshot of ours, and never anything that depends on it.
    pub(super) async fn drop_snapshot(&self, ours: &Ours, taken: &Taken) -> Result<(), VolumeError> {
        let full_name = ours.full_name(&taken.name);
        let what = || format!("destroy snapshot `{full_name}`");
        if taken.n_holds > 0 {
            match self.tool.run(["release", HOLD, &full_name]).await {
                // The holds that it has are somebody else's; to destroy it will say so.
                Err(error) if says(&error, "no such tag") => {}
                other => drop(other.to(what)?),
            }
        }
        self.tool.insist(&["destroy", &full_name]).await.to(what)
    }

    pub(super) async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError> {
        let Handoff {
            dataset,
            epoch,
            to,
            last,
        } = handoff;
        let seen = self.look_for(*dataset).await?;
        let ours = seen.require(*dataset)?;
        let fence = ours.standing.fence;
        let guid = match &ours.standing.role {
            Role::Replica => return Err(wrong_role(ours, "release")),
            Role::Released {
                epoch: released,
                to: taker,
                last: kept,
                guid,
            } => {
                if released == epoch && taker == to && kept == last {
                    return Ok(Change::AlreadySo);
                }
                if *epoch <= fence {
                    return Err(fenced(*dataset, *epoch, fence));
                }
                if kept != last {
                    return Err(diverged(
                        *dataset,
                        format!("its last snapshot is {kept}, not {last}"),
                    ));
                }
                *guid
            }
            Role::Primary { .. } => {
                if *epoch <= fence {
                    return Err(fenced(*dataset, *epoch, fence));
                }
                match self.take_last(ours, last).await {
                    Ok(guid) => guid,
                    Err(error) => {
                        // It stays primary, and its application may want to go on. Failing that, the next look does it.
                        drop(self.set_writable(ours).await);
                        return Err(error);
                    }
                }
            }
        };
        let role = Role::Released {
            epoch: *epoch,
            to: to.clone(),
            last: last.clone(),
            guid,
        };
        self.set_standing(ours, &Standing::new(role, fence, self.now()?))
            .await?;
        Ok(Change::Made)
    }

    /// Makes a primary read-only, sees that it is, and takes the last snapshot.
    ///
    /// It is mounted for that: what was durable when the machine crashed may be in the intent log alone, which is read
    /// when a filesystem is mounted. A snapshot before that would be without it.
    async fn take_last(
        &self,
        ours: &Ours,
        last: &SnapshotName,
    ) -> Result<flocker_model::SnapshotGuid, VolumeError> {
        let dataset = ours.dataset;
        let what = || format!("make dataset {dataset} read-only");
        self.mount(ours).await?;
        self.set_read_only(ours).await?;
        mounts::require_read_only(&self.mounts.path(dataset)).to(what)?;
        if let Some(stale) = ours.snapshot(last) {
            // Of a release that never came to its end, so nobody was told of
            // it; the application may have written since.
            self.drop_snapshot(ours, stale).await?;
        }
        self.take_unheld(ours, last).await?;
        let full_name = ours.full_name(last.as_str());
        let ((), seen) = tokio::try_join!(self.hold(&full_name), self.look_for(dataset))?;
        let taken = seen.require(dataset)?.snapshot(last).map(guid_of);
        taken.ok_or_else(|| no_snapshot(dataset, last))
    }

    pub(super) async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        let Acquisition {
            dataset,
            epoch,
            from,
            guid,
        } = acquisition;
        let seen = self.look_for(*dataset).await?;
        let ours = seen.require(*dataset)?;
        let role = Role::Primary { epoch: *epoch };
        if ours.standing.role == role {
            self.settle(ours).await?;
            return Ok(Change::AlreadySo);
        }
        let fence = ours.standing.fence;
        if *epoch <= fence {
            return Err(fenced(*dataset, *epoch, fence));
        }
        match ours.standing.role {
            Role::Primary { .. } => return Err(wrong_role(ours, "acquire")),
            Role::Released { .. } | Role::Replica => {}
        }
        let found = ours.snapshot(from).ok_or_else(|| no_snapshot(*dataset, from))?;
        if let Some(guid) = guid.filter(|guid| guid_of(found) != *guid) {
            let reason = format!("its snapshot {from} is {}, not {guid}", guid_of(found));
            return Err(diverged(*dataset, reason));
        }
        if let Some(newest) = ours.newest().filter(|newest| newest.guid != found.guid) {
            let reason = format!("its newest snapshot is `{}`, not {from}", newest.name);
            return Err(diverged(*dataset, reason));
        }
        // What cannot be mounted is not acquired.
        self.mount(ours).await?;
        self.set_standing(ours, &Standing::new(role, fence, self.now()?))
            .await?;
        self.set_writable(ours).await?;
        // Whatever was still arriving is of a past that this copy has left. Where it cannot be dropped, it is still seen.
        // What the pool keeps of it goes with the next look: the application is not to wait until a transaction is closed.
        if ours.filesystem.partial.is_none()
            && let Err(error) = self.drop_arrival(&seen, *dataset).await
        {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(%dataset, error, "what has begun to arrive stays for now");
        }
        Ok(Change::Made)
    }

    pub(super) async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        let seen = self.look_at(dataset).await?;
        let Some(ours) = seen.here.get(&dataset) else {
            return self.renounce_arrival(&seen, dataset, epoch).await;
        };
        match ours.standing.role {
            Role::Primary { .. } => return Err(wrong_role(ours, "renounce")),
            Role::Released { .. } | Role::Replica => {}
        }
        if ours.standing.fence >= epoch {
            return Ok(Change::AlreadySo);
        }
        let standing = Standing {
            fence: epoch,
            ..ours.standing.clone()
        };
        self.set_standing(ours, &standing).await?;
        Ok(Change::Made)
    }

    /// The same where only the beginning of a copy is here.
    async fn renounce_arrival(
        &self,
        seen: &super::seen::Seen,
        dataset: DatasetId,
        epoch: Epoch,
    ) -> Result<Change, VolumeError> {
        match self.note(seen, dataset).await? {
            Some(_) => self.raise_fence(seen, dataset, epoch).await,
            None => Ok(Change::AlreadySo),
        }
    }
}

pub(super) fn no_snapshot(dataset: DatasetId, name: &SnapshotName) -> VolumeError {
    VolumeError::NoSnapshot {
        dataset,
        snapshot: name.to_string(),
    }
}
