//! The world behind four traits: volumes, containers, routes and the way to a node.
//!
//! A backend knows how one thing of the world is done and nothing of why.
//! Every changing method means *make it so*: called twice it is as if called
//! once, and [`Change`] says which it was. Every method is safe to drop half
//! way, and its documentation says what remains then.

#[cfg(any(feature = "zfs", feature = "nftables", feature = "iptables"))]
mod blocking;
pub mod change;
pub mod class;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deadline;
pub mod durable;
#[cfg(any(feature = "docker", feature = "nftables", feature = "iptables"))]
mod links;
pub mod memory;
#[cfg(any(feature = "docker", feature = "nftables", feature = "iptables"))]
#[cfg_attr(
    not(any(feature = "nftables", feature = "iptables")),
    expect(dead_code, reason = "routers ask for more than container runtimes")
)]
mod netlink;
#[cfg(any(feature = "directory", feature = "docker"))]
mod pipe;
pub mod process;
pub mod reserve;
pub mod router;
pub mod runtime;
pub mod transport;
pub mod volume;

pub use change::Change;
pub use class::{Classify, ErrorClass};
pub use router::{Router, RouterError};
pub use runtime::{ContainerRuntime, ContainerSpec, ImageId, ImageStore, LogRequest, RuntimeError};
pub use transport::{Channel, Purpose, Transport, TransportError};
pub use volume::{
    Acquisition, ByteStream, Handoff, Inventory, ReceiveRequest, Reclaim, SendRequest, VolumeBackend,
    VolumeError,
};
