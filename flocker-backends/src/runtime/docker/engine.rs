//! The engine of this machine, and the few things that it is asked for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bollard::ClientVersion;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerUpdateBody;
use bollard::query_parameters::InspectContainerOptions;
use flocker_model::ApplicationName;
use flocker_model::RestartPolicy;
use tokio::time::Instant;

use super::DockerOptions;
use super::body;
use super::gate::Gates;
use super::labels::Manner;
use super::labels::Naming;
use super::seen;
use super::seen::Owned;
use super::seen::Seen;
use crate::deadline;
use crate::runtime::RuntimeError;
use crate::runtime::process::probe::chain;

/// The oldest programming interface of an engine that has all that is used here.
const OLDEST: (u32, u32) = (1, 24);

/// How long the engine may take to answer, in seconds.
const ANSWER: u64 = 120;

/// How soon a container that was just ending is asked again to take a restart policy.
const UPDATE_PAUSE: Duration = Duration::from_millis(20);

/// The engine, with what our containers are known by.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct Engine {
    pub(super) client: Docker,
    pub(in crate::runtime) options: DockerOptions,
    pub(super) naming: Naming,
    pub(super) gates: Gates,
    /// When each container was last seen to serve.
    pub(super) served: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Engine {
    /// Opens the engine and asks which one it is. Refused where it is too old.
    pub(in crate::runtime) async fn open(
        options: DockerOptions,
        manner: Manner,
    ) -> Result<Self, RuntimeError> {
        let socket = options.socket.to_string_lossy();
        let what = || format!("use the Docker engine at `{}`", options.socket.display());
        // The client drops the version from what it asks for, so the engine always answers in its
        // own newest form; a version is named because it has to be.
        let version = ClientVersion {
            major_version: 1,
            minor_version: 41,
        };
        let client = Docker::connect_with_unix(&socket, ANSWER, &version).map_err(failed(what))?;
        let found = client.version().await.map_err(failed(what))?;
        let found = found.api_version.unwrap_or_default();
        tracing::info!(interface = found, "the Docker engine answers");
        check_version(&found).map_err(|reason| RuntimeError::Io {
            what: what(),
            source: io::Error::new(io::ErrorKind::Unsupported, reason),
        })?;
        let gates = Gates::new(options.run_directory.clone()).map_err(|source| RuntimeError::Io {
            what: format!(
                "use `{}` for the gates to volumes",
                options.run_directory.display()
            ),
            source,
        })?;
        let naming = Naming {
            namespace: options.namespace.clone(),
            manner,
        };
        Ok(Self {
            client,
            options,
            naming,
            gates,
            served: Arc::default(),
        })
    }

    /// Returns the name of the container of an application.
    pub(in crate::runtime) fn container(&self, application: &ApplicationName) -> String {
        self.naming.container(application)
    }

    /// Looks at the container of an application; nothing where there is none.
    pub(super) async fn look(&self, application: &ApplicationName) -> Result<Option<Owned>, RuntimeError> {
        self.look_at(&self.container(application)).await
    }

    /// Looks at the container of an application, if it is ours.
    pub(in crate::runtime) async fn look_at_ours(
        &self,
        application: &ApplicationName,
    ) -> Result<Option<Seen>, RuntimeError> {
        Ok(match self.look(application).await? {
            Some(Owned::Ours(seen)) => Some(*seen),
            Some(Owned::Foreign) | None => None,
        })
    }

    pub(super) async fn look_at(&self, container: &str) -> Result<Option<Owned>, RuntimeError> {
        let what = || format!("look at the container `{container}`");
        let options = None::<InspectContainerOptions>;
        let found = match self.client.inspect_container(container, options).await {
            Ok(found) => found,
            Err(error) if status(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(failed(what)(error)),
        };
        let owned = seen::read(&found, &self.naming, &self.options.network);
        let owned = owned.map_err(|error| RuntimeError::Io {
            what: what(),
            source: io::Error::new(io::ErrorKind::InvalidData, error),
        })?;
        Ok(Some(owned))
    }

    /// Tells the engine what to do when a container ends.
    pub(in crate::runtime) async fn set_policy(
        &self,
        seen: &Seen,
        policy: RestartPolicy,
    ) -> Result<(), RuntimeError> {
        if seen.policy == policy {
            return Ok(());
        }
        let deadline = deadline::after(self.options.margin);
        loop {
            let update = ContainerUpdateBody {
                restart_policy: Some(body::policy(policy)),
                ..ContainerUpdateBody::default()
            };
            match self.client.update_container(&seen.id, update).await {
                // What is gone does not restart.
                Err(error) if status(&error) == Some(404) => return Ok(()),
                // It is just ending, which the engine does not know yet: nothing was changed.
                Err(error) if matches!(status(&error), Some(409 | 500)) && Instant::now() < deadline => {
                    tokio::time::sleep(UPDATE_PAUSE).await;
                }
                Err(error) => {
                    let application = &seen.labels.application;
                    return Err(failed(|| format!("set the restart policy of `{application}`"))(
                        error,
                    ));
                }
                Ok(()) => return Ok(()),
            }
        }
    }
}

/// Reads the version of an engine's programming interface, and refuses one that is too old.
fn check_version(text: &str) -> Result<(), String> {
    let (major, minor) = text.split_once('.').ok_or(format!("`{text}` is no version"))?;
    let version = major.parse().ok().zip(minor.parse().ok());
    match version {
        Some(version) if version >= OLDEST => Ok(()),
        Some(_) => Err(format!(
            "its programming interface is {text}, and at least {}.{} is needed",
            OLDEST.0, OLDEST.1
        )),
        None => Err(format!("`{text}` is no version")),
    }
}

/// Returns the status of an engine's answer.
pub(super) fn status(error: &Error) -> Option<u16> {
    if let Error::DockerResponseServerError { status_code, .. } = error {
        return Some(*status_code);
    }
    None
}

/// Returns what an engine says of an error.
pub(super) fn said(error: &Error) -> String {
    if let Error::DockerResponseServerError { message, .. } = error {
        return message.trim().to_owned();
    }
    chain(error)
}

pub(super) fn failed(what: impl FnOnce() -> String) -> impl FnOnce(Error) -> RuntimeError {
    move |error| RuntimeError::Io {
        what: what(),
        source: io::Error::other(said(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_is_too_old_is_refused() {
        for version in ["1.24", "1.41", "1.100", "2.0"] {
            assert_eq!(check_version(version), Ok(()), "{version}");
        }
        for version in ["", "1", "1.23", "0.99", "x.y", "1.41.0"] {
            assert!(check_version(version).is_err(), "{version}");
        }
    }
}
