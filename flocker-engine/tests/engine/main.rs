//! The engine on the memory twins: real nodes, the real protocol, no real world.

mod canary;
mod cluster;
mod converge;
mod handoff;
mod lock;
mod looking;
mod orders;
mod protocol;
mod transfer;
