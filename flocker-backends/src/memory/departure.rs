//! A stream on its way out.

use flocker_model::Role;

use super::content::Content;
use super::content::Delta;
use super::disk::Disk;
use super::held::Kept;
use super::stream;
use super::stream::Earlier;
use super::stream::Header;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

impl Disk {
    /// Works out what is to be sent: what it is of, and all that comes after that.
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
        let is_newest = held.newest() == Some(kept.snapshot.guid);
        if self.blurs && !is_newest && kept.content != held.live {
            // As a list has it that is all that is kept of it.
            return Err(VolumeError::Diverged {
                dataset: *dataset,
                reason: format!("what snapshot {snapshot} held is not all here any more"),
            });
        }
        let older = held
            .snapshots
            .iter()
            .take_while(|older| older.snapshot.guid != kept.snapshot.guid);
        let mut older: Vec<&Kept> = older.collect();
        let start = match base {
            None => Content::default(),
            Some(base) => {
                let at = older.iter().position(|older| older.snapshot.guid == *base);
                let at = at.ok_or_else(|| missing(base.to_string()))?;
                older
                    .drain(..=at)
                    .next_back()
                    .map_or_else(Content::default, |base| base.content.clone())
            }
        };
        let mut sent = Delta::between(&start, &kept.content).encode();
        // Without atomic snapshots they are lists, and these travel along.
        older.retain(|_| self.blurs);
        let mut earlier = Vec::new();
        for older in older {
            let differs = Delta::between(&kept.content, &older.content).encode();
            earlier.push(Earlier {
                snapshot: older.snapshot.clone(),
                origin: older.origin.as_ref().into(),
                blurred: older.blurred,
                length: differs.len(),
            });
            sent.extend_from_slice(&differs);
        }
        let mut header = Header {
            dataset: *dataset,
            snapshot: snapshot.clone(),
            guid: kept.snapshot.guid,
            base: *base,
            origin: kept.origin.as_ref().into(),
            blurred: kept.blurred,
            written: kept.snapshot.written,
            earlier,
            first_frame: 0,
            n_frames: sent.len().div_ceil(stream::FRAME_SIZE),
        };
        if let Some(token) = resume {
            header.first_frame = stream::frames_by_token(token, &header);
        }
        Ok((header, sent))
    }
}
