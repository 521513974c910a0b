//! What went wrong in the original, on real files and real processes: nothing of it may come back.
//!
//! The numbers are those of `docs/regressions.md`.

#![cfg(feature = "directory")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod bases;
mod copies;
mod names;
#[path = "../directory/node.rs"]
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
mod node;
#[path = "../process_runtime_support/mod.rs"]
mod process_runtime_support;
mod programs;
mod records;
mod table;
