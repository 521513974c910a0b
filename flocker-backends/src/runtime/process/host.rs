//! The node's side: which applications there are, and orders to their supervisors.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use tokio::time::Instant;

use super::ProcessOptions;
use super::address::application_address;
use super::launch;
use super::launch::Launch;
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
use super::steps::LOOK_INTERVAL;
use super::steps::failed;
use super::steps::is_prepared;
use super::steps::look;
use crate::change::Change;
use crate::runtime::ContainerRuntime;
use crate::runtime::ContainerSpec;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::volume::ByteStream;

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
    pub(super) options: ProcessOptions,
    /// Tells our processes from those of other state directories.
    identity: String,
}

impl ProcessRuntime {
    /// Opens the state directory, and makes it where it is missing.
    pub fn new(options: ProcessOptions) -> Result<Self, RuntimeError> {
        let directory = &options.state_directory;
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
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

    pub(super) fn place(&self, application: &ApplicationName) -> Place {
        Place::new(&self.options.state_directory, application)
    }

    pub(super) fn marker(&self, application: &ApplicationName) -> String {
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
        let lock = match self.take(spec).await {
            Ok(Some(lock)) => lock,
            // It runs, as this definition or as one that is about to be stopped for it.
            Ok(None) | Err(RuntimeError::OtherDefinition { .. }) => return Ok(Change::AlreadySo),
            Err(error) => return Err(error),
        };
        let container = self.place(&spec.name).container();
        let definition = self.definition(spec);
        if is_prepared(&container, &definition)? {
            look(&container, Container::clear_stop)?;
            return Ok(Change::AlreadySo);
        }
        self.kill_strays(&spec.name, &container, &lock).await?;
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
        let Some(lock) = self.take_or_meet(spec, &container).await? else {
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
            self.kill_strays(&spec.name, &container, &lock).await?;
        }
        let before = look(&container, |container| {
            let is_same = container.definition()?.as_ref() == Some(&definition);
            Ok(container.status()?.filter(|_| is_same))
        })?;
        let ends_in_a_row = before.map_or(0, |status| status.ends_in_a_row);
        look(&container, |container| {
            container.set_status(&Status::starting_again(ends_in_a_row))?;
            container.clear_stop()?;
            if is_prepared {
                Ok(())
            } else {
                container.set_definition(&definition)
            }
        })?;
        let launch = self.launch(spec, resolved, &container);
        self.start_supervisor(&container, &launch, lock).await?;
        self.wait_until_serving(spec, &container).await?;
        Ok(Change::Made)
    }

    async fn stop(&self, application: &ApplicationName, grace: Duration) -> Result<Change, RuntimeError> {
        let place = self.place(application);
        let container = place.container();
        let order = StopOrder { grace: Some(grace) };
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
                self.kill_marked(application, None).await?;
            }
            if waited >= patience.saturating_add(self.options.supervisor_margin) {
                return Err(RuntimeError::NotGone {
                    application: application.clone(),
                    reason: "its supervisor does not end".into(),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        self.kill_strays(application, &container, &lock).await?;
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
