//! Where datasets are seen: one directory each, named by the dataset and nothing else.
//!
//! The directory under a mount cannot be entered, and where the filesystem
//! allows it cannot be changed either. So nobody ever writes beneath a dataset
//! that is not mounted and takes that for the dataset.

use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;

use flocker_model::DatasetId;
use rustix::fs::IFlags;
use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

/// The directories under the mounts.
#[derive(Debug)]
pub(super) struct Mounts {
    root: PathBuf,
}

impl Mounts {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn path(&self, dataset: DatasetId) -> PathBuf {
        self.root.join(dataset.to_string())
    }

    /// Where streams wait that are not complete.
    pub(super) fn spool(&self) -> PathBuf {
        self.root.join(".incoming")
    }

    /// Makes a directory to mount on. Only for a path on which nothing is mounted.
    pub(super) fn prepare(path: &Path) -> io::Result<()> {
        if let Some(root) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(root)?;
        }
        match DirBuilder::new().mode(0o000).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        if let Err(error) = set_immutable(path, true) {
            // Not every filesystem can; that nobody may enter it has to do then.
            tracing::debug!(path = %path.display(), %error, "the directory under a mount cannot be made immutable");
        }
        Ok(())
    }

    /// Takes away a directory that nothing is mounted on. One that is in use stays.
    pub(super) fn forget(&self, dataset: DatasetId) {
        let path = self.path(dataset);
        let forgotten = set_immutable(&path, false).and_then(|()| std::fs::remove_dir(&path));
        if let Err(error) = forgotten {
            tracing::debug!(path = %path.display(), %error, "the directory under a mount stays");
        }
    }
}

fn set_immutable(path: &Path, to: bool) -> io::Result<()> {
    let directory = File::open(path)?;
    let mut flags = rustix::fs::ioctl_getflags(&directory)?;
    if flags.contains(IFlags::IMMUTABLE) != to {
        flags.set(IFlags::IMMUTABLE, to);
        rustix::fs::ioctl_setflags(&directory, flags)?;
    }
    Ok(())
}

/// Has the kernel refuse writers at a mount, or let them in again. Where nothing is mounted, nothing.
///
/// That a filesystem of ZFS is set read-only does not do it. By way of FUSE it is shown as mounted writable all the same,
/// and files that are there can be written (seen). OpenZFS in a kernel is not trusted with more: who has a file mapped into
/// memory must not go on writing into it, and what lies there unwritten must not come after the last snapshot.
///
/// # Errors
///
/// Fails to refuse writers for as long as anybody has a file open for writing.
pub(super) fn follow(path: &Path, is_read_only: bool) -> io::Result<()> {
    if !is_mount(path)? {
        return Ok(());
    }
    let now = rustix::fs::statvfs(path)?.f_flag;
    if now.contains(StatVfsMountFlags::RDONLY) == is_read_only {
        return Ok(());
    }
    if is_read_only {
        // The kernel does not do it for who is read-only already.
        rustix::fs::syncfs(File::open(path)?)?;
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, is_read_only);
    flags.set(MountFlags::NOSUID, now.contains(StatVfsMountFlags::NOSUID));
    flags.set(MountFlags::NODEV, now.contains(StatVfsMountFlags::NODEV));
    flags.set(MountFlags::NOEXEC, now.contains(StatVfsMountFlags::NOEXEC));
    flags.set(MountFlags::NOATIME, now.contains(StatVfsMountFlags::NOATIME));
    Ok(rustix::mount::mount_remount(path, flags, "")?)
}

/// Says whether something is mounted just there.
fn is_mount(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let above = path.parent().unwrap_or(path);
    match path.metadata() {
        // Nothing ever was.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(other?.dev() != above.metadata()?.dev()),
    }
}

/// Fails unless something is mounted at a path, and can be written.
pub(super) fn require_writable(path: &Path) -> io::Result<()> {
    if !is_mount(path)? {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "nothing is mounted there",
        ));
    }
    let flags = rustix::fs::statvfs(path)?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return Err(io::ErrorKind::ReadOnlyFilesystem.into());
    }
    Ok(())
}

/// Fails unless nothing can be written at a path: by trying, because what is set is not always what is so.
pub(super) fn require_read_only(path: &Path) -> io::Result<()> {
    let probe = path.join(".flocker-probe");
    match File::options().write(true).create_new(true).open(&probe) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            std::fs::remove_file(&probe)?;
            Err(io::Error::other("it can still be written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_under_a_mount_is_closed_and_can_be_prepared_twice() {
        let root = tempfile::tempdir().unwrap();
        let mounts = Mounts::new(root.path().join("mounts"));
        let dataset = DatasetId(uuid::Uuid::from_u128(7));
        let path = mounts.path(dataset);
        for _ in 0..2 {
            Mounts::prepare(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0);
        }
        mounts.forget(dataset);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_on_which_nothing_is_mounted_is_not_taken_for_a_volume() {
        let root = tempfile::tempdir().unwrap();
        let error = require_writable(root.path()).unwrap_err();
        assert_eq!(error.to_string(), "nothing is mounted there");
        require_writable(Path::new("/proc/sys/fs/nothing-of-that-name")).unwrap_err();
    }

    #[test]
    fn a_directory_that_can_be_written_is_not_read_only() {
        let root = tempfile::tempdir().unwrap();
        require_read_only(root.path()).unwrap_err();
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }
}
