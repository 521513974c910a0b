//! The steps of which the node's orders consist: taking a container, starting its supervisor, waiting for it.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::time::Duration;

use flocker_model::ApplicationName;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::SUPERVISE;
use super::host::ProcessRuntime;
use super::kin;
use super::launch::Launch;
use super::launch::MARKER;
use super::log::LogReader;
use super::place::Claim;
use super::place::Container;
use super::place::Definition;
use super::place::Phase;
use super::place::Probing;
use super::place::Status;
use super::probe;
use crate::deadline;
use crate::process::Program;
use crate::process::Stream;
use crate::runtime::ContainerSpec;
use crate::runtime::RuntimeError;
use crate::runtime::last_words;

/// How often in a row a program may end right after its start before that is what it does.
const TRIES: u32 = 3;

/// How often the state of a supervisor is looked at while somebody waits for it.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What became of an application that somebody waits for.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It serves.
    Serves,
    /// It has ended, and its supervisor leaves or has left: this is its last word.
    Gone(Status),
}

impl ProcessRuntime {
    /// Kills what a killed supervisor left, until nothing is left, while nobody else gets the lock.
    pub(super) async fn kill_strays(
        &self,
        application: &ApplicationName,
        container: &Container,
        lock: &File,
    ) -> Result<(), RuntimeError> {
        // A supervisor that came to its end has seen to it that nothing is left. Else it is
        // looked for twice: who is just becoming another program has no mark for an instant.
        let status = look(container, Container::status)?;
        let was_buried = status.is_some_and(|status| matches!(status.phase, Phase::Ended { .. }));
        let n_wanted = if was_buried { 1 } else { 2 };
        let deadline = deadline::after(self.options.supervisor_margin);
        let mut n_clean = 0;
        loop {
            // Who drops us drops the lock, but not what was begun on another thread: that must not meet the
            // supervisor of the next start, which has the same mark.
            let held = lock
                .try_clone()
                .map_err(failed(|| format!("keep the lock of `{application}`")))?;
            let n_killed = self.kill_marked(application, Some(held)).await?;
            n_clean = if n_killed == 0 { n_clean + 1 } else { 0 };
            if n_clean == n_wanted {
                return Ok(());
            }
            if n_killed > 0 && Instant::now() >= deadline {
                return Err(RuntimeError::NotGone {
                    application: application.clone(),
                    reason: format!("{n_killed} of its processes do not end although they were killed"),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Kills every process of an application, and says how many there were. The lock is kept until that is done.
    pub(super) async fn kill_marked(
        &self,
        application: &ApplicationName,
        lock: Option<File>,
    ) -> Result<usize, RuntimeError> {
        let marker = self.marker(application);
        // It reads a file of every process of the machine.
        let killed = tokio::task::spawn_blocking(move || {
            let killed = kin::kill_marked(&marker);
            drop(lock);
            killed
        })
        .await;
        let killed = killed.map_err(io::Error::other).and_then(|killed| killed);
        killed.map_err(failed(|| "look for processes in `/proc`".into()))
    }

    /// Starts the supervisor, which inherits the lock.
    pub(super) async fn start_supervisor(
        &self,
        container: &Container,
        launch: &Launch,
        lock: File,
    ) -> Result<(), RuntimeError> {
        let program = &self.options.supervisor;
        let what = || format!("start the supervisor `{}`", program.display());
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(true);
        let words = options.open(container.supervisor_log()).map_err(failed(what))?;
        let marker = launch.environment.get(MARKER).cloned().unwrap_or_default();
        let started = Program::new(program)
            .arguments(&self.options.supervisor_arguments)
            .argument(SUPERVISE)
            .argument(&container.0)
            .variable(MARKER, marker)
            .directory("/")
            .stdin(Stream::Piped)
            .stdout(Stream::Descriptor(lock.into()))
            .stderr(Stream::Descriptor(words.into()))
            .spawn_detached()
            .map_err(|error| io::Error::other(probe::chain(&error)))
            .map_err(failed(what))?;
        let order = serde_json::to_vec(launch).map_err(|error| failed(what)(error.into()))?;
        if let Some(mut stdin) = started.stdin {
            stdin.write_all(&order).await.map_err(failed(what))?;
            stdin.shutdown().await.map_err(failed(what))?;
        }
        Ok(())
    }

    /// Waits until the application serves that was just started.
    pub(super) async fn wait_until_serving(
        &self,
        spec: &ContainerSpec,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        match self.wait_for_verdict(spec, container).await? {
            Verdict::Serves => Ok(()),
            Verdict::Gone(status) => Err(self.ended(spec, &status).await),
        }
    }

    /// Waits until the supervisor says that the application serves, or that it will not, or leaves.
    ///
    /// One that ends is waited for while its restart policy starts it again, but no more than a few times.
    pub(super) async fn wait_for_verdict(
        &self,
        spec: &ContainerSpec,
        container: &Container,
    ) -> Result<Verdict, RuntimeError> {
        let name = &spec.name;
        let check = spec.application.health_check.as_deref();
        let patience = check.map_or(self.options.settle, |check| {
            // The verdict comes after the last try, which may take its whole time.
            let once = check.interval.saturating_add(check.timeout);
            once.saturating_mul(check.retries.get().saturating_add(1))
        });
        let deadline = deadline::after(patience.saturating_add(self.options.supervisor_margin));
        loop {
            // Asked first, so that the last words of a supervisor are not missed.
            let is_supervised = look(container, Container::is_supervised)?;
            let status = look(container, Container::status)?.unwrap_or_else(Status::starting);
            match (&status.phase, &status.probing) {
                (Phase::Ended { .. }, _) => return Ok(Verdict::Gone(status)),
                (Phase::Restarting, _) if status.ends_in_a_row >= TRIES => {
                    return Err(self.ended(spec, &status).await);
                }
                (Phase::Restarting, _) if !is_supervised => return Ok(Verdict::Gone(status)),
                (Phase::Running { .. }, Probing::Settled | Probing::Passed) => return Ok(Verdict::Serves),
                (Phase::Running { .. }, Probing::Failed { reason }) => {
                    return Err(RuntimeError::Unhealthy {
                        application: name.clone(),
                        reason: reason.clone(),
                    });
                }
                (Phase::Starting | Phase::Running { .. }, _) if !is_supervised => {
                    return Ok(Verdict::Gone(status));
                }
                // What was just started, and what gets another try.
                (Phase::Starting | Phase::Restarting, _) | (Phase::Running { .. }, Probing::Pending) => {}
            }
            if Instant::now() >= deadline {
                if status.ends_in_a_row > 0 {
                    return Err(self.ended(spec, &status).await);
                }
                return Err(RuntimeError::Unhealthy {
                    application: name.clone(),
                    reason: "its supervisor does not answer".into(),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Says how an application ended that should serve, and what it said last.
    async fn ended(&self, spec: &ContainerSpec, status: &Status) -> RuntimeError {
        let end = status.last_end.as_deref().unwrap_or("that nobody saw");
        let logs = self.place(&spec.name).logs();
        let told = match LogReader::open(&logs, Some(last_words::N_LINES), None::<fn() -> bool>) {
            Ok(output) => last_words::told(end, output, spec).await,
            Err(_) => end.to_owned(),
        };
        let application = spec.name.clone();
        match status.ends_in_a_row {
            times @ TRIES.. => RuntimeError::KeepsEnding {
                application,
                times,
                status: told,
            },
            _ => RuntimeError::Ended {
                application,
                status: told,
            },
        }
    }

    /// Takes the lock, or finds the supervisor of a container that is alive.
    ///
    /// Whoever has the lock for another reason is waited for: a supervisor
    /// whose application has ended or is to end, somebody who prepares or
    /// removes the container, or who only looks. So is a supervisor that has
    /// not started anything yet: where its node was killed before it had told
    /// it all, it leaves without ever starting anything.
    pub(super) async fn claim(
        &self,
        application: &ApplicationName,
        container: &Container,
    ) -> Result<Claim, RuntimeError> {
        let deadline = deadline::after(self.options.supervisor_margin);
        loop {
            match look(container, Container::claim)? {
                Claim::Supervised => {}
                claim @ (Claim::Free(_) | Claim::Nothing) => return Ok(claim),
            }
            let is_held = look(container, Container::is_supervised)?;
            let status = look(container, Container::status)?;
            let is_alive = status.is_some_and(|status| match status.phase {
                Phase::Running { .. } | Phase::Restarting => true,
                Phase::Starting | Phase::Ended { .. } => false,
            });
            if is_held && is_alive && look(container, Container::stop_order)?.is_none() {
                return Ok(Claim::Supervised);
            }
            if Instant::now() >= deadline {
                return Err(RuntimeError::NotGone {
                    application: application.clone(),
                    reason: "it is still being started or stopped".into(),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Takes the lock in order to start the application; nothing where it serves already.
    ///
    /// A supervisor that ends while it is waited for is no answer: whoever starts an application wants it to run. Once
    /// it is gone the lock is ours, unless somebody else starts it at that very moment, as often as that may be.
    pub(super) async fn take_or_meet(
        &self,
        spec: &ContainerSpec,
        container: &Container,
    ) -> Result<Option<File>, RuntimeError> {
        let mut n_met = 0;
        loop {
            if let Some(lock) = self.take(spec).await? {
                return Ok(Some(lock));
            }
            match self.wait_for_verdict(spec, container).await? {
                Verdict::Serves => return Ok(None),
                Verdict::Gone(status) => {
                    n_met += 1;
                    if n_met == TRIES {
                        return Err(self.ended(spec, &status).await);
                    }
                }
            }
        }
    }

    /// Makes a container that does not run and returns its lock; nothing where one of this definition is alive.
    pub(super) async fn take(&self, spec: &ContainerSpec) -> Result<Option<File>, RuntimeError> {
        let place = self.place(&spec.name);
        let container = place.container();
        loop {
            look(&container, |_| place.create())?;
            match self.claim(&spec.name, &container).await? {
                Claim::Free(lock) => return Ok(Some(lock)),
                // It was removed under our hands.
                Claim::Nothing => {}
                Claim::Supervised => {
                    return match look(&container, Container::definition)? {
                        Some(there) if there.hash == spec.definition => Ok(None),
                        Some(_) => Err(RuntimeError::OtherDefinition {
                            application: spec.name.clone(),
                        }),
                        None => Err(RuntimeError::Io {
                            what: format!("read `{}`", container.0.display()),
                            source: io::ErrorKind::NotFound.into(),
                        }),
                    };
                }
            }
        }
    }
}

/// Says whether a container was prepared from just this and never started.
pub(super) fn is_prepared(container: &Container, definition: &Definition) -> Result<bool, RuntimeError> {
    let there = look(container, Container::definition)?;
    Ok(there.as_ref() == Some(definition) && look(container, Container::status)?.is_none())
}

/// Looks at or changes the files of a container.
pub(super) fn look<T>(
    container: &Container,
    act: impl FnOnce(&Container) -> io::Result<T>,
) -> Result<T, RuntimeError> {
    act(container).map_err(failed(|| {
        format!("use the container in `{}`", container.0.display())
    }))
}

pub(super) fn failed(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Io { what: what(), source }
}
