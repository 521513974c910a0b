//! What is printed with `--json`: one versioned document, or one to a line. `docs/json.md` describes them.

use serde::Serialize;

/// The version of every document. It changes when something in one changes its meaning or goes away.
pub(crate) const VERSION: u32 = 1;

/// The commands that print one document to a line.
pub(crate) const STREAMS: &[&str] = &[
    "deploy",
    "cutover",
    "logs",
    "undo",
    "gc",
    "promote",
    "change-state",
    "demo",
];

/// A document: which version, of which command, and what it says.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a, T> {
    version: u32,
    command: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl<'a, T: Serialize> Document<'a, T> {
    pub(crate) fn new(command: &'a str, body: &'a T) -> Self {
        Self {
            version: VERSION,
            command,
            body,
        }
    }
}
