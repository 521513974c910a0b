//! Room that is kept for what has to be written down when a disk is full.
//!
//! People move off full disks, and to let go of data is to write that down. A
//! few files hold the room for it. They are not removed for it, for then the
//! application that filled the disk would have it first: such a file *becomes*
//! what is written, block by block. It is made again once there is room.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// How many writes there is room for, of either size: a move off a full disk takes no more than this, and what it lets go
/// of makes room again.
const N_EACH: u32 = 4;

/// Room for one record of ours.
const RECORD: u64 = 16 << 10;

/// Files of one directory that hold room.
#[derive(Debug)]
pub struct Reserve {
    directory: PathBuf,
    /// How much the largest thing takes that has to be written, beside records; nothing where there are only records.
    largest: AtomicU64,
}

impl Reserve {
    /// Takes a directory that is there, and how much the largest thing takes that has to be written beside records.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, largest: u64) -> Self {
        Self {
            directory: directory.into(),
            largest: AtomicU64::new(largest),
        }
    }

    /// Notes how much something took: the next of its kind may take a quarter more.
    pub fn expect(&self, length: u64) {
        if self.largest.load(Ordering::Relaxed) > 0 {
            self.largest
                .fetch_max(length.saturating_add(length / 4), Ordering::Relaxed);
        }
    }

    /// Makes what is missing where there is room for it, and as much beside. Without room, there is as much as there is.
    pub fn make(&self) {
        for (path, size) in self.places() {
            let has = std::fs::metadata(&path).map_or(0, |found| found.len());
            if has >= size {
                continue;
            }
            if let Err(error) = self.hold(&path, size) {
                tracing::debug!(path = %path.display(), %error, "no room is kept here");
                return;
            }
        }
    }

    /// Gives up a file of at least this length, by having it moved to where it becomes what is written.
    ///
    /// Returns whether there was one.
    pub fn give(&self, length: u64, take: impl Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
        for (path, _) in self.places() {
            if std::fs::metadata(&path).map_or(0, |found| found.len()) < length {
                continue;
            }
            match take(&path) {
                // Somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other.map(|()| true),
            }
        }
        Ok(false)
    }

    /// The smallest come first: nothing takes more than it needs.
    fn places(&self) -> impl Iterator<Item = (PathBuf, u64)> {
        let records = (0..N_EACH).map(|number| (format!("record-{number}"), RECORD));
        let largest = self.largest.load(Ordering::Relaxed);
        let others = (0..N_EACH).map(move |number| (format!("list-{number}"), largest));
        records
            .chain(others.filter(|(_, size)| *size > 0))
            .map(|(name, size)| (self.directory.join(name), size))
    }

    fn hold(&self, path: &Path, size: u64) -> io::Result<()> {
        let room = rustix::fs::statvfs(&self.directory)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < size.saturating_mul(2) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let new = path.with_extension("new");
        let held = || -> io::Result<()> {
            let mut options = File::options();
            let file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    io::copy(&mut io::Read::take(io::repeat(0xff), size), &mut &file)?;
                }
                other => other?,
            }
            file.sync_all()?;
            std::fs::rename(&new, path)
        };
        held().inspect_err(|_| drop(std::fs::remove_file(&new)))
    }
}

/// Says whether there is no room on the disk, or no more for us.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_is_long_enough_is_given_and_made_again() {
        let place = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(place.path(), 1 << 20);
        let to = place.path().join("taken");
        let take = |slot: &Path| std::fs::rename(slot, &to);
        assert!(!reserve.give(1, take).unwrap(), "nothing was made yet");
        reserve.make();
        assert!(reserve.give(100, take).unwrap());
        assert_eq!(std::fs::metadata(&to).unwrap().len(), RECORD);
        for _ in 0..N_EACH {
            assert!(reserve.give(RECORD + 1, take).unwrap());
            assert_eq!(std::fs::metadata(&to).unwrap().len(), 1 << 20);
        }
        assert!(!reserve.give(RECORD + 1, take).unwrap(), "all were given");
        reserve.make();
        assert!(reserve.give(RECORD + 1, take).unwrap());
        assert!(!reserve.give((1 << 20) + 1, take).unwrap());
        reserve.expect(4 << 20);
        reserve.make();
        assert!(
            reserve.give(5 << 20, take).unwrap(),
            "a quarter more than the largest"
        );
    }

    #[test]
    fn where_only_records_are_written_nothing_larger_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(place.path(), 0);
        reserve.expect(1 << 20);
        reserve.make();
        let kept = std::fs::read_dir(place.path()).unwrap().count();
        assert_eq!(kept, N_EACH as usize);
    }
}
