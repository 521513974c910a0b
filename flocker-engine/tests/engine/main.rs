//! The engine on the memory twins: real nodes, the real protocol, no real world.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed; helpers of tests do not count as tests"
)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one thing among many"
)]

mod again;
mod agreed;
mod canary;
mod cluster;
mod converge;
mod doors;
mod executing;
mod handoff;
mod images;
mod lock;
mod looking;
mod machines;
mod orders;
mod passages;
mod protocol;
mod put_back;
mod put_back_and_offered;
mod put_back_of_several;
mod rotation;
mod stopping;
mod transfer;
