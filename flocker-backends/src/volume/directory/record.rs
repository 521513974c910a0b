//! What a node must not forget of a dataset: whose it is, and which ownership it may still take.

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Role;
use serde::Deserialize;
use serde::Serialize;

use crate::volume::VolumeError;

/// The only format there is yet.
const FORMAT: u32 = 1;

/// The record of one dataset. It is the truth about its role; where the data lies follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    format: u32,
    pub(super) dataset: DatasetId,
    pub(super) owner: ApplicationName,
    pub(super) maximum_size: Option<ByteSize>,
    pub(super) role: Role,
    /// The newest ownership that this node knows of or has renounced.
    pub(super) fence: Epoch,
    /// Since when it has had its role, in seconds since 1970.
    pub(super) since: i64,
}

impl Record {
    /// The record of a dataset that is set up here.
    pub(super) fn new(dataset: &Dataset, role: Role, fence: Epoch, since: i64) -> Self {
        Self {
            format: FORMAT,
            dataset: dataset.id,
            owner: dataset.owner.clone(),
            maximum_size: dataset.maximum_size,
            role,
            fence,
            since,
        }
    }

    /// Reads a record back, and refuses one of another dataset or of a later format.
    pub(super) fn parse(text: &[u8], dataset: DatasetId) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if record.format != FORMAT {
            return Err(format!(
                "its format is {}, and only {FORMAT} is known",
                record.format
            ));
        }
        if record.dataset != dataset {
            return Err(format!("it is the record of dataset {}", record.dataset));
        }
        Ok(record)
    }

    /// Says of which dataset a record is, wherever it was found and of whatever format.
    pub(super) fn dataset_of(text: &[u8]) -> Option<DatasetId> {
        #[derive(Deserialize)]
        struct Of {
            dataset: DatasetId,
        }
        let of: Of = serde_json::from_slice(text).ok()?;
        Some(of.dataset)
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, VolumeError> {
        serde_json::to_vec_pretty(self).map_err(|error| VolumeError::Io {
            what: format!("spell the record of dataset {}", self.dataset),
            source: error.into(),
        })
    }

    pub(super) fn is_primary(&self) -> bool {
        match self.role {
            Role::Primary { .. } => true,
            Role::Released { .. } | Role::Replica => false,
        }
    }

    /// The role, in a word.
    pub(super) fn role_word(&self) -> &'static str {
        match self.role {
            Role::Primary { .. } => "primary",
            Role::Released { .. } => "released",
            Role::Replica => "replica",
        }
    }

    /// The name of the directory that holds the data in this role.
    ///
    /// Only a primary's data is at the path where applications look for it,
    /// so that no stray program writes into any other.
    pub(super) fn place(&self) -> &'static [u8] {
        if self.is_primary() { b"data" } else { b"copy" }
    }
}
