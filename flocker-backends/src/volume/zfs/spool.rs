//! Where a stream waits until it is complete.
//!
//! While the tool receives a stream, its beginning is kept in a filesystem of
//! the same pool as well, as far as it can be without holding the tool up. So a
//! copy that was cut goes on where it stopped on every ZFS there is, also where
//! the tool itself cannot do that. The price is room for what is kept, while it
//! waits. Where the tool can do it, there is only the note.
//!
//! Each dataset has a directory with the stream and a note. The note says what
//! the stream is, where it goes and how much of what is kept here is known to be
//! right; it is replaced as a whole, and only after what it speaks of is durable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::path::PathBuf;

use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use serde::Deserialize;
use serde::Serialize;

use super::able::Blocks;
use super::frame::Beginning;
use super::frame::Begun;
use super::frame::Header;
use super::frame::Token;
use crate::durable;

/// The one spelling that there is yet.
const FORMAT: u32 = 1;

/// The longest note that is read.
const LONGEST_NOTE: u64 = 64 * 1024;

/// What is known of a dataset of which something has begun to arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    format: u32,
    pub(super) dataset: Dataset,
    /// Since when this is here, in seconds since 1970.
    pub(super) since: i64,
    pub(super) arrival: Option<Arrival>,
}

/// A stream that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arrival {
    pub(super) snapshot: SnapshotName,
    pub(super) guid: SnapshotGuid,
    pub(super) base: Option<SnapshotGuid>,
    /// Which blocks it has as they lie on the sender's disk: what follows has to be of the same kind.
    #[serde(default)]
    pub(super) blocks: Blocks,
    /// How many bytes are kept and durable.
    pub(super) kept: u64,
    /// The digest of just these bytes.
    pub(super) digest: String,
    /// The filesystem into which it is received, while it is.
    pub(super) into: Option<String>,
}

impl Note {
    pub(super) fn new(dataset: &Dataset, since: i64) -> Self {
        Self {
            format: FORMAT,
            dataset: dataset.clone(),
            since,
            arrival: None,
        }
    }
}

impl Arrival {
    /// Begins with nothing.
    pub(super) fn of(header: &Header) -> Self {
        Self {
            snapshot: header.snapshot.clone(),
            guid: header.guid,
            base: header.base,
            blocks: header.blocks,
            kept: 0,
            digest: blake3::hash(b"").to_hex().to_string(),
            into: None,
        }
    }

    /// Says how to go on; nothing where the note's digest is none.
    pub(super) fn token(&self) -> Option<Token> {
        let kept = Beginning {
            guid: self.guid,
            base: self.base,
            kept: self.kept,
            digest: blake3::Hash::from_hex(&self.digest).ok()?,
        };
        Some(Token {
            takes: self.blocks,
            begun: Some(Begun::Beside(kept)),
        })
    }
}

/// What is noted of all that waits.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) read: Vec<Note>,
    /// Those that cannot be read, and why.
    pub(super) unreadable: BTreeMap<DatasetId, String>,
}

/// The directory of all that waits.
#[derive(Clone, Debug)]
pub(super) struct Spool(pub(super) PathBuf);

impl Spool {
    fn directory(&self, dataset: DatasetId) -> PathBuf {
        self.0.join(dataset.to_string())
    }

    fn stream(&self, dataset: DatasetId) -> PathBuf {
        self.directory(dataset).join("stream")
    }

    /// Reads the notes of all that waits. A note that cannot be read hides no other.
    pub(super) fn notes(&self) -> io::Result<Notes> {
        let mut notes = Notes::default();
        for entry in self.0.read_dir()? {
            let name = entry?.file_name();
            let Some(dataset) = name.to_str().and_then(|name| name.parse().ok()) else {
                let reason = format!("`{}` is nothing that we put there", name.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            };
            match self.note(dataset) {
                Ok(note) => notes.read.extend(note),
                Err(error) => {
                    let reason = format!(
                        "what is noted of its arrival in `{}`: {error}",
                        self.directory(dataset).display()
                    );
                    notes.unreadable.insert(dataset, reason);
                }
            }
        }
        Ok(notes)
    }

    /// Reads what is noted of a dataset.
    pub(super) fn note(&self, dataset: DatasetId) -> io::Result<Option<Note>> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
        let file = match File::open(self.directory(dataset).join("note")) {
            // Without a note there is nothing: it is written first and removed first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut text = Vec::new();
        file.take(LONGEST_NOTE).read_to_end(&mut text)?;
        let note: Note = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if note.format != FORMAT {
            return Err(invalid(format!("format {} is not known", note.format)));
        }
        if note.dataset.id != dataset {
            return Err(invalid(format!("it is the note of dataset {}", note.dataset.id)));
        }
        Ok(Some(note))
    }

    /// Replaces what is noted of a dataset, durable.
    pub(super) fn set_note(&self, note: &Note) -> io::Result<()> {
        let directory = self.directory(note.dataset.id);
        let is_new = match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            other => {
                other?;
                true
            }
        };
        durable::replace(&directory.join("note"), 0o600, &serde_json::to_vec(note)?)?;
        if is_new { sync(&self.0) } else { Ok(()) }
    }

    /// Drops all that is noted of a dataset.
    pub(super) fn remove(&self, dataset: DatasetId) -> io::Result<()> {
        let directory = self.directory(dataset);
        // Older programs left `note.next` where they were cut short.
        for name in ["note", "note.new", "note.next", "stream"] {
            or_absent(std::fs::remove_file(directory.join(name)))?;
        }
        or_absent(std::fs::remove_dir(&directory))?;
        sync(&self.0)
    }

    /// Drops what is kept of the stream of a dataset, of which the note says that nothing is. It may be back after a crash.
    pub(super) fn remove_stream(&self, dataset: DatasetId) -> io::Result<()> {
        or_absent(std::fs::remove_file(self.stream(dataset)))
    }

    /// Opens what is kept of the stream of a dataset, in order to read it.
    pub(super) fn open(&self, dataset: DatasetId) -> io::Result<File> {
        File::open(self.stream(dataset))
    }

    /// Writes a piece of the stream of a dataset at its place, durable.
    ///
    /// What is after it stays until it is written over, so that what was
    /// noted of it stays true: it is the same bytes that come again.
    pub(super) fn write(&self, dataset: DatasetId, at: u64, piece: &[u8]) -> io::Result<()> {
        let mut options = File::options();
        options.create(true).truncate(at == 0).write(true);
        let file = options.open(self.stream(dataset))?;
        file.write_all_at(piece, at)?;
        file.sync_data()
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn or_absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Pooling;
    use super::*;

    fn dataset() -> Dataset {
        Dataset {
            id: DatasetId(uuid::Uuid::from_u128(7)),
            owner: "mongodb".parse().unwrap(),
            maximum_size: None,
        }
    }

    #[test]
    fn a_note_is_found_again_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        let mut note = Note::new(&dataset(), 5);
        note.arrival = Some(Arrival::of(&Header {
            dataset: dataset().id,
            snapshot: "warm-2-1".parse().unwrap(),
            guid: SnapshotGuid(9),
            base: None,
            first: 0,
            blocks: Blocks::from_bits(5).unwrap(),
            pooling: Pooling::Impossible,
        }));
        spool.set_note(&note).unwrap();
        assert_eq!(spool.notes().unwrap().read, [note]);
        spool.remove(dataset().id).unwrap();
        assert_eq!(spool.notes().unwrap().read, []);
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_note_that_cannot_be_read_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        spool.set_note(&Note::new(&dataset(), 5)).unwrap();
        let damaged = DatasetId(uuid::Uuid::from_u128(8));
        let place = root.path().join(damaged.to_string());
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("note"), b"{").unwrap();
        let notes = spool.notes().unwrap();
        assert_eq!(notes.read, [Note::new(&dataset(), 5)]);
        assert_eq!(notes.unreadable.keys().collect::<Vec<_>>(), [&damaged]);
    }

    #[test]
    fn a_stream_is_written_piece_by_piece_and_over_what_was_there() {
        let root = tempfile::tempdir().unwrap();
        let spool = Spool(root.path().to_owned());
        let id = dataset().id;
        spool.set_note(&Note::new(&dataset(), 5)).unwrap();
        let read = || {
            let mut text = String::new();
            spool.open(id).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        spool.write(id, 0, b"onetwo").unwrap();
        spool.write(id, 3, b"thr").unwrap();
        assert_eq!(read(), "onethr");
        spool.write(id, 6, b"ee").unwrap();
        assert_eq!(read(), "onethree");
        spool.write(id, 0, b"one").unwrap();
        assert_eq!(read(), "one", "it begins anew");
        for _ in 0..2 {
            spool.remove_stream(id).unwrap();
            spool.open(id).unwrap_err();
            assert_eq!(spool.notes().unwrap().read, [Note::new(&dataset(), 5)]);
        }
    }

    #[test]
    fn what_we_did_not_put_there_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        Spool(root.path().to_owned()).notes().unwrap_err();
    }
}
