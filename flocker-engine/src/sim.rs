//! Whole clusters in memory: one seed, one history, faults by name.
//!
//! Everything here is the real thing but the world: the same planner, the same
//! executor, the same nodes, for a share of the seeds the same protocol, on
//! the memory twins of `flocker-backends` and on a clock that stands still
//! while anything can go on. At every effect of every node the invariants of
//! the project are checked by who believes no plan and no report: the
//! observer of the twins, and the applications' own clients, who know what
//! was acknowledged to them.
//!
//! A [`Simulation`] throws everything from a seed. A [`Cluster`] is the same
//! world for who wants to say for himself what happens.

mod around;
mod check;
mod client;
mod cluster;
mod command;
mod dice;
mod harm;
mod late;
pub mod ledger;
mod living;
mod lookout;
mod mishap;
pub mod model;
mod run;
mod script;
mod sieve;
mod strike;
mod way;

pub use cluster::{Cluster, Layout, Reach, address};
pub use command::Given;
pub use dice::Dice;
pub use mishap::{Mishap, Planned, When};
pub use run::{Simulation, Verdict, in_stopped_time};
pub use script::{
    MAX_APPLICATIONS, Mode, Script, Shape, Stage, Wish, Wishes, application, external_port, node,
};
pub use sieve::Perturbation;
