//! `flocker supervise`: the small process that stays with each program of a local node. Nodes start it.

use std::ffi::OsString;
use std::process::ExitCode;

use flocker_backends::runtime::process;

/// What nodes start it by, in front of what they tell it.
pub(crate) const SUPERVISE: &str = "supervise";

/// Stays with one program of a node, until it has ended for good.
#[derive(Debug)]
pub(crate) struct Supervise {
    arguments: Vec<OsString>,
}

impl Supervise {
    /// Takes what was typed after the word, if the word was typed.
    pub(crate) fn read(all: &[OsString]) -> Option<Self> {
        match all {
            [_, word, arguments @ ..] if word == SUPERVISE => Some(Self {
                arguments: arguments.to_vec(),
            }),
            _ => None,
        }
    }

    /// Nothing may have been printed and no thread started before: standard output is a lock.
    pub(crate) fn run(self) -> ExitCode {
        process::supervise(self.arguments)
    }
}
