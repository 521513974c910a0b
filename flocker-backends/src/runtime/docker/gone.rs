//! The end of a container: asked, made, confirmed, removed.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::KillContainerOptionsBuilder;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use bollard::query_parameters::StopContainerOptionsBuilder;
use flocker_model::ApplicationName;
use flocker_model::RestartPolicy;
use tokio::time::Instant;

use super::engine::Engine;
use super::engine::failed;
use super::engine::status;
use super::seen::Seen;
use crate::change::Change;
use crate::deadline;
use crate::runtime::RuntimeError;

/// How soon a container is looked at again while its end is waited for, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Engine {
    /// Ends the container of an application and removes it, once every process of it is confirmed gone.
    pub(in crate::runtime) async fn end(
        &self,
        application: &ApplicationName,
        grace: Duration,
    ) -> Result<Change, RuntimeError> {
        let Some(seen) = self.look_at_ours(application).await? else {
            return Ok(Change::AlreadySo);
        };
        self.set_policy(&seen, RestartPolicy::Never).await?;
        if seen.is_alive() || seen.process.is_some() {
            self.make_end(&seen, grace).await?;
        }
        self.discard(&seen).await?;
        Ok(Change::Made)
    }

    /// Asks a container to end, and makes it after its grace; returns when its first process is confirmed gone.
    ///
    /// With that process the kernel ends every other one of the container.
    async fn make_end(&self, seen: &Seen, grace: Duration) -> Result<(), RuntimeError> {
        let application = &seen.labels.application;
        let what = || format!("stop the container of `{application}`");
        let mut processes: BTreeSet<u32> = seen.process.into_iter().collect();
        if seen.is_paused {
            // What is paused hears nothing.
            ignore_if_ended(self.client.unpause_container(&seen.id).await).map_err(failed(what))?;
        }
        let signal = seen.stop_signal.as_deref().unwrap_or("SIGTERM");
        let asked = KillContainerOptionsBuilder::new().signal(signal).build();
        ignore_if_ended(self.client.kill_container(&seen.id, Some(asked)).await).map_err(failed(what))?;
        let is_over = self
            .wait_for_end(seen, &mut processes, deadline::after(grace))
            .await?;
        if !is_over {
            // This also takes back a restart that is under way.
            let made = StopContainerOptionsBuilder::new().signal("SIGKILL").t(0).build();
            ignore_if_ended(self.client.stop_container(&seen.id, Some(made)).await).map_err(failed(what))?;
            let deadline = deadline::after(self.options.margin);
            if !self.wait_for_end(seen, &mut processes, deadline).await? {
                return Err(RuntimeError::NotGone {
                    application: application.clone(),
                    reason: "the engine says that it still runs although it was killed".into(),
                });
            }
        }
        let deadline = deadline::after(self.options.margin);
        while let Some(process) = processes.iter().find(|&&process| is_of(process, &seen.id)) {
            if Instant::now() >= deadline {
                return Err(RuntimeError::NotGone {
                    application: application.clone(),
                    reason: format!("its process {process} does not end although the engine says so"),
                });
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until the engine says that a container neither runs nor will, and says whether it did in time.
    async fn wait_for_end(
        &self,
        seen: &Seen,
        processes: &mut BTreeSet<u32>,
        deadline: Instant,
    ) -> Result<bool, RuntimeError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let now = self.look_at_ours(&seen.labels.application).await?;
            let Some(now) = now.filter(|now| now.id == seen.id) else {
                return Ok(true);
            };
            processes.extend(now.process);
            if !now.is_alive() {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Removes a container that does not run, with all but the last of its output. It is no error where it is gone already.
    pub(super) async fn discard(&self, seen: &Seen) -> Result<(), RuntimeError> {
        let application = &seen.labels.application;
        self.keep_output(seen).await;
        let container = self.container(application);
        self.gates.close(&container).map_err(|source| RuntimeError::Io {
            what: format!("close the gate to the volume of `{application}`"),
            source,
        })?;
        let deadline = deadline::after(self.options.margin);
        loop {
            // Without force: what somebody has started again in the meantime is not killed in passing.
            // With its anonymous volumes, which nobody would ever find again.
            let options = RemoveContainerOptionsBuilder::new().v(true).build();
            match self.client.remove_container(&seen.id, Some(options)).await {
                Ok(()) => return Ok(()),
                Err(error) if status(&error) == Some(404) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(failed(|| format!("remove the container of `{application}`"))(
                        error,
                    ));
                }
                // It is being removed by somebody else, or is busy for a moment.
                Err(error) if matches!(status(&error), Some(409 | 500)) => {}
                Err(error) => {
                    return Err(failed(|| format!("remove the container of `{application}`"))(
                        error,
                    ));
                }
            }
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }
}

/// What has ended cannot be asked to.
fn ignore_if_ended(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(error) if !matches!(status(&error), Some(404 | 409 | 500)) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says whether a process is there and belongs to a container: an id alone may be another process's by now.
fn is_of(process: u32, container: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup"));
    groups.is_ok_and(|groups| groups.contains(container))
}
