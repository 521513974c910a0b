//! The node's side: which applications there are, and orders to their supervisors.

use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::ProcessOptions;
use super::SUPERVISE;
use super::address::application_address;
use super::kin;
use super::launch;
use super::launch::Launch;
use super::launch::MARKER;
use super::launch::Resolved;
use super::launch::Surroundings;
use super::log::LogReader;
use super::place::Claim;
use super::place::Container;
use super::place::Definition;
use super::place::Phase;
use super::place::Place;
use super::place::Probing;
use super::place::Status;
use super::place::StopOrder;
use super::probe;
use crate::change::Change;
use crate::deadline;
use crate::process::Program;
use crate::process::Stream;
use crate::runtime::ContainerRuntime;
use crate::runtime::ContainerSpec;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::volume::ByteStream;

/// How often the state of a supervisor is looked at while somebody waits for it.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Runs programs of this machine as applications.
///
/// The image is the absolute path of a program, or a name that is looked up in
/// `PATH`; a tag is refused. In each argument, and in the command of a health
/// check, these places are filled: `{volume}` with the path of the data,
/// `{address}` with the [address](application_address) on which the
/// application has to listen, `{port}` with its first internal port and
/// `{port:8080}` with that internal port, which must be declared.
///
/// The environment holds what the node gives to all, `FLOCKER_APPLICATION`,
/// `FLOCKER_NODE_ADDRESS`, `FLOCKER_ADDRESS`, `FLOCKER_VOLUME`, `FLOCKER_PORT`,
/// the links, and what the application defines, which wins. As with any
/// program, the operating system shows it to the same user: secrets are
/// hidden from other users, not from this one.
///
/// The working directory is the volume, or a private empty directory. Memory
/// is limited as address space (`RLIMIT_AS`) of each process; processor shares
/// below 1024 make it nice, more than that changes nothing.
///
/// A program counts as ended when its first process has ended: what it left
/// running is killed then. Programs must stay in the foreground.
///
/// Everything is written down before it is done, so that another
/// `ProcessRuntime` on the same state directory goes on where this one was
/// killed. Where a supervisor was killed, its program dies at once, and what
/// that had started is killed by the next [`ContainerRuntime::stop`] or
/// [`ContainerRuntime::start`] before it returns.
#[derive(Clone, Debug)]
pub struct ProcessRuntime {
    options: ProcessOptions,
    /// Tells our processes from those of other state directories.
    identity: String,
}

impl ProcessRuntime {
    /// Opens the state directory, and makes it where it is missing.
    pub fn new(options: ProcessOptions) -> Result<Self, RuntimeError> {
        let directory = &options.state_directory;
        let open = || {
            std::fs::create_dir_all(directory)?;
            std::fs::canonicalize(directory)
        };
        let canonical = open().map_err(failed(|| format!("open `{}`", directory.display())))?;
        let hash = blake3::hash(canonical.as_os_str().as_encoded_bytes());
        let identity = hash.to_hex().as_str()[..16].to_owned();
        let options = ProcessOptions {
            state_directory: canonical,
            ..options
        };
        Ok(Self { options, identity })
    }

    fn place(&self, application: &ApplicationName) -> Place {
        Place::new(&self.options.state_directory, application)
    }

    fn marker(&self, application: &ApplicationName) -> String {
        format!("{}/{application}", self.identity)
    }

    fn address(&self, application: &ApplicationName) -> IpAddr {
        application_address(self.options.node_address, application)
    }

    fn resolve(&self, spec: &ContainerSpec) -> Result<Resolved, RuntimeError> {
        let around = Surroundings {
            address: self.address(&spec.name),
            marker: &self.marker(&spec.name),
            environment: &self.options.environment,
        };
        launch::resolve(spec, &around)
    }

    fn definition(&self, spec: &ContainerSpec) -> Definition {
        Definition {
            hash: spec.definition,
            dataset: spec.application.volume.as_ref().map(|volume| volume.dataset),
            address: self.address(&spec.name),
            stop_grace: spec.application.stop_grace,
            is_checked: spec.application.health_check.is_some(),
        }
    }

    fn launch(&self, spec: &ContainerSpec, resolved: Resolved, container: &Container) -> Launch {
        let Resolved {
            program,
            arguments,
            environment,
            health_check,
        } = resolved;
        let limits = spec.application.limits;
        Launch {
            program,
            arguments,
            environment,
            working_directory: spec.volume.clone().unwrap_or_else(|| container.work()),
            address: self.address(&spec.name),
            memory: limits.memory,
            nice: launch::niceness(limits.cpu_shares),
            restart_policy: spec.application.restart_policy,
            restart_timing: self.options.restart_timing.clone(),
            health_check,
            settle: self.options.settle,
            stop_grace: spec.application.stop_grace,
            log_limit: self.options.log_limit,
            stage_arguments: self.options.supervisor_arguments.clone(),
        }
    }

    /// Kills what a killed supervisor left, until nothing is left. The lock must be held.
    async fn kill_strays(
        &self,
        application: &ApplicationName,
        container: &Container,
    ) -> Result<(), RuntimeError> {
        // A supervisor that came to its end has seen to it that nothing is left. Else it is
        // looked for twice: who is just becoming another program has no mark for an instant.
        let status = look(container, Container::status)?;
        let was_buried = status.is_some_and(|status| matches!(status.phase, Phase::Ended { .. }));
        let n_wanted = if was_buried { 1 } else { 2 };
        let deadline = deadline::after(self.options.supervisor_margin);
        let mut n_clean = 0;
        loop {
            let n_killed = self.kill_marked(application).await?;
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

    /// Kills every process of an application, and says how many there were.
    async fn kill_marked(&self, application: &ApplicationName) -> Result<usize, RuntimeError> {
        let marker = self.marker(application);
        // It reads a file of every process of the machine.
        let killed = tokio::task::spawn_blocking(move || kin::kill_marked(&marker)).await;
        let killed = killed.map_err(io::Error::other).and_then(|killed| killed);
        killed.map_err(failed(|| "look for processes in `/proc`".into()))
    }

    /// Starts the supervisor, which inherits the lock.
    async fn start_supervisor(
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

    /// Waits until the supervisor says that the application serves, or that it will not.
    async fn wait_until_serving(
        &self,
        spec: &ContainerSpec,
        container: &Container,
        restarts_before: u32,
    ) -> Result<(), RuntimeError> {
        let name = &spec.name;
        let ended = |status: &Status| RuntimeError::Ended {
            application: name.clone(),
            status: status
                .last_end
                .clone()
                .unwrap_or_else(|| "that nobody saw".into()),
        };
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
                (Phase::Ended { .. } | Phase::Restarting, _) => return Err(ended(&status)),
                _ if status.restarts > restarts_before => return Err(ended(&status)),
                (Phase::Running { .. }, Probing::Settled | Probing::Passed) => return Ok(()),
                (Phase::Running { .. }, Probing::Failed { reason }) => {
                    return Err(RuntimeError::Unhealthy {
                        application: name.clone(),
                        reason: reason.clone(),
                    });
                }
                (Phase::Starting | Phase::Running { .. }, _) if !is_supervised => return Err(ended(&status)),
                (Phase::Starting, _) | (Phase::Running { .. }, Probing::Pending) => {}
            }
            if Instant::now() >= deadline {
                return Err(RuntimeError::Unhealthy {
                    application: name.clone(),
                    reason: "its supervisor does not answer".into(),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Takes the lock, or finds the supervisor of a container that is alive.
    ///
    /// Whoever has the lock for another reason is waited for: a supervisor
    /// whose application has ended or is to end, somebody who prepares or
    /// removes the container, or who only looks. So is a supervisor that has
    /// not started anything yet: where its node was killed before it had told
    /// it all, it leaves without ever starting anything.
    async fn claim(
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

    /// Makes a container that does not run and returns its lock; nothing where one of this definition is alive.
    async fn take(&self, spec: &ContainerSpec) -> Result<Option<File>, RuntimeError> {
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

#[async_trait]
impl ContainerRuntime for ProcessRuntime {
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError> {
        let state = &self.options.state_directory;
        let names = || {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(state)? {
                let name = entry?.file_name();
                // What is not named like an application was not put there by us.
                names.extend(
                    name.to_str()
                        .and_then(|name| name.parse::<ApplicationName>().ok()),
                );
            }
            Ok(names)
        };
        let names = names().map_err(failed(|| format!("read `{}`", state.display())))?;
        let mut containers = BTreeMap::new();
        for name in names {
            if let Some(container) = look(&self.place(&name).container(), observe)? {
                containers.insert(name, container);
            }
        }
        Ok(containers)
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.resolve(spec)?;
        let Some(lock) = self.take(spec).await? else {
            return Ok(Change::AlreadySo);
        };
        let container = self.place(&spec.name).container();
        let definition = self.definition(spec);
        if is_prepared(&container, &definition)? {
            look(&container, Container::clear_stop)?;
            return Ok(Change::AlreadySo);
        }
        self.kill_strays(&spec.name, &container).await?;
        look(&container, |container| {
            container.clear_status()?;
            container.clear_stop()?;
            container.set_definition(&definition)
        })?;
        drop(lock);
        Ok(Change::Made)
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        let resolved = self.resolve(spec)?;
        let container = self.place(&spec.name).container();
        let Some(lock) = self.take(spec).await? else {
            let status = look(&container, Container::status)?;
            let restarts = status.map_or(0, |status| status.restarts);
            self.wait_until_serving(spec, &container, restarts).await?;
            return Ok(Change::AlreadySo);
        };
        if let Some(volume) = &spec.volume {
            // A program that finds no data must not make itself some.
            let what = || format!("enter the volume `{}`", volume.display());
            std::fs::read_dir(volume).map_err(failed(what))?;
        }
        let definition = self.definition(spec);
        // This is within the pause of a move: what was done when it was prepared is not done again.
        let is_prepared = is_prepared(&container, &definition)?;
        if !is_prepared {
            self.kill_strays(&spec.name, &container).await?;
        }
        look(&container, |container| {
            container.set_status(&Status::starting())?;
            container.clear_stop()?;
            if is_prepared {
                Ok(())
            } else {
                container.set_definition(&definition)
            }
        })?;
        let launch = self.launch(spec, resolved, &container);
        self.start_supervisor(&container, &launch, lock).await?;
        self.wait_until_serving(spec, &container, 0).await?;
        Ok(Change::Made)
    }

    async fn stop(&self, application: &ApplicationName, grace: Duration) -> Result<Change, RuntimeError> {
        let place = self.place(application);
        let container = place.container();
        let order = StopOrder { grace };
        let begun = Instant::now();
        let patience = grace.saturating_add(self.options.supervisor_margin);
        let mut may_kill = true;
        let lock = loop {
            match look(&container, Container::claim)? {
                Claim::Free(lock) => break lock,
                Claim::Nothing => return Ok(Change::AlreadySo),
                Claim::Supervised => {}
            }
            look(&container, |container| order_to_stop(container, &order))?;
            let waited = begun.elapsed();
            if may_kill && waited >= patience {
                // The supervisor itself hangs. Its program dies with it.
                may_kill = false;
                self.kill_marked(application).await?;
            }
            if waited >= patience.saturating_add(self.options.supervisor_margin) {
                return Err(RuntimeError::NotGone {
                    application: application.clone(),
                    reason: "its supervisor does not end".into(),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        self.kill_strays(application, &container).await?;
        let there = look(&container, Container::definition)?;
        look(&container, |_| place.remove())?;
        drop(lock);
        // Without a definition it was never more than the beginning of a container.
        Ok(match there {
            Some(_) => Change::Made,
            None => Change::AlreadySo,
        })
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        let place = self.place(application);
        let directory = place.logs();
        if !directory.is_dir() {
            return Err(RuntimeError::NotHere {
                application: application.clone(),
            });
        }
        let container = place.container();
        // Nothing comes any more once no supervisor is left.
        let more_may_come = move || container.is_supervised().unwrap_or(false);
        let more_may_come = request.follow.then_some(more_may_come);
        let reader = LogReader::open(&directory, request.tail, more_may_come);
        let reader = reader.map_err(failed(|| format!("read the logs in `{}`", directory.display())))?;
        Ok(Box::pin(reader))
    }
}

/// Returns what is true of a container; nothing where there is none.
fn observe(container: &Container) -> io::Result<Option<ContainerState>> {
    loop {
        // Asked before the status is read: without a supervisor the status is its last word.
        let is_supervised = container.is_supervised()?;
        let Some(definition) = container.definition()? else {
            return Ok(None);
        };
        let status = container.status()?;
        let phase = status.as_ref().map(|status| &status.phase);
        let status_now = match phase {
            None => ContainerStatus::Prepared,
            Some(Phase::Ended { code }) => ContainerStatus::Exited { code: *code },
            Some(Phase::Starting | Phase::Running { .. } | Phase::Restarting) if !is_supervised => {
                // Perhaps somebody has just started it again.
                if container.is_supervised()? {
                    continue;
                }
                ContainerStatus::Exited { code: None }
            }
            Some(Phase::Starting | Phase::Running { .. }) => ContainerStatus::Running,
            Some(Phase::Restarting) => ContainerStatus::Restarting,
        };
        return Ok(Some(ContainerState {
            status: status_now,
            health: status
                .as_ref()
                .map_or(Probing::Pending, |status| status.probing.clone())
                .health(definition.is_checked),
            definition: definition.hash,
            dataset: definition.dataset,
            address: Some(definition.address),
            stop_grace: definition.stop_grace,
            restarts: status.map_or(0, |status| status.restarts),
        }));
    }
}

/// Makes sure that the supervisor of a container knows that it is to end.
fn order_to_stop(container: &Container, order: &StopOrder) -> io::Result<()> {
    let ordered = if container.stop_order()?.as_ref() == Some(order) {
        Ok(())
    } else {
        container.order_stop(order)
    };
    match ordered.and_then(|()| container.poke()) {
        // It was removed in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Says whether a container was prepared from just this and never started.
fn is_prepared(container: &Container, definition: &Definition) -> Result<bool, RuntimeError> {
    let there = look(container, Container::definition)?;
    Ok(there.as_ref() == Some(definition) && look(container, Container::status)?.is_none())
}

/// Looks at or changes the files of a container.
fn look<T>(container: &Container, act: impl FnOnce(&Container) -> io::Result<T>) -> Result<T, RuntimeError> {
    act(container).map_err(failed(|| {
        format!("use the container in `{}`", container.0.display())
    }))
}

fn failed(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> RuntimeError {
    move |source| RuntimeError::Io { what: what(), source }
}
