//! What the filesystem says of an entry.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::AtFlags;
use rustix::fs::Statx;
use rustix::fs::StatxFlags;

/// A moment by the filesystem's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    /// Since 1970.
    pub(super) seconds: i64,
    /// Of the second, below one thousand million.
    pub(super) nanoseconds: u32,
}

/// What kind of thing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device, or something that we have never heard of.
    Other,
}

/// What the filesystem says of an entry, without following it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Its filesystem.
    pub(super) device: (u32, u32),
    /// Which file of the filesystem.
    pub(super) inode: u64,
    /// How many names it has.
    pub(super) n_links: u32,
    /// What it is.
    pub(super) kind: FileKind,
    /// Its permission bits, with set-id and sticky.
    pub(super) mode: u32,
    /// Its user.
    pub(super) uid: u32,
    /// Its group.
    pub(super) gid: u32,
    /// Its length.
    pub(super) size: u64,
    /// How much of the disk it takes.
    pub(super) allocated: u64,
    /// When its content was changed.
    pub(super) modified: Time,
    /// When anything of it was changed; applications cannot set this.
    pub(super) changed: Time,
}

impl Stat {
    /// Looks at what is open.
    pub(super) fn of(fd: impl AsFd) -> io::Result<Self> {
        let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(Self::from(&found))
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// How many bytes of data it holds: holes of a sparse file are none.
    pub(super) fn held(&self) -> u64 {
        match self.kind {
            FileKind::File => self.size.min(self.allocated),
            FileKind::Directory | FileKind::Symlink | FileKind::Fifo | FileKind::Socket | FileKind::Other => {
                0
            }
        }
    }

    /// Whether it is the same file, unchanged as far as the filesystem can tell.
    pub(super) fn is_unchanged_since(&self, earlier: &Self) -> bool {
        self.inode == earlier.inode
            && self.kind == earlier.kind
            && self.size == earlier.size
            && self.modified == earlier.modified
            && self.changed == earlier.changed
    }
}

impl From<&Statx> for Stat {
    fn from(found: &Statx) -> Self {
        use rustix::fs::FileType;
        let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::Directory => FileKind::Directory,
            FileType::RegularFile => FileKind::File,
            FileType::Symlink => FileKind::Symlink,
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::BlockDevice | FileType::CharacterDevice | FileType::Unknown => FileKind::Other,
        };
        Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            n_links: found.stx_nlink,
            kind,
            mode: u32::from(found.stx_mode) & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            size: found.stx_size,
            allocated: found.stx_blocks.saturating_mul(512),
            modified: Time {
                seconds: found.stx_mtime.tv_sec,
                nanoseconds: found.stx_mtime.tv_nsec,
            },
            changed: Time {
                seconds: found.stx_ctime.tv_sec,
                nanoseconds: found.stx_ctime.tv_nsec,
            },
        }
    }
}
