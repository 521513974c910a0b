//! The containers of a node, and how each call changes them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::EnvironmentValue;
use flocker_model::Health;
use flocker_model::HealthProbe;
use flocker_model::Image;
use flocker_model::PortNumber;
use flocker_model::RestartPolicy;
use flocker_model::Role;

use super::disk::Disk;
use super::observer::Violation;
use super::volumes::MemoryVolumes;
use crate::change::Change;
use crate::runtime::ContainerSpec;
use crate::runtime::RuntimeError;

/// What the program of an image does when it runs in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MemoryProgram {
    /// It runs until it is stopped, and passes every health check.
    #[default]
    Serves,
    /// It runs until it is stopped, and passes the health checks of this port only.
    Listens(PortNumber),
    /// It runs until it is stopped, and passes no health check.
    Runs,
    /// It ends by itself at once, with this status.
    Exits(i32),
    /// It writes this text and a line end, and then does as [`Self::Runs`].
    Prints(String),
    /// It writes the value of this variable and a line end, and then does as [`Self::Runs`].
    PrintsVariable(String),
    /// There is no such image.
    IsMissing,
}

/// A container of ours.
#[derive(Clone, Debug)]
struct Container {
    spec: Arc<ContainerSpec>,
    status: ContainerStatus,
    health: Health,
    restarts: u32,
    address: IpAddr,
}

impl Container {
    fn dataset(&self) -> Option<DatasetId> {
        self.spec.application.volume.as_ref().map(|volume| volume.dataset)
    }

    fn report(&self) -> ContainerState {
        ContainerState {
            status: self.status,
            health: self.health,
            definition: self.spec.definition,
            dataset: self.dataset(),
            address: Some(self.address),
            stop_grace: self.spec.application.stop_grace,
            restarts: self.restarts,
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.status, ContainerStatus::Exited { .. })
    }

    /// Ends by itself; its policy says what then.
    fn end(&mut self, code: i32) {
        let exited = ContainerStatus::Exited { code: Some(code) };
        self.health = Health::NotChecked;
        (self.status, self.restarts) = match self.spec.application.restart_policy {
            RestartPolicy::Never => (exited, self.restarts),
            RestartPolicy::OnFailure { .. } if code == 0 => (exited, self.restarts),
            RestartPolicy::OnFailure {
                maximum_retry_count: Some(most),
            } if self.restarts >= most.get() => (exited, self.restarts),
            RestartPolicy::Always | RestartPolicy::OnFailure { .. } => {
                (ContainerStatus::Restarting, self.restarts.saturating_add(1))
            }
        };
    }
}

/// All containers of ours on a node. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub(super) struct Containers {
    by_name: BTreeMap<ApplicationName, Container>,
    output: BTreeMap<ApplicationName, Arc<String>>,
    pub(super) programs: BTreeMap<Image, MemoryProgram>,
    /// Who waits for more output.
    pub(super) readers: Vec<Waker>,
}

impl Containers {
    pub(super) fn list(&self) -> BTreeMap<ApplicationName, ContainerState> {
        let containers = self.by_name.iter();
        containers
            .map(|(name, container)| (name.clone(), container.report()))
            .collect()
    }

    fn alive(&self, application: &ApplicationName) -> Option<&Container> {
        self.by_name
            .get(application)
            .filter(|container| container.report().is_alive())
    }

    pub(super) fn status(&self, application: &ApplicationName) -> Option<ContainerStatus> {
        self.by_name.get(application).map(|container| container.status)
    }

    pub(super) fn definition(&self, application: &ApplicationName) -> Option<DefinitionHash> {
        let container = self.by_name.get(application);
        container.map(|container| container.spec.definition)
    }

    /// Says whether a container is alive that has a dataset.
    pub(super) fn uses(&self, dataset: DatasetId) -> bool {
        let mut with = self
            .by_name
            .values()
            .filter(|container| container.dataset() == Some(dataset));
        with.any(|container| container.report().is_alive())
    }

    pub(super) fn is_alive(&self, application: &ApplicationName) -> bool {
        self.alive(application).is_some()
    }

    /// Returns the datasets on which a container is alive.
    pub(super) fn datasets_in_use(&self) -> BTreeSet<DatasetId> {
        let alive = self
            .by_name
            .values()
            .filter(|container| container.report().is_alive());
        alive.filter_map(Container::dataset).collect()
    }

    fn program(&self, spec: &ContainerSpec) -> Result<MemoryProgram, RuntimeError> {
        let image = &spec.application.image;
        match self.programs.get(image).cloned().unwrap_or_default() {
            MemoryProgram::IsMissing => Err(RuntimeError::NoImage {
                application: spec.name.clone(),
                reason: format!("there is no image `{image}`"),
            }),
            program @ (MemoryProgram::Serves
            | MemoryProgram::Listens(_)
            | MemoryProgram::Runs
            | MemoryProgram::Exits(_)
            | MemoryProgram::Prints(_)
            | MemoryProgram::PrintsVariable(_)) => Ok(program),
        }
    }

    /// Says whether a container of this definition is alive; an error where another one is.
    fn is_current(&self, spec: &ContainerSpec) -> Result<bool, RuntimeError> {
        match self.alive(&spec.name) {
            None => Ok(false),
            Some(alive) if alive.spec.definition == spec.definition => Ok(true),
            Some(_) => Err(RuntimeError::OtherDefinition {
                application: spec.name.clone(),
            }),
        }
    }

    pub(super) fn prepare(&mut self, spec: &ContainerSpec, address: IpAddr) -> Result<Change, RuntimeError> {
        self.program(spec)?;
        let prepared = self.by_name.get(&spec.name).is_some_and(|container| {
            container.status == ContainerStatus::Prepared && container.spec.definition == spec.definition
        });
        if prepared || self.alive(&spec.name).is_some() {
            return Ok(Change::AlreadySo);
        }
        self.insert(spec, ContainerStatus::Prepared, address);
        Ok(Change::Made)
    }

    fn insert(&mut self, spec: &ContainerSpec, status: ContainerStatus, address: IpAddr) {
        let container = Container {
            spec: Arc::new(spec.clone()),
            status,
            health: Health::NotChecked,
            restarts: 0,
            address,
        };
        self.by_name.insert(spec.name.clone(), container);
    }

    pub(super) fn start(&mut self, spec: &ContainerSpec, address: IpAddr) -> Result<Change, RuntimeError> {
        let program = self.program(spec)?;
        if self.is_current(spec)? {
            return Ok(Change::AlreadySo);
        }
        self.insert(spec, ContainerStatus::Running, address);
        self.output.entry(spec.name.clone()).or_default();
        self.run(&spec.name, &program);
        Ok(Change::Made)
    }

    /// Returns what has run and ended, with what is done when it ends.
    pub(super) fn resumable(&self) -> BTreeMap<ApplicationName, RestartPolicy> {
        let ended = self.by_name.iter().filter(|(_, container)| container.has_ended());
        ended
            .map(|(name, container)| (name.clone(), container.spec.application.restart_policy))
            .collect()
    }

    /// Starts what has ended as it was made, on the volume that it must have.
    pub(super) fn resume(
        &mut self,
        application: &ApplicationName,
        volume: Option<&Path>,
        disk: &Disk,
    ) -> Result<Change, RuntimeError> {
        if self.is_alive(application) {
            return Ok(Change::AlreadySo);
        }
        let found = self.by_name.get(application);
        let spec = found
            .filter(|container| container.has_ended())
            .map(|container| &container.spec);
        let Some(spec) = spec.cloned() else {
            return Err(RuntimeError::NotHere {
                application: application.clone(),
            });
        };
        let given = ContainerSpec {
            volume: volume.map(Path::to_path_buf),
            ..(*spec).clone()
        };
        if !has_its_volume(disk, &given, MemoryVolumes::mountpoint) {
            return Err(RuntimeError::Io {
                what: format!("mount the volume of `{application}`"),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        let program = self.program(&spec)?;
        self.run(application, &program);
        Ok(Change::Made)
    }

    /// Lets the program do what it does from its start on.
    fn run(&mut self, application: &ApplicationName, program: &MemoryProgram) {
        let Some(container) = self.by_name.get_mut(application) else {
            return;
        };
        container.status = ContainerStatus::Running;
        container.health = health(container, program);
        match program {
            MemoryProgram::Exits(code) => {
                // It ends as often as it is started; its policy gives up or never does.
                container.end(*code);
                let gives_up = matches!(
                    container.spec.application.restart_policy,
                    RestartPolicy::OnFailure {
                        maximum_retry_count: Some(_)
                    }
                );
                while gives_up && container.status == ContainerStatus::Restarting {
                    container.end(*code);
                }
            }
            MemoryProgram::Prints(text) => self.print(application, text),
            MemoryProgram::PrintsVariable(name) => {
                let value = variable(&container.spec, name);
                self.print(application, &value);
            }
            MemoryProgram::Serves
            | MemoryProgram::Listens(_)
            | MemoryProgram::Runs
            | MemoryProgram::IsMissing => {}
        }
    }

    pub(super) fn stop(&mut self, application: &ApplicationName) -> Change {
        match self.by_name.remove(application) {
            Some(_) => Change::Made,
            None => Change::AlreadySo,
        }
    }

    /// Ends a container that runs as if its program had ended by itself.
    pub(super) fn end(&mut self, application: &ApplicationName, code: i32) {
        let container = self.by_name.get_mut(application);
        if let Some(container) = container.filter(|container| container.status == ContainerStatus::Running) {
            container.end(code);
        }
    }

    /// Adds a line to the output of an application.
    pub(super) fn print(&mut self, application: &ApplicationName, text: &str) {
        let output = Arc::make_mut(self.output.entry(application.clone()).or_default());
        output.push_str(text);
        output.push('\n');
    }

    /// Lets everybody who waits for output look again.
    pub(super) fn wake(&mut self) {
        self.readers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn output(&self, application: &ApplicationName) -> Option<Arc<String>> {
        self.output.get(application).cloned()
    }

    /// Comes up after a loss of power: nothing runs but what always restarts, and only where its volume is.
    pub(super) fn boot(&mut self, disk: &Disk) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut again = Vec::new();
        for (name, container) in &mut self.by_name {
            if !container.report().is_alive() {
                continue;
            }
            container.health = Health::NotChecked;
            container.status = ContainerStatus::Exited { code: None };
            if container.spec.application.restart_policy != RestartPolicy::Always {
                continue;
            }
            match container.dataset() {
                Some(dataset) if !is_primary(disk, dataset) => {
                    violations.push(Violation::StartedWithoutOwnership {
                        application: name.clone(),
                        dataset,
                        node: disk.node.clone(),
                    });
                }
                Some(_) | None => {
                    container.restarts = container.restarts.saturating_add(1);
                    again.push((name.clone(), Arc::clone(&container.spec)));
                }
            }
        }
        for (name, spec) in again {
            if let Ok(program) = self.program(&spec) {
                self.run(&name, &program);
            }
        }
        violations
    }
}

pub(super) fn is_primary(disk: &Disk, dataset: DatasetId) -> bool {
    let held = disk.datasets.get(&dataset);
    held.is_some_and(|held| matches!(held.role, Role::Primary { .. }))
}

/// Says whether the volume that a container is to be started on is the one that it must be.
pub(super) fn has_its_volume(disk: &Disk, spec: &ContainerSpec, path: impl Fn(DatasetId) -> PathBuf) -> bool {
    match &spec.application.volume {
        None => true,
        Some(volume) => {
            is_primary(disk, volume.dataset) && spec.volume.as_ref() == Some(&path(volume.dataset))
        }
    }
}

fn health(container: &Container, program: &MemoryProgram) -> Health {
    let Some(check) = &container.spec.application.health_check else {
        return Health::NotChecked;
    };
    let port = match &check.probe {
        HealthProbe::Tcp { port } | HealthProbe::Http { port, .. } => Some(*port),
        HealthProbe::Command(_) => None,
    };
    let serves = match program {
        MemoryProgram::Serves => true,
        MemoryProgram::Listens(at) => port == Some(*at),
        MemoryProgram::Runs
        | MemoryProgram::Exits(_)
        | MemoryProgram::Prints(_)
        | MemoryProgram::PrintsVariable(_)
        | MemoryProgram::IsMissing => false,
    };
    if serves {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

fn variable(spec: &ContainerSpec, name: &str) -> String {
    match spec.application.environment.get(name) {
        Some(EnvironmentValue::Plain(value)) => value.to_string(),
        Some(EnvironmentValue::Secret(value)) => value.reveal().to_owned(),
        None => spec.link_environment().remove(name).unwrap_or_default(),
    }
}
