//! Containers: where applications run.

#[cfg(feature = "docker")]
pub mod docker;
mod image;
mod last_words;
pub mod process;
#[cfg(feature = "systemd")]
pub mod systemd;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::DefinitionHash;
use flocker_model::ExternalPort;
use flocker_model::RestartPolicy;
use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::change::Change;
use crate::class::Classify;
use crate::class::ErrorClass;
use crate::volume::ByteStream;

pub use self::image::ImageId;
pub use self::image::ImageIdError;
pub use self::image::ImageStore;

/// Everything that a container is started with.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Its name.
    pub name: ApplicationName,
    /// Its definition.
    pub application: Application,
    /// The fingerprint of that definition, which travels with the container.
    pub definition: DefinitionHash,
    /// Where its data is on this node.
    pub volume: Option<PathBuf>,
    /// The address of this node, at which the links of the application are reached.
    pub node_address: IpAddr,
}

impl ContainerSpec {
    /// Returns the variables that tell an application of its links, as Docker's links did:
    /// `ALIAS_PORT_80_TCP` (or `…_UDP`), `…_ADDR`, `…_PORT`, `…_PROTO`.
    ///
    /// The address is that of the node it runs on, which answers for every port.
    #[must_use]
    pub fn link_environment(&self) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for link in &self.application.links {
            let alias = link.alias.as_str().to_ascii_uppercase().replace(['-', '.'], "_");
            let ExternalPort { number, protocol } = link.remote_port;
            let spoken = protocol.as_str().to_ascii_uppercase();
            let prefix = format!("{alias}_PORT_{}_{spoken}", link.local_port);
            let address = self.node_address;
            let host = std::net::SocketAddr::new(address, number.get());
            environment.insert(format!("{prefix}_ADDR"), address.to_string());
            environment.insert(format!("{prefix}_PORT"), number.to_string());
            environment.insert(format!("{prefix}_PROTO"), protocol.to_string());
            environment.insert(prefix, format!("{protocol}://{host}"));
        }
        environment
    }
}

/// How much of an application's output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRequest {
    /// The last so many lines, or all that is kept.
    pub tail: Option<u32>,
    /// Whether to go on with what is still to come.
    pub follow: bool,
}

/// Where applications run.
#[async_trait]
pub trait ContainerRuntime: fmt::Debug + Send + Sync {
    /// Lists every container of ours, running or not.
    ///
    /// One that is known and cannot be looked at is listed as alive and unhealthy, and hides no other.
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError>;

    /// Gets everything in place that can be while the application still runs elsewhere.
    ///
    /// Fails where the image or program is missing, so that nothing is stopped
    /// for what cannot be started. `AlreadySo` where a container of this
    /// definition is prepared or runs. Where another definition is alive, that
    /// one is left as it is and only looked past: what can be checked is
    /// checked, and the answer is `AlreadySo`. Dropped half way: prepared or not.
    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError>;

    /// Starts a container and returns when it is healthy by its own check.
    ///
    /// `AlreadySo` where one of this definition runs. Refused where one of
    /// another definition is alive. Where it does not become healthy, it is
    /// left as it is, for its logs to be read. One that ends right after its
    /// start may be given a few more tries, by its restart policy; that it
    /// keeps ending is told soon, not at the end of all patience. Dropped half
    /// way: running or not, and [`ContainerRuntime::list`] tells.
    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError>;

    /// Stops a container and removes it; returns when every process of it is confirmed gone.
    ///
    /// Its restart policy is disabled first. `AlreadySo` where there is none.
    /// Dropped half way: running, stopping or gone, and it will not be
    /// restarted by its policy.
    async fn stop(&self, application: &ApplicationName, grace: Duration) -> Result<Change, RuntimeError>;

    /// Returns what can be started again as it was made, and what is done when it ends: every container that has run, has
    /// ended, and that nobody has begun to stop as far as can be told.
    ///
    /// Where a runtime keeps nothing that it could start one from, there is none.
    async fn resumable(&self) -> Result<BTreeMap<ApplicationName, RestartPolicy>, RuntimeError> {
        Ok(BTreeMap::new())
    }

    /// Starts a container again that has ended, as it was made, and returns when it was started.
    ///
    /// `volume` is where its data is, which the caller has seen to be its own; without it, or where nothing is there, one
    /// that has data is refused. `AlreadySo` where it is alive. `NotHere` where it is none of those that
    /// [`ContainerRuntime::resumable`] returns. As after a start by its restart policy, nobody waits for it to be
    /// healthy. Dropped half way: running or not, and [`ContainerRuntime::list`] tells.
    async fn resume(
        &self,
        application: &ApplicationName,
        _volume: Option<&Path>,
    ) -> Result<Change, RuntimeError> {
        Err(RuntimeError::NotHere {
            application: application.clone(),
        })
    }

    /// Opens the output of an application: both its streams, oldest first.
    ///
    /// The output outlives the container. Followed, it ends when the container
    /// has ended for good or is gone.
    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError>;

    /// Returns where its images are, or nothing where applications are not made from images that could be brought here.
    fn images(&self) -> Option<&dyn ImageStore> {
        None
    }
}

/// Why a container could not be changed or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// There is nothing of this application here.
    #[error("application `{application}` is not on this node")]
    NotHere {
        /// The application.
        application: ApplicationName,
    },
    /// What it runs is missing here.
    #[error("application `{application}` cannot run here: {reason}")]
    NoImage {
        /// The application.
        application: ApplicationName,
        /// What is missing.
        reason: String,
    },
    /// The place where it would be is somebody else's.
    #[error("application `{application}` cannot run here: {place} is not ours and is left alone")]
    Taken {
        /// The application.
        application: ApplicationName,
        /// What is taken, such as the container with its name.
        place: String,
    },
    /// Another definition of it runs.
    #[error("application `{application}` already runs here with another definition")]
    OtherDefinition {
        /// The application.
        application: ApplicationName,
    },
    /// It ended before it was healthy.
    #[error("application `{application}` ended right after its start, with status {status}")]
    Ended {
        /// The application.
        application: ApplicationName,
        /// How it ended.
        status: String,
    },
    /// It was started several times, and ended right after each.
    #[error(
        "application `{application}` ended right after its start {times} times in a row, at last with status {status}"
    )]
    KeepsEnding {
        /// The application.
        application: ApplicationName,
        /// How often.
        times: u32,
        /// How it ended the last time.
        status: String,
    },
    /// It runs but does not serve.
    #[error("application `{application}` is not healthy: {reason}")]
    Unhealthy {
        /// The application.
        application: ApplicationName,
        /// What its check says.
        reason: String,
    },
    /// It could not be confirmed that it is gone.
    #[error("application `{application}` could not be confirmed gone: {reason}")]
    NotGone {
        /// The application.
        application: ApplicationName,
        /// What is left.
        reason: String,
    },
    /// The operating system or the container engine refused.
    #[error("could not {what}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Classify for RuntimeError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unhealthy { .. } | Self::Ended { .. } | Self::NotGone { .. } | Self::Io { .. } => {
                ErrorClass::Transient
            }
            // Only a new plan or an installed program can change these.
            Self::NotHere { .. }
            | Self::NoImage { .. }
            | Self::Taken { .. }
            | Self::OtherDefinition { .. }
            | Self::KeepsEnding { .. } => ErrorClass::Permanent,
        }
    }
}
