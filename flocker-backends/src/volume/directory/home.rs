//! The directory of one dataset, and the order of its durable changes.
//!
//! ```text
//! record.json   what the dataset is here: the truth about its role
//! data/         the data of a primary, where applications look for it
//! copy/         the data of any other role, where they do not
//! snapshots/    manifests
//! incoming/     what is arriving; tree/ beside it is a full copy that is
//! done/         what has arrived and is being removed
//! ```
//!
//! The record says what is to be where. Whoever holds the lock of the dataset
//! first [settles](Home::settle) what a crash has left between two steps.

use std::io::Read as _;

use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::apply;
use super::apply::Journal;
use super::apply::Target;
use super::clock::Clock;
use super::context::Context as _;
use super::context::broken;
use super::difference::Difference;
use super::dir::Dir;
use super::earlier;
use super::incoming;
use super::manifest::Manifest;
use super::record::Record;
use super::scan;
use super::scan::Scanned;
use super::snapshots;
use super::snapshots::Heading;
use super::snapshots::Stored;
use super::snapshots::Version;
use crate::volume::VolumeError;

/// The directory of one dataset.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) dataset: DatasetId,
    pub(super) dir: Dir,
}

impl Home {
    /// Opens the directory of a dataset, if anything of it is here.
    pub(super) fn open(datasets: &Dir, dataset: DatasetId) -> Result<Option<Self>, VolumeError> {
        let name = dataset.to_string();
        match datasets.dir(name.as_bytes()) {
            Ok(dir) => Ok(Some(Self { dataset, dir })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).to(|| format!("open dataset {dataset}")),
        }
    }

    /// Sets up the directory of a dataset, whole or not at all.
    pub(super) fn create(datasets: &Dir, staging: &Dir, record: &Record) -> Result<Self, VolumeError> {
        let dataset = record.dataset;
        let name = dataset.to_string();
        let json = record.to_json()?;
        let made = || -> std::io::Result<Dir> {
            staging.remove_all(name.as_bytes())?;
            staging.make_dir(name.as_bytes(), 0o700)?;
            let dir = staging.dir(name.as_bytes())?;
            if record.is_primary() {
                dir.make_dir(b"data", 0o755)?;
                // The mask of our process has no say in what applications see.
                dir.set_mode(b"data", 0o755)?;
            }
            dir.make_dir(b"snapshots", 0o700)?;
            dir.write_whole(b"record.json", &[&json])?;
            staging.rename(name.as_bytes(), datasets, name.as_bytes())?;
            datasets.sync()?;
            Ok(dir)
        };
        let dir = made().to(|| format!("create dataset {dataset}"))?;
        Ok(Self { dataset, dir })
    }

    /// Reads what the dataset is here.
    pub(super) fn record(&self) -> Result<Record, VolumeError> {
        let dataset = self.dataset;
        let what = || format!("read the record of dataset {dataset}");
        let mut text = Vec::new();
        self.dir
            .read(b"record.json")
            .and_then(|mut file| file.read_to_end(&mut text))
            .to(what)?;
        Record::parse(&text, dataset).map_err(|reason| broken(what(), reason))
    }

    /// Writes down what the dataset is here, durable.
    pub(super) fn set_record(&self, record: &Record) -> Result<(), VolumeError> {
        let json = record.to_json()?;
        self.dir
            .write_whole(b"record.json", &[&json])
            .to(|| format!("write the record of dataset {}", self.dataset))
    }

    /// Finishes what a crash has left half done. Needs the lock of the dataset's state.
    pub(super) fn settle(&self, clock: &Clock, keep_set_id: bool) -> Result<Record, VolumeError> {
        let record = self.record()?;
        if let Some(record) = self.finish_receive(&record, clock, keep_set_id)? {
            return Ok(record);
        }
        self.put_in_place(&record)?;
        self.sweep(&record)
            .to(|| format!("clear what is left over of dataset {}", self.dataset))?;
        Ok(record)
    }

    fn sweep(&self, record: &Record) -> std::io::Result<()> {
        let arriving = self.dir.stat(b"incoming")?.is_some();
        if arriving && record.is_primary() {
            return incoming::discard(&self.dir);
        }
        if !arriving && self.dir.stat(b"tree")?.is_some() {
            self.dir.remove_all(b"tree")?;
        }
        self.dir.remove_all(b"incoming.new")?;
        self.dir.remove_all(b"done")
    }

    /// Moves the data to where its role wants it.
    pub(super) fn put_in_place(&self, record: &Record) -> Result<(), VolumeError> {
        let (right, wrong): (&[u8], &[u8]) = if record.is_primary() {
            (b"data", b"copy")
        } else {
            (b"copy", b"data")
        };
        let moved = || -> std::io::Result<()> {
            if self.dir.stat(wrong)?.is_none() {
                return Ok(());
            }
            if self.dir.stat(right)?.is_some() {
                // A program that was started too early may have created the place for itself.
                // Where it wrote nothing, that does no harm.
                let stray: &[u8] = b"data";
                match self.dir.remove_dir(stray) {
                    Err(error) if record.is_primary() => return Err(error),
                    // What it wrote is nobody's data, and not ours to remove.
                    Err(_) => return Ok(()),
                    Ok(()) if wrong == stray => return Ok(()),
                    Ok(()) => {}
                }
            }
            self.dir.rename(wrong, &self.dir, right)?;
            self.dir.sync()
        };
        moved().to(|| format!("put the data of dataset {} in its place", self.dataset))
    }

    /// Opens the data, wherever its role has it.
    pub(super) fn data(&self, record: &Record) -> Result<Dir, VolumeError> {
        self.dir
            .dir(record.place())
            .to(|| format!("open the data of dataset {}", self.dataset))
    }

    /// Lists the snapshots, oldest first.
    pub(super) fn snapshots(&self) -> Result<Vec<(SnapshotName, Heading)>, VolumeError> {
        snapshots::list(&self.dir).to(|| format!("list the snapshots of dataset {}", self.dataset))
    }

    /// Reads a snapshot.
    pub(super) fn snapshot(
        &self,
        name: &SnapshotName,
        version: Version,
    ) -> Result<Option<Stored>, VolumeError> {
        snapshots::load(&self.dir, name, version)
            .to(|| format!("read snapshot {name} of dataset {}", self.dataset))
    }

    /// Reads the newest snapshot, if there is one.
    pub(super) fn newest(&self) -> Result<Option<(SnapshotName, Stored)>, VolumeError> {
        let Some((name, _)) = self.snapshots()?.pop() else {
            return Ok(None);
        };
        Ok(self
            .snapshot(&name, Version::Current)?
            .map(|stored| (name, stored)))
    }

    /// Reads the snapshot of a guid.
    pub(super) fn by_guid(&self, guid: SnapshotGuid) -> Result<Stored, VolumeError> {
        let missing = || VolumeError::NoSnapshot {
            dataset: self.dataset,
            snapshot: format!("with guid {guid}"),
        };
        let listed = self.snapshots()?;
        let (name, _) = listed
            .iter()
            .find(|(_, heading)| heading.guid == guid)
            .ok_or_else(missing)?;
        self.snapshot(name, Version::Current)?.ok_or_else(missing)
    }

    /// Writes a snapshot that comes after all others, durable.
    pub(super) fn add_snapshot(
        &self,
        name: &SnapshotName,
        scanned: Scanned,
        written: u64,
    ) -> Result<Stored, VolumeError> {
        // Earlier ones may come along with it.
        let last = self.snapshots()?.last().map_or(0, |(_, last)| last.sequence);
        let sequence = last + 1 + earlier::MOST as u64;
        let stored = Stored::new(name, scanned, sequence, written);
        snapshots::forget_plan(&self.dir, name)
            .to(|| format!("make room for snapshot {name} of dataset {}", self.dataset))?;
        self.replace_snapshot(name, &stored, Version::Current)?;
        // Last: with another one's list it would say what is not so. Without it, everything is read the next time.
        if let Err(error) = snapshots::mark_boot(&self.dir, name) {
            tracing::debug!(dataset = %self.dataset, %name, %error, "in which boot it was taken is not noted");
        }
        Ok(stored)
    }

    /// Writes a version of a snapshot over the one that is there, durable.
    pub(super) fn replace_snapshot(
        &self,
        name: &SnapshotName,
        stored: &Stored,
        version: Version,
    ) -> Result<(), VolumeError> {
        snapshots::store(&self.dir, name, stored, version)
            .to(|| format!("write snapshot {name} of dataset {}", self.dataset))
    }

    /// Puts a copy in place that has arrived whole. Returns the record where there was one to put.
    ///
    /// Everything here is done again from the start after a crash.
    pub(super) fn finish_receive(
        &self,
        record: &Record,
        clock: &Clock,
        keep_set_id: bool,
    ) -> Result<Option<Record>, VolumeError> {
        let dataset = self.dataset;
        let what = || format!("put the copy of dataset {dataset} that has arrived in its place");
        let Some(label) = incoming::label(&self.dir).to(what)? else {
            return Ok(None);
        };
        let Some(committed) = incoming::committed(&self.dir, &label.name).to(what)? else {
            return Ok(None);
        };
        if record.is_primary() {
            // It went on from the snapshot before, so this one is nobody's.
            return Ok(None);
        }
        let arrived = earlier::arrived(&self.dir).to(what)?;
        let known = self.snapshots()?;
        let known = known.iter().find(|(_, heading)| heading.guid == committed.guid);
        let heading = if let Some((_, heading)) = known {
            *heading
        } else {
            match label.base {
                None => self.place_tree(&committed, keep_set_id).to(what)?,
                Some(base) => self.patch(&label, base, &committed, keep_set_id)?,
            }
            let copy = self.dir.dir(b"copy").to(what)?;
            copy.sync_filesystem().to(what)?;
            let started = clock.now().to(what)?;
            let sight = scan::sight(&copy, &committed.manifest, started).to(what)?;
            let written = earlier::written_after(&self.dir, &arrived, &committed.manifest).to(what)?;
            let scanned = Scanned {
                manifest: committed.manifest,
                sight,
            };
            let written = written.unwrap_or(committed.written);
            self.add_snapshot(&label.name, scanned, written)?.heading
        };
        self.add_earlier(&arrived, &heading)?;
        let mut record = record.clone();
        if record.role != Role::Replica {
            record.role = Role::Replica;
            record.since = clock.now().to(what)?.seconds;
            self.set_record(&record)?;
        }
        incoming::discard(&self.dir).to(what)?;
        Ok(Some(record))
    }

    /// Does what can fail for good before a copy is decided to be complete: afterwards it must succeed.
    pub(super) fn prepare(
        &self,
        label: &incoming::Label,
        sent: &Manifest,
        keep_set_id: bool,
    ) -> std::io::Result<()> {
        match label.base {
            None => Target {
                manifest: sent,
                base: None,
                journal: None,
                keep_set_id,
            }
            .apply(&self.dir.dir(b"tree")?),
            Some(_) => apply::probe(&self.dir, sent),
        }
    }

    fn place_tree(&self, committed: &incoming::Committed, keep_set_id: bool) -> std::io::Result<()> {
        if self.dir.stat(b"tree")?.is_none() {
            return Ok(());
        }
        let tree = self.dir.dir(b"tree")?;
        let target = Target {
            manifest: &committed.manifest,
            base: None,
            journal: None,
            keep_set_id,
        };
        target.apply(&tree)?;
        tree.sync_filesystem()?;
        self.dir.rename(b"tree", &self.dir, b"copy")?;
        self.dir.sync()
    }

    fn patch(
        &self,
        label: &incoming::Label,
        base: SnapshotGuid,
        committed: &incoming::Committed,
        keep_set_id: bool,
    ) -> Result<(), VolumeError> {
        let base = self.by_guid(base)?.scanned.manifest;
        let patched = || -> std::io::Result<()> {
            let announced = incoming::manifest(&self.dir, label)?;
            let difference = Difference::between(Some(&base), &announced);
            let target = Target {
                manifest: &committed.manifest,
                base: Some(&base),
                journal: Some(Journal {
                    file: &self.dir.read(b"incoming/blocks")?,
                    difference: &difference,
                }),
                keep_set_id,
            };
            target.apply(&self.dir.dir(b"copy")?)
        };
        patched().to(|| format!("apply snapshot {} to dataset {}", label.name, self.dataset))
    }
}
