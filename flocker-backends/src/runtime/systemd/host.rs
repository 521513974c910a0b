//! The runtime: what is promised of containers, in terms of the engine and of units.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::RestartPolicy;

use super::SystemdOptions;
use super::journal::Journal;
use super::systemctl::Activity;
use super::systemctl::Systemctl;
use super::systemctl::UnitState;
use super::unit;
use super::unit::Programs;
use crate::change::Change;
use crate::process::find_program;
use crate::runtime::ContainerRuntime;
use crate::runtime::ContainerSpec;
use crate::runtime::ImageStore;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::runtime::docker;
use crate::runtime::docker::Engine;
use crate::runtime::docker::Manner;
use crate::runtime::docker::Seen;
use crate::runtime::docker::Sight;
use crate::runtime::docker::Taken;
use crate::volume::ByteStream;

/// How often a unit that has not noticed the end of its container is looked at again, and how soon.
const LOOKS: u32 = 250;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How often it is looked whether an application has ended whose output is followed.
const END_INTERVAL: Duration = Duration::from_millis(500);

/// Runs applications as containers of the Docker engine, each by a unit of systemd.
///
/// All is as with [`DockerRuntime`](crate::runtime::docker::DockerRuntime),
/// but that the engine never starts a container by itself: the unit
/// `flocker-NAME.service` does. A unit of that name that is not marked as
/// ours is never touched; the application is refused instead. What an
/// application says is in the journal, for as long as the journal keeps it.
///
/// A unit is enabled when its application is started and disabled when it is
/// stopped. At boot it starts an application without a volume, also one that
/// had ended by itself, and one whose volume is a plain directory. Where the
/// volume is a file system of its own that is not mounted, systemd passes the
/// unit over, once and without a failure, and nothing tries again when the
/// volume is mounted: the application is started by whoever has seen the
/// volume, that is by [`ContainerRuntime::start`]. Until then nobody knows
/// with what it ended, whatever the engine says.
#[derive(Clone, Debug)]
pub struct SystemdRuntime {
    pub(super) engine: Engine,
    pub(super) systemctl: Systemctl,
    journal: Journal,
    pub(super) programs: Programs,
    pub(super) unit_directory: PathBuf,
}

impl SystemdRuntime {
    /// Opens the engine and finds the programs that units run.
    ///
    /// Fails where the engine does not answer or is too old, where a program
    /// is missing, and where the run directory would survive a reboot.
    pub async fn open(options: SystemdOptions) -> Result<Self, RuntimeError> {
        let SystemdOptions {
            docker,
            unit_directory,
            path,
        } = options;
        let find = |name: &str| {
            find_program(Path::new(name), OsStr::new(&path)).ok_or_else(|| RuntimeError::Io {
                what: format!("find the program `{name}`"),
                source: io::ErrorKind::NotFound.into(),
            })
        };
        let programs = Programs {
            docker: find("docker")?,
            ln: find("ln")?,
            mkdir: find("mkdir")?,
            systemd_cat: find("systemd-cat")?,
        };
        let directory = &docker.state_directory;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| RuntimeError::Io {
            what: format!("open `{}`", directory.display()),
            source,
        })?;
        Ok(Self {
            systemctl: Systemctl::new(find("systemctl")?),
            journal: Journal::new(find("journalctl")?),
            engine: Engine::open(docker, Manner::Unit).await?,
            programs,
            unit_directory,
        })
    }

    /// Returns the name of the unit of an application, without its kind.
    pub(super) fn name(&self, application: &ApplicationName) -> String {
        match &self.engine.options.namespace {
            None => format!("flocker-{application}"),
            Some(namespace) => format!("flocker-{namespace}-{application}"),
        }
    }

    pub(super) fn unit(&self, application: &ApplicationName) -> String {
        format!("{}.service", self.name(application))
    }

    pub(super) fn unit_file(&self, application: &ApplicationName) -> PathBuf {
        self.unit_directory.join(self.unit(application))
    }

    /// Reads the unit of an application; nothing where there is none.
    pub(super) fn read_unit(&self, application: &ApplicationName) -> Result<Option<String>, RuntimeError> {
        let file = self.unit_file(application);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RuntimeError::Io {
                what: format!("read the unit `{}`", file.display()),
                source,
            }),
        }
    }

    /// Returns the unit of an application, if it is ours; nothing where there is none.
    fn own_unit(&self, application: &ApplicationName) -> Result<Option<String>, RuntimeError> {
        let text = self.read_unit(application)?;
        Ok(text.filter(|text| unit::application_of(text).as_ref() == Some(application)))
    }

    /// Returns the unit of an application, if it is ours and starts at boot: whoever ends it for good disables it first.
    fn enabled_unit(&self, application: &ApplicationName) -> Result<Option<String>, RuntimeError> {
        let link = self.unit_directory.join(unit::WANTS).join(self.unit(application));
        match std::fs::symlink_metadata(&link) {
            Ok(_) => self.own_unit(application),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RuntimeError::Io {
                what: format!("look at `{}`", link.display()),
                source,
            }),
        }
    }

    /// Returns the policy by which a container is started again, where its unit may do that.
    async fn resumable_by(&self, seen: Seen) -> Result<Option<RestartPolicy>, RuntimeError> {
        let Some(text) = self.enabled_unit(&seen.labels.application)? else {
            return Ok(None);
        };
        let joined = self.join(seen).await?;
        let has_ended = joined.is_some_and(|seen| seen.has_ended());
        Ok(unit::policy_of(&text).filter(|_| has_ended))
    }

    /// Refuses where somebody else has a unit of that name.
    fn check_unit(&self, application: &ApplicationName) -> Result<(), RuntimeError> {
        if self.read_unit(application)?.is_some() && self.own_unit(application)?.is_none() {
            return Err(RuntimeError::Taken {
                application: application.clone(),
                place: format!("the unit `{}`", self.unit_file(application).display()),
            });
        }
        Ok(())
    }

    async fn show(&self, application: &ApplicationName) -> Result<UnitState, RuntimeError> {
        let shown = self.systemctl.show(&self.unit(application), self.margin()).await;
        shown.map_err(failed(|| format!("look at the unit of `{application}`")))
    }

    /// Asks systemd for something.
    pub(super) async fn ask(
        &self,
        application: &ApplicationName,
        arguments: &[&str],
    ) -> Result<(), RuntimeError> {
        let asked = self.systemctl.run(arguments, self.margin()).await;
        let verb = arguments.first().copied().unwrap_or_default();
        asked
            .map(drop)
            .map_err(failed(|| format!("`systemctl {verb}` for `{application}`")))
    }

    /// Starts a unit. What it counted for a container that is gone, or before a boot, is not held against this start.
    async fn start_unit(&self, application: &ApplicationName) -> Result<(), RuntimeError> {
        let unit = self.unit(application);
        let reset = ["reset-failed", "--", &unit];
        let reset = self.systemctl.try_run(&reset, self.margin()).await;
        reset.map_err(failed(|| format!("forget the failures of `{application}`")))?;
        self.ask(application, &["start", "--", &unit]).await
    }

    /// Everybody's units are read anew, which takes systemd its time.
    pub(super) fn margin(&self) -> Duration {
        self.engine.options.margin.saturating_mul(6)
    }

    /// Waits until an application has ended, and will not start again by itself.
    async fn wait_for_end(&self, application: &ApplicationName) {
        loop {
            match self.see(application).await {
                Ok(Some(seen)) if seen.is_alive() => {}
                Ok(_) => return,
                Err(error) => {
                    let error: &dyn Error = &error;
                    tracing::debug!(%application, error, "whether it has ended is not known");
                }
            }
            tokio::time::sleep(END_INTERVAL).await;
        }
    }

    /// Joins what the engine and what the unit says of a container.
    async fn join(&self, mut seen: Seen) -> Result<Option<Seen>, RuntimeError> {
        let application = seen.labels.application.clone();
        let Some(text) = self.own_unit(&application)? else {
            return Ok(Some(seen));
        };
        let most = unit::most_restarts(&text).unwrap_or(u32::MAX);
        for _ in 0..LOOKS {
            let unit = self.show(&application).await?;
            // Asked after the unit, which notices later than the engine: together they are never ahead.
            match self.engine.look_at_ours(&application).await? {
                None => return Ok(None),
                Some(now) => seen = now,
            }
            seen.restarts = unit.restarts.min(most);
            match (unit.activity, seen.is_alive()) {
                (_, true) | (Activity::Inactive, false) => break,
                (Activity::PassedOver, false) => {
                    // With what it ended before a boot does not say that it has done its work.
                    if let ContainerStatus::Exited { .. } = seen.status {
                        seen.status = ContainerStatus::Exited { code: None };
                    }
                    break;
                }
                (Activity::Starting, false) => {
                    seen.status = ContainerStatus::Restarting;
                    break;
                }
                (Activity::Active, false) => {
                    // It has just ended, or is just being started.
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    seen.status = ContainerStatus::Restarting;
                }
            }
        }
        Ok(Some(seen))
    }
}

#[async_trait]
impl Sight for SystemdRuntime {
    async fn see(&self, application: &ApplicationName) -> Result<Option<Seen>, RuntimeError> {
        match self.engine.look_at_ours(application).await? {
            None => Ok(None),
            Some(seen) => self.join(seen).await,
        }
    }

    async fn hear(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        self.logs(application, request).await
    }
}

#[async_trait]
impl ContainerRuntime for SystemdRuntime {
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError> {
        let survey = self.engine.survey().await?;
        let (mut containers, mut unread) = (Vec::new(), survey.unread);
        for seen in survey.seen {
            let labels = seen.labels.clone();
            match self.join(seen).await {
                Ok(joined) => containers.extend(joined),
                Err(error) => {
                    let (application, error): (_, &dyn Error) = (labels.application.clone(), &error);
                    tracing::warn!(%application, error, "its unit cannot be looked at, and is taken for one that may run");
                    unread.insert(application, docker::unread(&(&labels).into()));
                }
            }
        }
        let mut reported = self.engine.report(containers).await;
        reported.extend(unread);
        Ok(reported)
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.check_unit(&spec.name)?;
        match self.engine.take(spec, self).await {
            Ok(Taken::Made(_)) => Ok(Change::Made),
            Ok(Taken::Alive(_) | Taken::Prepared(_)) => Ok(Change::AlreadySo),
            // It is about to be stopped for this one.
            Err(RuntimeError::OtherDefinition { .. }) => self.engine.check(spec).await,
            Err(error) => Err(error),
        }
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.check_unit(&spec.name)?;
        match self.engine.take(spec, self).await? {
            Taken::Alive(seen) => {
                // A stop that was dropped half way has taken it back.
                self.install(spec).await?;
                self.engine.wait_until_serving(spec, self, seen.restarts).await?;
                Ok(Change::AlreadySo)
            }
            Taken::Prepared(_) | Taken::Made(_) => {
                self.engine.open_gate(spec)?;
                self.install(spec).await?;
                self.start_unit(&spec.name).await?;
                self.engine.wait_until_serving(spec, self, 0).await?;
                Ok(Change::Made)
            }
        }
    }

    async fn stop(&self, application: &ApplicationName, grace: Duration) -> Result<Change, RuntimeError> {
        let unit = self.own_unit(application)?;
        if let Some(text) = &unit {
            self.end_unit(application, text, grace).await?;
        }
        let ended = self.engine.end(application, grace).await?;
        if unit.is_some() {
            self.remove_unit(application).await?;
            return Ok(Change::Made);
        }
        Ok(ended)
    }

    async fn resumable(&self) -> Result<BTreeMap<ApplicationName, RestartPolicy>, RuntimeError> {
        let mut policies = BTreeMap::new();
        for seen in self.engine.survey().await?.seen {
            let application = seen.labels.application.clone();
            match self.resumable_by(seen).await {
                Ok(policy) => policies.extend(policy.map(|policy| (application, policy))),
                // It keeps no other from being started.
                Err(error) => {
                    let error: &dyn Error = &error;
                    tracing::warn!(%application, error, "its unit cannot be looked at, and it waits for a deploy");
                }
            }
        }
        Ok(policies)
    }

    async fn resume(
        &self,
        application: &ApplicationName,
        volume: Option<&Path>,
    ) -> Result<Change, RuntimeError> {
        let is_enabled = self.enabled_unit(application)?.is_some();
        match self.see(application).await? {
            Some(seen) if seen.is_alive() => Ok(Change::AlreadySo),
            Some(seen) if is_enabled && seen.has_ended() => {
                self.engine.lead_back(&seen, volume)?;
                self.start_unit(application).await?;
                Ok(Change::Made)
            }
            Some(_) | None => Err(docker::nothing_of(application)),
        }
    }

    async fn logs(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        let (unit, name) = (self.unit(application), self.name(application));
        let what = || format!("read what the journal has of `{application}`");
        let is_here = self.engine.look_at_ours(application).await?.is_some();
        if !is_here && !self.journal.has_any(&unit, &name).await.map_err(failed(what))? {
            return Err(RuntimeError::NotHere {
                application: application.clone(),
            });
        }
        let LogRequest { tail, follow } = request;
        let goes_on = follow && self.see(application).await?.is_some_and(|seen| seen.is_alive());
        let opened = if goes_on {
            let (runtime, application) = (self.clone(), application.clone());
            let end = async move { runtime.wait_for_end(&application).await };
            self.journal.follow(&unit, &name, tail, end)
        } else {
            self.journal.open(&unit, &name, tail)
        };
        opened.map_err(failed(what))
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        Some(&self.engine)
    }
}

pub(super) fn failed<E: Error + Send + Sync + 'static>(
    what: impl FnOnce() -> String,
) -> impl FnOnce(E) -> RuntimeError {
    move |error| RuntimeError::Io {
        what: what(),
        source: io::Error::other(error),
    }
}
