//! Who still has something of a tree in use so that he can change it, by what the kernel says of every process.
//!
//! Where a directory lies does not matter to who has it open: moving it out of
//! the way of applications keeps out those who come, not those who are there.
//! So whoever lets go of a dataset looks for them. It costs a few microseconds
//! for each open file of the machine, and reads nothing of the tree itself,
//! unless somebody sees its filesystem by another way than we do.
//!
//! Processes of others that we may not look into are passed over, and so is
//! this one: it knows what it does.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Statx;
use rustix::fs::StatxFlags;
use rustix::io::Errno;

/// How many processes one thread looks at; where there are more, several do, up to [`MOST_THREADS`].
const PER_THREAD: usize = 250;

/// How many threads look at processes: an application is away meanwhile.
const MOST_THREADS: usize = 4;

/// How many of those who are in the way are named.
const MOST_NAMED: usize = 3;

/// How much is asked for.
#[derive(Clone, Copy)]
pub(super) enum Extent<'a> {
    /// A directory, and the numbers of all that is in it. Whoever stands in it is in the way, too.
    #[cfg_attr(
        not(feature = "directory"),
        expect(dead_code, reason = "of the other backend")
    )]
    Directory(&'a (dyn Fn() -> io::Result<BTreeSet<u64>> + Sync)),
    /// The whole filesystem that is mounted there. Whoever only stands in it is not in the way of making it read-only.
    #[cfg_attr(not(feature = "zfs"), expect(dead_code, reason = "of the other backend"))]
    Filesystem,
}

/// A process that has something of a tree in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    process: i32,
    program: String,
    hold: Hold,
    /// Where in the tree that lies what it has, or what it is called by another way to there.
    path: String,
}

/// In which way somebody has something in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    OpenForWriting,
    MappedForWriting,
    WorkingDirectory,
    RootDirectory,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            process,
            program,
            hold,
            path,
        } = self;
        let how = match hold {
            Hold::OpenForWriting => "open for writing",
            Hold::MappedForWriting => "mapped for writing",
            Hold::WorkingDirectory => "as its working directory",
            Hold::RootDirectory => "as its root directory",
        };
        write!(formatter, "process {process} ({program}) has {path} {how}")
    }
}

/// Looks at every process once, and returns those that have something of a tree in use.
pub(super) fn of(root: BorrowedFd<'_>, extent: Extent<'_>) -> io::Result<Vec<Holder>> {
    let tree = Tree::of(root, extent)?;
    let ourselves = rustix::process::getpid().as_raw_nonzero().get();
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let process = name.to_str().and_then(|name| name.parse::<i32>().ok());
        processes.extend(process.filter(|&process| process != ourselves));
    }
    let n_threads = (processes.len() / PER_THREAD + 1).min(MOST_THREADS);
    let share = processes.len().div_ceil(n_threads).max(1);
    std::thread::scope(|scope| {
        let tree = &tree;
        let threads: Vec<_> = processes
            .chunks(share)
            .map(|share| scope.spawn(move || tree.holders_among(share)))
            .collect();
        let mut holders = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(found) => holders.extend(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(holders)
    })
}

/// Says who is in the way, and what to do about it.
pub(super) fn in_the_way(holders: &[Holder]) -> io::Error {
    let mut named: Vec<String> = holders.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if holders.len() > MOST_NAMED {
        named.push(format!("{} more", holders.len() - MOST_NAMED));
    }
    let what = format!(
        "{}: end it, or have it close that, and try again",
        named.join("; ")
    );
    io::Error::new(io::ErrorKind::ResourceBusy, what)
}

/// A tree, and how the kernel speaks of what is in it.
struct Tree<'a> {
    extent: Extent<'a>,
    device: (u32, u32),
    mount: Option<u64>,
    path: Vec<u8>,
    inodes: OnceLock<BTreeSet<u64>>,
}

impl<'a> Tree<'a> {
    fn of(root: BorrowedFd<'_>, extent: Extent<'a>) -> io::Result<Self> {
        let found = look(root, "", AtFlags::EMPTY_PATH)?;
        let own = format!("/proc/self/fd/{}", root.as_raw_fd());
        Ok(Self {
            extent,
            device: device(&found),
            mount: mount(&found),
            path: link(CWD, &own)?,
            inodes: OnceLock::new(),
        })
    }

    fn holders_among(&self, processes: &[i32]) -> Vec<Holder> {
        let mut holders = Vec::new();
        for &process in processes {
            match self.hold_of(process) {
                Ok(None) => {}
                Ok(Some((hold, path))) => holders.push(Holder {
                    process,
                    program: program(process),
                    hold,
                    path: self.shown(&path),
                }),
                Err(error) if has_ended(&error) => {}
                Err(error) => tracing::debug!(process, %error, "what this process has open cannot be seen"),
            }
        }
        holders
    }

    fn hold_of(&self, process: i32) -> io::Result<Option<(Hold, Vec<u8>)>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(format!("/proc/{process}"), flags, Mode::empty())?;
        let standing: &[_] = match self.extent {
            Extent::Directory(_) => &[("cwd", Hold::WorkingDirectory), ("root", Hold::RootDirectory)],
            Extent::Filesystem => &[],
        };
        for &(name, hold) in standing {
            if let Some(path) = self.has(place.as_fd(), name, FileType::Directory)? {
                return Ok(Some((hold, path)));
            }
        }
        let open = rustix::fs::openat(&place, "fd", flags, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&open)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            // Closed since it was listed: it is not open.
            match self.has_for_writing(open.as_fd(), name) {
                Ok(None) => {}
                Ok(Some(path)) => return Ok(Some((Hold::OpenForWriting, path))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut maps = std::fs::File::from(rustix::fs::openat(&place, "maps", flags, Mode::empty())?);
        let mut text = Vec::new();
        maps.read_to_end(&mut text)?;
        for mapped in text.split(|&byte| byte == b'\n').filter_map(Mapped::parse) {
            if self.has_mapped(&mapped)? {
                return Ok(Some((Hold::MappedForWriting, mapped.path.to_vec())));
            }
        }
        Ok(None)
    }

    /// Returns where that lies in the tree which a descriptor leads to, if it does and may write to it.
    fn has_for_writing(&self, open: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
        let found = self.has(open, name, FileType::RegularFile)?;
        if found.is_none() {
            return Ok(None);
        }
        // The mode of the link is what the file was opened for.
        let link = look(open, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(found.filter(|_| link.stx_mode & 0o200 != 0))
    }

    /// Returns where something lies that a link of `/proc` leads to, if it is of this kind and in the tree.
    fn has(&self, at: BorrowedFd<'_>, name: &str, kind: FileType) -> io::Result<Option<Vec<u8>>> {
        let Ok(found) = look(at, name, AtFlags::empty()) else {
            // Either we may not look, or it is closed; or it is in a filesystem that does not answer us: not ours.
            link(at, name)?;
            return Ok(None);
        };
        let is_gone = found.stx_nlink == 0;
        let is_kind = FileType::from_raw_mode(found.stx_mode.into()) == kind;
        if device(&found) != self.device || !is_kind || is_gone {
            return Ok(None);
        }
        let path = link(at, name)?;
        let is_inside = match (mount(&found), self.mount) {
            (Some(theirs), Some(ours)) if theirs == ours => self.is_below(&path),
            // Seen by another way, as in a container, it has another path.
            _ => self.is_below(&path) || (path != b"/" && self.has_inode(found.stx_ino)?),
        };
        Ok(is_inside.then_some(path))
    }

    fn has_mapped(&self, mapped: &Mapped<'_>) -> io::Result<bool> {
        if mapped.path.ends_with(b" (deleted)") {
            return Ok(false);
        }
        Ok(self.is_below(mapped.path) || (mapped.device == self.device && self.has_inode(mapped.inode)?))
    }

    fn is_below(&self, path: &[u8]) -> bool {
        self.below(path).is_some()
    }

    /// Returns where in the tree a path leads, which is empty or begins with a slash.
    fn below<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        path.strip_prefix(self.path.as_slice())
            .filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Shows a path as the application knows it: the tree is not where it is else while somebody looks for holders.
    fn shown(&self, path: &[u8]) -> String {
        show(&match self.below(path) {
            Some(rest) => [b"data", rest].concat(),
            None => path.to_vec(),
        })
    }

    /// Says whether what has this number in the filesystem of the tree is in the tree.
    fn has_inode(&self, inode: u64) -> io::Result<bool> {
        let Extent::Directory(inodes) = self.extent else {
            return Ok(true);
        };
        if let Some(known) = self.inodes.get() {
            return Ok(known.contains(&inode));
        }
        let found = inodes()?;
        Ok(self.inodes.get_or_init(|| found).contains(&inode))
    }
}

/// A file of which a process shares the pages, and may write to them.
struct Mapped<'a> {
    device: (u32, u32),
    inode: u64,
    path: &'a [u8],
}

impl<'a> Mapped<'a> {
    /// Reads a line of `/proc/<id>/maps`; nothing where that is no such file.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let (_, permissions, _) = (fields.next()?, fields.next()?, fields.next()?);
        if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
            return None;
        }
        let (major, minor) = std::str::from_utf8(fields.next()?).ok()?.split_once(':')?;
        let device = (
            u32::from_str_radix(major, 16).ok()?,
            u32::from_str_radix(minor, 16).ok()?,
        );
        let inode = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let path = fields.next()?.trim_ascii_start();
        path.starts_with(b"/").then_some(Self { device, inode, path })
    }
}

fn look(at: BorrowedFd<'_>, name: &str, flags: AtFlags) -> io::Result<Statx> {
    // What is on a network is asked for nothing: it might never answer.
    let flags = flags | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::NLINK | StatxFlags::INO;
    Ok(rustix::fs::statx(at, name, flags, wanted | StatxFlags::MNT_ID)?)
}

fn link(at: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(at, name, Vec::new())?.into_bytes())
}

fn device(found: &Statx) -> (u32, u32) {
    (found.stx_dev_major, found.stx_dev_minor)
}

/// Says through which mount something was reached. Kernels before 5.8 do not.
fn mount(found: &Statx) -> Option<u64> {
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// Shows a path, whatever bytes it is made of.
fn show(path: &[u8]) -> String {
    format!("`{}`", path.escape_ascii())
}

fn program(process: i32) -> String {
    let name = std::fs::read(format!("/proc/{process}/comm"));
    name.map_or_else(|_| "already ended".into(), |name| show(name.trim_ascii_end()))
}

/// Says whether a process, or what it had open, is not there any more.
fn has_ended(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::SRCH]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::process::Program;
    use crate::process::Stream;

    /// What keeps a filesystem from being made read-only is named, and who only stands in it is not.
    #[tokio::test]
    async fn who_writes_in_a_filesystem_is_named() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create(root.path().join("file")).unwrap();
        let sleep = |directory, stdout| {
            let program = Program::new("sleep").argument("60").directory(directory);
            program.stdout(stdout).spawn().unwrap()
        };
        let writer = sleep("/".as_ref(), Stream::Descriptor(file.into()));
        let stander = sleep(root.path(), Stream::Null);
        let (writer_id, stander_id) = (writer.id().unwrap(), stander.id().unwrap());
        let place = File::open(root.path()).unwrap();
        let holders = of(place.as_fd(), Extent::Filesystem).unwrap();
        let of_process = |id: u32| {
            holders
                .iter()
                .find(|holder| u32::try_from(holder.process) == Ok(id))
        };
        let named = [of_process(writer_id).unwrap().clone()];
        let error = in_the_way(&named);
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(
            error.to_string(),
            format!(
                "process {writer_id} (`sleep`) has `data/file` open for writing: end it, or have it close that, and try again"
            )
        );
        assert_eq!(of_process(stander_id), None);
        let known = || Ok(BTreeSet::new());
        let standing = of(place.as_fd(), Extent::Directory(&known)).unwrap();
        assert_eq!(standing.len(), 2, "{standing:?}");
    }

    #[test]
    fn what_is_seen_by_another_way_is_found_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("beside"), b"").unwrap();
        std::fs::create_dir(root.path().join("tree")).unwrap();
        let append = |path: &str| {
            let path = root.path().join(path);
            File::options().create(true).append(true).open(path).unwrap()
        };
        let (inside, beside) = (append("tree/file"), append("beside"));
        let reader = File::open(root.path().join("tree/file")).unwrap();
        let dir = File::open(root.path().join("tree")).unwrap();
        let descriptors = File::open("/proc/self/fd").unwrap();
        let known = || Ok(BTreeSet::from([inside.metadata()?.ino()]));
        let mut tree = Tree::of(dir.as_fd(), Extent::Directory(&known)).unwrap();
        for way in ["ours", "a mount of another place", "an old kernel"] {
            match way {
                "ours" => {}
                "an old kernel" => tree.mount = None,
                _ => {
                    tree.mount = Some(u64::MAX);
                    tree.path = b"/another/place".to_vec();
                }
            }
            let has = |file: &File| {
                let name = file.as_raw_fd().to_string();
                tree.has_for_writing(descriptors.as_fd(), &name).unwrap()
            };
            assert!(has(&inside).is_some(), "{way}");
            assert_eq!((has(&beside), has(&reader)), (None, None), "{way}");
        }
    }

    #[test]
    fn only_pages_that_are_shared_and_written_are_somebodys() {
        let of = |line: &'static str| Mapped::parse(line.as_bytes());
        let mapped = of("7f0c-7f0d rw-s 00000000 fe:0a 4711    /srv/a b/file").unwrap();
        assert_eq!(
            (mapped.device, mapped.inode, mapped.path),
            ((0xfe, 10), 4711, &b"/srv/a b/file"[..])
        );
        for other in [
            "7f0c-7f0d rw-p 00000000 fe:0a 4711    /srv/file",
            "7f0c-7f0d r--s 00000000 fe:0a 4711    /srv/file",
            "7f0c-7f0d rw-s 00000000 00:01 1    anon_inode:[perf]",
            "7f0c-7f0d rw-p 00000000 00:00 0 ",
            "7f0c-7f0d rw-s",
            "",
        ] {
            assert!(of(other).is_none(), "{other}");
        }
    }
}
