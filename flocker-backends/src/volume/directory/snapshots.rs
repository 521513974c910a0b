//! The snapshots of one dataset, as files.
//!
//! A file has a heading that an inventory can read without the rest, the
//! manifest, and what was seen of the files when it was made. Each part is
//! digested: a damaged snapshot is an error, never another snapshot.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::sync::LazyLock;

use flocker_model::BootId;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::codec;
use super::codec::Malformed;
use super::codec::Reader;
use super::codec::Writer;
use super::dir::Dir;
use super::dir::gone_is_fine;
use super::manifest::Manifest;
use super::scan::Scanned;
use super::scan::Seen;
use super::scan::Sight;
use super::stat::Time;
use crate::durable;

const MAGIC: &[u8; 8] = b"FLKSNAP1";

/// How long a heading is.
const HEADING: usize = 8 + 8 + 8 + 16 + 1 + 8 + 8 + 32;

/// How long a record of what was seen of one entry is.
const SEEN: usize = 8 + 8 + 4;

/// What an inventory needs to know of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heading {
    /// Where it stands among the snapshots here.
    pub(super) sequence: u64,
    /// How much was written between the one before it and this one.
    pub(super) written: u64,
    pub(super) guid: SnapshotGuid,
    /// Whether it can be acquired.
    pub(super) exact: bool,
    manifest_length: u64,
    sight_length: u64,
}

/// A snapshot, whole.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) heading: Heading,
    pub(super) scanned: Scanned,
}

impl Stored {
    /// Makes a snapshot of what was scanned.
    pub(super) fn new(name: &SnapshotName, scanned: Scanned, sequence: u64, written: u64) -> Self {
        let encoded = codec::encode(&scanned.manifest);
        let heading = Heading {
            sequence,
            written,
            guid: Manifest::guid(name, &encoded),
            exact: scanned.manifest.exact,
            manifest_length: encoded.len() as u64,
            sight_length: sight_length(scanned.sight.entries.len()),
        };
        Self { heading, scanned }
    }
}

/// Which file of a snapshot is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// What it is.
    Current,
    /// What it was to be before a send found blocks changed; kept so that such a send can be resumed.
    Planned,
}

fn path(name: &SnapshotName, version: Version) -> Vec<u8> {
    let suffix = match version {
        Version::Current => "manifest",
        Version::Planned => "plan",
    };
    format!("snapshots/{name}.{suffix}").into_bytes()
}

/// Lists the snapshots of a dataset, oldest first.
pub(super) fn list(home: &Dir) -> io::Result<Vec<(SnapshotName, Heading)>> {
    let mut listed = Vec::new();
    for file in home.dir(b"snapshots")?.names()? {
        let Some(name) = file.strip_suffix(b".manifest") else {
            continue;
        };
        let name = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<SnapshotName>().ok())
            .ok_or_else(|| invalid(&file, "its name is not one of a snapshot"))?;
        let mut bytes = vec![0; HEADING];
        home.read(&path(&name, Version::Current))?
            .read_exact(&mut bytes)?;
        let heading = parse_heading(&bytes).map_err(|Malformed(reason)| invalid(&file, &reason))?;
        listed.push((name, heading));
    }
    listed.sort_unstable_by_key(|(_, heading)| heading.sequence);
    Ok(listed)
}

/// Reads a snapshot, or finds that it is not there.
pub(super) fn load(home: &Dir, name: &SnapshotName, version: Version) -> io::Result<Option<Stored>> {
    let path = path(name, version);
    let mut file = match home.read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    parse(name, &bytes)
        .map(Some)
        .map_err(|Malformed(reason)| invalid(&path, &reason))
}

/// Writes a snapshot, durable, over an earlier version of it.
pub(super) fn store(home: &Dir, name: &SnapshotName, stored: &Stored, version: Version) -> io::Result<()> {
    let Stored { heading, scanned } = stored;
    let mut writer = Writer::default();
    let Heading {
        sequence,
        written,
        guid,
        exact,
        manifest_length,
        sight_length,
    } = *heading;
    writer.0.extend_from_slice(MAGIC);
    writer.u64(sequence);
    writer.u64(written);
    writer.guid(guid);
    writer.u8(exact.into());
    writer.u64(manifest_length);
    writer.u64(sight_length);
    let digest = blake3::hash(&writer.0);
    writer.0.extend_from_slice(digest.as_bytes());

    let mut sight = Writer::default();
    sight.i64(scanned.sight.started.seconds);
    sight.u32(scanned.sight.started.nanoseconds);
    for seen in &scanned.sight.entries {
        sight.u64(seen.inode);
        sight.i64(seen.changed.seconds);
        sight.u32(seen.changed.nanoseconds);
    }
    let digest = blake3::hash(&sight.0);
    let manifest = codec::encode(&scanned.manifest);
    home.write_whole(
        &path(name, version),
        &[&writer.0, &manifest, &sight.0, digest.as_bytes()],
    )
}

fn boot_path(name: &SnapshotName) -> Vec<u8> {
    format!("snapshots/{name}.boot").into_bytes()
}

/// Notes that what was seen for a snapshot was seen in this boot of the machine. It need not be durable: it counts in no other.
pub(super) fn mark_boot(home: &Dir, name: &SnapshotName) -> io::Result<()> {
    let Some(boot) = this_boot() else {
        return Ok(());
    };
    gone_is_fine(home.remove_file(&boot_path(name)))?;
    home.write(&boot_path(name))?
        .write_all(boot.to_string().as_bytes())
}

/// Says whether what was seen for a snapshot was seen in this boot of the machine.
///
/// What a program makes durable without the times of its file (`fdatasync`, `msync`) is there after a crash, and the
/// file looks as it did before: only as long as the machine runs do times tell whether it has changed.
pub(super) fn is_of_this_boot(home: &Dir, name: &SnapshotName) -> io::Result<bool> {
    let mut noted = String::new();
    match home.read(&boot_path(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // What is no text is of no boot.
        file => drop(file?.take(64).read_to_string(&mut noted)),
    }
    Ok(this_boot().is_some_and(|boot| noted.trim().parse() == Ok(boot)))
}

/// Which boot of the machine this is; nothing where it does not say. Asked once: every look asks for it.
fn this_boot() -> Option<BootId> {
    static BOOT: LazyLock<Option<BootId>> = LazyLock::new(|| durable::this_boot().ok());
    *BOOT
}

/// Removes the plan of a snapshot, which belongs to no later snapshot of the same name.
pub(super) fn forget_plan(home: &Dir, name: &SnapshotName) -> io::Result<()> {
    gone_is_fine(home.remove_file(&path(name, Version::Planned)))
}

/// Removes a snapshot.
pub(super) fn remove(home: &Dir, name: &SnapshotName) -> io::Result<()> {
    forget_plan(home, name)?;
    gone_is_fine(home.remove_file(&boot_path(name)))?;
    gone_is_fine(home.remove_file(&path(name, Version::Current)))?;
    home.dir(b"snapshots")?.sync()
}

fn parse_heading(bytes: &[u8]) -> Result<Heading, Malformed> {
    let (said, digest) = bytes
        .split_at_checked(HEADING - 32)
        .ok_or_else(|| Malformed("it ends too early".into()))?;
    if *blake3::hash(said).as_bytes() != digest {
        return Err(Malformed("its heading is damaged".into()));
    }
    let mut reader = Reader(said);
    if reader.take(8)? != MAGIC {
        return Err(Malformed("it is not a snapshot".into()));
    }
    Ok(Heading {
        sequence: reader.u64()?,
        written: reader.u64()?,
        guid: reader.guid()?,
        exact: reader.flag()?,
        manifest_length: reader.u64()?,
        sight_length: reader.u64()?,
    })
}

pub(super) fn parse(name: &SnapshotName, bytes: &[u8]) -> Result<Stored, Malformed> {
    let mut reader = Reader(bytes);
    let heading = parse_heading(reader.take(HEADING)?)?;
    let length = |length| usize::try_from(length).map_err(|_| Malformed("it is too long".into()));
    let encoded = reader.take(length(heading.manifest_length)?)?;
    let seen = reader.take(length(heading.sight_length)?)?;
    if reader.array()? != *blake3::hash(seen).as_bytes() {
        return Err(Malformed("what was seen is damaged".into()));
    }
    reader.end()?;
    if Manifest::guid(name, encoded) != heading.guid {
        return Err(Malformed("its manifest is damaged".into()));
    }
    let manifest = codec::decode(encoded)?;
    let mut reader = Reader(seen);
    let mut sight = Sight {
        started: time(&mut reader)?,
        entries: Vec::with_capacity(seen.len() / SEEN),
    };
    for _ in &manifest.entries {
        sight.entries.push(Seen {
            inode: reader.u64()?,
            changed: time(&mut reader)?,
        });
    }
    reader.end()?;
    let scanned = Scanned { manifest, sight };
    Ok(Stored { heading, scanned })
}

fn time(reader: &mut Reader<'_>) -> Result<Time, Malformed> {
    Ok(Time {
        seconds: reader.i64()?,
        nanoseconds: reader.u32()?,
    })
}

fn sight_length(n_entries: usize) -> u64 {
    (8 + 4 + n_entries * SEEN) as u64
}

fn invalid(path: &[u8], reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: {reason}", codec::show(path)),
    )
}
