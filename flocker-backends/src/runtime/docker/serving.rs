//! The start of a prepared container, and the wait until it serves.

use std::io;
use std::mem;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::StartContainerOptions;
use flocker_model::ApplicationName;
use flocker_model::ContainerStatus;
use flocker_model::RestartPolicy;
use tokio::time::Instant;

use super::engine::Engine;
use super::engine::failed;
use super::engine::said;
use super::engine::status;
use super::neighbour;
use super::seen::Seen;
use crate::runtime::ContainerSpec;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::runtime::last_words;
use crate::volume::ByteStream;

/// How soon a container is looked at again while somebody waits for it, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How long the last output of an application that has ended is waited for.
const HEARING: Duration = Duration::from_secs(3);

/// Who knows what becomes of a container.
#[async_trait]
pub(in crate::runtime) trait Sight: Send + Sync {
    /// Looks at the container of an application, if it is ours; nothing where there is none.
    async fn see(&self, application: &ApplicationName) -> Result<Option<Seen>, RuntimeError>;

    /// Opens what an application has said, as it is asked for.
    async fn hear(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError>;
}

#[async_trait]
impl Sight for Engine {
    async fn see(&self, application: &ApplicationName) -> Result<Option<Seen>, RuntimeError> {
        self.look_at_ours(application).await
    }

    async fn hear(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        self.output(application, request).await
    }
}

impl Engine {
    /// Leads the container to its volume, which must be here.
    pub(in crate::runtime) fn open_gate(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        match &spec.application.volume {
            None => Ok(()),
            Some(_) => self.open_gate_to(&spec.name, spec.volume.as_deref()),
        }
    }

    /// Leads the container of an application to its volume, which must be here.
    pub(in crate::runtime) fn open_gate_to(
        &self,
        application: &ApplicationName,
        volume: Option<&Path>,
    ) -> Result<(), RuntimeError> {
        let volume = volume.ok_or_else(|| RuntimeError::Io {
            what: format!("enter the volume of `{application}`"),
            source: io::Error::other("nobody says where it is"),
        })?;
        let opened = self.gates.open(&self.container(application), volume);
        opened.map_err(|source| RuntimeError::Io {
            what: format!("enter the volume `{}`", volume.display()),
            source,
        })
    }

    /// Returns what the engine mounts for the volume of an application.
    pub(in crate::runtime) fn gate(&self, application: &ApplicationName) -> PathBuf {
        self.gates.path(&self.container(application))
    }

    /// Lets the engine start a prepared container.
    pub(super) async fn set_going(&self, spec: &ContainerSpec, seen: &Seen) -> Result<(), RuntimeError> {
        // Before the start: what ends at once must already have its policy.
        self.set_policy(seen, spec.application.restart_policy).await?;
        let started = self
            .client
            .start_container(&seen.id, None::<StartContainerOptions>)
            .await;
        let Err(error) = started else { return Ok(()) };
        let reason = said(&error);
        let restarting = Seen {
            policy: spec.application.restart_policy,
            ..seen.clone()
        };
        // What could not be started must not be tried again by the engine in its own time.
        self.set_policy(&restarting, RestartPolicy::Never).await?;
        if reason.contains("ddress already in use") {
            // Another one took the address in the meantime. The next one gets another.
            self.discard(seen).await?;
        }
        if matches!(status(&error), Some(400 | 404)) {
            return Err(RuntimeError::NoImage {
                application: spec.name.clone(),
                reason,
            });
        }
        Err(failed(|| format!("start the container of `{}`", spec.name))(
            error,
        ))
    }

    /// Waits until a container that was started serves, or it is sure that it will not.
    pub(in crate::runtime) async fn wait_until_serving(
        &self,
        spec: &ContainerSpec,
        sight: &dyn Sight,
        restarts_before: u32,
    ) -> Result<(), RuntimeError> {
        let began = Instant::now();
        let check = spec.application.health_check.as_deref();
        let mut pause = FIRST_PAUSE;
        let mut n_failed = 0_u32;
        let mut is_introduced = false;
        loop {
            let Some(seen) = sight.see(&spec.name).await? else {
                return Err(ended(spec, sight, "that nobody saw: it was removed").await);
            };
            match seen.status {
                ContainerStatus::Running if seen.restarts <= restarts_before => {}
                ContainerStatus::Running | ContainerStatus::Restarting => {
                    let again = format!("{}, and is started again", end(seen.ended_with, &seen));
                    return Err(ended(spec, sight, &again).await);
                }
                ContainerStatus::Exited { code } => {
                    return Err(ended(spec, sight, &end(code, &seen)).await);
                }
                ContainerStatus::Prepared => return Err(ended(spec, sight, &end(None, &seen)).await),
            }
            if !mem::replace(&mut is_introduced, true) {
                neighbour::introduce(&seen).await;
            }
            match check {
                None if began.elapsed() >= self.options.settle => return Ok(()),
                None => {}
                Some(check) => match self.probe(&seen, check).await {
                    Ok(()) => return Ok(()),
                    Err(reason) => {
                        n_failed = n_failed.saturating_add(1);
                        // Quick probes at the start must not use up the tries that the interval allows it.
                        let patience = check.interval.saturating_mul(check.retries.get());
                        if n_failed >= check.retries.get() && began.elapsed() >= patience {
                            return Err(RuntimeError::Unhealthy {
                                application: spec.name.clone(),
                                reason,
                            });
                        }
                    }
                },
            }
            tokio::time::sleep(pause).await;
            let longest = check.map_or(FIRST_PAUSE, |check| check.interval.max(FIRST_PAUSE));
            pause = (pause * 2).min(longest);
        }
    }
}

/// Says how an application ended that should serve, and what it said last.
async fn ended(spec: &ContainerSpec, sight: &dyn Sight, end: &str) -> RuntimeError {
    let request = LogRequest {
        tail: Some(last_words::N_LINES),
        follow: false,
    };
    let told = async {
        let output = sight.hear(&spec.name, request).await.ok()?;
        Some(last_words::told(end, output, spec).await)
    };
    // Its end is told in any case; whoever keeps its output may be slow, and is not waited for.
    let told = tokio::time::timeout(HEARING, told).await.ok().flatten();
    RuntimeError::Ended {
        application: spec.name.clone(),
        status: told.unwrap_or_else(|| end.to_owned()),
    }
}

fn end(code: Option<i32>, seen: &Seen) -> String {
    let code = code.map_or_else(|| "that is not known".to_owned(), |code| code.to_string());
    match &seen.refusal {
        Some(reason) => format!("{code}: {reason}"),
        None => code,
    }
}
