//! What two copies of a dataset have in common, by identity and never by name or time.

use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Snapshot;

/// How a copy can be brought up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Common<'a> {
    /// There is no copy yet, or nothing complete of it.
    Nothing,
    /// Both have this snapshot, it is the newest of the copy, and so an increment from it fits.
    Base(&'a Snapshot),
    /// The copy's newest snapshot is not one of the source's: an increment cannot fit.
    Diverged,
}

/// Finds what an increment from `source` to `copy` can start from.
#[must_use]
pub fn common<'a>(source: &'a Manifestation, copy: Option<&Manifestation>) -> Common<'a> {
    let Some(newest) = copy.and_then(|copy| copy.snapshots.last()) else {
        return Common::Nothing;
    };
    match source
        .snapshots
        .iter()
        .rfind(|snapshot| snapshot.guid == newest.guid)
    {
        Some(base) => Common::Base(base),
        None => Common::Diverged,
    }
}

/// Returns how much was written at the source after `base`, or everything where there is none; an estimate.
#[must_use]
pub fn written_since(source: &Manifestation, base: Option<&Snapshot>) -> ByteSize {
    let Some(base) = base else {
        return source.used;
    };
    let later = source
        .snapshots
        .iter()
        .rev()
        .take_while(|snapshot| snapshot.guid != base.guid);
    later.fold(source.unsent, |sum, snapshot| sum.plus(snapshot.written))
}

/// Returns how much is sent by way of a snapshot that holds so much: up to it, and all in all; at most, as far as it is known.
#[must_use]
pub fn by_way_of(
    source: &Manifestation,
    base: Option<&Snapshot>,
    snapshot: &Snapshot,
    held: ByteSize,
) -> (ByteSize, ByteSize) {
    let rest = written_since(source, Some(snapshot));
    let up_to_it = base.map_or(held, |base| {
        let written = written_since(source, Some(base));
        ByteSize(written.0.saturating_sub(rest.0)).min(held)
    });
    (up_to_it, up_to_it.plus(rest))
}

/// Says whether so much is little more than the whole: an eighth of it, or a mebibyte.
///
/// What was written both before and after a snapshot on the way is sent twice.
#[must_use]
pub fn is_worth_a_stop(all: ByteSize, whole: ByteSize) -> bool {
    all <= whole.plus(ByteSize((whole.0 / 8).max(1 << 20)))
}

/// Returns how much is expected to be sent after `base`, on the way to `epoch`.
///
/// How much is unsent may be an upper bound: a directory knows that a large
/// file has changed, and not how much of it. How much the last of several warm
/// rounds held is exact, and what is written until the next one is hardly
/// twice that.
#[must_use]
pub fn expected_since(source: &Manifestation, base: Option<&Snapshot>, epoch: Epoch) -> ByteSize {
    let written = written_since(source, base);
    let newest = source.snapshots.last();
    match (base, newest) {
        (Some(base), Some(newest)) if base.guid == newest.guid => {
            let is_increment = newest.name.warm_round(epoch).is_some_and(|round| round > 1);
            if is_increment {
                written.min(ByteSize(newest.written.0.saturating_mul(2)))
            } else {
                written
            }
        }
        (_, _) => written,
    }
}

/// Returns how long a round takes at least, however little is sent: at both ends, one after the other.
///
/// Where there is nothing yet it is taken to be as at the source, where the same files are.
#[must_use]
pub fn least_round(source: &Manifestation, copy: Option<&Manifestation>) -> Duration {
    let there = copy.filter(|copy| !copy.snapshots.is_empty());
    let at_copy = there.map_or_else(|| source.round(), Manifestation::round);
    source.round().saturating_add(at_copy)
}
