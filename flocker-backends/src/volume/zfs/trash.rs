//! What is thrown away, brought back, and let go of for ever.
//!
//! To throw a dataset away is to set one property and to unmount it. Nothing is
//! renamed, because what is in use cannot be.

use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::SnapshotName;

use super::listing;
use super::seen::Ours;
use super::seen::Seen;
use super::seen::fenced;
use super::shared::Shared;
use super::standing::Standing;
use super::tool::Context as _;
use crate::change::Change;
use crate::volume::VolumeError;

/// Reads which dataset a piece of trash is of.
pub(super) fn dataset_of(entry: &str) -> Option<DatasetId> {
    let (dataset, guid) = entry.split_once('.')?;
    let guid: u64 = guid.parse().ok()?;
    let dataset: DatasetId = dataset.parse().ok()?;
    (format!("{dataset}.{guid}") == entry).then_some(dataset)
}

impl Shared {
    pub(super) async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let what = || format!("move dataset {dataset} to the trash");
        let seen = self.look_at(dataset).await?;
        let mut change = Change::AlreadySo;
        if let Some(ours) = seen.here.get(&dataset) {
            // Before the copy goes: its trash may be emptied, and what it knew must not be forgotten.
            self.raise_fence(&seen, dataset, ours.standing.fence).await?;
            let now = self.now()?.to_string();
            self.tool.set(listing::TRASHED, &now, &ours.name).await.to(what)?;
            self.unmount(ours).await?;
            change = Change::Made;
        }
        if self.drop_arrival(&seen, dataset).await? == Change::Made {
            change = Change::Made;
        }
        Ok(change)
    }

    pub(super) async fn restore(&self, entry: &str, dataset: DatasetId) -> Result<Change, VolumeError> {
        let what = || format!("bring back the trash `{entry}`");
        let seen = self.look_at(dataset).await?;
        let no_trash = || VolumeError::NoTrash { entry: entry.into() };
        let ours = seen.trash.get(entry).ok_or_else(no_trash)?;
        let already_here = |role| VolumeError::AlreadyHere { dataset, role };
        if let Some(other) = seen.here.get(&dataset) {
            return Err(already_here(other.standing.role_word()));
        }
        if self.note(&seen, dataset).await?.is_some() {
            return Err(already_here("the beginning of a copy"));
        }
        let fence = seen.fence_left(dataset);
        if ours.standing.fence < fence {
            // It knows what this node has learnt since; an owner that was followed stays away.
            if let Role::Primary { epoch } = ours.standing.role {
                return Err(fenced(dataset, epoch, fence));
            }
            let standing = Standing {
                fence,
                ..ours.standing.clone()
            };
            self.set_standing(ours, &standing).await?;
        }
        let arguments = ["inherit", listing::TRASHED, &ours.name];
        self.tool.run(arguments).await.to(what)?;
        self.settle(ours).await?;
        Ok(Change::Made)
    }

    pub(super) async fn drop_trash(&self, entry: &str) -> Result<Change, VolumeError> {
        let seen = self.look().await?;
        let Some(ours) = seen.trash.get(entry) else {
            return Ok(Change::AlreadySo);
        };
        seen.require_readable(ours.dataset)?;
        self.unmount(ours).await?;
        if ours.filesystem.partial.is_some() {
            // What it has kept of a stream hangs on one of its snapshots.
            let dropped = self.tool.abort(&ours.name).await;
            dropped.to(|| format!("drop what began to arrive in the trash `{entry}`"))?;
        }
        for taken in &ours.filesystem.snapshots {
            self.drop_snapshot(ours, taken).await?;
        }
        let destroyed = self.tool.insist(&["destroy", &ours.name]).await;
        destroyed.to(|| format!("destroy the trash `{entry}`"))?;
        if !is_anywhere_else(&seen, ours) {
            self.mounts.forget(ours.dataset);
        }
        Ok(Change::Made)
    }

    pub(super) async fn drop_snapshots(
        &self,
        dataset: DatasetId,
        names: &[SnapshotName],
    ) -> Result<Change, VolumeError> {
        let seen = self.look_at(dataset).await?;
        let Some(ours) = seen.here.get(&dataset) else {
            return Ok(Change::AlreadySo);
        };
        if Self::has_left(ours) {
            // It hangs on one of its snapshots, perhaps on one of these.
            self.drop_arrival(&seen, dataset).await?;
        }
        let newest = ours.snapshots().next_back().map(|(name, _)| name);
        let mut change = Change::AlreadySo;
        for (name, taken) in ours.snapshots() {
            if names.contains(&name) && newest.as_ref() != Some(&name) {
                self.drop_snapshot(ours, taken).await?;
                change = Change::Made;
            }
        }
        Ok(change)
    }

    pub(super) async fn drop_partial(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let seen = self.look_at(dataset).await?;
        self.drop_arrival(&seen, dataset).await
    }

    /// Drops all that has begun to arrive of a dataset. Dropped half way: the note of it is the last to go.
    pub(super) async fn drop_arrival(&self, seen: &Seen, dataset: DatasetId) -> Result<Change, VolumeError> {
        let what = || format!("drop what has arrived of dataset {dataset}");
        let spool = self.spool(seen).await?;
        let note = match &spool {
            Some(spool) => spool.note(dataset).to(what)?,
            None => None,
        };
        let change = self.drop_pooled(seen, dataset, note.as_ref()).await?;
        if let Some(spool) = spool {
            // Also what a removal that was cut short has left without a note.
            spool.remove(dataset).to(what)?;
        }
        Ok(if note.is_some() { Change::Made } else { change })
    }
}

fn is_anywhere_else(seen: &Seen, ours: &Ours) -> bool {
    let mut trash = seen.trash.values();
    seen.here.contains_key(&ours.dataset)
        || trash.any(|other| other.dataset == ours.dataset && other.name != ours.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_spelling_of_an_entry_is_read() {
        let dataset = DatasetId(uuid::Uuid::from_u128(7));
        assert_eq!(dataset_of(&format!("{dataset}.12")), Some(dataset));
        for entry in [
            "",
            "..",
            "a/b",
            &dataset.to_string(),
            &format!("{dataset}.012"),
            &format!("{{{dataset}}}.1"),
        ] {
            assert_eq!(dataset_of(entry), None, "{entry}");
        }
    }
}
