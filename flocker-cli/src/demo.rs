//! `flocker demo`: a real program with its data, moved between local nodes while somebody writes to it.
//!
//! [`program`] is the program, [`writer`] who writes, [`check`] who counts
//! afterwards without trusting either, [`stranger`] a program that is not
//! ours, [`stage`] where it happens, and [`story`] puts them in order. Every
//! number shown was measured.

mod check;
mod files;
mod program;
mod stage;
mod story;
mod stranger;
mod talk;
mod writer;

pub(crate) use program::run as run_program;
pub(crate) use story::tell;
