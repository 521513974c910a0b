//! A directory that nothing below can lead out of.
//!
//! Every name is relative, every component is opened beneath the directory,
//! and no symbolic link is ever followed, neither one that was there nor one
//! that somebody puts there while we work.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RenameFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::StatxFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::io::Errno;

use super::effects::Effects;
use super::stat::Stat;
use super::stat::Time;
use crate::reserve::Reserve;
use crate::reserve::is_full;

/// The longest path that the operating system opens in one call, without its end mark.
const LONGEST_PATH: usize = 4095;

/// The longest name of one entry of a directory.
const LONGEST_NAME: usize = 255;

/// How paths of several components are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolve {
    /// In one call that the kernel confines.
    InKernel,
    /// Component by component, for kernels and sandboxes without that call.
    Stepwise,
}

impl Resolve {
    /// Finds out which way works here.
    fn probe(fd: BorrowedFd<'_>) -> Self {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        match rustix::fs::openat2(fd, ".", flags, Mode::empty(), ResolveFlags::BENEATH) {
            Ok(_) => Self::InKernel,
            Err(_) => Self::Stepwise,
        }
    }
}

/// An open directory; everything below is reached through it only.
#[derive(Clone, Debug)]
pub(super) struct Dir {
    fd: Arc<OwnedFd>,
    resolve: Resolve,
    effects: Effects,
    /// Room for what is written whole, where the disk has none.
    reserve: Option<Arc<Reserve>>,
}

/// Whether a path is relative, has no component that leads up or nowhere, and can be opened.
pub(super) fn is_plain_path(path: &[u8]) -> bool {
    path.len() <= LONGEST_PATH
        && path
            .split(|&byte| byte == b'/')
            .all(|name| !name.is_empty() && name != b"." && name != b".." && name.len() <= LONGEST_NAME)
        && !path.contains(&0)
}

/// Splits a path into what is before its last name, and that name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

impl Dir {
    /// Opens a directory by its path, which is trusted.
    pub(super) fn open(path: &Path, effects: Effects) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let resolve = Resolve::probe(fd.as_fd());
        Ok(Self {
            fd: Arc::new(fd),
            resolve,
            effects,
            reserve: None,
        })
    }

    /// Writes into this room, here and below, where the disk has none.
    pub(super) fn with_reserve(mut self, reserve: Arc<Reserve>) -> Self {
        self.reserve = Some(reserve);
        self
    }

    /// Leaves that room alone: it is for what leaves, not for what arrives.
    pub(super) fn without_reserve(&self) -> Self {
        Self {
            reserve: None,
            ..self.clone()
        }
    }

    /// Does without the kernel's confinement from here on.
    #[cfg(test)]
    pub(super) fn stepwise(mut self) -> Self {
        self.resolve = Resolve::Stepwise;
        self
    }

    /// The gate before every change.
    pub(super) fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Opens a directory below; the empty path is this one.
    pub(super) fn dir(&self, path: &[u8]) -> io::Result<Self> {
        if path.is_empty() {
            return Ok(self.clone());
        }
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self {
            fd: Arc::new(fd),
            resolve: self.resolve,
            effects: self.effects.clone(),
            reserve: self.reserve.clone(),
        })
    }

    /// Opens a regular file below for reading.
    pub(super) fn read(&self, path: &[u8]) -> io::Result<File> {
        // Without `NONBLOCK`, a fifo that was put in the place of the file would hold us for ever.
        let file = File::from(self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        require_regular(&file)?;
        Ok(file)
    }

    /// Opens a regular file below for reading and writing, and creates it where it is missing.
    pub(super) fn write(&self, path: &[u8]) -> io::Result<File> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(
            parent.as_fd(),
            name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        require_regular(&file)?;
        Ok(file)
    }

    /// Says what is at a path, or that nothing is. A symbolic link is itself, not what it leads to.
    pub(super) fn stat(&self, path: &[u8]) -> io::Result<Option<Stat>> {
        let found = self.parent(path).and_then(|(parent, name)| {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            Ok(rustix::fs::statx(
                parent.as_fd(),
                name,
                flags,
                StatxFlags::BASIC_STATS,
            )?)
        });
        match found {
            Ok(found) => Ok(Some(Stat::from(&found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the names in this directory, without `.` and `..`, in order.
    pub(super) fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.fd.as_fd())? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads where a symbolic link leads.
    pub(super) fn link_target(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::readlinkat(parent.as_fd(), name, Vec::new())?.into_bytes())
    }

    /// Creates a directory; one that is there already is an error.
    pub(super) fn make_dir(&self, path: &[u8], mode: u32) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(mode))?;
        Ok(())
    }

    /// Creates a symbolic link.
    pub(super) fn make_symlink(&self, path: &[u8], target: &[u8]) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, parent.as_fd(), name)?;
        Ok(())
    }

    /// Creates a fifo.
    pub(super) fn make_fifo(&self, path: &[u8]) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(parent.as_fd(), name, kind, Mode::RUSR | Mode::WUSR, 0)?;
        Ok(())
    }

    /// Gives a file a second name.
    pub(super) fn make_link(&self, existing: &[u8], path: &[u8]) -> io::Result<()> {
        self.effects.before()?;
        let (from, from_name) = self.parent(existing)?;
        let (to, name) = self.parent(path)?;
        rustix::fs::linkat(from.as_fd(), from_name, to.as_fd(), name, AtFlags::empty())?;
        Ok(())
    }

    /// Moves an entry to a free name, of this directory or of another one.
    pub(super) fn rename(&self, path: &[u8], to: &Self, new: &[u8]) -> io::Result<()> {
        self.rename_with(path, to, new, RenameFlags::NOREPLACE)
    }

    /// Moves an entry over whatever has the new name.
    pub(super) fn replace(&self, path: &[u8], new: &[u8]) -> io::Result<()> {
        self.rename_with(path, self, new, RenameFlags::empty())
    }

    fn rename_with(&self, path: &[u8], to: &Self, new: &[u8], flags: RenameFlags) -> io::Result<()> {
        self.effects.before()?;
        let (from, from_name) = self.parent(path)?;
        let (to, name) = to.parent(new)?;
        match rustix::fs::renameat_with(from.as_fd(), from_name, to.as_fd(), name, flags) {
            // Some filesystems know no flags. Our own locks keep others of us away from the name.
            Err(Errno::INVAL) if !flags.is_empty() => {
                if rustix::fs::accessat(
                    to.as_fd(),
                    name,
                    rustix::fs::Access::EXISTS,
                    AtFlags::SYMLINK_NOFOLLOW,
                )
                .is_ok()
                {
                    return Err(Errno::EXIST.into());
                }
                rustix::fs::renameat(from.as_fd(), from_name, to.as_fd(), name)?;
            }
            other => other?,
        }
        Ok(())
    }

    /// Removes anything but a directory.
    pub(super) fn remove_file(&self, path: &[u8]) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty())?;
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&self, path: &[u8]) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// Removes an entry and everything below it. What is gone already is no error.
    pub(super) fn remove_all(&self, path: &[u8]) -> io::Result<()> {
        let Some(found) = self.stat(path)? else {
            return Ok(());
        };
        if !found.is_dir() {
            return gone_is_fine(self.remove_file(path));
        }
        // Deepest last, so that walking the list backwards removes children before parents.
        let mut dirs = vec![path.to_vec()];
        let mut next = 0;
        while next < dirs.len() {
            let here = dirs[next].clone();
            next += 1;
            self.make_writable(&here)?;
            for name in self.dir(&here)?.names()? {
                let child = join(&here, &name);
                match self.stat(&child)? {
                    Some(stat) if stat.is_dir() => dirs.push(child),
                    Some(_) => gone_is_fine(self.remove_file(&child))?,
                    None => {}
                }
            }
        }
        for dir in dirs.iter().rev() {
            gone_is_fine(self.remove_dir(dir))?;
        }
        Ok(())
    }

    /// Lets us list and change a directory of ours that its application has protected from itself.
    pub(super) fn make_writable(&self, path: &[u8]) -> io::Result<()> {
        let Some(stat) = self.stat(path)? else {
            return Ok(());
        };
        let needed = if stat.is_dir() { 0o700 } else { 0o600 };
        if stat.mode & needed == needed {
            return Ok(());
        }
        self.set_mode(path, stat.mode | needed)
    }

    /// Sets the mode of an entry that is not a symbolic link.
    pub(super) fn set_mode(&self, path: &[u8], mode: u32) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        let mode = Mode::from_raw_mode(mode);
        match rustix::fs::chmodat(parent.as_fd(), name, mode, AtFlags::SYMLINK_NOFOLLOW) {
            // Kernels before 6.6 cannot do that by name; by descriptor they can where we may open it.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                rustix::fs::fchmod(self.resolve(path, flags)?, mode)?;
            }
            other => other?,
        }
        Ok(())
    }

    /// Gives an entry to a user and a group, as far as we are allowed to.
    pub(super) fn set_owner(&self, path: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        self.effects.before()?;
        // The highest number means "leave as it is" to the kernel and names nobody.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL.into());
        }
        let (parent, name) = self.parent(path)?;
        let owner = Some(rustix::fs::Uid::from_raw(uid));
        let group = Some(rustix::fs::Gid::from_raw(gid));
        match rustix::fs::chownat(parent.as_fd(), name, owner, group, AtFlags::SYMLINK_NOFOLLOW) {
            // Not allowed, or a number that our user namespace does not have.
            Err(Errno::PERM | Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Sets when an entry was modified.
    pub(super) fn set_modified(&self, path: &[u8], modified: Time) -> io::Result<()> {
        self.effects.before()?;
        let (parent, name) = self.parent(path)?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: modified.seconds,
                tv_nsec: modified.nanoseconds.into(),
            },
        };
        rustix::fs::utimensat(parent.as_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Makes the names in this directory last.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.effects.before()?;
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Makes everything on this filesystem last. For trees of many files far cheaper than one by one.
    pub(super) fn sync_filesystem(&self) -> io::Result<()> {
        self.effects.before()?;
        Ok(rustix::fs::syncfs(&self.fd)?)
    }

    /// Writes a small file so that after a crash it holds either the old content or the new one, whole.
    ///
    /// Where the disk is full it is written into the room that is kept for that.
    pub(super) fn write_whole(&self, path: &[u8], content: &[&[u8]]) -> io::Result<()> {
        let fresh = [path, b".new"].concat();
        gone_is_fine(self.remove_file(&fresh))?;
        let length = content.iter().map(|part| part.len() as u64).sum();
        match self.write_fresh(&fresh, content, length) {
            Err(error) if is_full(&error) => {
                gone_is_fine(self.remove_file(&fresh))?;
                if !self.take_reserve(&fresh, length)? {
                    return Err(error);
                }
                self.write_fresh(&fresh, content, length)?;
            }
            other => other?,
        }
        if let Some(reserve) = &self.reserve {
            reserve.expect(length);
        }
        self.replace(&fresh, path)?;
        self.dir(split(path).0)?.sync()
    }

    fn write_fresh(&self, fresh: &[u8], content: &[&[u8]], length: u64) -> io::Result<()> {
        use std::io::Write as _;
        let mut file = self.write(fresh)?;
        for part in content {
            self.effects.before()?;
            file.write_all(part)?;
        }
        // What was room until now is longer.
        if file.metadata()?.len() != length {
            file.set_len(length)?;
        }
        self.effects.before()?;
        file.sync_all()
    }

    fn take_reserve(&self, fresh: &[u8], length: u64) -> io::Result<bool> {
        let Some(reserve) = &self.reserve else {
            return Ok(false);
        };
        let (parent, name) = self.parent(fresh)?;
        reserve.give(length, |slot| {
            self.effects.before()?;
            Ok(rustix::fs::renameat(rustix::fs::CWD, slot, parent.as_fd(), name)?)
        })
    }

    /// How many bytes may still be written to this filesystem.
    pub(super) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Opens the directory that a path is in, and returns the last name of the path.
    ///
    /// The empty path is the directory itself, which is in itself as `.`.
    fn parent<'a>(&self, path: &'a [u8]) -> io::Result<(Self, &'a [u8])> {
        if path.is_empty() {
            return Ok((self.clone(), b"."));
        }
        if !is_plain_path(path) {
            return Err(Errno::INVAL.into());
        }
        let (parent, name) = split(path);
        if parent.is_empty() {
            return Ok((self.clone(), name));
        }
        let fd = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((
            Self {
                fd: Arc::new(fd),
                resolve: self.resolve,
                effects: self.effects.clone(),
                reserve: self.reserve.clone(),
            },
            name,
        ))
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        if path != b"." && !is_plain_path(path) {
            return Err(Errno::INVAL.into());
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match self.resolve {
            Resolve::InKernel => {
                let confined = ResolveFlags::BENEATH
                    | ResolveFlags::NO_SYMLINKS
                    | ResolveFlags::NO_MAGICLINKS
                    | ResolveFlags::NO_XDEV;
                loop {
                    match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), confined) {
                        // Something was renamed meanwhile and the kernel could not tell whether we stayed inside.
                        Err(Errno::AGAIN | Errno::INTR) => {}
                        other => return Ok(other?),
                    }
                }
            }
            Resolve::Stepwise => {
                let (parent, name) = split(path);
                let mut here: Option<OwnedFd> = None;
                for step in parent.split(|&byte| byte == b'/').filter(|step| !step.is_empty()) {
                    let from = here.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
                    let step_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    here = Some(rustix::fs::openat(from, step, step_flags, Mode::empty())?);
                }
                let from = here.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
                Ok(rustix::fs::openat(from, name, flags, Mode::empty())?)
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Joins a directory, which may be the empty path, and a name in it.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

/// Takes it as success that there was nothing to remove.
pub(super) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn require_regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is not a regular file",
    ))
}
