//! Containers of the Docker engine of this machine.
//!
//! A container of ours is known by its name *and* its labels; everything else
//! of the engine is foreign and never touched. Nothing is written down beside
//! the engine but the output of containers that are gone.
//!
//! Three decisions to know before reading on:
//!
//! - **A volume is behind a gate.** The engine mounts a symbolic link that lies
//!   on a file system which no reboot survives, and that is there only once
//!   this runtime has seen the data. So the engine's own restarts, after a
//!   crash of the application or a restart of the engine, find the data; after
//!   a boot they find nothing and fail, instead of running on an empty
//!   directory that something is mounted over later.
//! - **An address is for ever.** Ports are not published. Each container has an
//!   address of its own in a network of ours, chosen when it is prepared and
//!   kept through restarts; routers lead the ports of the node to it.
//! - **An image is what was seen when preparing.** A container is made from the
//!   identity of an image, not from its tag, which may mean another one later.

mod address;
mod archive;
mod body;
mod engine;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gate;
mod gone;
mod health;
mod host;
mod images;
mod labels;
mod making;
mod neighbour;
mod output;
mod resuming;
mod seen;
mod serving;
mod survey;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;

pub use self::address::Subnet;
pub use self::address::SubnetError;
pub(in crate::runtime) use self::body::whole_seconds;
pub(in crate::runtime) use self::engine::Engine;
pub use self::host::DockerRuntime;
pub(in crate::runtime) use self::labels::Manner;
pub(in crate::runtime) use self::making::Taken;
pub(in crate::runtime) use self::resuming::nothing_of;
pub(in crate::runtime) use self::seen::Seen;
pub(in crate::runtime) use self::serving::Sight;
pub(in crate::runtime) use self::survey::unread;
pub use crate::links::link_address;
pub use crate::runtime::ImageId;

/// What is done where an image is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Nothing: it has to be brought here first.
    Never,
    /// The engine is asked to pull it, for at most so long.
    WhereMissing(Duration),
}

/// What a [`DockerRuntime`] works with.
#[derive(Clone, Debug)]
pub struct DockerOptions {
    /// The engine's socket.
    pub socket: PathBuf,
    /// Where the output of containers that are gone is kept. No two runtimes share one.
    pub state_directory: PathBuf,
    /// Where the gates to volumes are: on a file system that no reboot survives.
    pub run_directory: PathBuf,
    /// Tells containers of several nodes on one engine apart. Without it, there is one node.
    pub namespace: Option<ApplicationName>,
    /// The name of the network of our containers. Nodes on one engine share it.
    pub network: String,
    /// The addresses of our containers. The same on every node: they are not seen from outside.
    pub subnet: Subnet,
    /// The addresses that stand for linked ports; see [`link_address`]. Routers of this crate lead what comes from the
    /// default [`DockerOptions::subnet`] to these by default.
    pub links: Ipv4Addr,
    /// What is done where an image is not here.
    pub pull: Pull,
    /// How long a container without health check has to survive to count as started.
    pub settle: Duration,
    /// How long the engine may take for its own work, beyond what an application may take.
    pub margin: Duration,
    /// How much output of a container is kept, twice.
    pub log_limit: ByteSize,
}

impl DockerOptions {
    /// Returns the usual options.
    #[must_use]
    pub fn new(state_directory: PathBuf) -> Self {
        Self {
            socket: "/var/run/docker.sock".into(),
            state_directory,
            run_directory: "/run/flocker/docker".into(),
            namespace: None,
            network: "flocker".into(),
            subnet: Subnet::DEFAULT,
            links: crate::links::LINKS.0,
            pull: Pull::WhereMissing(Duration::from_secs(600)),
            settle: Duration::from_millis(50),
            margin: Duration::from_secs(10),
            log_limit: ByteSize(8 * 1024 * 1024),
        }
    }
}
