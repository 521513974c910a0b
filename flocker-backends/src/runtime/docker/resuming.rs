//! Containers that have ended and are started again as they were made.

use std::path::Path;

use bollard::query_parameters::StartContainerOptions;
use flocker_model::ApplicationName;
use flocker_model::ContainerStatus;

use super::engine::Engine;
use super::engine::failed;
use super::seen::Seen;
use crate::runtime::RuntimeError;

impl Seen {
    /// Says whether it ran and has ended, so that it can be started again as it was made.
    pub(in crate::runtime) fn has_ended(&self) -> bool {
        match self.status {
            ContainerStatus::Exited { .. } => self.has_run,
            ContainerStatus::Prepared | ContainerStatus::Running | ContainerStatus::Restarting => false,
        }
    }

    /// Says whether nobody has begun to end it for good, or failed to start it: that takes its restart policy back first.
    ///
    /// Started without it, it would run without it for good: of what runs as it is to be, no plan has anything to do.
    pub(super) fn has_its_policy(&self) -> bool {
        self.labels.restart_policy.is_none_or(|made| made == self.policy)
    }
}

impl Engine {
    /// Leads a container that has ended to its data, where it has any; that must be here.
    pub(in crate::runtime) fn lead_back(
        &self,
        seen: &Seen,
        volume: Option<&Path>,
    ) -> Result<(), RuntimeError> {
        match seen.labels.dataset {
            None => Ok(()),
            Some(_) => self.open_gate_to(&seen.labels.application, volume),
        }
    }

    /// Starts a container that has ended. Its restart policy is what it was.
    pub(super) async fn start_again(&self, seen: &Seen) -> Result<(), RuntimeError> {
        let application = &seen.labels.application;
        let started = self
            .client
            .start_container(&seen.id, None::<StartContainerOptions>)
            .await;
        started.map_err(failed(|| format!("start the container of `{application}`")))
    }
}

/// Says that there is nothing of an application that could be started again.
pub(in crate::runtime) fn nothing_of(application: &ApplicationName) -> RuntimeError {
    RuntimeError::NotHere {
        application: application.clone(),
    }
}
