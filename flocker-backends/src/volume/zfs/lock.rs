//! One change of a dataset at a time, in this process and in others.
//!
//! Tasks of this process wait for each other by a lock of the runtime, which
//! is fair and can be given up; other processes are kept out by a lock on a
//! file, which the system takes back when its holder dies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_model::DatasetId;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::sync::OwnedMutexGuard;

/// How often a lock that another process holds is tried again.
const PATIENCE: Duration = Duration::from_millis(10);

/// What is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Everything that is durable of a dataset. Held for one change.
    State,
    /// What is arriving. Held as long as it arrives, and taken before `State`.
    Arrival,
}

/// What tasks of this process wait for.
type TaskLock = Arc<tokio::sync::Mutex<()>>;

/// All locks below one directory.
#[derive(Debug)]
pub(super) struct Locks {
    directory: PathBuf,
    tasks: Mutex<BTreeMap<(DatasetId, Scope), TaskLock>>,
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    // In this order: the file is let go before the next task tries it.
    _file: File,
    _task: OwnedMutexGuard<()>,
}

impl Locks {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            tasks: Mutex::default(),
        }
    }

    /// Waits for a lock. Dropped half way: not taken.
    pub(super) async fn lock(&self, dataset: DatasetId, scope: Scope) -> io::Result<Held> {
        let task = self.task(dataset, scope).lock_owned().await;
        let file = self.file(dataset, scope)?;
        while !try_file(&file)? {
            tokio::time::sleep(PATIENCE).await;
        }
        Ok(Held {
            _file: file,
            _task: task,
        })
    }

    /// Takes a lock, unless somebody holds it.
    pub(super) fn try_lock(&self, dataset: DatasetId, scope: Scope) -> io::Result<Option<Held>> {
        let Ok(task) = self.task(dataset, scope).try_lock_owned() else {
            return Ok(None);
        };
        let file = self.file(dataset, scope)?;
        Ok(try_file(&file)?.then_some(Held {
            _file: file,
            _task: task,
        }))
    }

    fn task(&self, dataset: DatasetId, scope: Scope) -> TaskLock {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tasks.entry((dataset, scope)).or_default())
    }

    fn file(&self, dataset: DatasetId, scope: Scope) -> io::Result<File> {
        let suffix = match scope {
            Scope::State => "state",
            Scope::Arrival => "arrival",
        };
        open(&self.directory.join(format!("{dataset}.{suffix}")))
    }
}

/// Waits for the lock on a file that several of us share. Dropped half way: not taken.
pub(super) async fn wait_for(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    while !try_file(&file)? {
        tokio::time::sleep(PATIENCE).await;
    }
    Ok(file)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true).open(path)
}

fn try_file(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
