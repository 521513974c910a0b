//! A stream on its way in: what of it is kept, and when it becomes a snapshot.

use std::sync::Arc;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::Snapshot;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::content::Content;
use super::content::Delta;
use super::disk::Disk;
use super::held::Held;
use super::held::Kept;
use super::stream::Header;
use crate::change::Change;
use crate::volume::ReceiveRequest;
use crate::volume::VolumeError;

/// How many frames are made durable together.
pub(super) const FRAMES_PER_SYNC: usize = 4;

/// A copy that has begun to arrive.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    /// Which call it belongs to, so that a call that was overtaken adds nothing to it.
    pub(super) number: u64,
    pub(super) header: Header,
    pub(super) frames: Vec<Arc<[u8]>>,
    /// How many of the frames survive a loss of power.
    pub(super) n_synced: usize,
}

impl Arrival {
    pub(super) fn size(&self) -> u64 {
        self.frames.iter().map(|frame| frame.len() as u64).sum()
    }
}

/// What a receiver does with a stream after its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    AlreadySo,
    Arriving { number: u64 },
}

fn refuse(dataset: DatasetId, reason: impl Into<String>) -> VolumeError {
    VolumeError::Stream {
        dataset,
        reason: reason.into(),
    }
}

/// Reads the earlier snapshots that came along with one.
fn earlier_of(header: &Header, content: &Content, mut sent: &[u8]) -> Result<Vec<Kept>, &'static str> {
    let mut found = Vec::new();
    for earlier in &header.earlier {
        let (own, rest) = sent
            .split_at_checked(earlier.length)
            .ok_or("an earlier snapshot is not there")?;
        sent = rest;
        let mut content = content.clone();
        Delta::decode(own)?.apply(&mut content)?;
        if Kept::identify(&earlier.origin, &earlier.snapshot.name, &content) != earlier.snapshot.guid {
            return Err("an earlier snapshot is not what was sent");
        }
        found.push(Kept {
            snapshot: earlier.snapshot.clone(),
            origin: earlier.origin.as_str().into(),
            blurred: earlier.blurred,
            content,
        });
    }
    Ok(found)
}

impl Disk {
    /// Refuses a stream that no header could make right.
    pub(super) fn may_receive(&self, dataset: DatasetId) -> Result<(), VolumeError> {
        match self.datasets.get(&dataset) {
            Some(held) if matches!(held.role, Role::Primary { .. }) => Err(held.refuse(dataset, "receive")),
            Some(_) | None => Ok(()),
        }
    }

    /// Begins to take a stream in, or goes on with one.
    pub(super) fn begin(&mut self, request: &ReceiveRequest, header: Header) -> Result<Begun, VolumeError> {
        let dataset = request.dataset.id;
        self.may_receive(dataset)?;
        if header.dataset != dataset {
            return Err(refuse(dataset, format!("it is of dataset `{}`", header.dataset)));
        }
        if header.snapshot != request.snapshot {
            return Err(refuse(
                dataset,
                format!("it is of snapshot `{}`", header.snapshot),
            ));
        }
        if header.base != request.base {
            return Err(refuse(dataset, "it starts from another snapshot than it was to"));
        }
        let held = self.datasets.get(&dataset);
        match held.and_then(|held| held.find(&header.snapshot)) {
            Some(kept) if kept.snapshot.guid == header.guid => return Ok(Begun::AlreadySo),
            Some(_) => {
                return Err(VolumeError::Diverged {
                    dataset,
                    reason: format!("it has another snapshot `{}`", header.snapshot),
                });
            }
            None => {}
        }
        if held.and_then(|held| held.newest()) != header.base {
            return Err(VolumeError::Diverged {
                dataset,
                reason: "the stream does not start from its newest snapshot".into(),
            });
        }
        let arrived = held.and_then(|held| held.arrival.as_ref());
        let frames = match arrived {
            _ if header.first_frame == 0 => Vec::new(),
            Some(arrival)
                if arrival.header.is_same_copy(&header) && arrival.frames.len() >= header.first_frame =>
            {
                arrival.frames[..header.first_frame].to_vec()
            }
            Some(_) | None => return Err(refuse(dataset, "it goes on from more than was kept")),
        };
        self.n_arrivals += 1;
        let number = self.n_arrivals;
        let maximum_size = request.dataset.maximum_size;
        let now = self.now;
        let fence = self.fence_left(dataset);
        let new = || Held {
            fence,
            ..Held::empty(Role::Replica, maximum_size, now)
        };
        let held = self.datasets.entry(dataset).or_insert_with(|| Arc::new(new()));
        Arc::make_mut(held).arrival = Some(Arrival {
            number,
            header,
            n_synced: frames.len(),
            frames,
        });
        Ok(Begun::Arriving { number })
    }

    fn arriving(&mut self, dataset: DatasetId, number: u64) -> Result<&mut Arrival, VolumeError> {
        let held = self.datasets.get_mut(&dataset).map(Arc::make_mut);
        held.and_then(|held| held.arrival.as_mut())
            .filter(|arrival| arrival.number == number)
            .ok_or_else(|| refuse(dataset, "another stream has taken its place"))
    }

    /// Keeps a frame; returns how many frames are not durable yet.
    pub(super) fn keep(
        &mut self,
        dataset: DatasetId,
        number: u64,
        frame: Vec<u8>,
    ) -> Result<usize, VolumeError> {
        let arrival = self.arriving(dataset, number)?;
        arrival.frames.push(frame.into());
        Ok(arrival.frames.len() - arrival.n_synced)
    }

    /// Makes durable what has arrived.
    pub(super) fn sync_arrival(&mut self, dataset: DatasetId, number: u64) -> Result<Change, VolumeError> {
        let arrival = self.arriving(dataset, number)?;
        if arrival.n_synced == arrival.frames.len() {
            return Ok(Change::AlreadySo);
        }
        arrival.n_synced = arrival.frames.len();
        Ok(Change::Made)
    }

    /// Makes a complete stream a snapshot.
    pub(super) fn complete(&mut self, dataset: DatasetId, number: u64) -> Result<Change, VolumeError> {
        self.may_receive(dataset)?;
        let Arrival { header, frames, .. } = self.arriving(dataset, number)?.clone();
        let held = self.held(dataset)?;
        if held.newest() != header.base {
            return Err(refuse(dataset, "the copy changed under it"));
        }
        let mut content = held
            .snapshots
            .last()
            .map_or_else(Content::default, |kept| kept.content.clone());
        let mut sent = frames.concat();
        let n_earlier: usize = header.earlier.iter().map(|earlier| earlier.length).sum();
        let earlier = sent.split_off(sent.len().saturating_sub(n_earlier));
        let delta = Delta::decode(&sent).map_err(|reason| refuse(dataset, reason))?;
        delta
            .apply(&mut content)
            .map_err(|reason| refuse(dataset, reason))?;
        let found = Kept::identify(&header.origin, &header.snapshot, &content);
        if found != header.guid && !is_planted(Bug::DamageAccepted) {
            return Err(refuse(dataset, "what arrived is not the snapshot that was sent"));
        }
        let earlier = earlier_of(&header, &content, &earlier).map_err(|reason| refuse(dataset, reason))?;
        self.fits(dataset, &content)?;
        let now = self.now;
        let Some(held) = self.datasets.get_mut(&dataset).map(Arc::make_mut) else {
            return Err(VolumeError::NotHere { dataset });
        };
        held.arrival = None;
        held.live = content.clone();
        held.synced = content.clone();
        let written = earlier.last().map_or(header.written, |last| {
            ByteSize(Delta::size_between(&last.content, &content))
        });
        for earlier in earlier {
            if held.find(&earlier.snapshot.name).is_none() {
                held.snapshots.push(earlier);
            }
        }
        held.snapshots.push(Kept {
            snapshot: Snapshot {
                name: header.snapshot,
                guid: header.guid,
                written,
            },
            origin: header.origin.into(),
            blurred: header.blurred,
            content,
        });
        if held.role != Role::Replica {
            held.set_role(Role::Replica, now);
        }
        Ok(Change::Made)
    }
}
