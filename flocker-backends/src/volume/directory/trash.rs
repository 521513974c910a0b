//! What was thrown away, and what goes for ever. A copy is given up because its owner has all of it; so it goes only where it is no more than that.
//!
//! An owner's data that was thrown away goes as it is: it was somebody's wish,
//! and no snapshot says what it was in the end.

use std::io;
use std::io::Read as _;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::Trashed;

use super::Shared;
use super::codec::show;
use super::context::Context as _;
use super::dir::Dir;
use super::dir::gone_is_fine;
use super::dir::join;
use super::home::Home;
use super::incoming;
use super::inventory;
use super::lock::Scope;
use super::manifest::Kind;
use super::scan;
use super::scan::Scanned;
use super::scan::Stillness;
use super::stat::FileKind;
use super::stat::Stat;
use crate::change::Change;
use crate::volume::VolumeError;

/// How much of what may be a number is read.
const LONGEST_NUMBER: u64 = 32;

/// How much of what a copy holds besides is named.
const MOST_NAMED: usize = 3;

/// Where it is written down how much a piece of trash is: it does not change, and may be many files.
const USED: &[u8] = b"used";

/// Looks at a piece of trash: at every entry of it once, and later at what was written down then.
pub(super) fn look(
    shared: &Shared,
    (entry, dataset, since): (String, DatasetId, i64),
) -> Result<Option<Trashed>, VolumeError> {
    let measured = shared.trash.dir(entry.as_bytes()).and_then(|dir| {
        let used = match known(&dir)? {
            Some(used) => used,
            None => count(shared, dataset, &dir)?,
        };
        Ok((used, Home { dataset, dir }))
    });
    // A damaged piece is no reason not to see all the others.
    let (used, role) = match measured {
        Ok((used, home)) => (used, home.record().ok().map(|record| record.role)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            tracing::warn!(entry, %error, "this piece of trash cannot be read");
            (0, None)
        }
    };
    Ok(Some(Trashed {
        entry,
        dataset,
        role,
        used: ByteSize(used),
        age: shared.since(since)?,
    }))
}

/// Reads how much a piece of trash is, where that was written down.
fn known(dir: &Dir) -> io::Result<Option<u64>> {
    let mut text = String::new();
    match dir.read(USED) {
        Ok(file) => drop(file.take(LONGEST_NUMBER).read_to_string(&mut text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(text.trim_end().parse().ok())
}

/// Counts a piece of trash and writes down how much it is, unless somebody changes it or there is no room for that.
fn count(shared: &Shared, dataset: DatasetId, dir: &Dir) -> io::Result<u64> {
    let held = shared.locks.try_lock(dataset, Scope::State)?;
    let (used, _) = inventory::measure(dir, None)?;
    if held.is_some()
        && let Err(error) = dir
            .without_reserve()
            .write_whole(USED, &[format!("{used}\n").as_bytes()])
    {
        tracing::debug!(%error, "how much a piece of trash is could not be written down");
    }
    Ok(used)
}

/// Takes out of a piece of trash what belongs to trash alone, for it comes back.
pub(super) fn forget(dir: &Dir) -> io::Result<()> {
    gone_is_fine(dir.remove_file(USED))
}

impl Shared {
    pub(super) fn drop_trash(&self, dataset: DatasetId, entry: &str) -> Result<Change, VolumeError> {
        let what = || format!("empty the trash `{entry}`");
        if self.trash.stat(entry.as_bytes()).to(what)?.is_none() {
            // A crash may have left the rest of it.
            self.staging.remove_all(entry.as_bytes()).to(what)?;
            return Ok(Change::AlreadySo);
        }
        let dir = self.trash.dir(entry.as_bytes()).to(what)?;
        let home = Home { dataset, dir };
        // Somebody may have emptied it already.
        if home.dir.stat(b"record.json").to(what)?.is_some() || inventory::has_data(&home.dir).to(what)? {
            self.require_known(&home, &format!("trash/{entry}"))?;
        }
        self.remove(&self.trash, entry).to(what)?;
        Ok(Change::Made)
    }

    /// Drops the beginning of a copy, and its place where nothing else was ever in it.
    pub(super) fn drop_partial(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let Some(home) = Home::open(&self.datasets, dataset)? else {
            return Ok(Change::AlreadySo);
        };
        let record = self.settle(&home)?;
        let what = || format!("drop what has arrived of dataset {dataset}");
        if incoming::label(&home.dir).to(what)?.is_none() {
            return Ok(Change::AlreadySo);
        }
        let only_that = home.snapshots()?.is_empty() && record.fence <= self.fences.of(dataset)?;
        if only_that && record.role == Role::Replica {
            // Nothing else was ever here, so nothing else has to be remembered.
            self.require_known(&home, &format!("datasets/{dataset}"))?;
            self.remove(&self.datasets, &dataset.to_string()).to(what)?;
        } else {
            incoming::discard(&home.dir).to(what)?;
        }
        Ok(Change::Made)
    }

    /// Fails where a copy that is no owner's holds what its newest snapshot does not: it would be gone with it.
    ///
    /// What it lacks does no harm, and neither do modes and owners.
    fn require_known(&self, home: &Home, place: &str) -> Result<(), VolumeError> {
        if home.record()?.is_primary() {
            return Ok(());
        }
        // What had arrived may be half in its place yet.
        self.settle(home)?;
        let newest = home.newest()?;
        let expected = newest.as_ref().map(|(_, stored)| &stored.scanned);
        let sought = || -> io::Result<Vec<String>> {
            let mut found = Vec::new();
            // What lies where only an owner has its data, somebody has put there.
            for (tree, expected) in [(&b"copy"[..], expected), (b"data", None)] {
                match home.dir.dir(tree) {
                    Ok(open) => found.extend(novelties(tree, &open, expected)?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        };
        let mut found = sought().to(|| format!("compare {place} with its newest snapshot"))?;
        if found.is_empty() {
            return Ok(());
        }
        let n_more = found.len().saturating_sub(MOST_NAMED);
        found.truncate(MOST_NAMED);
        if n_more > 0 {
            found.push(format!("{n_more} more"));
        }
        let than = newest.map_or_else(|| "nothing".into(), |(name, _)| format!("snapshot {name}"));
        let reason = format!(
            "it was changed by hand and holds more than {than}, which would be gone for ever: {}; \
             move that out of `{}`, or remove it there, and try again",
            found.join(", "),
            self.path.join(place).display(),
        );
        Err(VolumeError::Diverged {
            dataset: home.dataset,
            reason,
        })
    }
}

/// Lists what is in a tree and not in the snapshot of it, or not as it is there.
fn novelties(tree: &[u8], open: &Dir, expected: Option<&Scanned>) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, stat) in scan::walk(open, Stillness::Blurred)? {
        match novelty(open, &path, &stat, expected) {
            Ok(None) => {}
            Ok(Some(what)) => found.push(format!("{} {what}", show(&join(tree, &path)))),
            Err(error) => return Err(scan::about(&path, &error)),
        }
    }
    Ok(found)
}

fn novelty(
    open: &Dir,
    path: &[u8],
    stat: &Stat,
    expected: Option<&Scanned>,
) -> io::Result<Option<&'static str>> {
    match stat.kind {
        // They hold nothing themselves.
        FileKind::Directory | FileKind::Socket => return Ok(None),
        FileKind::File | FileKind::Symlink | FileKind::Fifo | FileKind::Other => {}
    }
    let known = expected.and_then(|expected| Some((expected, expected.manifest.find(path)?)));
    let Some((expected, at)) = known else {
        return Ok(Some("was added"));
    };
    if expected.is_as_seen(at, stat) {
        return Ok(None);
    }
    let entries = &expected.manifest.entries;
    let entry = match &entries[at].kind {
        Kind::Link(first) => &entries[*first],
        Kind::Directory | Kind::File(_) | Kind::Symlink(_) | Kind::Fifo => &entries[at],
    };
    let is_same = match (&entry.kind, stat.kind) {
        (Kind::File(contents), FileKind::File) => {
            contents.size == stat.size
                && (entry.metadata.modified == stat.modified
                    || scan::digest(&open.read(path)?, contents.size)? == contents.blocks)
        }
        (Kind::Symlink(target), FileKind::Symlink) => open.link_target(path)? == *target,
        (Kind::Fifo, FileKind::Fifo) => true,
        _ => false,
    };
    Ok((!is_same).then_some("was changed"))
}
