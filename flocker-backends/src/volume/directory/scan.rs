//! Reading a directory: what is in it, whether it is still what a manifest says, how much it holds.
//!
//! A directory has no atomic snapshots. A scan of one that is written
//! meanwhile is *blurred*: what it says of every block was true at some
//! moment, though not at the same one. An *exact* scan fails instead as soon
//! as it sees that anything changed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::apply::SET_ID;
use super::codec::show;
use super::dir::Dir;
use super::dir::join;
use super::manifest::BLOCK;
use super::manifest::Block;
use super::manifest::Contents;
use super::manifest::Entry;
use super::manifest::Kind;
use super::manifest::Manifest;
use super::manifest::Metadata;
use super::stat::FileKind;
use super::stat::Stat;
use super::stat::Time;

/// A file changed this shortly before a scan began may change again without its times saying so.
const RACY_SECONDS: i64 = 2;

/// What the filesystem said of the entries of a manifest, in its order.
///
/// A file of which it says the same again need not be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// When the scan began, by the filesystem's clock.
    pub(super) started: Time,
    pub(super) entries: Vec<Seen>,
}

/// What the filesystem said of one entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its inode, or 0 where nothing can be concluded from this.
    pub(super) inode: u64,
    pub(super) changed: Time,
}

/// A manifest and what was seen while it was made.
#[derive(Clone, Debug)]
pub(super) struct Scanned {
    pub(super) manifest: Manifest,
    pub(super) sight: Sight,
}

/// Whether anything may write during a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stillness {
    /// Nothing may; it is an error when something does.
    Exact,
    /// Something may.
    Blurred,
}

/// Reads a directory whole, save for what an earlier scan has read and what has not changed since.
pub(super) fn scan(
    dir: &Dir,
    earlier: Option<&Scanned>,
    stillness: Stillness,
    started: Time,
) -> io::Result<Scanned> {
    let exact = stillness == Stillness::Exact;
    let found = walk(dir, stillness)?;
    let mut scanned = Scanned {
        manifest: Manifest {
            exact,
            entries: Vec::with_capacity(found.len()),
            skipped: Vec::new(),
        },
        sight: Sight {
            started,
            entries: Vec::with_capacity(found.len()),
        },
    };
    let mut names: BTreeMap<u64, usize> = BTreeMap::new();
    for (path, stat) in &found {
        // A directory may have vanished after what is in it was listed.
        if !path.is_empty() && !scanned.manifest.has_parent_of(path) {
            continue;
        }
        if stat.kind == FileKind::Socket {
            scanned.manifest.skipped.push(path.clone());
            continue;
        }
        let is_file = stat.kind == FileKind::File;
        if is_file && let Some(&first) = names.get(&stat.inode) {
            scanned.push(path, Kind::Link(first), Metadata::default(), stat);
            continue;
        }
        let read = earlier
            .and_then(|earlier| earlier.recall(path, stat))
            .map_or_else(|| examine(dir, path, *stat), Ok);
        match read {
            Ok((kind, metadata, seen)) => {
                if is_file && stat.n_links > 1 {
                    names.insert(stat.inode, scanned.manifest.entries.len());
                }
                scanned.push(path, kind, metadata, &seen);
                if !seen.is_unchanged_since(stat) {
                    if exact {
                        return Err(still_written(path));
                    }
                    scanned.forget_last();
                }
            }
            Err(error) if !exact && has_vanished(&error) && !path.is_empty() => {}
            Err(error) => return Err(about(path, &error)),
        }
    }
    if exact {
        require_still(dir, &found)?;
    }
    Ok(scanned)
}

/// Fails where anything is not as it was found.
fn require_still(dir: &Dir, found: &[(Vec<u8>, Stat)]) -> io::Result<()> {
    let again = walk(dir, Stillness::Exact)?;
    for (before, after) in found.iter().zip(&again) {
        if before.0 != after.0 || !after.1.is_unchanged_since(&before.1) {
            return Err(still_written(&after.0));
        }
    }
    if again.len() == found.len() {
        return Ok(());
    }
    Err(still_written(b""))
}

impl Scanned {
    fn push(&mut self, path: &[u8], kind: Kind, metadata: Metadata, stat: &Stat) {
        self.manifest.entries.push(Entry {
            path: path.to_vec(),
            kind,
            metadata,
        });
        self.sight.entries.push(Seen::from(stat));
    }

    fn forget_last(&mut self) {
        if let Some(last) = self.sight.entries.last_mut() {
            *last = Seen::default();
        }
    }

    /// Returns what is known of an entry, where it certainly is as it was.
    fn recall(&self, path: &[u8], stat: &Stat) -> Option<(Kind, Metadata, Stat)> {
        let at = self.manifest.find(path)?;
        let entry = &self.manifest.entries[at];
        let calm = stat.changed.seconds < self.sight.started.seconds.saturating_sub(RACY_SECONDS);
        if !calm || !self.is_as_seen(at, stat) {
            return None;
        }
        match (&entry.kind, stat.kind) {
            (Kind::File(contents), FileKind::File)
                if contents.size == stat.size && entry.metadata.modified == stat.modified => {}
            (Kind::Directory, FileKind::Directory) => {}
            _ => return None,
        }
        let mut metadata = metadata_of(stat);
        metadata.attributes.clone_from(&entry.metadata.attributes);
        Some((entry.kind.clone(), metadata, *stat))
    }

    pub(super) fn is_as_seen(&self, at: usize, stat: &Stat) -> bool {
        self.sight
            .entries
            .get(at)
            .is_some_and(|seen| seen.inode != 0 && *seen == Seen::from(stat))
    }
}

impl From<&Stat> for Seen {
    fn from(stat: &Stat) -> Self {
        Self {
            inode: stat.inode,
            changed: stat.changed,
        }
    }
}

/// Of which files the content is read that the filesystem says something else of than when the copy was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Of all.
    OfAll,
    /// Of those that were modified at another time, which is what a person leaves behind: for who looks often.
    OfModified,
}

/// Says what is in a place where a copy should be: nothing where it is that copy, else the first difference.
///
/// Looks closer only at what the filesystem says something else of than when the copy was made.
pub(super) fn verify(
    dir: &Dir,
    expected: &Scanned,
    reading: Reading,
    keep_set_id: bool,
) -> io::Result<Option<String>> {
    let found: Vec<_> = walk(dir, Stillness::Blurred)?
        .into_iter()
        .filter(|(_, stat)| stat.kind != FileKind::Socket)
        .collect();
    let manifest = &expected.manifest;
    for (entry, (path, _)) in manifest.entries.iter().zip(&found) {
        if entry.path != *path {
            let (odd, what) = if entry.path < *path {
                (&entry.path, "is missing")
            } else {
                (path, "was added")
            };
            return Ok(Some(format!("{} {what}", show(odd))));
        }
    }
    if let Some(entry) = manifest.entries.get(found.len()) {
        return Ok(Some(format!("{} is missing", show(&entry.path))));
    }
    if let Some((path, _)) = found.get(manifest.entries.len()) {
        return Ok(Some(format!("{} was added", show(path))));
    }
    for (at, (path, stat)) in found.iter().enumerate() {
        let same = match &manifest.entries[at].kind {
            Kind::Directory => stat.kind == FileKind::Directory,
            Kind::Fifo => stat.kind == FileKind::Fifo,
            Kind::Symlink(target) => stat.kind == FileKind::Symlink && dir.link_target(path)? == *target,
            Kind::Link(first) => stat.kind == FileKind::File && stat.inode == found[*first].1.inode,
            Kind::File(contents) => {
                stat.kind == FileKind::File
                    && stat.size == contents.size
                    && (expected.is_as_seen(at, stat)
                        || (reading == Reading::OfModified
                            && manifest.entries[at].metadata.modified == stat.modified)
                        || digest(&dir.read(path)?, contents.size).map_err(|error| about(path, &error))?
                            == contents.blocks)
            }
        };
        if !same {
            return Ok(Some(format!("{} was changed", show(path))));
        }
        if !expected.is_as_seen(at, stat)
            && let Some(what) = redressed(dir, &manifest.entries[at], stat, keep_set_id)
                .map_err(|error| about(path, &error))?
        {
            return Ok(Some(format!("{what} of {} was changed", show(path))));
        }
    }
    Ok(None)
}

/// Says what of an entry is not as its copy was made, besides its content.
///
/// When it was modified is left out: a directory says that of every file that came and went.
fn redressed(dir: &Dir, entry: &Entry, stat: &Stat, keep_set_id: bool) -> io::Result<Option<&'static str>> {
    let Metadata {
        mode,
        uid,
        gid,
        modified: _,
        attributes: wanted,
    } = &entry.metadata;
    let has_mode = match entry.kind {
        // It is another name of a file that is looked at under its first.
        Kind::Link(_) => return Ok(None),
        Kind::Symlink(_) => true,
        Kind::Directory | Kind::File(_) | Kind::Fifo => {
            // Copies are made without set-id bits; what was let go of here may have them still.
            stat.mode == *mode || (!keep_set_id && stat.mode == *mode & !SET_ID)
        }
    };
    if !has_mode {
        return Ok(Some("the mode"));
    }
    // Who is not root keeps what he could not give away.
    let own = |id: u32| (id != 0).then_some(id);
    let is_owner = stat.uid == *uid || own(rustix::process::geteuid().as_raw()) == Some(stat.uid);
    let is_group = stat.gid == *gid || own(rustix::process::getegid().as_raw()) == Some(stat.gid);
    if !is_owner || !is_group {
        return Ok(Some("the owner"));
    }
    let found = match entry.kind {
        Kind::Directory => attributes(&dir.dir(&entry.path)?)?,
        Kind::File(_) => attributes(&dir.read(&entry.path)?)?,
        Kind::Symlink(_) | Kind::Link(_) | Kind::Fifo => return Ok(None),
    };
    Ok((found != *wanted).then_some("an attribute"))
}

/// How much a directory holds, and how much of that is in files changed since a snapshot: an upper estimate.
///
/// Reads no data. A file in which one byte changed counts whole.
pub(super) fn measure(dir: &Dir, newest: Option<&Scanned>) -> io::Result<(u64, u64)> {
    let mut counted = BTreeSet::new();
    let (mut used, mut unsent) = (0_u64, 0_u64);
    for (path, stat) in walk(dir, Stillness::Blurred)? {
        if stat.kind != FileKind::File || (stat.n_links > 1 && !counted.insert(stat.inode)) {
            continue;
        }
        used = used.saturating_add(stat.held());
        let sent = newest.is_some_and(|newest| {
            newest
                .manifest
                .find(&path)
                .is_some_and(|at| newest.is_as_seen(at, &stat))
        });
        if !sent {
            unsent = unsent.saturating_add(stat.held());
        }
    }
    Ok((used, unsent))
}

/// Looks at a copy that was just made, so that it need not be read when it is verified.
pub(super) fn sight(dir: &Dir, manifest: &Manifest, started: Time) -> io::Result<Sight> {
    let entries = manifest.entries.iter().map(|entry| {
        let stat = dir.stat(&entry.path)?;
        Ok(stat.as_ref().map(Seen::from).unwrap_or_default())
    });
    Ok(Sight {
        started,
        entries: entries.collect::<io::Result<_>>()?,
    })
}

/// Lists everything in a directory, in order of path; the first one is itself.
pub(super) fn walk(dir: &Dir, stillness: Stillness) -> io::Result<Vec<(Vec<u8>, Stat)>> {
    let root = Stat::of(dir.as_fd())?;
    let mut found = vec![(Vec::new(), root)];
    let mut pending = vec![Vec::new()];
    while let Some(here) = pending.pop() {
        let listed = dir.dir(&here).and_then(|open| Ok((open.names()?, open)));
        let (names, open) = match listed {
            Ok(listed) => listed,
            Err(error) if stillness == Stillness::Blurred && has_vanished(&error) && !here.is_empty() => {
                continue;
            }
            Err(error) => return Err(about(&here, &error)),
        };
        for name in names {
            let path = join(&here, &name);
            let stat = match open.stat(&name) {
                Ok(Some(stat)) => stat,
                Ok(None) if stillness == Stillness::Blurred => continue,
                Ok(None) => return Err(still_written(&path)),
                Err(error) => return Err(about(&path, &error)),
            };
            if stat.device != root.device {
                return Err(about(&path, &io::Error::other("it is on another filesystem")));
            }
            if stat.is_dir() {
                pending.push(path.clone());
            }
            found.push((path, stat));
        }
    }
    found.sort_unstable_by(|one, two| one.0.cmp(&two.0));
    Ok(found)
}

/// Reads one entry, and says what the filesystem says of it afterwards.
fn examine(dir: &Dir, path: &[u8], stat: Stat) -> io::Result<(Kind, Metadata, Stat)> {
    match stat.kind {
        FileKind::Directory => {
            let open = dir.dir(path)?;
            let mut metadata = metadata_of(&stat);
            metadata.attributes = attributes(&open)?;
            Ok((Kind::Directory, metadata, stat))
        }
        FileKind::File => {
            let file = dir.read(path)?;
            let before = Stat::of(&file)?;
            let contents = Contents {
                size: before.size,
                blocks: digest(&file, before.size)?,
            };
            let mut metadata = metadata_of(&before);
            metadata.attributes = attributes(&file)?;
            Ok((Kind::File(contents), metadata, Stat::of(&file)?))
        }
        FileKind::Symlink => Ok((Kind::Symlink(dir.link_target(path)?), metadata_of(&stat), stat)),
        FileKind::Fifo => Ok((Kind::Fifo, metadata_of(&stat), stat)),
        FileKind::Socket | FileKind::Other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "devices are not data and are not copied; remove it, or keep it outside of the volume",
        )),
    }
}

/// Digests the blocks of a file that are not all zero, without reading its holes.
pub(super) fn digest(file: &File, size: u64) -> io::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut buffer = vec![0; usize::try_from(BLOCK.min(size)).unwrap_or(0)];
    let mut index = 0;
    while index * BLOCK < size {
        let length = usize::try_from((size - index * BLOCK).min(BLOCK)).unwrap_or(0);
        let block = &mut buffer[..length];
        read_block(file, block, index * BLOCK)?;
        if is_zero(block) {
            // Perhaps a hole, and perhaps a long one.
            index = match rustix::fs::seek(file, SeekFrom::Data((index + 1) * BLOCK)) {
                Ok(data) => (data / BLOCK).max(index + 1),
                Err(Errno::NXIO) => break,
                Err(_) => index + 1,
            };
            continue;
        }
        let digest = *blake3::hash(block).as_bytes();
        blocks.push(Block { index, digest });
        index += 1;
    }
    Ok(blocks)
}

/// Fills a block from a file. What is beyond the file's end is zero.
pub(super) fn read_block(file: &File, block: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n_read) => filled += n_read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    block[filled..].fill(0);
    Ok(())
}

/// Whether a block is all zero, and therefore never travels.
pub(super) fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|&byte| byte == 0)
}

/// Reads the extended attributes that belong to users, in order of name.
pub(super) fn attributes(fd: &impl std::os::fd::AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = Vec::new();
    loop {
        match rustix::fs::flistxattr_query(fd) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(length) => list.resize(length, 0),
            Err(error) => return Err(error.into()),
        }
        match rustix::fs::flistxattr(fd, &mut *list) {
            Ok(length) => list.truncate(length),
            Err(Errno::RANGE) => continue,
            Err(error) => return Err(error.into()),
        }
        break;
    }
    let mut attributes = Vec::new();
    for name in list
        .split(|&byte| byte == 0)
        .filter(|name| name.starts_with(b"user."))
    {
        let mut value = vec![0; 65536];
        match rustix::fs::fgetxattr(fd, name, &mut *value) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        attributes.push((name.to_vec(), value));
    }
    attributes.sort_unstable();
    Ok(attributes)
}

fn metadata_of(stat: &Stat) -> Metadata {
    Metadata {
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        modified: stat.modified,
        attributes: Vec::new(),
    }
}

/// Whether an entry is gone, or something else has taken its place.
pub(super) fn has_vanished(error: &io::Error) -> bool {
    let gone =
        [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::STALE].map(|errno| Some(errno.raw_os_error()));
    // A file that was replaced by a fifo, a directory or a socket is not what was listed.
    gone.contains(&error.raw_os_error())
        || error.kind() == io::ErrorKind::InvalidInput
        || error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
}

fn still_written(path: &[u8]) -> io::Error {
    let what = format!("{} was changed meanwhile: something still writes", show(path));
    io::Error::new(io::ErrorKind::ResourceBusy, what)
}

/// Says which entry an error is about.
pub(super) fn about(path: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", show(path)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::effects::Effects;
    use super::*;

    #[test]
    fn every_kind_of_change_during_an_exact_scan_is_noticed() {
        let changes: [fn(&std::path::Path); 6] = [
            |at| std::fs::write(at.join("new"), b"").unwrap(),
            |at| std::fs::remove_file(at.join("dir/file")).unwrap(),
            |at| std::fs::rename(at.join("dir/file"), at.join("dir/other")).unwrap(),
            |at| {
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(at.join("dir/file"), mode).unwrap();
            },
            |at| {
                let file = File::options().write(true).open(at.join("dir/file")).unwrap();
                let modified = file.metadata().unwrap().modified().unwrap();
                file.write_all_at(b"X", 0).unwrap();
                // Not even who sets the times back goes unnoticed.
                file.set_modified(modified).unwrap();
            },
            |at| {
                std::fs::write(at.join("dir/fresh"), b"content").unwrap();
                std::fs::rename(at.join("dir/fresh"), at.join("dir/file")).unwrap();
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("dir")).unwrap();
            std::fs::write(root.path().join("dir/file"), b"content").unwrap();
            let dir = Dir::open(root.path(), Effects::default()).unwrap();
            let found = walk(&dir, Stillness::Exact).unwrap();
            require_still(&dir, &found).unwrap();
            // The clock of files may tick as slowly as every hundredth of a second.
            let before = Stat::of(&dir).unwrap().changed;
            loop {
                std::fs::write(root.path().join("tick"), b"").unwrap();
                std::fs::remove_file(root.path().join("tick")).unwrap();
                if Stat::of(&dir).unwrap().changed > before {
                    break;
                }
            }
            let found = walk(&dir, Stillness::Exact).unwrap();
            change(root.path());
            let error = require_still(&dir, &found).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "change {number}");
        }
    }
}
