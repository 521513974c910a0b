//! How a unit comes, and how it goes.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::RestartPolicy;

use super::host::SystemdRuntime;
use super::host::failed;
use super::systemctl::is_mount_point;
use super::unit;
use super::unit::Guarded;
use super::unit::Unit;
use crate::change::Change;
use crate::durable;
use crate::runtime::ContainerSpec;
use crate::runtime::RuntimeError;

impl SystemdRuntime {
    /// Writes the unit of an application, and says whether it was another one before.
    fn write_unit(&self, unit: &Unit<'_>) -> Result<Change, RuntimeError> {
        let text = unit.text();
        if self.read_unit(unit.application)?.as_deref() == Some(text.as_str()) {
            return Ok(Change::AlreadySo);
        }
        let file = self.unit_file(unit.application);
        // What is beside it until it is whole has no name that systemd takes for a unit.
        let written = durable::replace(&file, 0o644, text.as_bytes());
        written.map_err(|source| RuntimeError::Io {
            what: format!("write the unit `{}`", file.display()),
            source,
        })?;
        Ok(Change::Made)
    }

    /// Sees to it that the unit of an application is as it should be, and starts at boot.
    pub(super) async fn install(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let name = self.name(&spec.name);
        let container = self.engine.container(&spec.name);
        let guarded = match &spec.volume {
            None => None,
            Some(volume) => Some(Guarded {
                volume: volume.clone(),
                gate: self.engine.gate(&spec.name),
                is_mount: is_mount_point(volume).map_err(|source| RuntimeError::Io {
                    what: format!("enter the volume `{}`", volume.display()),
                    source,
                })?,
            }),
        };
        let unit = Unit {
            name: &name,
            application: &spec.name,
            definition: spec.definition,
            container: &container,
            socket: &self.engine.options.socket,
            programs: &self.programs,
            guarded,
            policy: spec.application.restart_policy,
            stop_grace: spec.application.stop_grace,
            margin: self.engine.options.margin,
        };
        if self.write_unit(&unit)? == Change::Made {
            self.ask(&spec.name, &["daemon-reload"]).await?;
        }
        // It reads the units anew only where it has changed something.
        self.ask(&spec.name, &["enable", "--quiet", "--", &self.unit(&spec.name)])
            .await?;
        self.keep_enabling()
    }

    /// Makes durable what `systemctl` has enabled and disabled, which it leaves to the system.
    fn keep_enabling(&self) -> Result<(), RuntimeError> {
        sync_units(&self.unit_directory).map_err(|source| RuntimeError::Io {
            what: format!("keep what is enabled in `{}`", self.unit_directory.display()),
            source,
        })
    }

    /// Sees to it that a unit neither starts nor restarts its container any more, and ends it.
    pub(super) async fn end_unit(
        &self,
        application: &ApplicationName,
        text: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let unit = self.unit(application);
        // What is on disk first: a boot in between must not start it.
        let disable = ["disable", "--quiet", "--", &unit];
        self.ask(application, &disable).await?;
        self.keep_enabling()?;
        if let Err(error) = self.take_back(application, text, grace).await {
            // The disk is full, say. The unit as it is ends its container too, with the grace of its definition.
            let error: &dyn Error = &error;
            tracing::warn!(%application, error, "its unit is ended as it is");
        }
        let patience = grace.saturating_add(self.margin());
        let stop = ["stop", "--", &unit];
        let stopped = self.systemctl.try_run(&stop, patience).await;
        stopped.map_err(failed(|| {
            let file = self.unit_file(application);
            format!("stop the unit `{}`", file.display())
        }))
    }

    /// Has a unit end its container within a grace, and not start it again.
    async fn take_back(
        &self,
        application: &ApplicationName,
        text: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let container = self.engine.container(application);
        let Some(definition) = unit::definition_of(text) else {
            return Err(RuntimeError::Io {
                what: format!("read the unit `{}`", self.unit_file(application).display()),
                source: io::ErrorKind::InvalidData.into(),
            });
        };
        let ending = Unit {
            name: &self.name(application),
            application,
            definition,
            container: &container,
            socket: &self.engine.options.socket,
            programs: &self.programs,
            guarded: None,
            policy: RestartPolicy::Never,
            stop_grace: grace,
            margin: self.engine.options.margin,
        };
        if self.write_unit(&ending)? == Change::Made {
            self.ask(application, &["daemon-reload"]).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_unit(&self, application: &ApplicationName) -> Result<(), RuntimeError> {
        let file = self.unit_file(application);
        let removed = match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // One that was gone may have been removed just before a crash.
            Ok(()) | Err(_) => sync(&self.unit_directory),
        };
        removed.map_err(|source| RuntimeError::Io {
            what: format!("remove the unit `{}`", file.display()),
            source,
        })?;
        self.ask(application, &["daemon-reload"]).await?;
        let reset = ["reset-failed", "--", &self.unit(application)];
        let reset = self.systemctl.try_run(&reset, self.margin()).await;
        reset.map_err(failed(|| format!("forget the unit `{}`", file.display())))
    }
}

/// Makes durable which units are there, and which of them start at boot.
fn sync_units(directory: &Path) -> io::Result<()> {
    match sync(&directory.join(unit::WANTS)) {
        // It goes with the last of what it wants.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_at_boot_is_made_durable_also_where_nothing_does() {
        let directory = tempfile::tempdir().unwrap();
        sync_units(directory.path()).unwrap();
        let wants = directory.path().join(unit::WANTS);
        std::fs::create_dir(&wants).unwrap();
        sync_units(directory.path()).unwrap();
        let missing = sync_units(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir(&wants).unwrap();
        std::os::unix::fs::symlink(&wants, &wants).unwrap();
        sync_units(directory.path()).unwrap_err();
    }
}
