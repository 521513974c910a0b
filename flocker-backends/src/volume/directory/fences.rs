//! What is remembered of datasets for good, also when nothing else of them is left here.

use std::io::Read as _;

use flocker_model::DatasetId;
use flocker_model::Epoch;
use serde::Deserialize;
use serde::Serialize;

use super::context::Context as _;
use super::context::broken;
use super::dir::Dir;
use super::inventory;
use crate::volume::VolumeError;

/// The only format there is yet.
const FORMAT: u32 = 1;

/// The newest ownership that this node knew of when a copy left it: a small file for each dataset, for ever.
///
/// The record of a copy that is here is newer; a copy that begins here begins with this.
#[derive(Debug)]
pub(super) struct Fences(Dir);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    fence: Epoch,
}

impl Fences {
    pub(super) fn new(dir: Dir) -> Self {
        Self(dir)
    }

    /// Returns the newest ownership that this node must not take; the default where it never had the dataset.
    pub(super) fn of(&self, dataset: DatasetId) -> Result<Epoch, VolumeError> {
        let what = || format!("read the fence of dataset {dataset}");
        let mut text = Vec::new();
        let read = self
            .0
            .read(dataset.to_string().as_bytes())
            .and_then(|mut file| file.read_to_end(&mut text));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Epoch::default()),
            other => other.to(what)?,
        };
        let written: Written =
            serde_json::from_slice(&text).map_err(|error| broken(what(), error.to_string()))?;
        if written.format != FORMAT {
            let reason = format!("its format is {}, and only {FORMAT} is known", written.format);
            return Err(broken(what(), reason));
        }
        Ok(written.fence)
    }

    /// Remembers an ownership, durable, unless a newer one is remembered. Needs the lock of the dataset's state.
    pub(super) fn raise(&self, dataset: DatasetId, to: Epoch) -> Result<(), VolumeError> {
        if self.of(dataset)? >= to {
            return Ok(());
        }
        let written = Written {
            format: FORMAT,
            fence: to,
        };
        let what = || format!("write the fence of dataset {dataset}");
        let json = serde_json::to_vec(&written).map_err(|error| broken(what(), error.to_string()))?;
        self.0
            .write_whole(dataset.to_string().as_bytes(), &[&json])
            .to(what)
    }

    /// Lists the datasets of which something is remembered.
    pub(super) fn datasets(&self) -> Result<Vec<DatasetId>, VolumeError> {
        let names = self.0.names().to(|| "list the fences".into())?;
        // What a crash has left half written has another name.
        Ok(names
            .iter()
            .filter_map(|name| inventory::parse_id(name))
            .collect())
    }
}
