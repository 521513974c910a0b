//! The directories of the nodes of this machine.
//!
//! ```text
//! nodes/<name>/local.json      its name and address; there is a node exactly where this is
//! nodes/<name>/node.json       what it remembers of itself
//! nodes/<name>/node.sock       where it answers while it runs
//! nodes/<name>/node.log        what it says, and node.log.1 before that
//! nodes/<name>/volumes/        its datasets
//! nodes/<name>/applications/   its programs
//! nodes/<name>/routes/         its routes
//! ```

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::TryLockError;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_backends::durable;
use flocker_model::NodeAddress;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Failure;

const SETTINGS: &str = "local.json";

/// How long to wait for somebody else who makes, starts or stops nodes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is written down of a node when it is made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    version: u32,
    name: NodeName,
    address: Ipv4Addr,
}

/// Where all nodes of a state directory are.
#[derive(Clone, Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn of(state_dir: &Path) -> Result<Self, Failure> {
        let absolute = std::path::absolute(state_dir).map_err(|error| {
            let directory = state_dir.display();
            Failure::usage(format!("`{directory}` is no place for local nodes")).because(&error)
        })?;
        Ok(Self(absolute.join("nodes")))
    }

    /// Returns every node that was made, in order of name.
    pub(super) fn places(&self) -> Result<Vec<Place>, Failure> {
        let failed = |error: &io::Error| {
            Failure::failed(format!(
                "could not look for local nodes in `{}`",
                self.0.display()
            ))
            .because(error)
        };
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| failed(&error))?,
        };
        let mut places = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(&error))?;
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(name) = name {
                places.extend(self.place(&name)?);
            }
        }
        places.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(places)
    }

    /// Returns where a node would be reached if it were made.
    pub(super) fn would_be(&self, name: &NodeName) -> NodeAddress {
        NodeAddress::Local {
            directory: self.0.join(name.as_str()),
        }
    }

    /// Returns a node, if it was made.
    pub(super) fn place(&self, name: &NodeName) -> Result<Option<Place>, Failure> {
        let directory = self.0.join(name.as_str());
        let path = directory.join(SETTINGS);
        let unreadable = || Failure::failed(format!("could not read `{}`", path.display()));
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| unreadable().because(&error))?,
        };
        let settings: Settings =
            serde_json::from_slice(&text).map_err(|error| unreadable().because(&error))?;
        let Settings {
            version,
            name: written,
            address,
        } = settings;
        if version != 1 || written != *name {
            return Err(unreadable().hint("it is another node's, or another version of flocker wrote it"));
        }
        Ok(Some(Place {
            name: written,
            address,
            directory,
        }))
    }

    /// Makes a node, or gives one that there is another address. Done half way, there is no new node.
    pub(super) fn make(&self, name: &NodeName, address: Ipv4Addr) -> Result<Place, Failure> {
        let directory = self.0.join(name.as_str());
        let settings = Settings {
            version: 1,
            name: name.clone(),
            address,
        };
        let make = || -> io::Result<()> {
            private_directory(&directory)?;
            let text = serde_json::to_vec_pretty(&settings)?;
            durable::replace(&directory.join(SETTINGS), 0o600, &text)
        };
        make().map_err(|error| {
            Failure::failed(format!("could not make `{}`", directory.display())).because(&error)
        })?;
        Ok(Place {
            name: name.clone(),
            address,
            directory,
        })
    }

    /// Keeps everybody else from making, starting or stopping nodes here, for as long as the file is kept.
    pub(super) async fn lock(&self) -> Result<File, Failure> {
        let path = self.0.join(".lock");
        let failed = |error: &io::Error| {
            Failure::failed(format!("could not lock `{}`", path.display())).because(error)
        };
        let open = || {
            private_directory(&self.0)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            options.open(&path)
        };
        let file = open().map_err(|error| failed(&error))?;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Failure::failed("somebody else starts or stops local nodes here"));
                }
            }
        }
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// One node that was made.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: NodeName,
    pub(crate) address: Ipv4Addr,
    pub(crate) directory: PathBuf,
}

impl Place {
    pub(crate) fn reached_at(&self) -> NodeAddress {
        NodeAddress::Local {
            directory: self.directory.clone(),
        }
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.directory.join("volumes")
    }

    pub(super) fn applications(&self) -> PathBuf {
        self.directory.join("applications")
    }

    pub(super) fn routes(&self) -> PathBuf {
        self.directory.join("routes")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("node.log")
    }

    /// Removes the node and everything that it has. Done half way, it is no node any more.
    pub(super) fn delete(&self) -> Result<(), Failure> {
        let delete = || -> io::Result<()> {
            match std::fs::remove_file(self.directory.join(SETTINGS)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            std::fs::remove_dir_all(&self.directory)
        };
        delete().map_err(|error| {
            Failure::failed(format!("could not delete `{}`", self.directory.display())).because(&error)
        })
    }
}
