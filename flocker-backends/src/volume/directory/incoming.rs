//! A copy that is arriving: what it is to become, and how much of it is here.
//!
//! A full copy is built in `tree`, beside the place where it will stand. The
//! blocks of an increment are kept in `incoming/blocks` and touch the last
//! complete copy only after the whole increment is here, verified and durable.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::codec;
use super::codec::Malformed;
use super::codec::Reader;
use super::codec::Writer;
use super::difference::Difference;
use super::difference::Elsewhere;
use super::difference::Needed;
use super::dir::Dir;
use super::dir::split;
use super::earlier;
use super::manifest::BLOCK;
use super::manifest::Digest;
use super::manifest::Kind;
use super::manifest::Manifest;
use super::manifest::Torn;
use super::scan::read_block;

const MAGIC: &[u8; 8] = b"FLKARRV1";

/// How many blocks arrive between two notes of how many there are.
const STRIDE: u64 = 16;

/// What is arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) name: SnapshotName,
    pub(super) base: Option<SnapshotGuid>,
    /// The guid of the manifest that the sender has announced.
    pub(super) plan: SnapshotGuid,
}

/// How much has arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// How many blocks.
    pub(super) next: u64,
    /// How many bytes these are.
    pub(super) received: u64,
    /// Which of them were not as announced.
    pub(super) torn: Torn,
}

/// Sets up a place for a copy, and drops any other that had begun to arrive.
pub(super) fn begin(home: &Dir, label: &Label, encoded: &[u8]) -> io::Result<()> {
    discard(home)?;
    home.remove_all(b"incoming.new")?;
    home.make_dir(b"incoming.new", 0o700)?;
    let mut writer = Writer::default();
    writer.0.extend_from_slice(MAGIC);
    writer.bytes(label.name.as_str().as_bytes());
    writer.u8(label.base.is_some().into());
    writer.guid(label.base.unwrap_or(SnapshotGuid(0)));
    writer.guid(label.plan);
    let arriving = home.without_reserve();
    arriving.write_whole(b"incoming.new/label", &[&writer.0])?;
    arriving.write_whole(b"incoming.new/manifest", &[encoded])?;
    if label.base.is_none() {
        home.make_dir(b"tree", 0o700)?;
    }
    home.rename(b"incoming.new", home, b"incoming")?;
    home.sync()
}

/// Drops what has arrived of a copy.
pub(super) fn discard(home: &Dir) -> io::Result<()> {
    home.remove_all(b"done")?;
    if home.stat(b"incoming")?.is_some() {
        // One step, so that a half removed copy is never taken for one that arrives.
        home.rename(b"incoming", home, b"done")?;
        home.sync()?;
    }
    home.remove_all(b"tree")?;
    home.remove_all(b"done")
}

/// Says what is arriving, if anything is.
pub(super) fn label(home: &Dir) -> io::Result<Option<Label>> {
    let Some(text) = read(home, b"incoming/label")? else {
        return Ok(None);
    };
    parse_label(&text)
        .map(Some)
        .map_err(|Malformed(reason)| io::Error::new(io::ErrorKind::InvalidData, reason))
}

pub(super) fn parse_label(text: &[u8]) -> Result<Label, Malformed> {
    let mut reader = Reader(text);
    if reader.take(8)? != MAGIC {
        return Err(Malformed("it is not the label of a copy".into()));
    }
    let name = std::str::from_utf8(reader.bytes(64)?)
        .ok()
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| Malformed("it is for no snapshot".into()))?;
    let has_base = reader.flag()?;
    let base = reader.guid()?;
    let plan = reader.guid()?;
    reader.end()?;
    Ok(Label {
        name,
        base: has_base.then_some(base),
        plan,
    })
}

/// Reads the manifest that the sender has announced.
pub(super) fn manifest(home: &Dir, label: &Label) -> io::Result<Manifest> {
    let encoded = read(home, b"incoming/manifest")?.unwrap_or_default();
    if Manifest::guid(&label.name, &encoded) != label.plan {
        let reason = "the manifest of what is arriving is damaged on the disk";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    codec::decode(&encoded).map_err(|Malformed(reason)| io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Says how much has arrived.
pub(super) fn progress(home: &Dir) -> io::Result<Progress> {
    let mut progress = Progress::default();
    let note = read(home, b"incoming/progress")?.unwrap_or_default();
    if let Some((next, received)) = note.first_chunk().zip(note.last_chunk())
        && note.len() == 16
    {
        progress.next = u64::from_le_bytes(*next);
        progress.received = u64::from_le_bytes(*received);
    }
    let torn = read(home, b"incoming/torn")?.unwrap_or_default();
    let mut reader = Reader(&torn);
    while let (Ok(at), Ok(is_zero), Ok(digest)) = (reader.u64(), reader.u8(), reader.array::<32>()) {
        if at < progress.next {
            progress.torn.insert(at, (is_zero == 0).then_some(digest));
        }
    }
    Ok(progress)
}

/// A copy that is open for more of it.
#[derive(Debug)]
pub(super) struct Arrival {
    home: Dir,
    pub(super) manifest: Manifest,
    pub(super) difference: Difference,
    /// Which of it the base has in another place.
    pub(super) elsewhere: Elsewhere,
    pub(super) progress: Progress,
    target: Target,
    note: File,
    torn: File,
}

#[derive(Debug)]
enum Target {
    /// Into the files themselves; the last one stays open.
    Tree { dir: Dir, open: Option<(usize, File)> },
    /// One after the other.
    Journal(File),
}

impl Arrival {
    /// Opens the copy that is arriving, to go on at the block `from`.
    pub(super) fn open(
        home: &Dir,
        label: &Label,
        manifest: Manifest,
        base: Option<&Manifest>,
        from: u64,
    ) -> io::Result<Self> {
        let difference = Difference::between(base, &manifest);
        let elsewhere = Elsewhere::of(&difference, base, &manifest);
        let mut progress = progress(home)?;
        progress.next = from;
        progress.received = difference.bytes_before(from);
        progress.torn.retain(|&at, _| at < from);
        let target = match label.base {
            None => Target::Tree {
                dir: home.dir(b"tree")?,
                open: None,
            },
            Some(_) => Target::Journal(home.write(b"incoming/blocks")?),
        };
        // Replaced in one step: a crash between must not forget a torn block that counts as arrived.
        let notes: Vec<_> = progress
            .torn
            .iter()
            .map(|(&at, digest)| note_of(at, *digest))
            .collect();
        earlier::forget(home)?;
        let arriving = home.without_reserve();
        arriving.write_whole(b"incoming/torn", &[&notes.concat()])?;
        let mut torn = home.write(b"incoming/torn")?;
        torn.seek(io::SeekFrom::End(0))?;
        let arrival = Self {
            home: home.clone(),
            manifest,
            difference,
            elsewhere,
            target,
            note: home.write(b"incoming/progress")?,
            torn,
            progress,
        };
        arrival.note()?;
        Ok(arrival)
    }

    /// Returns the block that comes next, and its digest by the manifest.
    pub(super) fn wanted(&self) -> Option<(Needed, Digest)> {
        let at = usize::try_from(self.progress.next).ok()?;
        let needed = *self.difference.blocks.get(at)?;
        let digest = self.manifest.digest(needed.entry, needed.index)?;
        Some((needed, *digest))
    }

    /// Takes the next block as it was announced.
    pub(super) fn put(&mut self, needed: &Needed, block: &[u8]) -> io::Result<()> {
        self.write(needed, block)?;
        self.advance()
    }

    /// Takes the next block with other content than announced; nothing for zeros.
    pub(super) fn put_torn(
        &mut self,
        needed: &Needed,
        block: &[u8],
        digest: Option<Digest>,
    ) -> io::Result<()> {
        self.write(needed, block)?;
        self.note_torn(self.progress.next, digest)?;
        self.progress.torn.insert(self.progress.next, digest);
        self.advance()
    }

    /// Keeps an earlier snapshot that comes along.
    pub(super) fn keep_earlier(
        &self,
        number: usize,
        head: &earlier::Head,
        encoded: &[u8],
    ) -> Result<io::Result<()>, Malformed> {
        earlier::keep(&self.home, number, head, encoded)
    }

    fn advance(&mut self) -> io::Result<()> {
        self.progress.next += 1;
        self.progress.received = self.difference.bytes_before(self.progress.next);
        if self.progress.next.is_multiple_of(STRIDE) {
            self.note()?;
        }
        Ok(())
    }

    /// Writes down how much has arrived.
    pub(super) fn note(&self) -> io::Result<()> {
        self.home.effects().before()?;
        let next = self.progress.next.to_le_bytes();
        let received = self.progress.received.to_le_bytes();
        self.note.write_all_at(&[next, received].concat(), 0)
    }

    fn note_torn(&mut self, at: u64, digest: Option<Digest>) -> io::Result<()> {
        self.home.effects().before()?;
        self.torn.write_all(&note_of(at, digest))
    }

    fn write(&mut self, needed: &Needed, block: &[u8]) -> io::Result<()> {
        let path = &self.manifest.entries[needed.entry].path;
        self.home.effects().before()?;
        match &mut self.target {
            Target::Journal(file) => file.write_all_at(block, needed.offset),
            Target::Tree { dir, open } => {
                let file = match open {
                    Some((entry, file)) if *entry == needed.entry => file,
                    _ => {
                        make_parents(dir, path)?;
                        &mut open.insert((needed.entry, dir.write(path)?)).1
                    }
                };
                file.write_all_at(block, needed.index * BLOCK)
            }
        }
    }

    /// Reads the first so many blocks back and compares them with their digests.
    ///
    /// They arrived before a cut, perhaps before a power failure.
    pub(super) fn is_intact(&self, n_blocks: u64) -> io::Result<bool> {
        let n_blocks = usize::try_from(n_blocks).unwrap_or(usize::MAX);
        let as_sent = self.manifest.as_sent(&self.difference, &self.progress.torn);
        let mut open: Option<(usize, File)> = None;
        for needed in self.difference.blocks.iter().take(n_blocks) {
            let entry = &as_sent.entries[needed.entry];
            let Kind::File(contents) = &entry.kind else {
                continue;
            };
            let Some(digest) = contents.digest(needed.index) else {
                continue;
            };
            let mut block = vec![0; needed.length];
            match &self.target {
                Target::Journal(file) => read_block(file, &mut block, needed.offset)?,
                Target::Tree { dir, .. } => {
                    let file = match &open {
                        Some((at, file)) if *at == needed.entry => file,
                        _ => &open.insert((needed.entry, dir.read(&entry.path)?)).1,
                    };
                    read_block(file, &mut block, needed.index * BLOCK)?;
                }
            }
            if blake3::hash(&block) != *digest {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decides that the copy is complete. From here on it will be put in place, whatever happens.
    pub(super) fn commit(&self, sent: &Manifest, guid: SnapshotGuid) -> io::Result<()> {
        let mut writer = Writer::default();
        writer.u64(self.difference.travelling(&self.elsewhere, &self.manifest));
        writer.guid(guid);
        writer.0.extend_from_slice(&codec::encode(sent));
        let digest = blake3::hash(&writer.0);
        self.home.sync_filesystem()?;
        self.home
            .without_reserve()
            .write_whole(b"incoming/commit", &[&writer.0, digest.as_bytes()])
    }
}

/// A copy that is complete and is being put in place.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) written: u64,
    pub(super) guid: SnapshotGuid,
    pub(super) manifest: Manifest,
}

/// Says whether a complete copy waits to be put in place.
pub(super) fn committed(home: &Dir, name: &SnapshotName) -> io::Result<Option<Committed>> {
    let Some(text) = read(home, b"incoming/commit")? else {
        return Ok(None);
    };
    parse_commit(&text, name)
        .map(Some)
        .map_err(|Malformed(reason)| io::Error::new(io::ErrorKind::InvalidData, reason))
}

pub(super) fn parse_commit(text: &[u8], name: &SnapshotName) -> Result<Committed, Malformed> {
    let damaged = || Malformed("the decision that a copy is complete is damaged on the disk".into());
    let (said, digest) = text.split_last_chunk::<32>().ok_or_else(damaged)?;
    if blake3::hash(said) != *digest {
        return Err(damaged());
    }
    let mut reader = Reader(said);
    let written = reader.u64()?;
    let guid = reader.guid()?;
    if Manifest::guid(name, reader.0) != guid {
        return Err(damaged());
    }
    Ok(Committed {
        written,
        guid,
        manifest: codec::decode(reader.0)?,
    })
}

fn note_of(at: u64, digest: Option<Digest>) -> Vec<u8> {
    let mut note = Writer::default();
    note.u64(at);
    note.u8(digest.is_none().into());
    note.0.extend_from_slice(&digest.unwrap_or_default());
    note.0
}

fn make_parents(dir: &Dir, path: &[u8]) -> io::Result<()> {
    let (parent, _) = split(path);
    if parent.is_empty() || dir.stat(parent)?.is_some() {
        return Ok(());
    }
    make_parents(dir, parent)?;
    dir.make_dir(parent, 0o700)
}

fn read(home: &Dir, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    match home.read(path) {
        Ok(mut file) => file.read_to_end(&mut content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(content))
}
