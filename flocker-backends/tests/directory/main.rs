//! What plain directories promise as volumes, on real files.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod by_hand;
mod confinement;
mod content;
mod full_disk;
mod holders;
mod hostile;
mod increments;
mod interruption;
mod limits;
mod node;
mod roles;
mod trash;
