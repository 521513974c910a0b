//! One action, one call.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use flocker_backends::Acquisition;
use flocker_backends::Change;
use flocker_backends::ContainerSpec;
use flocker_backends::Handoff;
use flocker_backends::Reclaim;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::DefinitionHash;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;
use flocker_plan::Action;

use super::LocalNode;
use super::gate::Entry;
use super::push::Push;
use super::turns::Subject;
use super::turns::Turn;
use super::turns::Use;
use crate::node::Order;
use crate::node::Progress;
use crate::node_error::NodeError;

impl LocalNode {
    /// Carries one action out; it is its turn.
    pub(super) async fn carry_out(
        &self,
        order: &Order,
        progress: &dyn Progress,
        entry: &Entry,
    ) -> Result<Change, NodeError> {
        let volumes = &self.parts.volumes;
        let runtime = &self.parts.runtime;
        let limit = self.parts.deadlines.work;
        let what = Deed(&order.action);
        match &order.action {
            Action::Create { dataset, epoch } => {
                self.within(what, limit, volumes.create(dataset, *epoch)).await
            }
            Action::Resize { dataset, to } => self.within(what, limit, volumes.resize(*dataset, *to)).await,
            Action::Take { dataset, snapshot } => {
                self.within(what, limit, volumes.snapshot(*dataset, snapshot))
                    .await
            }
            Action::Push {
                dataset,
                snapshot,
                base,
                to,
            } => {
                let push = Push {
                    dataset: dataset.id,
                    snapshot,
                    base: base.as_deref(),
                    to,
                    ticket: order.ticket.as_ref().ok_or_else(|| lacks("a ticket"))?,
                    bandwidth: order.bandwidth,
                };
                self.push_unless_superseded(&push, progress, entry).await
            }
            Action::Release {
                dataset,
                epoch,
                to,
                last,
            } => {
                self.check_unused(*dataset).await?;
                let handoff = handoff(*dataset, *epoch, to, last);
                self.within(what, limit, volumes.release(&handoff)).await
            }
            Action::Acquire {
                dataset,
                epoch,
                from,
                guid,
            } => {
                let acquisition = acquisition(*dataset, *epoch, from, *guid);
                self.within(what, limit, volumes.acquire(&acquisition)).await
            }
            Action::Renounce { dataset, epoch } => {
                self.within(what, limit, volumes.renounce(*dataset, *epoch)).await
            }
            Action::Destroy { dataset } => {
                self.check_unused(*dataset).await?;
                self.within(what, limit, volumes.destroy(*dataset)).await
            }
            Action::Trim { dataset, snapshots } => {
                let reclaim = Reclaim::Snapshots {
                    dataset: *dataset,
                    names: snapshots.clone(),
                };
                self.within(what, limit, volumes.reclaim(&reclaim)).await
            }
            Action::DropPartial { dataset } => {
                let reclaim = Reclaim::Partial { dataset: *dataset };
                self.within(what, limit, volumes.reclaim(&reclaim)).await
            }
            Action::Restore { dataset: _, entry } => self.within(what, limit, volumes.restore(entry)).await,
            Action::EmptyTrash { entry } => {
                let reclaim = Reclaim::Trash { entry: entry.clone() };
                self.within(what, limit, volumes.reclaim(&reclaim)).await
            }
            Action::Prepare {
                application,
                definition,
            } => {
                let spec = self.spec(order, application, *definition)?;
                self.within(what, limit, runtime.prepare(&spec)).await
            }
            Action::Start {
                application,
                definition,
            } => {
                let spec = self.spec(order, application, *definition)?;
                self.check_ownership(application, &spec.application).await?;
                let started = self.within(what, limit, runtime.start(&spec)).await;
                unless_ignored(Bug::StartFailureIgnored, started)
            }
            Action::Stop { application, grace } => self.stop(application, *grace, what).await,
            Action::Route { change } => {
                let local = self.local_addresses().await?;
                self.within(what, limit, self.parts.router.apply(change, &local))
                    .await
            }
        }
    }

    /// Stops an application; done only when it is gone.
    async fn stop(
        &self,
        application: &ApplicationName,
        grace: Duration,
        what: Deed<'_>,
    ) -> Result<Change, NodeError> {
        if is_planted(Bug::StopUnconfirmed) {
            return Ok(Change::Made);
        }
        let limit = stop_limit(grace, self.parts.deadlines.answer);
        let stopped = self.parts.runtime.stop(application, grace);
        unless_ignored(Bug::StopFailureIgnored, self.within(what, limit, stopped).await)
    }

    /// Takes turns with every other order about the same things.
    pub(super) async fn turns_for(&self, order: &Order) -> Result<Vec<Turn>, NodeError> {
        let mut turns = Vec::new();
        for (subject, how) in subjects(order) {
            turns.push(self.turns.take(subject, how, self.parts.deadlines.work).await?);
        }
        Ok(turns)
    }

    /// Returns what an application is started with, if its definition is the one that was planned.
    fn spec(
        &self,
        order: &Order,
        name: &ApplicationName,
        definition: DefinitionHash,
    ) -> Result<ContainerSpec, NodeError> {
        let application = order
            .application
            .as_ref()
            .ok_or_else(|| lacks("the definition of its application"))?;
        let found = self.remembered(|record| application.definition_hash(&record.key));
        if found != definition {
            return Err(NodeError::OtherDefinition {
                application: name.clone(),
            });
        }
        let volume = application.volume.as_ref();
        Ok(ContainerSpec {
            name: name.clone(),
            application: application.clone(),
            definition,
            volume: volume.map(|volume| self.parts.volumes.path(volume.dataset)),
            node_address: self.parts.address,
        })
    }

    /// Refuses to start what would write data that this node does not own.
    async fn check_ownership(
        &self,
        name: &ApplicationName,
        application: &Application,
    ) -> Result<(), NodeError> {
        let Some(volume) = &application.volume else {
            return Ok(());
        };
        self.check_owner(name, volume.dataset).await
    }

    /// Refuses to start an application on data that this node does not own, or that is not where it belongs.
    pub(super) async fn check_owner(
        &self,
        name: &ApplicationName,
        dataset: DatasetId,
    ) -> Result<(), NodeError> {
        // It may have to be mounted.
        let limit = self.parts.deadlines.work;
        let ready = self.parts.volumes.ready(dataset);
        let what = format!("a look at dataset {dataset}");
        match self.within(what, limit, ready).await? {
            Some(Role::Primary { .. }) => Ok(()),
            Some(Role::Released { .. } | Role::Replica) | None => Err(NodeError::NotPrimary {
                application: name.clone(),
                dataset,
            }),
        }
    }

    /// Looks at one dataset of this node.
    pub(super) async fn find(&self, dataset: DatasetId) -> Result<Option<Manifestation>, NodeError> {
        let limit = self.parts.deadlines.answer;
        let what = || format!("a look at dataset {dataset}");
        self.within(what(), limit, self.parts.volumes.find(dataset)).await
    }

    /// Refuses to let go of what a container may still write.
    async fn check_unused(&self, dataset: DatasetId) -> Result<(), NodeError> {
        let limit = self.parts.deadlines.answer;
        let containers = self
            .within("the list of the containers", limit, self.parts.runtime.list())
            .await?;
        let user = containers
            .iter()
            .find(|(_, container)| container.dataset == Some(dataset) && container.is_alive());
        match user {
            Some((application, _)) => Err(NodeError::InUse {
                dataset,
                application: application.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Pushes, and leaves what can be resumed as soon as a newer generation wants in.
    async fn push_unless_superseded(
        &self,
        push: &Push<'_>,
        progress: &dyn Progress,
        entry: &Entry,
    ) -> Result<Change, NodeError> {
        tokio::select! {
            biased;
            change = self.push(push, progress) => change,
            refusal = entry.superseded() => Err(refusal),
        }
    }

    /// Returns where the applications of this node listen.
    pub(super) async fn local_addresses(&self) -> Result<BTreeMap<ApplicationName, IpAddr>, NodeError> {
        let limit = self.parts.deadlines.answer;
        let containers = self
            .within("the list of the containers", limit, self.parts.runtime.list())
            .await?;
        Ok(containers
            .into_iter()
            .filter_map(|(name, container)| container.address.map(|address| (name, address)))
            .collect())
    }
}

/// An action as it is called where it takes too long: written only then.
#[derive(Clone, Copy)]
struct Deed<'a>(&'a Action);

impl From<Deed<'_>> for String {
    fn from(Deed(action): Deed<'_>) -> Self {
        format!("`{} {action}`", action.verb())
    }
}

/// Returns what was answered, unless a bug is planted that takes a failure for done.
fn unless_ignored(bug: Bug, answer: Result<Change, NodeError>) -> Result<Change, NodeError> {
    if is_planted(bug) {
        return Ok(answer.unwrap_or(Change::Made));
    }
    answer
}

fn handoff(dataset: DatasetId, epoch: Epoch, to: &NodeName, last: &SnapshotName) -> Handoff {
    Handoff {
        dataset,
        epoch,
        to: to.clone(),
        last: last.clone(),
    }
}

/// Returns how a node becomes the primary. The plan knows no identity of what was taken after everything was looked at.
fn acquisition(
    dataset: DatasetId,
    epoch: Epoch,
    from: &SnapshotName,
    guid: Option<SnapshotGuid>,
) -> Acquisition {
    Acquisition {
        dataset,
        epoch,
        from: from.clone(),
        guid,
    }
}

fn lacks(what: &str) -> NodeError {
    NodeError::Incomplete { what: what.into() }
}

/// Returns how long a stop may take: its grace, and what the runtime needs to make sure.
pub(crate) fn stop_limit(grace: Duration, margin: Duration) -> Duration {
    grace.saturating_add(margin)
}

/// Returns what an order takes turns on, in the order in which turns are taken.
fn subjects(order: &Order) -> Vec<(Subject, Use)> {
    match &order.action {
        Action::Create { dataset, .. } => vec![(Subject::Dataset(dataset.id), Use::Alone)],
        Action::Push { dataset, .. } => vec![(Subject::Dataset(dataset.id), Use::Shared)],
        Action::Resize { dataset, .. }
        | Action::Take { dataset, .. }
        | Action::Release { dataset, .. }
        | Action::Acquire { dataset, .. }
        | Action::Renounce { dataset, .. }
        | Action::Trim { dataset, .. }
        | Action::DropPartial { dataset } => vec![(Subject::Dataset(*dataset), Use::Alone)],
        Action::Destroy { dataset } | Action::Restore { dataset, .. } => {
            vec![
                (Subject::Dataset(*dataset), Use::Alone),
                (Subject::Trash, Use::Alone),
            ]
        }
        Action::EmptyTrash { .. } => vec![(Subject::Trash, Use::Alone)],
        // Getting ready does not touch the data, which may still be arriving.
        Action::Prepare { application, .. } | Action::Stop { application, .. } => {
            vec![(Subject::Application(application.clone()), Use::Alone)]
        }
        Action::Start { application, .. } => {
            let volume = order
                .application
                .as_ref()
                .and_then(|application| application.volume.as_ref());
            let dataset = volume.map(|volume| (Subject::Dataset(volume.dataset), Use::Shared));
            let mut subjects = vec![(Subject::Application(application.clone()), Use::Alone)];
            subjects.extend(dataset);
            subjects
        }
        Action::Route { .. } => vec![(Subject::Routes, Use::Alone)],
    }
}
