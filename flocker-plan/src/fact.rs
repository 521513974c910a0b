//! Facts: what can be true of a cluster.
//!
//! Steps need facts and make facts; people read them; agents wait for them.
//! The list is flat on purpose: no variables, no negation. A new one needs a
//! line in [`holds`], one in [`predict`](mod@crate::predict) and one here, in
//! one commit.

use std::fmt;

use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::ContainerStatus;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Health;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Role;
use flocker_model::SnapshotName;
use serde::Deserialize;
use serde::Serialize;

/// Something that can be true of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fact")]
pub enum Fact {
    /// Everything is in place for the application to start there.
    Prepared {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The application runs there.
    Running {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// No process of the application is left there, and none comes back by itself.
    Stopped {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The application serves there, by its own health check.
    Healthy {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The node alone may write the dataset.
    Primary {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        on: NodeName,
        /// Since which ownership.
        epoch: Epoch,
    },
    /// The node has written last, and has let go for this ownership.
    Released {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        by: NodeName,
        /// The ownership that it let go for.
        epoch: Epoch,
    },
    /// The node never takes this ownership of the dataset, or an older one.
    Renounced {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        by: NodeName,
        /// The ownership.
        epoch: Epoch,
    },
    /// The complete snapshot is there.
    Snapshot {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        on: NodeName,
        /// The snapshot.
        name: SnapshotName,
    },
    /// Nothing of the dataset is there.
    Gone {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        on: NodeName,
    },
    /// The node sends connections to this port to the application at its home.
    Routed {
        /// The port.
        port: ExternalPort,
        /// The node.
        on: NodeName,
        /// The application's home.
        to: NodeName,
    },
    /// The node refuses whatever is older than this configuration.
    Obeys {
        /// The node.
        node: NodeName,
        /// The configuration.
        generation: Generation,
    },
}

impl Fact {
    /// Returns the node of which it says something.
    #[must_use]
    pub fn place(&self) -> &NodeName {
        match self {
            Self::Prepared { on, .. }
            | Self::Running { on, .. }
            | Self::Stopped { on, .. }
            | Self::Healthy { on, .. }
            | Self::Primary { on, .. }
            | Self::Snapshot { on, .. }
            | Self::Gone { on, .. }
            | Self::Routed { on, .. } => on,
            Self::Released { by, .. } | Self::Renounced { by, .. } => by,
            Self::Obeys { node, .. } => node,
        }
    }

    /// Returns the dataset of which it says something.
    #[must_use]
    pub fn dataset(&self) -> Option<DatasetId> {
        match self {
            Self::Primary { dataset, .. }
            | Self::Released { dataset, .. }
            | Self::Renounced { dataset, .. }
            | Self::Snapshot { dataset, .. }
            | Self::Gone { dataset, .. } => Some(*dataset),
            Self::Prepared { .. }
            | Self::Running { .. }
            | Self::Stopped { .. }
            | Self::Healthy { .. }
            | Self::Routed { .. }
            | Self::Obeys { .. } => None,
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepared { application, on } => write!(f, "{application} is prepared on {on}"),
            Self::Running { application, on } => write!(f, "{application} runs on {on}"),
            Self::Stopped { application, on } => write!(f, "{application} is stopped on {on}"),
            Self::Healthy { application, on } => write!(f, "{application} is healthy on {on}"),
            Self::Primary { dataset, on, epoch } => write!(f, "{on} owns {dataset}, epoch {epoch}"),
            Self::Released { dataset, by, epoch } => {
                write!(f, "{by} has released {dataset} for epoch {epoch}")
            }
            Self::Renounced { dataset, by, epoch } => {
                write!(f, "{by} never takes epoch {epoch} of {dataset}")
            }
            Self::Snapshot { dataset, on, name } => write!(f, "{dataset}@{name} is complete on {on}"),
            Self::Gone { dataset, on } => write!(f, "nothing of {dataset} is on {on}"),
            Self::Routed { port, on, to } => write!(f, "{on} routes port {port} to {to}"),
            Self::Obeys { node, generation } => write!(f, "{node} obeys generation {generation}"),
        }
    }
}

/// Says whether a fact holds in what was seen, or nothing where its node was not seen, or not what it says something of.
#[must_use]
pub fn holds(fact: &Fact, actual: &ClusterState) -> Option<bool> {
    let cannot_tell = fact.dataset().is_some_and(|dataset| {
        let state = actual.known(fact.place());
        state.is_some_and(|state| state.unreadable.contains_key(&dataset))
    });
    if cannot_tell {
        return None;
    }
    let on = |node: &NodeName, test: &dyn Fn(&NodeState) -> bool| actual.known(node).map(test);
    match fact {
        Fact::Prepared {
            application,
            on: node,
        } => on(node, &|state| {
            state.containers.get(application).is_some_and(|container| {
                container.is_alive() || container.status == ContainerStatus::Prepared
            })
        }),
        Fact::Running {
            application,
            on: node,
        } => on(node, &|state| {
            state
                .containers
                .get(application)
                .is_some_and(|container| container.status == ContainerStatus::Running)
        }),
        Fact::Stopped {
            application,
            on: node,
        } => on(node, &|state| {
            !state
                .containers
                .get(application)
                .is_some_and(flocker_model::ContainerState::is_alive)
        }),
        Fact::Healthy {
            application,
            on: node,
        } => on(node, &|state| {
            state.containers.get(application).is_some_and(|container| {
                container.status == ContainerStatus::Running && container.health != Health::Unhealthy
            })
        }),
        Fact::Primary {
            dataset,
            on: node,
            epoch,
        } => on(node, &|state| {
            state
                .datasets
                .get(dataset)
                .is_some_and(|seen| seen.role == Role::Primary { epoch: *epoch })
        }),
        Fact::Released { dataset, by, epoch } => on(by, &|state| {
            state.datasets.get(dataset).is_some_and(
                |seen| matches!(&seen.role, Role::Released { epoch: released, .. } if released == epoch),
            )
        }),
        Fact::Renounced { dataset, by, epoch } => on(by, &|state| {
            state.datasets.get(dataset).is_none_or(|seen| {
                seen.fence >= *epoch
                    && match &seen.role {
                        Role::Primary { epoch: own } => own < epoch,
                        Role::Released { .. } | Role::Replica => true,
                    }
            })
        }),
        Fact::Snapshot {
            dataset,
            on: node,
            name,
        } => on(node, &|state| {
            state
                .datasets
                .get(dataset)
                .is_some_and(|seen| seen.snapshots.iter().any(|snapshot| snapshot.name == *name))
        }),
        Fact::Gone { dataset, on: node } => on(node, &|state| !state.datasets.contains_key(dataset)),
        Fact::Routed { port, on: node, to } => on(node, &|state| {
            state
                .routes
                .get(*port)
                .is_some_and(|target| target.homes.iter().any(|home| home.node == *to))
        }),
        Fact::Obeys { node, generation } => on(node, &|state| state.generation >= *generation),
    }
}
