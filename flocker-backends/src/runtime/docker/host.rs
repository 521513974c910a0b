//! The runtime: what is promised of containers, in terms of the engine.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::Image;
use flocker_model::RestartPolicy;
use futures_util::StreamExt as _;

use super::DockerOptions;
use super::engine::Engine;
use super::labels::Manner;
use super::making::Taken;
use super::resuming::nothing_of;
use super::seen::Seen;
use super::survey::Survey;
use crate::change::Change;
use crate::runtime::ContainerRuntime;
use crate::runtime::ContainerSpec;
use crate::runtime::ImageId;
use crate::runtime::ImageStore;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::volume::ByteStream;

/// How many containers are asked for their health at the same time.
const AT_ONCE: usize = 16;

/// Runs applications as containers of the Docker engine of this machine.
///
/// A container is called `flocker--NAME`. A container of that name that is
/// not ours is never touched; the application is refused instead. Its ports
/// are reached at an address of its own, which it keeps, and are not
/// published. The engine starts it again after its end by the application's
/// policy, but after a boot only where it has no volume: one with a volume is
/// started by whoever has seen the volume, that is by
/// [`ContainerRuntime::start`].
///
/// An application with links finds `ALIAS` in its `/etc/hosts`: as the node
/// itself where the ports of the link are the same, else as the
/// [`link_address`](super::link_address) of the remote port, which the router
/// of the node has to lead on.
///
/// What a container writes beside its volume goes with it. Its output is kept
/// until the next container of the application is gone too. A follower of the
/// output is told its end when the container ends, also where it is started
/// again.
#[derive(Clone, Debug)]
pub struct DockerRuntime {
    engine: Engine,
}

impl DockerRuntime {
    /// Opens the engine, and makes the directories where they are missing.
    ///
    /// Fails where the engine does not answer or is too old, and where the
    /// run directory would survive a reboot.
    pub async fn open(options: DockerOptions) -> Result<Self, RuntimeError> {
        let directory = &options.state_directory;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| RuntimeError::Io {
            what: format!("open `{}`", directory.display()),
            source,
        })?;
        let engine = Engine::open(options, Manner::Engine).await?;
        Ok(Self { engine })
    }

    /// Returns the identity of an image, if it is here. Changes nothing.
    pub async fn image_present(&self, image: &Image) -> Result<Option<ImageId>, RuntimeError> {
        self.engine.image_present(image).await
    }

    /// Returns an image as a stream, for the engine of another node to take in. An image that is not here breaks the stream.
    #[must_use]
    pub fn export_image(&self, image: &Image) -> ByteStream {
        self.engine.export_image(image)
    }
}

impl Engine {
    /// Returns what is reported of containers: each by its application, with its health.
    pub(in crate::runtime) async fn report(
        &self,
        containers: Vec<Seen>,
    ) -> BTreeMap<ApplicationName, ContainerState> {
        self.forget_all_but(&containers);
        futures_util::stream::iter(containers)
            .map(|seen| async move {
                let health = self.health(&seen).await;
                (seen.labels.application.clone(), seen.state(health))
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    /// Checks what can be checked of a specification beside a container that runs.
    pub(in crate::runtime) async fn check(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.resolve(spec).await.map(|_| Change::AlreadySo)
    }
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError> {
        let Survey { seen, unread } = self.engine.survey().await?;
        let mut reported = self.engine.report(seen).await;
        reported.extend(unread);
        Ok(reported)
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        match self.engine.take(spec, &self.engine).await {
            Ok(Taken::Made(_)) => Ok(Change::Made),
            Ok(Taken::Alive(_) | Taken::Prepared(_)) => Ok(Change::AlreadySo),
            // It is about to be stopped for this one.
            Err(RuntimeError::OtherDefinition { .. }) => self.engine.check(spec).await,
            Err(error) => Err(error),
        }
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        let engine = &self.engine;
        match engine.take(spec, engine).await? {
            Taken::Alive(seen) => {
                // A stop that was dropped half way has taken it back.
                engine.set_policy(&seen, spec.application.restart_policy).await?;
                engine.wait_until_serving(spec, engine, seen.restarts).await?;
                Ok(Change::AlreadySo)
            }
            Taken::Prepared(seen) | Taken::Made(seen) => {
                engine.open_gate(spec)?;
                engine.set_going(spec, &seen).await?;
                engine.wait_until_serving(spec, engine, 0).await?;
                Ok(Change::Made)
            }
        }
    }

    async fn stop(&self, application: &ApplicationName, grace: Duration) -> Result<Change, RuntimeError> {
        self.engine.end(application, grace).await
    }

    async fn resumable(&self) -> Result<BTreeMap<ApplicationName, RestartPolicy>, RuntimeError> {
        let Survey { seen, unread: _ } = self.engine.survey().await?;
        let ended = seen
            .into_iter()
            .filter(|seen| seen.has_ended() && seen.has_its_policy());
        Ok(ended.map(|seen| (seen.labels.application, seen.policy)).collect())
    }

    async fn resume(
        &self,
        application: &ApplicationName,
        volume: Option<&Path>,
    ) -> Result<Change, RuntimeError> {
        match self.engine.look_at_ours(application).await? {
            Some(seen) if seen.is_alive() => Ok(Change::AlreadySo),
            Some(seen) if seen.has_ended() && seen.has_its_policy() => {
                self.engine.lead_back(&seen, volume)?;
                self.engine.start_again(&seen).await?;
                Ok(Change::Made)
            }
            Some(_) | None => Err(nothing_of(application)),
        }
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        self.engine.output(application, request).await
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        Some(&self.engine)
    }
}
