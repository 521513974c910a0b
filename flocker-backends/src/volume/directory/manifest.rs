//! What a snapshot is: every entry of the volume, and the digest of every block of its files.
//!
//! A manifest is a value with exactly one spelling in bytes. Its guid is the
//! digest of those bytes and of the snapshot's name, so two nodes that hold
//! the same guid hold the same manifest.

use std::collections::BTreeMap;

use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::difference::Difference;
use super::dir::split;
use super::stat::Time;

/// How many bytes a digest stands for.
pub(super) const BLOCK: u64 = 128 * 1024;

/// The BLAKE3 digest of a block.
pub(super) type Digest = [u8; 32];

/// What was in a volume when a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Whether nothing could write while it was taken. A blurred one mixes moments.
    pub(super) exact: bool,
    /// The entries, in order of path; the first one is the volume itself and has no path.
    pub(super) entries: Vec<Entry>,
    /// Paths of sockets, which are not data: whoever listens makes them anew.
    pub(super) skipped: Vec<Vec<u8>>,
}

/// One name in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its path in the volume: bytes, as Linux has it.
    pub(super) path: Vec<u8>,
    /// What it is.
    pub(super) kind: Kind,
    /// Who may do what with it, and whose it is.
    pub(super) metadata: Metadata,
}

/// What is known of an entry besides its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Time,
    /// The extended attributes that belong to users, in order of name.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File(Contents),
    /// A symbolic link, and where it leads.
    Symlink(Vec<u8>),
    /// A further name of the file that is the entry of this index, an earlier one.
    Link(usize),
    Fifo,
}

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Its length.
    pub(super) size: u64,
    /// Its blocks in order, without those that are all zero.
    pub(super) blocks: Vec<Block>,
}

/// A block that is not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Which block of its file.
    pub(super) index: u64,
    pub(super) digest: Digest,
}

impl Contents {
    /// How many blocks the file has, those of zeros counted.
    pub(super) fn n_blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// How long a block is: only the last one may be short.
    pub(super) fn length(&self, index: u64) -> u64 {
        self.size.saturating_sub(index.saturating_mul(BLOCK)).min(BLOCK)
    }

    /// Finds the digest of a block that is not all zero.
    pub(super) fn digest(&self, index: u64) -> Option<&Digest> {
        let at = self.blocks.binary_search_by_key(&index, |block| block.index);
        at.ok().map(|at| &self.blocks[at].digest)
    }

    /// How many bytes of it are not in blocks of zeros.
    pub(super) fn held(&self) -> u64 {
        self.blocks.iter().map(|block| self.length(block.index)).sum()
    }
}

impl Manifest {
    /// Names the manifest by what it says.
    pub(super) fn guid(name: &SnapshotName, encoded: &[u8]) -> SnapshotGuid {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(name.as_str().len() as u64).to_le_bytes());
        hasher.update(name.as_str().as_bytes());
        hasher.update(encoded);
        let mut guid = [0; 16];
        guid.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        SnapshotGuid(u128::from_be_bytes(guid))
    }

    /// Finds an entry by its path.
    pub(super) fn find(&self, path: &[u8]) -> Option<usize> {
        self.entries
            .binary_search_by(|entry| entry.path.as_slice().cmp(path))
            .ok()
    }

    /// Whether a path is a directory of the manifest.
    pub(super) fn has_directory(&self, path: &[u8]) -> bool {
        self.find(path)
            .is_some_and(|at| self.entries[at].kind == Kind::Directory)
    }

    /// Whether the directory that a path is in is one of the manifest, where the path comes after all that is in it so far.
    ///
    /// What is beside the last entry, or in it, is not looked for: in a directory of many files that is nearly all.
    pub(super) fn has_parent_of(&self, path: &[u8]) -> bool {
        let (parent, _) = split(path);
        let is_near = self.entries.last().is_some_and(|last| {
            (!last.path.is_empty() && split(&last.path).0 == parent)
                || (last.path == parent && last.kind == Kind::Directory)
        });
        is_near || self.has_directory(parent)
    }

    /// Returns the content of the file at a path, where that is a file and not a further name of one.
    pub(super) fn contents(&self, path: &[u8]) -> Option<&Contents> {
        match &self.entries[self.find(path)?].kind {
            Kind::File(contents) => Some(contents),
            Kind::Directory | Kind::Symlink(_) | Kind::Link(_) | Kind::Fifo => None,
        }
    }

    /// Finds the digest of a block of an entry, where that is a file and the block is not all zero.
    pub(super) fn digest(&self, entry: usize, index: u64) -> Option<&Digest> {
        match &self.entries.get(entry)?.kind {
            Kind::File(contents) => contents.digest(index),
            Kind::Directory | Kind::Symlink(_) | Kind::Link(_) | Kind::Fifo => None,
        }
    }

    /// How many bytes of data a copy holds.
    pub(super) fn held(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match &entry.kind {
                Kind::File(contents) => contents.held(),
                Kind::Directory | Kind::Symlink(_) | Kind::Link(_) | Kind::Fifo => 0,
            })
            .fold(0, u64::saturating_add)
    }

    /// Returns the manifest of what was sent: this one, but for the blocks that were found different.
    pub(super) fn as_sent(&self, difference: &Difference, torn: &Torn) -> Self {
        let mut sent = self.clone();
        for (&at, digest) in torn {
            let Some(needed) = usize::try_from(at).ok().and_then(|at| difference.blocks.get(at)) else {
                continue;
            };
            let Kind::File(contents) = &mut sent.entries[needed.entry].kind else {
                continue;
            };
            let index = needed.index;
            let found = contents.blocks.binary_search_by_key(&index, |block| block.index);
            match (found, digest) {
                (Ok(found), Some(digest)) => contents.blocks[found].digest = *digest,
                (Ok(found), None) => {
                    contents.blocks.remove(found);
                }
                (Err(place), Some(digest)) => {
                    let digest = *digest;
                    contents.blocks.insert(place, Block { index, digest });
                }
                (Err(_), None) => {}
            }
        }
        sent
    }
}

/// Blocks that were found different when they were sent, by their place in the stream; nothing for zeros.
pub(super) type Torn = BTreeMap<u64, Option<Digest>>;
