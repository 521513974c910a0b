//! What has to travel: the blocks of a manifest that its base does not have.

use flocker_model::DatasetId;

use super::manifest::Kind;
use super::manifest::Manifest;

/// A block that has to travel.
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

/// Everything that has to travel, in the order in which it does.
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

    /// How many blocks there are.
    pub(super) fn len(&self) -> u64 {
        self.blocks.len() as u64
    }
}

/// Returns the bytes of a dataset's id, as streams and manifests spell it.
pub(super) fn id_bytes(dataset: DatasetId) -> [u8; 16] {
    *dataset.0.as_bytes()
}
