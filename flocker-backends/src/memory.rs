//! Strict twins of the four traits, in memory: for tests that need a world, of this project and of others.
//!
//! A twin keeps every promise of its trait; the feature `conformance`
//! holds it to them. It is stricter than the real thing: a dataset that is not
//! primary cannot be written, a container is not started without its volume,
//! and whoever tries is written down. Nothing here asks a clock, draws a
//! random number or needs a runtime of its own: the same calls give the same
//! answers.
//!
//! A [`MemoryNode`] has [volumes](MemoryVolumes), [containers](MemoryRuntime)
//! and [routes](MemoryRouter), and one fate:
//!
//! ```
//! use flocker_backends::memory::MemoryNode;
//! use flocker_backends::{Change, VolumeBackend};
//! use flocker_model::{Dataset, DatasetId, Epoch, Role};
//!
//! # block_on(async {
//! let alpha = MemoryNode::alone("alpha".parse()?);
//! let volumes = alpha.volumes();
//! let owner = "mongodb".parse()?;
//! let dataset = Dataset { id: DatasetId::derived(&owner), owner, maximum_size: None };
//!
//! assert_eq!(volumes.create(&dataset, Epoch::FIRST).await?, Change::Made);
//! assert_eq!(volumes.create(&dataset, Epoch::FIRST).await?, Change::AlreadySo);
//! volumes.put(dataset.id, "journal", b"first entry")?;
//!
//! // What was acknowledged survives the loss of power; the boot is a new one.
//! let boot = alpha.boot();
//! alpha.reboot();
//! assert_ne!(alpha.boot(), boot);
//! assert_eq!(volumes.read(dataset.id, "journal").unwrap(), b"first entry");
//! let seen = &volumes.inventory().await?.datasets[&dataset.id];
//! assert_eq!(seen.role, Role::Primary { epoch: Epoch::FIRST });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # });
//! # fn block_on(example: impl Future<Output = Result<(), Box<dyn std::error::Error>>>) {
//! #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example).unwrap();
//! # }
//! ```
//!
//! [`Faults`] say what goes wrong, by the number of the effect or by whatever
//! a closure decides:
//!
//! ```
//! use flocker_backends::memory::{Fault, MemoryNode};
//! use flocker_backends::{Change, VolumeBackend};
//! use flocker_model::{Dataset, DatasetId, Epoch};
//!
//! # block_on(async {
//! let alpha = MemoryNode::alone("alpha".parse()?);
//! let volumes = alpha.volumes();
//! let owner = "mongodb".parse()?;
//! let dataset = Dataset { id: DatasetId::derived(&owner), owner, maximum_size: None };
//!
//! // The first effect is made, and our process dies before it can say so.
//! alpha.faults().script([(1, Fault::KillAfter)].into());
//! assert!(volumes.create(&dataset, Epoch::FIRST).await.is_err());
//! assert!(volumes.inventory().await.is_err());
//! alpha.restart();
//! assert_eq!(volumes.create(&dataset, Epoch::FIRST).await?, Change::AlreadySo);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # });
//! # fn block_on(example: impl Future<Output = Result<(), Box<dyn std::error::Error>>>) {
//! #     tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example).unwrap();
//! # }
//! ```
//!
//! Nodes of one cluster share an [`Observer`], which compares what is on their
//! disks after every effect, believes no report, and notes every
//! [`Violation`]. A [`MemoryNetwork`] carries bytes between them.

mod arrival;
mod containers;
mod content;
mod departure;
mod disk;
mod faults;
mod held;
mod network;
mod node;
mod observer;
mod router;
mod runtime;
mod stream;
mod volumes;

pub use containers::MemoryProgram;
pub use faults::{Attempt, Effect, Fault, Faults};
pub use network::{Acceptor, Incoming, MemoryNetwork, MemoryTransport};
pub use node::MemoryNode;
pub use node::Picture;
pub use observer::{Loss, Observer, Record, Violation};
pub use router::MemoryRouter;
pub use runtime::MemoryRuntime;
pub use volumes::MemoryVolumes;
