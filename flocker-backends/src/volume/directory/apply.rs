//! Making a directory what a manifest says.
//!
//! Every step looks at what is there first, so the whole can be done again
//! after a crash at any point of it, with the same end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::FallocateFlags;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::difference::Difference;
use super::difference::Needed;
use super::dir::Dir;
use super::dir::gone_is_fine;
use super::dir::join;
use super::manifest::BLOCK;
use super::manifest::Contents;
use super::manifest::Entry;
use super::manifest::Kind;
use super::manifest::Manifest;
use super::manifest::Metadata;
use super::scan::about;
use super::scan::attributes;
use super::scan::read_block;
use super::stat::FileKind;
use super::stat::Stat;

/// The bits that let a program act as the file's owner.
pub(super) const SET_ID: u32 = 0o6000;

/// Blocks that have arrived and are not in their files yet.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    pub(super) file: &'a File,
    /// Which blocks they are, and where in the journal.
    pub(super) difference: &'a Difference,
}

/// What a directory is to become, and from what.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) manifest: &'a Manifest,
    /// What it was; without it, files that are there hold their data already.
    pub(super) base: Option<&'a Manifest>,
    pub(super) journal: Option<Journal<'a>>,
    /// Whether set-id bits are restored.
    pub(super) keep_set_id: bool,
}

impl Target<'_> {
    /// Makes the directory what the manifest says; not durable.
    pub(super) fn apply(&self, dir: &Dir) -> io::Result<()> {
        self.clear(dir)?;
        let changed: Vec<(usize, &Entry)> = self
            .manifest
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| !self.is_as_before(entry))
            .collect();
        for &(at, entry) in &changed {
            self.fill(dir, at, entry)
                .map_err(|error| about(&entry.path, &error))?;
        }
        // Children first: writing into a directory changes when it was modified.
        for (_, entry) in changed.into_iter().rev() {
            self.dress(dir, entry)
                .map_err(|error| about(&entry.path, &error))?;
        }
        Ok(())
    }

    /// Whether an entry is what it was in the base: then nothing here touches it, neither now nor before a crash half way.
    ///
    /// Mostly that is nearly every file, and to look at each on the disk takes longer than all the rest.
    fn is_as_before(&self, entry: &Entry) -> bool {
        let may_be = match entry.kind {
            // A directory changes with what is put into it. Which file a link is of is a number, which may be another's by now.
            Kind::Directory | Kind::Link(_) => false,
            // What was let go of here may have set-id bits that a copy is not to have.
            Kind::File(_) | Kind::Symlink(_) | Kind::Fifo => entry.metadata.mode & SET_ID == 0,
        };
        let before = self.base.filter(|_| may_be);
        before.is_some_and(|base| {
            base.find(&entry.path)
                .is_some_and(|at| base.entries[at] == *entry)
        })
    }

    /// Removes what the manifest does not have, and what has to be made anew.
    fn clear(&self, dir: &Dir) -> io::Result<()> {
        let mut pending = vec![Vec::new()];
        while let Some(here) = pending.pop() {
            dir.make_writable(&here)?;
            let open = dir.dir(&here)?;
            for name in open.names()? {
                let path = join(&here, &name);
                let Some(stat) = open.stat(&name)? else { continue };
                let wanted = self
                    .manifest
                    .find(&path)
                    .map(|at| &self.manifest.entries[at].kind);
                let keep = match (wanted, stat.kind) {
                    (Some(Kind::Directory), FileKind::Directory) => {
                        pending.push(path.clone());
                        true
                    }
                    // Where the base has no such file, its blocks are all in the journal.
                    (Some(Kind::File(_)), FileKind::File) => {
                        self.base.is_none_or(|base| base.contents(&path).is_some())
                    }
                    (Some(Kind::Symlink(target)), FileKind::Symlink) => open.link_target(&name)? == *target,
                    (Some(Kind::Link(_)), FileKind::File) | (Some(Kind::Fifo), FileKind::Fifo) => true,
                    _ => false,
                };
                if !keep {
                    open.remove_all(&name)?;
                }
            }
        }
        Ok(())
    }

    fn fill(&self, dir: &Dir, at: usize, entry: &Entry) -> io::Result<()> {
        let path = entry.path.as_slice();
        let found = dir.stat(path)?;
        match (&entry.kind, found) {
            (Kind::Directory | Kind::Symlink(_) | Kind::Fifo, Some(_)) => Ok(()),
            (Kind::Directory, None) => dir.make_dir(path, 0o700),
            (Kind::Symlink(target), None) => dir.make_symlink(path, target),
            (Kind::Fifo, None) => dir.make_fifo(path),
            (Kind::File(contents), found) => self.fill_file(dir, at, path, contents, found.as_ref()),
            (Kind::Link(first), found) => {
                let first = &self.manifest.entries[*first].path;
                let original = dir.stat(first)?.map(|stat| stat.inode);
                if found.is_some() && found.map(|stat| stat.inode) == original {
                    return Ok(());
                }
                gone_is_fine(dir.remove_file(path))?;
                dir.make_link(first, path)
            }
        }
    }

    fn fill_file(
        &self,
        dir: &Dir,
        at: usize,
        path: &[u8],
        contents: &Contents,
        found: Option<&Stat>,
    ) -> io::Result<()> {
        let arrived = self.journal.as_ref().map_or(&[][..], |journal| {
            let blocks = &journal.difference.blocks;
            let start = blocks.partition_point(|needed| needed.entry < at);
            let end = blocks.partition_point(|needed| needed.entry <= at);
            &blocks[start..end]
        });
        let emptied: Vec<u64> = self
            .base
            .and_then(|base| base.contents(path))
            .map_or(&[][..], |old| &old.blocks)
            .iter()
            .map(|block| block.index)
            .filter(|&index| index < contents.n_blocks() && contents.digest(index).is_none())
            .collect();
        let right_size = found.is_some_and(|found| found.size == contents.size);
        if right_size && arrived.is_empty() && emptied.is_empty() {
            return Ok(());
        }
        if found.is_some() {
            dir.make_writable(path)?;
        }
        let file = dir.write(path)?;
        dir.effects().before()?;
        file.set_len(contents.size)?;
        for index in emptied {
            dir.effects().before()?;
            empty(&file, index * BLOCK, contents.length(index))?;
        }
        for needed in arrived {
            dir.effects().before()?;
            self.copy(&file, needed, contents)?;
        }
        Ok(())
    }

    fn copy(&self, file: &File, needed: &Needed, contents: &Contents) -> io::Result<()> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let Some(digest) = contents.digest(needed.index) else {
            // It was found to be all zero when it was sent.
            return empty(file, needed.index * BLOCK, contents.length(needed.index));
        };
        let mut block = vec![0; needed.length];
        read_block(journal.file, &mut block, needed.offset)?;
        if blake3::hash(&block) != *digest {
            let reason = "a block that had arrived is damaged on the disk";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        file.write_all_at(&block, needed.index * BLOCK)
    }

    /// Restores what is known of an entry besides its content.
    fn dress(&self, dir: &Dir, entry: &Entry) -> io::Result<()> {
        let Entry { path, kind, metadata } = entry;
        let Metadata {
            mode,
            uid,
            gid,
            modified,
            attributes: wanted,
        } = metadata;
        if let Kind::Link(_) = kind {
            return Ok(());
        }
        let Some(stat) = dir.stat(path)? else {
            return Err(Errno::NOENT.into());
        };
        let is_link = matches!(kind, Kind::Symlink(_));
        if matches!(kind, Kind::Directory | Kind::File(_)) && !self.has_attributes(entry) {
            dir.make_writable(path)?;
            if stat.is_dir() {
                dress_attributes(dir, &dir.dir(path)?, wanted)?;
            } else {
                dress_attributes(dir, &dir.read(path)?, wanted)?;
            }
        }
        let mut mode = *mode;
        if !self.keep_set_id {
            mode &= !SET_ID;
        }
        let wrong_owner = stat.uid != *uid || stat.gid != *gid;
        if wrong_owner {
            dir.set_owner(path, *uid, *gid)?;
        }
        // Giving a file away takes its set-id bits; so does a mode set before that.
        let now = dir.stat(path)?.unwrap_or(stat);
        if !is_link && now.mode != mode {
            dir.set_mode(path, mode)?;
        }
        if now.modified != *modified {
            dir.set_modified(path, *modified)?;
        }
        Ok(())
    }

    /// Whether the base had the same attributes, so that they need not be looked at.
    fn has_attributes(&self, entry: &Entry) -> bool {
        let wanted = &entry.metadata.attributes;
        let Some(base) = self.base else {
            // A tree of our own making: nothing has attributes yet.
            return wanted.is_empty();
        };
        let old = base.find(&entry.path).map(|at| &base.entries[at]);
        match old {
            Some(old) if std::mem::discriminant(&old.kind) == std::mem::discriminant(&entry.kind) => {
                old.metadata.attributes == *wanted && wanted.is_empty()
            }
            Some(_) | None => wanted.is_empty(),
        }
    }
}

/// Tries whether this filesystem can hold what a manifest asks for, before anything depends on it.
///
/// A file may be too large for it, a link too long, an attribute unknown to it.
pub(super) fn probe(home: &Dir, manifest: &Manifest) -> io::Result<()> {
    const FILE: &[u8] = b"incoming/probe";
    const LINK: &[u8] = b"incoming/probe-link";
    let mut largest = 0;
    let mut longest: &[u8] = b"";
    gone_is_fine(home.remove_file(FILE))?;
    gone_is_fine(home.remove_file(LINK))?;
    let file = home.write(FILE)?;
    for entry in &manifest.entries {
        match &entry.kind {
            Kind::File(contents) => largest = largest.max(contents.size),
            Kind::Symlink(target) if target.len() > longest.len() => longest = target,
            Kind::Symlink(_) | Kind::Directory | Kind::Link(_) | Kind::Fifo => {}
        }
        if !entry.metadata.attributes.is_empty() {
            dress_attributes(home, &file, &entry.metadata.attributes)
                .map_err(|error| about(&entry.path, &error))?;
        }
    }
    home.effects().before()?;
    file.set_len(largest)?;
    if !longest.is_empty() {
        home.make_symlink(LINK, longest)?;
        home.remove_file(LINK)?;
    }
    home.remove_file(FILE)
}

fn dress_attributes(dir: &Dir, fd: &impl std::os::fd::AsFd, wanted: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    let found = attributes(fd)?;
    for (name, _) in &found {
        if wanted.iter().all(|(other, _)| other != name) {
            dir.effects().before()?;
            rustix::fs::fremovexattr(fd, name.as_slice())?;
        }
    }
    for (name, value) in wanted {
        if !found.iter().any(|(other, held)| other == name && held == value) {
            dir.effects().before()?;
            rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// Makes a part of a file zero, as a hole where the filesystem can.
fn empty(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, hole, offset, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
            file.write_all_at(&zeros, offset)
        }
        Err(error) => Err(error.into()),
    }
}
