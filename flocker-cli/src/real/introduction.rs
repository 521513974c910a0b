//! The first words of a command to a node on a real machine, and the answer.
//!
//! Both sides are the same program, so there is one version of this. Each
//! says one line, or tells in several how far it is; what comes after that is
//! another conversation.

use flocker_backends::Change;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::examine::Examination;
use super::examine::Request;
use super::prepare::Deed;
use super::prepare::Preparation;
use super::prepare::Progress;
use super::settings::Wanted;
use crate::error::Failure;

/// The longest line.
pub(super) const LONGEST: usize = 1024 * 1024;

/// What the command wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Introduction {
    /// To talk to the node, which is set up so if it is new; to one that exists where nothing is said.
    Talk(Option<Wanted>),
    /// To know whether it could be a node.
    Examine(Request),
    /// To have the node do at boot what the deployment file says.
    SettleBoot(Wanted),
    /// To make it ready to be one, or to know what that would take.
    Prepare(Preparation),
}

/// What the other side says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    /// The node talks from here on.
    Ready,
    /// What was found.
    Examined(Examination),
    /// It does at boot what was asked for, and whether it did so before.
    Settled(Change),
    /// What is being done just now; more lines follow.
    Preparing(Progress),
    /// What was done, or would be.
    Prepared(Vec<Deed>),
    /// It cannot be.
    Failed {
        message: String,
        causes: Vec<String>,
        hint: Option<String>,
    },
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let Failure {
            who: _,
            message,
            causes,
            hint,
            files: _,
        } = failure;
        Self::Failed {
            message,
            causes,
            hint,
        }
    }
}

/// Writes a line.
pub(super) fn written(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads a line.
pub(super) fn read<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}
