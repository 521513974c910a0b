//! What goes wrong on nodes of twins, what is left of it, and who notices.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod faults;
mod moves;
mod observer;
mod steps;
mod volumes;
