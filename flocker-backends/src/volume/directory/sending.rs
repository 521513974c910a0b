//! Sending a snapshot, which is to say: the files as they are now, and the truth about them.
//!
//! A directory keeps no old versions of its blocks. A block that was written
//! since a blurred snapshot is sent as it is found, with the digest of what
//! is found, and the snapshot becomes what was sent: the sender makes that
//! durable before the trailer leaves, so that both ends hold the same manifest
//! under the same guid, or the receiver has nothing. A block that differs from
//! an exact snapshot is an error.

use std::fs::File;
use std::io;
use std::sync::Arc;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::Shared;
use super::codec;
use super::context::Context as _;
use super::difference::Difference;
use super::difference::Elsewhere;
use super::dir::Dir;
use super::earlier;
use super::home::Home;
use super::lock::Held;
use super::lock::Scope;
use super::manifest::BLOCK;
use super::manifest::Kind;
use super::manifest::Manifest;
use super::manifest::Torn;
use super::scan::Seen;
use super::scan::has_vanished;
use super::scan::is_zero;
use super::scan::read_block;
use super::snapshots::Stored;
use super::snapshots::Version;
use super::stream;
use super::stream::Header;
use super::stream::Token;
use crate::pipe::Outlet;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

/// A snapshot that is ready to be sent.
#[derive(Debug)]
pub(super) struct Sending {
    shared: Arc<Shared>,
    home: Home,
    request: SendRequest,
    announced: Stored,
    encoded: Vec<u8>,
    difference: Difference,
    /// What the receiver has already, and only needs to be told of.
    elsewhere: Elsewhere,
    /// What travels along.
    earlier: Vec<SnapshotName>,
    data: Dir,
    first: u64,
    torn: Torn,
}

impl Sending {
    /// Finds everything that the stream needs, and every reason not to begin it.
    pub(super) fn prepare(
        shared: &Arc<Shared>,
        home: Home,
        request: &SendRequest,
        _state: &Held,
    ) -> Result<Self, VolumeError> {
        let dataset = request.dataset;
        let record = shared.settle(&home)?;
        match record.role {
            Role::Primary { .. } | Role::Released { .. } => {}
            Role::Replica => {
                return Err(VolumeError::WrongRole {
                    dataset,
                    verb: "send",
                    role: record.role_word(),
                });
            }
        }
        let name = &request.snapshot;
        let current = home.snapshot(name, Version::Current)?;
        let current = current.ok_or_else(|| VolumeError::NoSnapshot {
            dataset,
            snapshot: format!("`{name}`"),
        })?;
        let base = request.base.map(|base| home.by_guid(base)).transpose()?;
        let base = base.as_ref().map(|base| &base.scanned.manifest);
        let token = request.resume.as_deref().and_then(Token::parse);
        let (announced, token) = match token {
            Some(token) if token.plan == current.heading.guid => (current, Some(token)),
            Some(token) => match home.snapshot(name, Version::Planned)? {
                Some(planned) if planned.heading.guid == token.plan => (planned, Some(token)),
                Some(_) | None => (current, None),
            },
            None => (current, None),
        };
        let held = announced.scanned.manifest.held();
        // What was let go of is nobody's until it has arrived: there the receiver says how much it takes.
        let maximum = record.maximum_size.filter(|_| record.is_primary());
        if let Some(available) = maximum.filter(|&maximum| maximum < ByteSize(held)) {
            return Err(VolumeError::NoSpace {
                dataset,
                needed: ByteSize(held),
                available,
            });
        }
        let difference = Difference::between(base, &announced.scanned.manifest);
        let elsewhere = Elsewhere::of(&difference, base, &announced.scanned.manifest);
        let is_exact = announced.heading.exact;
        let token = token.filter(|token| {
            let fits = token.next > 0 && token.next <= difference.len();
            fits && (token.torn.is_empty() || !is_exact)
        });
        let (first, torn) = token.map_or((0, Torn::new()), |token| (token.next, token.torn));
        let earlier = earlier::between(&home.snapshots()?, request.base, name);
        Ok(Self {
            earlier,
            data: home.data(&record)?,
            encoded: codec::encode(&announced.scanned.manifest),
            shared: Arc::clone(shared),
            home,
            request: request.clone(),
            announced,
            difference,
            elsewhere,
            first,
            torn,
        })
    }

    /// Sends it. Whatever goes wrong goes into the stream.
    pub(super) fn run(mut self, mut outlet: Outlet) {
        let sent = self.write(&mut outlet);
        match sent {
            Ok(()) => {
                // Where nobody reads any more, nobody needs to know.
                drop(outlet.end());
            }
            Err(error) => outlet.fail(error),
        }
    }

    fn write(&mut self, outlet: &mut Outlet) -> io::Result<()> {
        let header = Header {
            dataset: self.request.dataset,
            snapshot: self.request.snapshot.clone(),
            base: self.request.base,
            plan: self.announced.heading.guid,
            first: self.first,
            manifest_length: if self.first == 0 {
                self.encoded.len() as u64
            } else {
                0
            },
        };
        outlet.write(&header.encode())?;
        if self.first == 0 {
            outlet.write(&self.encoded)?;
        }
        outlet.flush()?;
        self.write_blocks(outlet)?;
        for name in &self.earlier {
            if let Some((head, encoded)) = earlier::outgoing(&self.home, name) {
                outlet.write(&[stream::EARLIER])?;
                outlet.write(&head.encode())?;
                outlet.write(&encoded)?;
            }
        }
        outlet.flush()?;
        let guid = self.record_as_sent().map_err(io::Error::other)?;
        outlet.write(&[stream::END])?;
        outlet.write(&guid.0.to_be_bytes())
    }

    fn write_blocks(&mut self, outlet: &mut Outlet) -> io::Result<()> {
        let manifest = &self.announced.scanned.manifest;
        let mut open: Option<(usize, Option<File>)> = None;
        let mut buffer = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
        let first = usize::try_from(self.first).unwrap_or(usize::MAX);
        for (at, needed) in self.difference.blocks.iter().enumerate().skip(first) {
            let entry = &manifest.entries[needed.entry];
            let Kind::File(contents) = &entry.kind else {
                continue;
            };
            let Some(announced) = contents.digest(needed.index) else {
                continue;
            };
            let file = match &open {
                Some((opened, file)) if *opened == needed.entry => file,
                _ => {
                    let file = match self.data.read(&entry.path) {
                        Ok(file) => Some(file),
                        // It was removed or replaced: for a blurred snapshot, as if emptied.
                        Err(error) if has_vanished(&error) => None,
                        Err(error) => return Err(super::scan::about(&entry.path, &error)),
                    };
                    &open.insert((needed.entry, file)).1
                }
            };
            let block = &mut buffer[..needed.length];
            match file {
                Some(file) => read_block(file, block, needed.index * BLOCK)?,
                None => block.fill(0),
            }
            let digest = *blake3::hash(block).as_bytes();
            if digest == *announced && self.elsewhere.place(announced).is_some() {
                outlet.write(&[stream::ELSEWHERE])?;
                continue;
            }
            if digest == *announced {
                outlet.write(&[stream::AS_ANNOUNCED])?;
                outlet.write(block)?;
                continue;
            }
            if manifest.exact {
                let reason = format!("{} was written after the release", codec::show(&entry.path));
                return Err(io::Error::other(diverged(self.request.dataset, reason)));
            }
            if is_zero(block) {
                self.torn.insert(at as u64, None);
                outlet.write(&[stream::ZERO])?;
                continue;
            }
            self.torn.insert(at as u64, Some(digest));
            outlet.write(&[stream::TORN])?;
            outlet.write(&digest)?;
            outlet.write(block)?;
        }
        Ok(())
    }

    /// Makes the snapshot what was sent, durable, and returns its guid.
    fn record_as_sent(&self) -> Result<SnapshotGuid, VolumeError> {
        let SendRequest {
            dataset, snapshot, ..
        } = &self.request;
        let manifest = &self.announced.scanned.manifest;
        let sent = manifest.as_sent(&self.difference, &self.torn);
        let guid = Manifest::guid(snapshot, &codec::encode(&sent));
        let _state = self.shared.lock_blocking(*dataset, Scope::State)?;
        let gone = || diverged(*dataset, format!("snapshot {snapshot} was dropped meanwhile"));
        let current = self.home.snapshot(snapshot, Version::Current);
        let current = current.ok().flatten().ok_or_else(gone)?;
        if current.heading.guid == guid {
            return Ok(guid);
        }
        let announced = self.announced.heading.guid;
        if current.heading.guid != announced {
            // Another send of the same may have found blocks torn; anything else is another snapshot.
            let planned = self.home.snapshot(snapshot, Version::Planned)?;
            if planned.is_none_or(|planned| planned.heading.guid != announced) {
                return Err(gone());
            }
        }
        let mut scanned = self.announced.scanned.clone();
        for &at in self.torn.keys() {
            let needed = usize::try_from(at)
                .ok()
                .and_then(|at| self.difference.blocks.get(at));
            // What the filesystem said belongs to other content than what was sent.
            if let Some(seen) = needed.and_then(|needed| scanned.sight.entries.get_mut(needed.entry)) {
                *seen = Seen::default();
            }
        }
        scanned.manifest = sent;
        let heading = current.heading;
        let stored = Stored::new(snapshot, scanned, heading.sequence, heading.written);
        self.home
            .replace_snapshot(snapshot, &self.announced, Version::Planned)?;
        self.home.replace_snapshot(snapshot, &stored, Version::Current)?;
        Ok(guid)
    }
}

fn diverged(dataset: DatasetId, reason: String) -> VolumeError {
    VolumeError::Diverged { dataset, reason }
}

impl Shared {
    pub(super) fn lock_blocking(&self, dataset: DatasetId, scope: Scope) -> Result<Held, VolumeError> {
        self.locks
            .lock_blocking(dataset, scope)
            .to(|| format!("lock dataset {dataset}"))
    }
}
