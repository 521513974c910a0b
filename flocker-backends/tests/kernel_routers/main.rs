//! Routes in the kernel, by both of its packet filters, with real packets in networks of their own.
//!
//! No test needs to be root: each runs in a user and network namespace that is
//! made for it. Where that is not permitted it fails and says so. It needs
//! `unshare`, `ip`, `nft` and both variants of `iptables`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod batch;
mod beside;
mod busy;
mod conformance;
mod foreign;
mod loopback;
mod moves;
mod network;
mod paths;
mod private;
mod repair;
#[path = "../strangers/mod.rs"]
mod strangers;
mod udp;
