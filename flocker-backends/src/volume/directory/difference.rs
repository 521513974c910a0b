//! What a manifest has that its base does not have, and which of it the base has in another place.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use flocker_model::DatasetId;

use super::manifest::Digest;
use super::manifest::Kind;
use super::manifest::Manifest;

/// A block that has to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needed {
    /// Which entry of the manifest it belongs to.
    pub(super) entry: usize,
    /// Which block of that file.
    pub(super) index: u64,
    /// How long it is.
    pub(super) length: usize,
    /// How many bytes of blocks come before it.
    pub(super) offset: u64,
}

/// Everything that has to arrive, in the order in which it does.
///
/// Both ends work it out for themselves from the same two manifests, so that
/// "the seventh block" means the same to both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) blocks: Vec<Needed>,
    /// How many bytes they are together.
    pub(super) total: u64,
}

impl Difference {
    /// Compares a manifest with its base; without one, everything but zeros has to travel.
    pub(super) fn between(base: Option<&Manifest>, manifest: &Manifest) -> Self {
        let mut difference = Self::default();
        for (entry, found) in manifest.entries.iter().enumerate() {
            let Kind::File(contents) = &found.kind else {
                continue;
            };
            let old = base.and_then(|base| base.contents(&found.path));
            let mut old_blocks = old.map_or(&[][..], |old| &old.blocks).iter().peekable();
            for block in &contents.blocks {
                while old_blocks.next_if(|old| old.index < block.index).is_some() {}
                if old_blocks.peek().is_some_and(|old| *old == block) {
                    continue;
                }
                let Ok(length) = usize::try_from(contents.length(block.index)) else {
                    continue;
                };
                difference.blocks.push(Needed {
                    entry,
                    index: block.index,
                    length,
                    offset: difference.total,
                });
                difference.total = difference.total.saturating_add(length as u64);
            }
        }
        difference
    }

    /// How many bytes the first so many blocks are.
    pub(super) fn bytes_before(&self, at: u64) -> u64 {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.blocks.get(at))
            .map_or(self.total, |needed| needed.offset)
    }

    /// How many bytes travel, where what the base has elsewhere does not.
    pub(super) fn travelling(&self, elsewhere: &Elsewhere, manifest: &Manifest) -> u64 {
        let travels = |needed: &&Needed| {
            let digest = manifest.digest(needed.entry, needed.index);
            digest.is_none_or(|digest| elsewhere.place(digest).is_none())
        };
        let blocks = self.blocks.iter().filter(travels);
        blocks.map(|needed| needed.length as u64).sum()
    }

    /// How many blocks there are.
    pub(super) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }
}

/// Where a base has blocks that have to arrive: in files of another name, or elsewhere in the same one.
///
/// The receiver takes them from its own copy, so that a file that was renamed does not travel again. Both ends
/// work it out for themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elsewhere {
    /// Which entry of the base, and which block of that file.
    places: BTreeMap<Digest, (usize, u64)>,
}

impl Elsewhere {
    /// Looks in the base for the blocks of a difference.
    pub(super) fn of(difference: &Difference, base: Option<&Manifest>, manifest: &Manifest) -> Self {
        let mut elsewhere = Self::default();
        let Some(base) = base else { return elsewhere };
        // Only what is looked for is kept: a base may have millions of blocks.
        let mut wanted: Vec<&Digest> = difference
            .blocks
            .iter()
            .filter_map(|needed| manifest.digest(needed.entry, needed.index))
            .collect();
        wanted.sort_unstable();
        if wanted.is_empty() {
            return elsewhere;
        }
        for (entry, found) in base.entries.iter().enumerate() {
            let Kind::File(contents) = &found.kind else {
                continue;
            };
            for block in &contents.blocks {
                if wanted.binary_search(&&block.digest).is_ok()
                    && let Entry::Vacant(place) = elsewhere.places.entry(block.digest)
                {
                    place.insert((entry, block.index));
                }
            }
        }
        elsewhere
    }

    /// Returns the entry of the base, and the block of it, that has this content.
    pub(super) fn place(&self, digest: &Digest) -> Option<(usize, u64)> {
        self.places.get(digest).copied()
    }
}

/// Returns how many bytes of a manifest have to travel to who has the base.
pub(super) fn travelling(base: Option<&Manifest>, manifest: &Manifest) -> u64 {
    let difference = Difference::between(base, manifest);
    let elsewhere = Elsewhere::of(&difference, base, manifest);
    difference.travelling(&elsewhere, manifest)
}

/// Returns the bytes of a dataset's id, as streams and manifests spell it.
pub(super) fn id_bytes(dataset: DatasetId) -> [u8; 16] {
    *dataset.0.as_bytes()
}
