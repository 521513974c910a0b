//! All of our containers at once, where one that cannot be looked at does not hide the others.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;

use bollard::query_parameters::ListContainersOptionsBuilder;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::Health;
use futures_util::StreamExt as _;

use super::engine::Engine;
use super::engine::failed;
use super::labels;
use super::labels::Part;
use super::seen::Owned;
use super::seen::Seen;
use crate::runtime::RuntimeError;

/// How many containers are asked about at the same time.
const AT_ONCE: usize = 16;

/// A container as the engine lists it, whoever made it.
#[derive(Debug)]
pub(super) struct Listed {
    id: String,
    names: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
}

/// What was found of our containers.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Survey {
    pub(in crate::runtime) seen: Vec<Seen>,
    /// Those that cannot be looked at, as far as they are known.
    pub(in crate::runtime) unread: BTreeMap<ApplicationName, ContainerState>,
}

impl Engine {
    /// Returns every container with such labels that somebody's Flocker has made on this engine.
    pub(super) async fn labelled(&self, labels: &[String]) -> Result<Vec<Listed>, RuntimeError> {
        let filters = std::iter::once(("label", labels.to_vec())).collect();
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let listed = self.client.list_containers(Some(options)).await;
        let listed = listed.map_err(failed(|| "list the containers".into()))?;
        let listed = listed.into_iter().filter_map(|container| {
            Some(Listed {
                id: container.id?,
                names: container.names.unwrap_or_default(),
                labels: container.labels.unwrap_or_default().into_iter().collect(),
            })
        });
        Ok(listed.collect())
    }

    /// Looks at all of our containers.
    ///
    /// One that cannot be looked at, or not in time, is told as [`unread`] says. Where not even that much is known of
    /// it, or the engine answers nothing else either, nothing is told at all.
    pub(in crate::runtime) async fn survey(&self) -> Result<Survey, RuntimeError> {
        let wanted = [
            labels::APPLICATION.to_owned(),
            format!("{}={}", labels::RUNTIME, self.naming.manner.as_str()),
        ];
        let listed = self.labelled(&wanted).await?;
        let mut looks = futures_util::stream::iter(listed)
            .map(|listed| async move {
                let look = self.look_in_time(&listed.id).await;
                (listed, look)
            })
            .buffer_unordered(AT_ONCE);
        let mut survey = Survey::default();
        while let Some((listed, look)) = looks.next().await {
            match look {
                Ok(Some(Owned::Ours(seen))) => survey.seen.push(*seen),
                // It was removed in the meantime, or it only has our labels.
                Ok(Some(Owned::Foreign) | None) => {}
                Err(error) => survey.unread.extend(self.make_do(&listed, error)?),
            }
        }
        if !survey.unread.is_empty() {
            let answer = self.client.version().await;
            answer.map_err(failed(|| "look at the containers".into()))?;
        }
        Ok(survey)
    }

    async fn look_in_time(&self, container: &str) -> Result<Option<Owned>, RuntimeError> {
        let look = tokio::time::timeout(self.options.margin, self.look_at(container)).await;
        look.map_err(|_| RuntimeError::Io {
            what: format!("look at the container `{container}`"),
            source: io::ErrorKind::TimedOut.into(),
        })?
    }

    /// Tells what is known of a container that cannot be looked at; nothing where it is not ours.
    fn make_do(
        &self,
        listed: &Listed,
        error: RuntimeError,
    ) -> Result<Option<(ApplicationName, ContainerState)>, RuntimeError> {
        let label = |key: &str| listed.labels.get(key).map(String::as_str);
        // The engine writes names as paths.
        let mut names = listed.names.iter().map(|name| name.trim_start_matches('/'));
        if listed.names.is_empty() {
            return Err(error);
        }
        let Some(application) = names.find_map(|name| self.naming.owner(name, label).ok()) else {
            return Ok(None);
        };
        // Whose data it may write has to be known: somebody may be about to let go of it.
        let Ok(part) = Part::read(label) else {
            return Err(error);
        };
        let error: &dyn Error = &error;
        tracing::warn!(%application, error, "its container cannot be looked at, and is taken for one that may run");
        Ok(Some((application, unread(&part))))
    }
}

/// Returns what is reported of a container that cannot be looked at: that it may run, and does not serve. So nothing is
/// made beside it, and nobody lets go of its data.
pub(in crate::runtime) fn unread(part: &Part) -> ContainerState {
    ContainerState {
        status: ContainerStatus::Restarting,
        health: Health::Unhealthy,
        // Without one, it is of no definition that anybody wants.
        definition: part.definition.unwrap_or(DefinitionHash(0)),
        dataset: part.dataset,
        address: part.address.map(Into::into),
        stop_grace: part.stop_grace.unwrap_or(Application::DEFAULT_STOP_GRACE),
        restarts: 0,
    }
}
