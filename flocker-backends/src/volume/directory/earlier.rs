//! Earlier snapshots, which travel with a later one.
//!
//! A third node may have a copy as old as one of them. Who knows what that copy
//! holds can send it an increment; who does not can only send everything. So a
//! stream brings the lists of the snapshots that come between its base and what
//! it is of. Their data does not travel: nobody has it any more, and a list is
//! all that an increment starts from.
//!
//! A list is named by its digest, so it is the right one or none. It is never
//! the newest of a copy, and without it only more has to be sent: where there is
//! no room for it, the copy counts all the same.

use std::io;
use std::io::Read as _;

use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::Shared;
use super::codec;
use super::codec::LONGEST_NAME;
use super::codec::Malformed;
use super::codec::Reader;
use super::codec::Writer;
use super::context::Context as _;
use super::difference::travelling;
use super::dir::Dir;
use super::dir::gone_is_fine;
use super::home::Home;
use super::manifest::Manifest;
use super::scan::Scanned;
use super::scan::Seen;
use super::scan::Sight;
use super::snapshots;
use super::snapshots::Heading;
use super::snapshots::Stored;
use super::snapshots::Version;
use super::stat::Time;
use crate::change::Change;
use crate::reserve::is_full;
use crate::volume::VolumeError;

/// How many travel with one snapshot: the newest. More nodes than that seldom have a copy of one dataset.
pub(super) const MOST: usize = 16;

/// How long the head of one is.
pub(super) const HEAD: usize = 1 + LONGEST_NAME + 16 + 8 + 8;

/// What a stream says of an earlier snapshot before the list of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) name: SnapshotName,
    pub(super) guid: SnapshotGuid,
    /// How much was written between the one before it and this one.
    pub(super) written: u64,
    /// How long the list is.
    pub(super) length: u64,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.snapshot_name(&self.name);
        writer.guid(self.guid);
        writer.u64(self.written);
        writer.u64(self.length);
        writer.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let name = reader
            .snapshot_name()?
            .ok_or_else(|| Malformed("it names no earlier snapshot".into()))?;
        let head = Self {
            name,
            guid: reader.guid()?,
            written: reader.u64()?,
            length: reader.u64()?,
        };
        reader.end()?;
        if head.encode() != bytes {
            return Err(Malformed("the name of an earlier snapshot was damaged".into()));
        }
        Ok(head)
    }

    /// Says whether a list is the one that is spoken of, and passes the [door](codec).
    fn open(&self, encoded: &[u8]) -> Result<Manifest, Malformed> {
        if Manifest::guid(&self.name, encoded) != self.guid {
            return Err(Malformed("the list of an earlier snapshot was damaged".into()));
        }
        codec::decode(encoded)
    }
}

/// An earlier snapshot that has arrived.
#[derive(Debug)]
pub(super) struct Earlier {
    head: Head,
    manifest: Manifest,
}

/// Returns which snapshots travel with one: those that come after the base, and before itself.
pub(super) fn between(
    known: &[(SnapshotName, Heading)],
    base: Option<SnapshotGuid>,
    snapshot: &SnapshotName,
) -> Vec<SnapshotName> {
    let before = known.iter().take_while(|(name, _)| name != snapshot);
    let before: Vec<_> = before.collect();
    let first = base.and_then(|base| before.iter().position(|(_, heading)| heading.guid == base));
    let first = first
        .map_or(0, |base| base + 1)
        .max(before.len().saturating_sub(MOST));
    before[first..].iter().map(|(name, _)| name.clone()).collect()
}

/// Reads what is to travel of an earlier snapshot; nothing where it cannot be read or is gone, for it can be done without.
pub(super) fn outgoing(home: &Home, name: &SnapshotName) -> Option<(Head, Vec<u8>)> {
    let stored = match home.snapshot(name, Version::Current) {
        Ok(stored) => stored?,
        Err(error) => {
            tracing::warn!(snapshot = %name, %error, "this earlier snapshot is not sent along");
            return None;
        }
    };
    let encoded = codec::encode(&stored.scanned.manifest);
    let head = Head {
        name: name.clone(),
        guid: stored.heading.guid,
        written: stored.heading.written,
        length: encoded.len() as u64,
    };
    Some((head, encoded))
}

fn place(number: usize) -> Vec<u8> {
    format!("incoming/earlier-{number}").into_bytes()
}

/// Keeps what has arrived of an earlier snapshot, once it is seen to be that.
pub(super) fn keep(
    home: &Dir,
    number: usize,
    head: &Head,
    encoded: &[u8],
) -> Result<io::Result<()>, Malformed> {
    head.open(encoded)?;
    let head = head.encode();
    let written = home
        .without_reserve()
        .write_whole(&place(number), &[blake3::hash(&head).as_bytes(), &head, encoded]);
    Ok(match written {
        Err(error) if is_full(&error) => Ok(()),
        other => other,
    })
}

/// Drops what an earlier try has brought along.
pub(super) fn forget(home: &Dir) -> io::Result<()> {
    (0..MOST).try_for_each(|number| gone_is_fine(home.remove_file(&place(number))))
}

/// Says at which places something has come along.
pub(super) fn arrived(home: &Dir) -> io::Result<Vec<usize>> {
    let mut arrived = Vec::new();
    for number in 0..MOST {
        if home.stat(&place(number))?.is_some() {
            arrived.push(number);
        }
    }
    Ok(arrived)
}

/// Reads what has come along; nothing where a disk has damaged it, for it can be done without.
fn load(home: &Dir, number: usize) -> io::Result<Option<Earlier>> {
    let mut bytes = Vec::new();
    home.read(&place(number))?.read_to_end(&mut bytes)?;
    match parse(&bytes) {
        Ok(earlier) => Ok(Some(earlier)),
        Err(Malformed(reason)) => {
            tracing::warn!(reason, "an earlier snapshot that came along is done without");
            Ok(None)
        }
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Earlier, Malformed> {
    let mut reader = Reader(bytes);
    let digest: [u8; 32] = reader.array()?;
    let said = reader.take(HEAD)?;
    if *blake3::hash(said).as_bytes() != digest {
        return Err(Malformed("the name of an earlier snapshot was damaged".into()));
    }
    let head = Head::decode(said)?;
    let manifest = head.open(reader.0)?;
    Ok(Earlier { head, manifest })
}

/// Returns how much was written between the last that came along and a snapshot, where any did.
pub(super) fn written_after(home: &Dir, arrived: &[usize], manifest: &Manifest) -> io::Result<Option<u64>> {
    let Some(last) = arrived.last() else {
        return Ok(None);
    };
    let last = load(home, *last)?;
    Ok(last.map(|last| travelling(Some(&last.manifest), manifest)))
}

impl Home {
    /// Adds the earlier snapshots that came along with one, before it, where places are free for [so many](MOST).
    ///
    /// Done again after a crash, it adds what is missing.
    pub(super) fn add_earlier(&self, arrived: &[usize], with: &Heading) -> Result<(), VolumeError> {
        let known = self.snapshots()?;
        for &number in arrived {
            let what = || format!("read what has come along for dataset {}", self.dataset);
            let Some(Earlier { head, manifest }) = load(&self.dir, number).to(what)? else {
                continue;
            };
            let is_known =
                |(name, heading): &(SnapshotName, Heading)| *name == head.name || heading.guid == head.guid;
            if known.iter().any(is_known) {
                continue;
            }
            // No file here was ever seen to be as it says.
            let sight = Sight {
                started: Time::default(),
                entries: vec![Seen::default(); manifest.entries.len()],
            };
            let sequence = with.sequence.saturating_sub((MOST - number) as u64);
            let scanned = Scanned { manifest, sight };
            let stored = Stored::new(&head.name, scanned, sequence, head.written);
            let dir = self.dir.without_reserve();
            match snapshots::store(&dir, &head.name, &stored, Version::Current) {
                Err(error) if is_full(&error) => {}
                other => other.to(|| format!("write snapshot {} of dataset {}", head.name, self.dataset))?,
            }
        }
        Ok(())
    }

    /// Counts anew how much was written before each snapshot whose predecessors go.
    fn recount(&self, known: &[(SnapshotName, Heading)], names: &[SnapshotName]) -> Result<(), VolumeError> {
        let mut before: Option<&SnapshotName> = None;
        let mut is_gap = false;
        for (name, _) in known {
            if names.contains(name) {
                is_gap = true;
                continue;
            }
            if let Some(before) = before.filter(|_| is_gap)
                && let Some(older) = self.snapshot(before, Version::Current)?
                && let Some(mut stored) = self.snapshot(name, Version::Current)?
            {
                stored.heading.written = travelling(Some(&older.scanned.manifest), &stored.scanned.manifest);
                let dir = self.dir.without_reserve();
                match snapshots::store(&dir, name, &stored, Version::Current) {
                    // What goes makes room, and this is an estimate.
                    Err(error) if is_full(&error) => {}
                    other => other.to(|| format!("write snapshot {name} of dataset {}", self.dataset))?,
                }
            }
            before = Some(name);
            is_gap = false;
        }
        Ok(())
    }
}

impl Shared {
    pub(super) fn drop_snapshots(
        &self,
        dataset: flocker_model::DatasetId,
        names: &[SnapshotName],
    ) -> Result<Change, VolumeError> {
        let Some(home) = Home::open(&self.datasets, dataset)? else {
            return Ok(Change::AlreadySo);
        };
        let record = self.settle(&home)?;
        let known = home.snapshots()?;
        // The newest one is what the data here is, or what the next increment starts from.
        let newest = known.last().map(|(name, _)| name.clone());
        let is_kept = |name: &SnapshotName| {
            let is_last = matches!(&record.role, Role::Released { last, .. } if last == name);
            is_last || newest.as_ref() == Some(name)
        };
        let here = known.iter().map(|(name, _)| name);
        let going: Vec<SnapshotName> = here
            .filter(|name| names.contains(name) && !is_kept(name))
            .cloned()
            .collect();
        if going.is_empty() {
            return Ok(Change::AlreadySo);
        }
        home.recount(&known, &going)?;
        for name in &going {
            snapshots::remove(&home.dir, name).to(|| format!("drop snapshot {name} of dataset {dataset}"))?;
        }
        Ok(Change::Made)
    }
}
