//! What a node remembers of itself: who it is, what it obeys, whom it was told of.
//!
//! What it *has* is never written down here; that is read from the world.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use flocker_backends::Classify;
use flocker_backends::ErrorClass;
use flocker_backends::reserve::Reserve;
use flocker_backends::reserve::is_full;
use flocker_model::BootId;
use flocker_model::DefinitionKey;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;
use uuid::Uuid;

use crate::node::Peer;

/// How large a written record may be; a larger file is not one of ours.
const MAX_LENGTH: u64 = 16 << 20;

/// What a node remembers of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Who it is.
    pub id: NodeId,
    /// The key of its definition hashes.
    pub key: DefinitionKey,
    /// The newest generation that it has obeyed.
    pub generation: Generation,
    /// The other nodes that it was told of.
    pub peers: BTreeMap<NodeName, Peer>,
    /// The nodes that a person has declared lost for ever, and who they were; nobody where that was not known.
    pub forgotten: BTreeMap<NodeName, BTreeSet<NodeId>>,
    /// The newest generation that machines have obeyed which were given up since: one that comes back may have been put back.
    pub outlived: BTreeMap<NodeId, Generation>,
}

impl NodeRecord {
    /// Draws a new identity.
    pub fn random() -> Result<Self, RecordError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| RecordError {
            what: "draw a random key".into(),
            source: io::Error::other(error),
        })?;
        Ok(Self {
            id: NodeId(Uuid::new_v4()),
            key: DefinitionKey::new(key),
            generation: Generation::default(),
            peers: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            outlived: BTreeMap::new(),
        })
    }

    /// Takes note of another node. Whoever answered first stays who is expected, until the node is forgotten.
    pub(crate) fn learn(&mut self, name: &NodeName, peer: &Peer) {
        let Peer {
            address,
            id,
            generation,
        } = peer;
        let known = self.peers.entry(name.clone()).or_insert_with(|| Peer {
            generation: Generation::default(),
            ..peer.clone()
        });
        known.address = address.clone();
        known.id = known.id.or(*id);
        if let Some(id) = id.filter(|id| known.id == Some(*id)) {
            let outlived = self.outlived.remove(&id).unwrap_or_default();
            known.generation = known.generation.max(*generation).max(outlived);
        }
    }

    /// Gives up who is remembered under a name, for who answers under it by now or for nobody.
    pub(crate) fn forget(&mut self, node: &NodeName, instead: Option<NodeId>) {
        let mut peer = self.peers.get_mut(node);
        let remembered = peer.as_ref().and_then(|peer| peer.id);
        let lost = remembered.filter(|id| Some(*id) != instead);
        if lost.is_some() || instead.is_none() {
            self.forgotten.entry(node.clone()).or_default().extend(lost);
        }
        if let Some(peer) = &mut peer {
            if let Some(lost) = lost {
                let generation = std::mem::take(&mut peer.generation);
                if !generation.is_none() {
                    self.outlived.insert(lost, generation);
                }
            }
            if let Some(outlived) = instead.and_then(|id| self.outlived.remove(&id)) {
                peer.generation = outlived;
            }
            peer.id = instead;
        }
        let Some(instead) = instead else {
            return;
        };
        if let Some(lost) = self.forgotten.get_mut(node) {
            lost.remove(&instead);
            // Nobody in particular would be anybody, and so the one that answers too.
            if lost.is_empty() {
                self.forgotten.remove(node);
            }
        }
    }

    /// Takes back that a node is lost. Where it is known who that was, it is that machine again, and what is known of it.
    pub(crate) fn remember(&mut self, node: &NodeName) {
        let lost = self.forgotten.remove(node).unwrap_or_default();
        let Some(peer) = self.peers.get_mut(node).filter(|peer| peer.id.is_none()) else {
            return;
        };
        if let [id] = lost.iter().collect::<Vec<_>>()[..]
            && let Some(generation) = self.outlived.remove(id)
        {
            (peer.id, peer.generation) = (Some(*id), generation);
        }
    }
}

/// Where a node's record is kept.
pub trait RecordStore: fmt::Debug + Send + Sync {
    /// Reads it, or nothing where there is none yet.
    fn load(&self) -> Result<Option<NodeRecord>, RecordError>;

    /// Writes it whole and durably: after a crash it is the old one or the new one.
    fn save(&self, record: &NodeRecord) -> Result<(), RecordError>;
}

/// Why a record could not be read or written.
#[derive(Debug, Error)]
#[error("could not {what}")]
pub struct RecordError {
    what: String,
    source: io::Error,
}

#[cfg(feature = "sim")]
impl RecordError {
    pub(crate) fn new(what: &str, source: io::Error) -> Self {
        let what = what.into();
        Self { what, source }
    }
}

impl Classify for RecordError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}

/// A record that lives as long as this value.
#[derive(Debug, Default)]
pub struct MemoryRecord(Mutex<Option<NodeRecord>>);

impl MemoryRecord {
    /// Returns which configuration the node has written down that it obeys.
    #[must_use]
    pub fn generation(&self) -> Generation {
        let record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record
            .as_ref()
            .map(|record| record.generation)
            .unwrap_or_default()
    }
}

impl RecordStore for MemoryRecord {
    fn load(&self) -> Result<Option<NodeRecord>, RecordError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn save(&self, record: &NodeRecord) -> Result<(), RecordError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
        Ok(())
    }
}

/// A record in a file of a directory that belongs to the node alone.
#[derive(Debug)]
pub struct FileRecord {
    directory: PathBuf,
    /// A node that cannot write down what it obeys lets nothing go either, and people move off full disks.
    reserve: Reserve,
}

impl FileRecord {
    /// Takes the directory; it is made, for its owner alone, where it is missing.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let reserve = Reserve::new(directory.clone(), 0);
        Self { directory, reserve }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("node.json")
    }

    fn write(&self, text: &str) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let new = self.directory.join("node.json.new");
        match Self::write_new(&new, text) {
            Err(error) if is_full(&error) => {
                let room = |kept: &Path| fs::rename(kept, &new);
                if !self.reserve.give(text.len() as u64, room)? {
                    return Err(error);
                }
                Self::write_new(&new, text)?;
            }
            other => other?,
        }
        fs::rename(&new, self.file())?;
        fs::File::open(&self.directory)?.sync_all()?;
        self.reserve.make();
        Ok(())
    }

    /// Writes over what has this name, into the room that it has.
    fn write_new(new: &Path, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(new)?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    }
}

impl RecordStore for FileRecord {
    fn load(&self) -> Result<Option<NodeRecord>, RecordError> {
        let path = self.file();
        let read = || -> io::Result<Option<NodeRecord>> {
            let text = match fs::metadata(&path) {
                Ok(metadata) if metadata.len() > MAX_LENGTH => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
                }
                Ok(_) => fs::read_to_string(&path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            self.reserve.make();
            let written: Written = serde_json::from_str(&text)?;
            NodeRecord::try_from(written)
                .map(Some)
                .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
        };
        read().map_err(|source| RecordError {
            what: format!("read {}", path.display()),
            source,
        })
    }

    fn save(&self, record: &NodeRecord) -> Result<(), RecordError> {
        serde_json::to_string_pretty(&Written::from(record))
            .map_err(io::Error::from)
            .and_then(|text| self.write(&text))
            .map_err(|source| RecordError {
                what: format!("write {}", self.file().display()),
                source,
            })
    }
}

/// A record as it stands in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    id: NodeId,
    key: String,
    generation: Generation,
    peers: BTreeMap<NodeName, Peer>,
    forgotten: BTreeMap<NodeName, BTreeSet<NodeId>>,
    // Left out where there is none: an older program would refuse the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    outlived: BTreeMap<NodeId, Generation>,
}

impl From<&NodeRecord> for Written {
    fn from(record: &NodeRecord) -> Self {
        let NodeRecord {
            id,
            key,
            generation,
            peers,
            forgotten,
            outlived,
        } = record;
        Self {
            version: 1,
            id: *id,
            key: to_hex(key.reveal()),
            generation: *generation,
            peers: peers.clone(),
            forgotten: forgotten.clone(),
            outlived: outlived.clone(),
        }
    }
}

impl TryFrom<Written> for NodeRecord {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let Written {
            version,
            id,
            key,
            generation,
            peers,
            forgotten,
            outlived,
        } = written;
        if version != 1 {
            return Err("it was written by another version of Flocker");
        }
        Ok(Self {
            id,
            key: DefinitionKey::new(from_hex(&key).ok_or("its key is not 64 hexadecimal digits")?),
            generation,
            peers,
            forgotten,
            outlived,
        })
    }
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|digit| char::from_digit(digit.into(), 16));
    digits.collect()
}

/// Reads exactly 32 bytes from hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * position..2 * position + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Reads which boot of this machine this is.
pub fn this_boot() -> Result<BootId, RecordError> {
    flocker_backends::durable::this_boot().map_err(|source| RecordError {
        what: "read which boot of the machine this is".into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flocker_model::NodeAddress;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_record_survives_and_is_for_its_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let store = FileRecord::new(place.path().join("node"));
        assert_eq!(store.load().unwrap(), None);
        let mut record = NodeRecord::random().unwrap();
        store.save(&record).unwrap();
        record.generation = Generation(7);
        record
            .forgotten
            .insert("gamma".parse().unwrap(), [NodeId(Uuid::new_v4())].into());
        record.outlived.insert(NodeId(Uuid::new_v4()), Generation(6));
        record.peers.insert(
            "beta".parse().unwrap(),
            Peer {
                address: NodeAddress::Local {
                    directory: "/tmp/beta".into(),
                },
                id: Some(NodeId(Uuid::new_v4())),
                generation: Generation(6),
            },
        );
        store.save(&record).unwrap();
        assert_eq!(store.load().unwrap(), Some(record));
        let mode = fs::metadata(store.file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// Has the next write of a record find a disk without room, and only that one: what is moved over the link is a file.
    fn fill_disk(store: &FileRecord) {
        let new = store.directory.join("node.json.new");
        drop(fs::remove_file(&new));
        std::os::unix::fs::symlink("/dev/full", new).unwrap();
    }

    #[test]
    fn on_a_full_disk_a_record_is_written_into_the_room_that_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let store = FileRecord::new(place.path());
        let mut record = NodeRecord::random().unwrap();
        store.save(&record).unwrap();
        record.generation = Generation(7);
        fill_disk(&store);
        store.save(&record).unwrap();
        assert_eq!(store.load().unwrap(), Some(record.clone()));
        assert!(fs::symlink_metadata(store.file()).unwrap().is_file());

        // Without that the old one stays whole, and there is no new one.
        for number in 0..4 {
            fs::remove_file(place.path().join(format!("record-{number}"))).unwrap();
        }
        fill_disk(&store);
        let newer = NodeRecord {
            generation: Generation(8),
            ..record.clone()
        };
        let error = store.save(&newer).unwrap_err();
        assert!(is_full(&error.source), "{error:?}");
        assert_eq!(store.load().unwrap(), Some(record));
    }

    #[test]
    fn a_damaged_record_is_an_error_and_never_a_new_identity() {
        let place = tempfile::tempdir().unwrap();
        let store = FileRecord::new(place.path());
        fs::write(store.file(), "{").unwrap();
        assert!(store.load().is_err());
    }

    #[test]
    fn this_machine_has_a_boot() {
        assert_eq!(this_boot().unwrap(), this_boot().unwrap());
    }
}
