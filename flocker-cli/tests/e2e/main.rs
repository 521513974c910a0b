//! The program as people run it: real nodes on this machine, real programs, real files, and real kills.
//!
//! Every test has its own state directory and its own range of loopback
//! addresses, and confirms at its end that none of its processes is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod demonstration;
mod failures;
mod kill_all;
mod kill_command;
mod kill_nodes;
mod life;
mod locks;
mod put_back;
mod secrets;
mod support;
