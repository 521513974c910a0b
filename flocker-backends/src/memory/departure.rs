//! A stream on its way out.

use flocker_model::Role;

use super::content::Content;
use super::content::Delta;
use super::disk::Disk;
use super::stream;
use super::stream::Header;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

impl Disk {
    /// Works out what is to be sent: what it is of, and the whole delta.
    pub(super) fn outgoing(&self, request: &SendRequest) -> Result<(Header, Vec<u8>), VolumeError> {
        let SendRequest {
            dataset,
            snapshot,
            base,
            resume,
        } = request;
        let held = self.held(*dataset)?;
        if held.role == Role::Replica {
            return Err(held.refuse(*dataset, "send"));
        }
        let missing = |snapshot: String| VolumeError::NoSnapshot {
            dataset: *dataset,
            snapshot,
        };
        let kept = held.find(snapshot).ok_or_else(|| missing(snapshot.to_string()))?;
        let older = held
            .snapshots
            .iter()
            .take_while(|older| older.snapshot.guid != kept.snapshot.guid);
        let start = match base {
            None => Content::default(),
            Some(base) => {
                let mut older = older.filter(|older| older.snapshot.guid == *base);
                older
                    .next()
                    .ok_or_else(|| missing(base.to_string()))?
                    .content
                    .clone()
            }
        };
        let delta = Delta::between(&start, &kept.content).encode();
        let mut header = Header {
            dataset: *dataset,
            snapshot: snapshot.clone(),
            guid: kept.snapshot.guid,
            base: *base,
            origin: kept.origin.as_ref().into(),
            blurred: kept.blurred,
            written: kept.snapshot.written,
            first_frame: 0,
            n_frames: delta.len().div_ceil(stream::FRAME_SIZE),
        };
        if let Some(token) = resume {
            header.first_frame = stream::frames_by_token(token, &header);
        }
        Ok((header, delta))
    }
}
