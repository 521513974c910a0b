//! Nodes on real machines.
//!
//! ```text
//! operator: flocker ── ssh ──> node: flocker node-stdio ──┐ one for each pipe, as long as it
//! operator: flocker ── ssh ──> node: flocker node-stdio ──┤
//!                                   flocker node-process <┘ one for each machine, while it is used
//! ```
//!
//! What answers at the other end of SSH is the very program that asks, copied
//! there by the transport. It passes bytes between its input and output and
//! the one process that is the node; so all operators meet the same locks.
//!
//! In the directory of a node, `/var/lib/flocker` where it runs as root:
//!
//! ```text
//! bin/flocker-<sha256>   our programs, the newest few
//! proved                 which of them was found whole, and when it had last been changed
//! routes.json            its routes, where it puts them back by itself after a boot
//! settings.json          what it was set up with
//! node.json              what it remembers of itself
//! node.sock  node.lock   where its process answers
//! node.log               what it says, and node.log.1 before that
//! volumes/  applications/  routes/   what backends of plain files keep
//! ```

mod assemble;
mod boot;
mod examine;
mod introduction;
mod kept;
mod machine;
mod prepare;
mod process;
mod relay;
mod settings;
mod ways;

pub(crate) use boot::wake;
pub(crate) use examine::Closely;
pub(crate) use examine::Examination;
pub(crate) use examine::Finding;
pub(crate) use examine::ImageSight;
pub(crate) use examine::Weight;
pub(crate) use prepare::Asked as AskedToPrepare;
pub(crate) use prepare::Deed;
pub(crate) use prepare::NewPool;
pub(crate) use prepare::Progress;
pub(crate) use prepare::State;
pub(crate) use process::serve;
pub(crate) use relay::relay;
pub(crate) use settings::Wanted;
pub(crate) use ways::Ways;
