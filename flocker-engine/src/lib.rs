//! The doing: look at nodes, carry plans out on them, go on until what is to be is so.
//!
//! A [`NodeHandle`] is one node, here ([`LocalNode`]) or elsewhere
//! ([`RemoteNode`], with [`serve()`] at its other end). [`observe()`] looks at
//! all of them, [`execute()`] carries one plan out, and [`converge`] does both
//! until nothing is left to do. Nothing here decides what is to be done: that
//! is the planner's.

pub mod announce;
pub mod clock;
pub mod converge;
pub mod delivery;
mod event;
pub mod execute;
pub mod fault;
pub mod handles;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
pub mod local;
pub mod node;
pub mod node_error;
pub mod observe;
mod pace;
mod packing;
mod passage;
pub mod record;
pub mod remote;
pub mod report;
pub mod serve;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stop;
mod sync;
pub mod wire;

pub use announce::announce;
pub use clock::Deadlines;
pub use converge::{
    AgentTurn, Answer, Confirm, End, Go, IfHeld, Move, Outcome, PushError, PushOptions, Restart, RolledBack,
    agent_turn, push,
};
pub use event::{Event, Listener, Logged};
pub use execute::{Execution, execute};
pub use fault::{Fault, one_line};
pub use handles::{Connect, Elsewhere, Handles};
pub use local::{Awakening, Doors, ForeignPorts, LocalNode, NoForeignPorts, NodeParts, STARTING, Woken};
pub use node::{
    Claim, ImageCargo, ImagePush, LockToken, NodeHandle, Order, Pass, Passage, Peer, PipeEnd, Progress,
    Ticket, Transfer, Unwatched,
};
pub use node_error::NodeError;
pub use observe::{
    Looking, behind, has_caught_up, leave_out_older_owners, observe, observe_telling, older_owners,
};
pub use passage::Carrier;
pub use passage::Reach;
pub use passage::explore;
pub use record::{FileRecord, MemoryRecord, NodeRecord, RecordError, RecordStore, this_boot};
pub use remote::RemoteNode;
pub use report::{Ending, Report, StepReport};
pub use serve::serve;
pub use stop::{Stop, Stopper, stopper};
