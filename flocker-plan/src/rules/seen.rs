//! What is seen of a dataset, over the whole cluster. The two great dangers come first.

use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::Trashed;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use crate::view::CopyView;
use crate::view::View;

/// What is seen of a dataset, over the whole cluster.
#[derive(Clone, Debug)]
pub(super) enum Seen<'a> {
    /// More than one node may believe that it alone writes.
    Split { owners: Vec<(NodeName, Epoch)> },
    /// One node writes. A seen owner is authoritative: nobody can acquire before it releases.
    Primary { on: u32, what: &'a Manifestation },
    /// The last writer has let go, and no new one is seen.
    Released {
        by: u32,
        what: &'a Manifestation,
        epoch: Epoch,
        to: &'a NodeName,
        last: &'a SnapshotName,
        guid: SnapshotGuid,
    },
    /// No owner is seen, and a silent node may be it, or one of which what it has cannot be read.
    OwnerHidden,
    /// All nodes are seen; there are copies, and no owner.
    CopiesOnly { nodes: Vec<NodeName> },
    /// All nodes are seen, and none has a trace of it.
    Nowhere,
}

/// Works out what is seen, in a fixed order: danger, owner, release, silence, copies, nothing.
pub(super) fn see<'a>(view: &View<'a>, dataset: DatasetId) -> Seen<'a> {
    let copies = view.copies_of(dataset);
    let mut primaries = copies.iter().filter_map(|copy| match copy.what.role {
        Role::Primary { epoch } => Some((copy, epoch)),
        Role::Released { .. } | Role::Replica => None,
    });
    let newest_release = copies
        .iter()
        .filter_map(|copy| match &copy.what.role {
            Role::Released {
                epoch,
                to,
                last,
                guid,
            } => Some((copy, *epoch, to, last, *guid)),
            Role::Primary { .. } | Role::Replica => None,
        })
        .max_by_key(|(_, epoch, ..)| {
            if is_planted(Bug::OldestReleaseCounts) {
                Epoch(u64::MAX - epoch.0)
            } else {
                *epoch
            }
        });
    let split = |others: &[(&CopyView<'a>, Epoch)]| Seen::Split {
        owners: others
            .iter()
            .map(|(copy, epoch)| (view.name(copy.node), *epoch))
            .collect(),
    };
    match ((primaries.next(), primaries.next()), newest_release) {
        ((Some(first), Some(second)), _) => {
            let all: Vec<_> = [first, second].into_iter().chain(primaries).collect();
            split(&all)
        }
        // A release for a newer epoch than the owner's comes from an ownership that this owner has lost.
        ((Some((primary, own)), None), Some((release, epoch, ..))) if epoch > own => {
            split(&[(primary, own), (release, epoch)])
        }
        ((Some((primary, _)), None), _) => Seen::Primary {
            on: primary.node,
            what: primary.what,
        },
        // A copy knows of a newer ownership: its owner is not seen, and what was let go before is old.
        ((None, _), Some((_, epoch, ..))) if newest_epoch(view, dataset) > epoch => {
            without_owner(view, dataset, copies)
        }
        ((None, _), Some((release, epoch, to, last, guid))) => {
            let same = copies.iter().filter(
                |copy| matches!(&copy.what.role, Role::Released { epoch: other, .. } if *other == epoch),
            );
            let same: Vec<(&CopyView<'a>, Epoch)> = same.map(|copy| (copy, epoch)).collect();
            if same.len() > 1 {
                return split(&same);
            }
            let taker = view.find(to).and_then(|node| view.node(node).seen);
            let threw_away = taker.is_some_and(|taker| has_thrown_away(taker, dataset, release.what, epoch));
            let hidden = view.may_hide(dataset);
            // What it has may be what it was to take.
            let taken_unseen = view
                .find(to)
                .is_some_and(|taker| view.unreadable_on(dataset).any(|node| node == taker));
            if threw_away
                || taken_unseen
                || (hidden && taker.is_some_and(|taker| has_more(taker, dataset, release.what)))
            {
                return without_owner(view, dataset, copies);
            }
            Seen::Released {
                by: release.node,
                what: release.what,
                epoch,
                to,
                last,
                guid,
            }
        }
        ((None, _), None) => without_owner(view, dataset, copies),
    }
}

/// No owner is seen, and no release that counts.
fn without_owner<'a>(view: &View<'a>, dataset: DatasetId, copies: &[CopyView<'a>]) -> Seen<'a> {
    if view.may_hide(dataset) && !is_planted(Bug::SilenceIsAbsence) {
        Seen::OwnerHidden
    } else if copies.is_empty() {
        Seen::Nowhere
    } else {
        Seen::CopiesOnly {
            nodes: copies.iter().map(|copy| view.name(copy.node)).collect(),
        }
    }
}

/// Says whether the node that a release was made to has thrown a copy away since: it may have been the owner's.
///
/// One that was set aside before the release is older than it, and one that
/// was only a copy when it went was never written. Where the trash was emptied
/// since, what the node still knows of the ownership says that it was there.
fn has_thrown_away(taker: &NodeState, dataset: DatasetId, released: &Manifestation, epoch: Epoch) -> bool {
    if taker.datasets.contains_key(&dataset) {
        return false;
    }
    let trash = || taker.trash.iter().filter(|trash| trash.dataset == dataset);
    let was_copy = |trash: &Trashed| trash.role == Some(Role::Replica);
    let knew = taker.fences.get(&dataset).is_some_and(|fence| *fence >= epoch);
    trash().any(|trash| !was_copy(trash) && trash.age < released.age) || (knew && !trash().any(was_copy))
}

/// Says whether the node that a release was made to has data that did not come from it.
fn has_more(taker: &NodeState, dataset: DatasetId, released: &Manifestation) -> bool {
    let copy = taker.datasets.get(&dataset);
    let newest = copy.and_then(|copy| copy.snapshots.last());
    let mut sent = released.snapshots.iter().map(|snapshot| snapshot.guid);
    newest.is_some_and(|newest| !sent.any(|sent| sent == newest.guid))
}

/// Returns the ownership after the newest that any seen node knows of.
pub(super) fn next_epoch(view: &View<'_>, dataset: DatasetId) -> Epoch {
    if is_planted(Bug::EpochStays) {
        return newest_epoch(view, dataset);
    }
    newest_epoch(view, dataset).next()
}

/// Returns the newest ownership that any seen node knows of, whether it has a copy by now or not.
pub(super) fn newest_epoch(view: &View<'_>, dataset: DatasetId) -> Epoch {
    let fences = view.copies_of(dataset).iter().map(|copy| match copy.what.role {
        Role::Primary { epoch } | Role::Released { epoch, .. } => epoch.max(copy.what.fence),
        Role::Replica => copy.what.fence,
    });
    fences.chain(view.fence_left(dataset)).max().unwrap_or_default()
}
