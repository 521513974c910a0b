//! What is written down of an application, and who says that it runs.
//!
//! ```text
//! <state>/<application>/logs/        its output, which outlives the container
//! <state>/<application>/container/   there is a container exactly while this has a definition
//!     definition.json                what it was made from, without secrets
//!     status.json                    what its supervisor last saw
//!     lock                           held by its supervisor from birth to death
//!     stop                           it is to end, and is not started again
//!     control                        a pipe; a byte makes the supervisor look at `stop`
//!     work/                          its working directory where it has no volume
//!     supervisor.log                 what the supervisor said when it broke
//! ```
//!
//! The lock is handed to the supervisor as an open file when it is started.
//! So there is no moment at which a supervisor lives, or is about to, and the
//! lock is free; and a free lock proves death whatever became of process ids.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::Health;
use nix::sys::stat::Mode;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable;
use crate::reserve::is_full;

/// What a container was made from, as far as it may be written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) hash: DefinitionHash,
    pub(super) dataset: Option<DatasetId>,
    pub(super) address: IpAddr,
    pub(super) stop_grace: Duration,
    pub(super) is_checked: bool,
}

/// What a supervisor last saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) phase: Phase,
    pub(super) probing: Probing,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// How it ended the last time.
    pub(super) last_end: Option<String>,
    /// How often in a row it ended soon after it was started, by whomever.
    #[serde(default)]
    pub(super) ends_in_a_row: u32,
}

impl Status {
    pub(super) fn starting() -> Self {
        Self {
            phase: Phase::Starting,
            probing: Probing::Pending,
            restarts: 0,
            last_end: None,
            ends_in_a_row: 0,
        }
    }

    /// Starts what ended so often before.
    pub(super) fn starting_again(ends_in_a_row: u32) -> Self {
        Self {
            ends_in_a_row,
            ..Self::starting()
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub(super) enum Phase {
    /// The supervisor is about to start it.
    Starting,
    /// It runs as this process, which began at this tick of the machine's clock.
    Running { process: i32, started: Option<u64> },
    /// It ended and will be started again.
    Restarting,
    /// It ended and stays so.
    Ended { code: Option<i32> },
}

/// What is known of whether it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "probing")]
pub(super) enum Probing {
    /// Not enough to say anything.
    Pending,
    /// It has no health check and has survived its first moments.
    Settled,
    /// Its last probe succeeded, or the few that failed since do not count yet.
    Passed,
    /// Too many probes in a row failed.
    Failed { reason: String },
}

impl Probing {
    pub(super) fn health(&self, is_checked: bool) -> Health {
        match self {
            _ if !is_checked => Health::NotChecked,
            Self::Passed => Health::Healthy,
            // Who has not been seen to serve is not said to.
            Self::Pending | Self::Settled | Self::Failed { .. } => Health::Unhealthy,
        }
    }
}

/// That a container is to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StopOrder {
    /// Nothing where it was lost, or there was no room to write it: that of the definition.
    pub(super) grace: Option<Duration>,
}

/// Whether a container has a supervisor.
#[derive(Debug)]
pub(super) enum Claim {
    /// It has none, and gets none while this file is kept.
    Free(File),
    /// It has one.
    Supervised,
    /// There is no container.
    Nothing,
}

/// The directory of one application.
#[derive(Clone, Debug)]
pub(super) struct Place {
    directory: PathBuf,
}

impl Place {
    pub(super) fn new(state: &Path, application: &ApplicationName) -> Self {
        Self {
            directory: state.join(application.as_str()),
        }
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    pub(super) fn container(&self) -> Container {
        Container(self.directory.join("container"))
    }

    /// Makes the directories of a container, or completes those that a crash left behind.
    pub(super) fn create(&self) -> io::Result<()> {
        make_directory(&self.logs())?;
        self.sweep()?;
        let container = self.container();
        make_directory(&container.work())?;
        let mut options = OpenOptions::new();
        drop(
            options
                .create(true)
                .append(true)
                .mode(0o600)
                .open(container.file("lock"))?,
        );
        match nix::unistd::mkfifo(&container.control(), Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the container, in one step for everybody who looks. Its lock must be held.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.sweep()?;
        std::fs::rename(&self.container().0, self.removed())?;
        self.sweep()
    }

    /// Removes what an interrupted removal left.
    fn sweep(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.removed()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn removed(&self) -> PathBuf {
        self.directory.join("removed")
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The files of one container.
#[derive(Clone, Debug)]
pub(super) struct Container(pub(super) PathBuf);

impl Container {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn work(&self) -> PathBuf {
        self.file("work")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.file("control")
    }

    pub(super) fn supervisor_log(&self) -> PathBuf {
        self.file("supervisor.log")
    }

    pub(super) fn definition(&self) -> io::Result<Option<Definition>> {
        read(&self.file("definition.json"))
    }

    /// Records what the container is made from, durably: from now on there is one.
    pub(super) fn set_definition(&self, definition: &Definition) -> io::Result<()> {
        write(&self.file("definition.json"), definition, durable::replace)
    }

    /// Returns what the supervisor last saw; nothing for a container that was never started.
    ///
    /// A status that a crash of the machine has damaged says no more than that it was started.
    pub(super) fn status(&self) -> io::Result<Option<Status>> {
        read_or(&self.file("status.json"), Status::starting)
    }

    /// Records what is seen.
    ///
    /// A crash of the machine may undo it, and that is the truth: nothing runs any more.
    pub(super) fn set_status(&self, status: &Status) -> io::Result<()> {
        write(&self.file("status.json"), status, durable::replace_until_reboot)
    }

    pub(super) fn clear_status(&self) -> io::Result<()> {
        remove_file(&self.file("status.json"))
    }

    pub(super) fn stop_order(&self) -> io::Result<Option<StopOrder>> {
        let of_unknown_grace = || StopOrder { grace: None };
        read_or(&self.file("stop"), of_unknown_grace)
    }

    /// Orders the supervisor to stop. On a full disk the order has no text: a file without any takes no room.
    pub(super) fn order_stop(&self, order: &StopOrder) -> io::Result<()> {
        let file = self.file("stop");
        match write(&file, order, durable::replace_until_reboot) {
            Err(error) if is_full(&error) => drop(File::create(file)?),
            other => other?,
        }
        Ok(())
    }

    pub(super) fn clear_stop(&self) -> io::Result<()> {
        remove_file(&self.file("stop"))
    }

    /// Makes the supervisor look at its orders. Nothing happens where none listens.
    pub(super) fn poke(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        match options.open(self.control()) {
            Ok(control) => poke_into(control),
            // Nobody has it open for reading, or it is gone altogether.
            Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the lock, unless a supervisor has it.
    pub(super) fn claim(&self) -> io::Result<Claim> {
        let path = self.file("lock");
        let file = match OpenOptions::new().append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Claim::Nothing),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Claim::Supervised),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had the lock before may have removed the container with it.
        if self.is_locked_by(&file)? {
            return Ok(Claim::Free(file));
        }
        Ok(if path.exists() {
            Claim::Supervised
        } else {
            Claim::Nothing
        })
    }

    /// Says whether this open lock is still the one by which the container is found.
    pub(super) fn is_locked_by(&self, lock: &File) -> io::Result<bool> {
        match std::fs::metadata(self.file("lock")) {
            Ok(there) => Ok(there.ino() == lock.metadata()?.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says whether a supervisor, or somebody who is about to start or to remove one, holds the lock.
    pub(super) fn is_supervised(&self) -> io::Result<bool> {
        let file = match File::open(self.file("lock")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // Shared, so that two who only look do not see each other.
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Pokes whoever reads from this end of a pipe.
fn poke_into(mut control: File) -> io::Result<()> {
    use io::ErrorKind::BrokenPipe;
    use io::ErrorKind::WouldBlock;
    match control.write_all(b"!") {
        // A full pipe has been poked enough, and a supervisor that has closed it meanwhile needs no poke to end.
        Err(error) if !matches!(error.kind(), WouldBlock | BrokenPipe) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_or<T: DeserializeOwned>(path: &Path, damaged: impl FnOnce() -> T) -> io::Result<Option<T>> {
    match read(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(Some(damaged()))
        }
        result => result,
    }
}

/// Replaces a file. The node and the supervisor never write the same one.
fn write(
    path: &Path,
    value: &impl Serialize,
    replace: fn(&Path, u32, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    replace(path, 0o600, &serde_json::to_vec(value)?)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An application that has filled the disk can be stopped all the same.
    #[test]
    fn an_order_to_stop_needs_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let container = Container(directory.path().to_owned());
        let order = StopOrder {
            grace: Some(Duration::from_secs(3)),
        };
        // What is written there finds no room.
        std::os::unix::fs::symlink("/dev/full", directory.path().join("stop.new")).unwrap();
        container.order_stop(&order).unwrap();
        let found = container.stop_order().unwrap();
        assert_eq!(found, Some(StopOrder { grace: None }));
        std::fs::remove_file(directory.path().join("stop.new")).unwrap();
        container.order_stop(&order).unwrap();
        assert_eq!(container.stop_order().unwrap(), Some(order));
    }

    #[test]
    fn a_supervisor_that_ends_under_the_poke_needs_none() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        poke_into(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
    }
}
