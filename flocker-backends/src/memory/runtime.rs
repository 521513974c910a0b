//! The twin of a container runtime.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::Health;
use flocker_model::Image;
use flocker_model::RestartPolicy;
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;

use super::containers::MemoryProgram;
use super::containers::has_its_volume;
use super::faults::Effect;
use super::faults::Injected;
use super::faults::Life;
use super::faults::Power;
use super::node::Inject;
use super::node::Machine;
use super::observer::Violation;
use super::volumes::MemoryVolumes;
use crate::change::Change;
use crate::runtime::ContainerRuntime;
use crate::runtime::ContainerSpec;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::volume::ByteStream;

/// Containers in memory. One that runs does nothing by itself; whoever plays the application acts for it.
///
/// Every image exists and serves, unless [`install`](Self::install) says
/// otherwise. A container with a volume is started only where that volume is
/// primary. Cloning is cheap and gives the same containers.
#[derive(Clone, Debug)]
pub struct MemoryRuntime {
    machine: Arc<Machine>,
    process: Option<u64>,
}

impl Inject for RuntimeError {
    fn inject(injected: Injected, effect: &Effect) -> Self {
        match (injected, effect) {
            (Injected::Refused, Effect::Prepare(application) | Effect::Start(application)) => Self::NoImage {
                application: application.clone(),
                reason: "a fault was asked for".into(),
            },
            (Injected::Failed, Effect::Stop(application)) => Self::NotGone {
                application: application.clone(),
                reason: "a fault was asked for".into(),
            },
            (
                Injected::Down
                | Injected::Failed
                | Injected::Refused
                | Injected::DiskFull
                | Injected::ReplyLost,
                _,
            ) => Self::Io {
                what: format!("make {effect:?}"),
                source: injected.to_io(),
            },
        }
    }
}

impl MemoryRuntime {
    /// Takes a machine, and which run of our process alone may do anything to it.
    pub(super) fn of(machine: Arc<Machine>, process: Option<u64>) -> Self {
        Self { machine, process }
    }

    /// Says what the program of an image does from its next start on.
    pub fn install(&self, image: Image, program: MemoryProgram) {
        self.machine.lock().containers.programs.insert(image, program);
    }

    /// Lets a container end by itself; its restart policy says what then. Does nothing where it does not run.
    pub fn end(&self, application: &ApplicationName, code: i32) {
        let mut state = self.machine.lock();
        state.containers.end(application, code);
        self.machine.look(&state, None);
        state.containers.wake();
    }

    /// Writes a line to the output of an application, as the application would.
    pub fn print(&self, application: &ApplicationName, line: &str) {
        let mut state = self.machine.lock();
        state.containers.print(application, line);
        state.containers.wake();
    }

    /// Says whether a container of the application runs now. Nothing runs without power.
    #[must_use]
    pub fn is_running(&self, application: &ApplicationName) -> bool {
        let status = self.machine.lock().containers.status(application);
        self.machine.faults.power() != Power::Off && status == Some(ContainerStatus::Running)
    }

    /// Returns by which definition a container was made.
    #[must_use]
    pub fn definition(&self, application: &ApplicationName) -> Option<DefinitionHash> {
        self.machine.lock().containers.definition(application)
    }

    fn life(&self, what: &str) -> Result<Life, RuntimeError> {
        self.machine
            .faults
            .life(self.process)
            .map_err(|injected| RuntimeError::Io {
                what: what.into(),
                source: injected.to_io(),
            })
    }

    fn refuse_without_volume(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let Some(volume) = &spec.application.volume else {
            return Ok(());
        };
        if has_its_volume(&self.machine.lock().disk, spec, MemoryVolumes::mountpoint) {
            return Ok(());
        }
        self.machine.observer.add(Violation::StartedWithoutOwnership {
            application: spec.name.clone(),
            dataset: volume.dataset,
            node: self.machine.name.clone(),
        });
        Err(RuntimeError::Io {
            what: format!("mount dataset `{}` for `{}`", volume.dataset, spec.name),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Says how a container does that was just started.
    fn outcome(&self, application: &ApplicationName) -> Result<Change, RuntimeError> {
        let list = self.machine.lock().containers.list();
        let application = application.clone();
        let Some(state) = list.get(&application) else {
            return Err(RuntimeError::NotHere { application });
        };
        match (state.status, state.health) {
            (ContainerStatus::Running, Health::Unhealthy) => Err(RuntimeError::Unhealthy {
                application,
                reason: "its probe fails".into(),
            }),
            (ContainerStatus::Running, Health::Healthy | Health::NotChecked) => Ok(Change::Made),
            (ContainerStatus::Exited { code: Some(code) }, _) => Err(RuntimeError::Ended {
                application,
                status: code.to_string(),
            }),
            (
                ContainerStatus::Exited { code: None }
                | ContainerStatus::Restarting
                | ContainerStatus::Prepared,
                _,
            ) => Err(RuntimeError::Ended {
                application,
                status: "not known".into(),
            }),
        }
    }
}

#[async_trait]
impl ContainerRuntime for MemoryRuntime {
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError> {
        self.life("list containers")?;
        Ok(self.machine.lock().containers.list())
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        let life = self.life("prepare a container")?;
        let effect = Effect::Prepare(spec.name.clone());
        let address = self.machine.address;
        let machine = &self.machine;
        machine
            .effect(effect, &life, |state| state.containers.prepare(spec, address))
            .await
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        let life = self.life("start a container")?;
        self.refuse_without_volume(spec)?;
        let effect = Effect::Start(spec.name.clone());
        let address = self.machine.address;
        let machine = &self.machine;
        let apply = |state: &mut super::node::State| {
            let missing = !has_its_volume(&state.disk, spec, MemoryVolumes::mountpoint);
            if missing {
                return Err(RuntimeError::Io {
                    what: format!("mount the volume of `{}`", spec.name),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            state.containers.start(spec, address)
        };
        match machine.effect(effect, &life, apply).await? {
            Change::AlreadySo => Ok(Change::AlreadySo),
            Change::Made => {
                machine.lock().containers.wake();
                self.outcome(&spec.name)
            }
        }
    }

    async fn stop(&self, application: &ApplicationName, _grace: Duration) -> Result<Change, RuntimeError> {
        let life = self.life("stop a container")?;
        let effect = Effect::Stop(application.clone());
        let apply = |state: &mut super::node::State| Ok(state.containers.stop(application));
        let change = self.machine.effect(effect, &life, apply).await;
        self.machine.lock().containers.wake();
        change
    }

    async fn resumable(&self) -> Result<BTreeMap<ApplicationName, RestartPolicy>, RuntimeError> {
        self.life("list containers")?;
        Ok(self.machine.lock().containers.resumable())
    }

    async fn resume(
        &self,
        application: &ApplicationName,
        volume: Option<&Path>,
    ) -> Result<Change, RuntimeError> {
        let life = self.life("start a container")?;
        let effect = Effect::Start(application.clone());
        let apply =
            |state: &mut super::node::State| state.containers.resume(application, volume, &state.disk);
        let change = self.machine.effect(effect, &life, apply).await;
        self.machine.lock().containers.wake();
        change
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        self.life("read output")?;
        let output = self.machine.lock().containers.output(application);
        let Some(output) = output else {
            let application = application.clone();
            return Err(RuntimeError::NotHere { application });
        };
        let n_bytes_before = request.tail.map_or(0, |n_lines| {
            let lines = output.split_inclusive('\n').rev().take(n_lines as usize);
            output.len() - lines.map(str::len).sum::<usize>()
        });
        Ok(Box::pin(Output {
            machine: Arc::clone(&self.machine),
            application: application.clone(),
            position: n_bytes_before,
            follow: request.follow,
        }))
    }
}

/// What an application writes, from a position on.
struct Output {
    machine: Arc<Machine>,
    application: ApplicationName,
    position: usize,
    follow: bool,
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let machine = Arc::clone(&self.machine);
        let mut state = machine.lock();
        let output = state.containers.output(&self.application).unwrap_or_default();
        let rest = output.as_bytes().get(self.position..).unwrap_or_default();
        let n_bytes = rest.len().min(buffer.remaining());
        if n_bytes > 0 {
            buffer.put_slice(&rest[..n_bytes]);
            self.position += n_bytes;
        } else if self.follow && buffer.remaining() > 0 && state.containers.is_alive(&self.application) {
            state.containers.readers.push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}
