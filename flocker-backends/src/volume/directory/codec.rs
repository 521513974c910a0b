//! The one spelling of a manifest in bytes, and the door at which a stranger's manifest is read.
//!
//! What passes the door is valid by construction: paths are relative and lead
//! nowhere else, every entry's parent is a directory of the manifest, a
//! further name leads to an earlier file, and blocks fit their file.

use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::dir::is_plain_path;
use super::manifest::Block;
use super::manifest::Contents;
use super::manifest::Entry;
use super::manifest::Kind;
use super::manifest::Manifest;
use super::manifest::Metadata;
use super::stat::Time;

/// Files larger than this cannot exist.
const LARGEST_FILE: u64 = i64::MAX as u64;

/// The largest value of an extended attribute that Linux has.
const LARGEST_VALUE: usize = 65536;

/// How long the name of a snapshot is at most.
pub(super) const LONGEST_NAME: usize = 64;

/// Why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

/// Writes numbers and byte strings one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.u64(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(super) fn guid(&mut self, value: SnapshotGuid) {
        self.0.extend_from_slice(&value.0.to_be_bytes());
    }

    /// Writes a name into a place that is as long for each, behind its length.
    pub(super) fn snapshot_name(&mut self, value: &SnapshotName) {
        let mut place = [0; LONGEST_NAME];
        let text = value.as_str().as_bytes();
        let length = text.len().min(place.len());
        place[..length].copy_from_slice(&text[..length]);
        self.u8(u8::try_from(length).unwrap_or(u8::MAX));
        self.0.extend_from_slice(&place);
    }
}

/// Reads what [`Writer`] wrote, and runs out rather than over.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| Malformed("it ends too early".into()))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn guid(&mut self) -> Result<SnapshotGuid, Malformed> {
        self.array().map(|guid| SnapshotGuid(u128::from_be_bytes(guid)))
    }

    /// Reads a name from its place; nothing where none stands there.
    pub(super) fn snapshot_name(&mut self) -> Result<Option<SnapshotName>, Malformed> {
        let length = usize::from(self.u8()?);
        let name = self.take(LONGEST_NAME)?.get(..length);
        Ok(name
            .and_then(|name| std::str::from_utf8(name).ok())
            .and_then(|name| name.parse().ok()))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let length = self.u64()?;
        match usize::try_from(length) {
            Ok(length) if length <= limit => self.take(length),
            Ok(_) | Err(_) => Err(Malformed(format!("it has {length} bytes where {limit} may be"))),
        }
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed(format!("{other} is neither yes nor no"))),
        }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(Malformed(format!("{more} bytes are too many"))),
        }
    }
}

/// Spells a manifest.
pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u8(manifest.exact.into());
    writer.u64(manifest.entries.len() as u64);
    for entry in &manifest.entries {
        encode_entry(&mut writer, entry);
    }
    writer.u64(manifest.skipped.len() as u64);
    for path in &manifest.skipped {
        writer.bytes(path);
    }
    writer.0
}

fn encode_entry(writer: &mut Writer, entry: &Entry) {
    let Entry { path, kind, metadata } = entry;
    writer.bytes(path);
    match kind {
        Kind::Directory => writer.u8(0),
        Kind::File(contents) => {
            writer.u8(1);
            encode_contents(writer, contents);
        }
        Kind::Symlink(target) => {
            writer.u8(2);
            writer.bytes(target);
        }
        Kind::Link(first) => {
            writer.u8(3);
            writer.u64(*first as u64);
            // Both names are one file, whose metadata is said at the first.
            return;
        }
        Kind::Fifo => writer.u8(4),
    }
    let Metadata {
        mode,
        uid,
        gid,
        modified,
        attributes,
    } = metadata;
    writer.u32(*mode);
    writer.u32(*uid);
    writer.u32(*gid);
    writer.i64(modified.seconds);
    writer.u32(modified.nanoseconds);
    writer.u64(attributes.len() as u64);
    for (name, value) in attributes {
        writer.bytes(name);
        writer.bytes(value);
    }
}

fn encode_contents(writer: &mut Writer, contents: &Contents) {
    writer.u64(contents.size);
    let follows = |pair: &[Block]| pair[1].index == pair[0].index + 1;
    let runs: Vec<&[Block]> = contents
        .blocks
        .chunk_by(|one, two| follows(&[*one, *two]))
        .collect();
    writer.u64(runs.len() as u64);
    for run in runs {
        writer.u64(run[0].index);
        writer.u64(run.len() as u64);
        for block in run {
            writer.0.extend_from_slice(&block.digest);
        }
    }
}

/// Reads a manifest that may come from a stranger.
pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, Malformed> {
    let mut reader = Reader(bytes);
    let mut manifest = Manifest {
        exact: reader.flag()?,
        entries: Vec::new(),
        skipped: Vec::new(),
    };
    let n_entries = reader.u64()?;
    for at in 0..n_entries {
        let entry = decode_entry(&mut reader, &manifest)?;
        if (at == 0) != entry.path.is_empty() {
            return Err(Malformed("the volume itself is not its first entry".into()));
        }
        manifest.entries.push(entry);
    }
    if manifest.entries.is_empty() {
        return Err(Malformed("it has no entries".into()));
    }
    for _ in 0..reader.u64()? {
        let path = reader.bytes(4095)?.to_vec();
        if !is_plain_path(&path) || manifest.skipped.last().is_some_and(|last| *last >= path) {
            return Err(Malformed(format!("the path {} is not in order", show(&path))));
        }
        manifest.skipped.push(path);
    }
    reader.end()?;
    Ok(manifest)
}

fn decode_entry(reader: &mut Reader<'_>, before: &Manifest) -> Result<Entry, Malformed> {
    let path = reader.bytes(4095)?.to_vec();
    if let Some(last) = before.entries.last() {
        if !is_plain_path(&path) {
            return Err(Malformed(format!("the path {} leads elsewhere", show(&path))));
        }
        if last.path >= path {
            return Err(Malformed(format!("the path {} is not in order", show(&path))));
        }
        if !before.has_parent_of(&path) {
            return Err(Malformed(format!("{} is in no directory", show(&path))));
        }
    }
    let kind = match reader.u8()? {
        0 => Kind::Directory,
        1 => Kind::File(decode_contents(reader)?),
        2 => {
            let target = reader.bytes(4095)?.to_vec();
            if target.is_empty() || target.contains(&0) {
                return Err(Malformed(format!("the link {} leads nowhere", show(&path))));
            }
            Kind::Symlink(target)
        }
        3 => {
            let first = usize::try_from(reader.u64()?).ok();
            let is_file = |at: usize| matches!(before.entries.get(at).map(|e| &e.kind), Some(Kind::File(_)));
            match first.filter(|&at| is_file(at)) {
                Some(first) => Kind::Link(first),
                None => return Err(Malformed(format!("{} is a further name of no file", show(&path)))),
            }
        }
        4 => Kind::Fifo,
        other => {
            return Err(Malformed(format!(
                "{} is of the unknown kind {other}",
                show(&path)
            )));
        }
    };
    if path.is_empty() && kind != Kind::Directory {
        return Err(Malformed("the volume itself is not a directory".into()));
    }
    let metadata = match kind {
        Kind::Link(_) => Metadata::default(),
        Kind::Directory | Kind::File(_) | Kind::Symlink(_) | Kind::Fifo => decode_metadata(reader)?,
    };
    Ok(Entry { path, kind, metadata })
}

fn decode_metadata(reader: &mut Reader<'_>) -> Result<Metadata, Malformed> {
    let mut metadata = Metadata {
        mode: reader.u32()?,
        uid: reader.u32()?,
        gid: reader.u32()?,
        modified: Time {
            seconds: reader.i64()?,
            nanoseconds: reader.u32()?,
        },
        attributes: Vec::new(),
    };
    if metadata.mode > 0o7777 {
        return Err(Malformed(format!("{:o} is not a mode", metadata.mode)));
    }
    if metadata.uid == u32::MAX || metadata.gid == u32::MAX {
        return Err(Malformed(format!("{} is nobody's number", u32::MAX)));
    }
    if metadata.modified.nanoseconds >= 1_000_000_000 {
        return Err(Malformed(format!(
            "{} is not a part of a second",
            metadata.modified.nanoseconds
        )));
    }
    for _ in 0..reader.u64()? {
        let name = reader.bytes(255)?.to_vec();
        let value = reader.bytes(LARGEST_VALUE)?.to_vec();
        let in_order = metadata.attributes.last().is_none_or(|(last, _)| *last < name);
        if !name.starts_with(b"user.") || name.contains(&0) || !in_order {
            return Err(Malformed(format!(
                "the attribute {} must not be here",
                show(&name)
            )));
        }
        metadata.attributes.push((name, value));
    }
    Ok(metadata)
}

fn decode_contents(reader: &mut Reader<'_>) -> Result<Contents, Malformed> {
    let mut contents = Contents {
        size: reader.u64()?,
        blocks: Vec::new(),
    };
    if contents.size > LARGEST_FILE {
        return Err(Malformed(format!("no file has {} bytes", contents.size)));
    }
    let mut free = 0;
    for run in 0..reader.u64()? {
        let first = reader.u64()?;
        let count = reader.u64()?;
        let end = first.checked_add(count).filter(|&end| end <= contents.n_blocks());
        // Runs that touch would be a second spelling of the same thing.
        let (Some(end), true) = (end, count > 0 && (first > free || run == 0)) else {
            return Err(Malformed(format!("block {first} is not in its file")));
        };
        for index in first..end {
            let digest = reader.array()?;
            contents.blocks.push(Block { index, digest });
        }
        free = end;
    }
    Ok(contents)
}

/// Shows a path to people, whatever bytes it is made of.
pub(super) fn show(path: &[u8]) -> String {
    format!("`{}`", path.escape_ascii())
}
