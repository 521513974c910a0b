//! Real nodes: three machines with systemd, sshd, Docker, ZFS and packet filters of their own, and databases that we did not write.
//!
//! These tests need a bed that is up: `flocker-cli/tests/real/run` makes one,
//! runs them in it and takes it away. Without a bed they fail, and say so.

#![expect(clippy::unwrap_used, reason = "a test says by a panic what is wrong")]
#![expect(clippy::print_stdout, reason = "what was done to the nodes is worth reading")]

mod at_boot;
mod bare;
mod bed;
mod both_kinds;
mod by_hand;
mod cut_short;
mod databases;
mod ledger;
mod made_ready;
mod network;
mod setups;
mod space;
mod strange;
mod support;
mod watch;
