//! The gate in front of a volume.
//!
//! What the engine mounts into a container is a symbolic link of ours, on a
//! file system that no reboot survives. It is there only once the volume was
//! seen to be here, and leads to it. The engine looks the link up at each
//! start and refuses where it is missing (it does not make it, as it would for
//! a plain bind). So after a boot nothing that the engine starts by itself
//! gets past the gate, whatever its restart policy, until somebody who has
//! seen the data has opened it.
//!
//! One thing must be there before: the engine makes no container whose mount
//! is missing at that moment. For that moment the gate leads to an empty
//! directory; the container has no restart policy then.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::path::PathBuf;

/// File systems whose content ends with the machine.
const VOLATILE: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The gates of one runtime, one for each container.
#[derive(Clone, Debug)]
pub(super) struct Gates {
    directory: PathBuf,
}

impl Gates {
    /// Opens the directory of the gates, and makes it where it is missing. Refused where a reboot would leave it.
    pub(super) fn new(directory: PathBuf) -> io::Result<Self> {
        let gates = Self { directory };
        gates.make_directories()?;
        let kind = rustix::fs::statfs(&gates.directory)?.f_type;
        if u64::try_from(kind).is_ok_and(is_volatile) {
            return Ok(gates);
        }
        Err(io::Error::other(
            "it must be on a file system that no reboot survives, such as /run",
        ))
    }

    /// Returns the link that the engine mounts.
    pub(super) fn path(&self, container: &str) -> PathBuf {
        self.directory.join("volumes").join(container)
    }

    /// Leads to an empty directory, for as long as a container is being made.
    pub(super) fn show(&self, container: &str) -> io::Result<()> {
        self.make_directories()?;
        self.lead(container, &self.directory.join("empty"))
    }

    /// Leads to a volume, which is seen to be here first.
    pub(super) fn open(&self, container: &str, volume: &Path) -> io::Result<()> {
        // An application that finds no data must not make itself some.
        drop(std::fs::read_dir(volume)?);
        self.make_directories()?;
        self.lead(container, volume)
    }

    /// Lets nobody in.
    pub(super) fn close(&self, container: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(container)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// In one step, so that whoever looks the link up finds the old place or the new one.
    fn lead(&self, container: &str, to: &Path) -> io::Result<()> {
        let new = self.directory.join("new").join(container);
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::os::unix::fs::symlink(to, &new)?;
        std::fs::rename(&new, self.path(container))
    }

    fn make_directories(&self) -> io::Result<()> {
        for (name, mode) in [("volumes", 0o700), ("new", 0o700), ("empty", 0o000)] {
            let directory = self.directory.join(name);
            DirBuilder::new().recursive(true).mode(mode).create(directory)?;
        }
        Ok(())
    }
}

fn is_volatile(kind: u64) -> bool {
    VOLATILE.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates() -> Option<(tempfile::TempDir, Gates)> {
        // The tests of the whole runtime need /run; these only need some volatile directory.
        let directory = tempfile::tempdir_in("/dev/shm").ok()?;
        let gates = Gates::new(directory.path().to_owned()).unwrap();
        Some((directory, gates))
    }

    #[test]
    fn a_gate_leads_nowhere_until_it_is_opened() {
        let (directory, gates) = gates().expect("/dev/shm is a memory file system on every Linux");
        let volume = directory.path().join("data");
        gates.show("flocker--web").unwrap();
        let leads = || std::fs::read_link(gates.path("flocker--web"));
        assert_eq!(leads().unwrap(), directory.path().join("empty"));
        // The volume is not here.
        assert!(gates.open("flocker--web", &volume).is_err());
        assert_eq!(leads().unwrap(), directory.path().join("empty"));
        std::fs::create_dir(&volume).unwrap();
        gates.open("flocker--web", &volume).unwrap();
        assert_eq!(leads().unwrap(), volume);
        gates.close("flocker--web").unwrap();
        gates.close("flocker--web").unwrap();
        assert!(leads().is_err());
    }

    #[test]
    fn a_gate_is_never_on_a_disk() {
        // `tmpfs` and `ramfs`; `ext4`, `xfs`, `btrfs`, `overlay` and FUSE.
        assert!(is_volatile(0x0102_1994) && is_volatile(0x8584_58f6));
        for disk in [0xef53, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x6573_5546] {
            assert!(!is_volatile(disk), "{disk:x}");
        }
    }
}
