//! The vocabulary of Flocker: what a cluster is said to be, and what it is
//! seen to be.
//!
//! Everything here is a value. Nothing in this crate opens a file, asks a
//! clock or draws a random number; text becomes values in [`config`] and
//! nowhere else. Read [`id`] and [`number`] first, then [`application`] and
//! [`deployment`] (what an operator wants), then [`state`] (what was seen).

pub mod application;
pub mod config;
pub mod deployment;
pub mod environment;
pub mod id;
pub mod number;
pub mod placements;
#[doc(hidden)]
pub mod planted;
pub mod port;
pub mod route;
pub mod secret;
pub mod setup;
mod shared;
pub mod state;
pub mod volume;

pub use application::{Application, HealthCheck, HealthProbe, Image, Limits, Link, Port, RestartPolicy};
pub use deployment::{Deployment, DeploymentBuilder, DeploymentError, Member, NodeAddress};
pub use environment::{Environment, EnvironmentValue};
pub use id::{
    ApplicationName, BootId, DatasetId, DefinitionHash, NameError, NodeId, NodeName, PoolName, SnapshotGuid,
    SnapshotName,
};
pub use number::{ByteSize, Epoch, Generation, PortNumber};
pub use placements::Placements;
pub use port::{ExternalPort, ExternalPortError, Protocol};
pub use route::{Home, KnownTables, RouteChange, RouteTable, RouteTarget};
pub use secret::{DefinitionKey, Secret};
pub use setup::{
    AtBoot, ChoiceError, NodeSetup, PortRange, PortRangeError, RouterKind, RuntimeKind, VolumeKind,
};
pub use state::{
    ClusterState, ContainerState, ContainerStatus, Findings, Health, Keeps, Manifestation, NodeState,
    Observed, PartialReceive, Peer, Role, Silence, Snapshot, Trashed,
};
pub use volume::{Dataset, Volume};
