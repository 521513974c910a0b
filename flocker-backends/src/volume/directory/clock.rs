//! The filesystem's own clock.
//!
//! Times of files are compared with it, so it must be theirs: the machine's
//! clock can be ahead of it, and of a network filesystem's it knows nothing.

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use super::dir::Dir;
use super::stat::Stat;
use super::stat::Time;

/// Tells the time by touching a file.
#[derive(Debug)]
pub(super) struct Clock(File);

impl Clock {
    /// Opens the file that is touched.
    pub(super) fn open(root: &Dir) -> io::Result<Self> {
        root.write(b"clock").map(Self)
    }

    /// Says what time it is.
    pub(super) fn now(&self) -> io::Result<Time> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::futimens(&self.0, &times)?;
        Ok(Stat::of(&self.0)?.modified)
    }

    /// Says how long ago a moment was; none where it is still to come.
    pub(super) fn since(&self, seconds: i64) -> io::Result<Duration> {
        let passed = self.now()?.seconds.saturating_sub(seconds);
        Ok(Duration::from_secs(u64::try_from(passed).unwrap_or(0)))
    }
}
