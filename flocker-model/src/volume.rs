//! Data: a dataset is an identity, a volume is where an application sees it.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::id::ApplicationName;
use crate::id::DatasetId;
use crate::number::ByteSize;

/// Data with an identity of its own, as a backend is asked to create it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Who it is, on every node.
    pub id: DatasetId,
    /// The application that first asked for it: for people, never for decisions.
    pub owner: ApplicationName,
    /// How much it may hold, or no limit.
    pub maximum_size: Option<ByteSize>,
}

/// Where an application sees its dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The dataset.
    pub dataset: DatasetId,
    /// The absolute path at which the application sees it.
    pub mountpoint: Arc<str>,
    /// How much it may hold, or no limit.
    pub maximum_size: Option<ByteSize>,
}
