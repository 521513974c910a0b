//! What a changing call did.

use serde::Deserialize;
use serde::Serialize;

/// Whether a call changed anything, or found it as it was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was made so.
    Made,
    /// It was so already.
    AlreadySo,
}
