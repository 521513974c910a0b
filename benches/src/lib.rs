//!
//! `cargo run --release -p flocker-benches --bin figures` prints everything;
//! `cargo bench -p flocker-benches --bench planning` one group of it. A figure
//! is a median beside a minimum: the machine may be busy with other things.

pub mod bed;
pub mod child;
pub mod cluster;
pub mod copies;
pub mod figure;
pub mod frontier;
pub mod growth;
pub mod hostile;
pub mod hosts;
pub mod kernel_routes;
pub mod memory;
pub mod packets;
pub mod parsing;
pub mod planning;
pub mod prober;
pub mod real;
pub mod report;
pub mod routes;
pub mod sshd;
pub mod terraform;
pub mod transfer;
