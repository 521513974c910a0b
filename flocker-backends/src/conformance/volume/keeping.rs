//! What is kept, how much of it, and what is let go of.

use flocker_model::ByteSize;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Role;
use flocker_model::Trashed;

use super::VolumeHarness;
use super::steps::{
    FILE_SIZE, ID, N_FILES, acquire, assert_full, copy, create_full, cut, dataset, fence, guid, names, noise,
    receive, release, request_to_send, role, seen, sent, size, snapshot,
};
use crate::conformance::already_so;
use crate::conformance::made;
use crate::volume::Reclaim;
use crate::volume::VolumeError;

/// A snapshot of a name that exists is not taken again.
pub async fn taking_a_snapshot_twice_is_taking_it_once(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let taken = seen(harness).await.unwrap().snapshots;
    harness.write(ID, "late", b"1").await.unwrap();
    already_so(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    harness.reopen().await;
    already_so(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    assert_eq!(seen(harness).await.unwrap().snapshots, taken);
}

/// The order of snapshots is that in which they were taken, whatever their names, and no two are the same.
pub async fn snapshots_are_listed_oldest_first(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let taken = ["warm-9-1", "warm-10-1", "a", "z", "b"];
    for name in taken {
        made(harness.backend().snapshot(ID, &snapshot(name)).await);
    }
    assert_eq!(names(harness).await, taken);
    harness.reopen().await;
    assert_eq!(names(harness).await, taken);
    let mut guids: Vec<_> = seen(harness)
        .await
        .unwrap()
        .snapshots
        .iter()
        .map(|s| s.guid)
        .collect();
    guids.sort_unstable();
    guids.dedup();
    assert_eq!(guids.len(), taken.len());
}

/// What is said to have been written between two snapshots holds after one between them went.
pub async fn what_was_written_before_a_dropped_snapshot_counts_for_the_next(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let take = async |name: &str, file: &str| {
        harness.write(ID, file, &noise(file, FILE_SIZE)).await.unwrap();
        made(harness.backend().snapshot(ID, &snapshot(name)).await);
    };
    take("warm-2-1", "first").await;
    take("warm-2-2", "second").await;
    take("warm-2-3", "third").await;
    let reclaim = Reclaim::Snapshots {
        dataset: ID,
        names: vec![snapshot("warm-2-2")],
    };
    made(harness.backend().reclaim(&reclaim).await);
    let told = seen(harness).await.unwrap();
    let newest = told.snapshots.last().unwrap();
    assert!(newest.written.0 >= 2 * FILE_SIZE as u64, "{told:#?}");
}

/// How much there is and how much is new is told well enough to forecast the next copy.
pub async fn what_was_written_since_the_newest_snapshot_is_told(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let seen_full = seen(harness).await.unwrap();
    assert!(
        seen_full.used >= size(N_FILES * FILE_SIZE / 2),
        "{}",
        seen_full.used
    );
    assert!(
        seen_full.unsent >= size(N_FILES * FILE_SIZE / 2),
        "{}",
        seen_full.unsent
    );
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let quiet = seen(harness).await.unwrap();
    assert!(quiet.unsent < size(FILE_SIZE * 2), "{}", quiet.unsent);
    assert!(quiet.snapshots[0].written >= size(N_FILES * FILE_SIZE / 2));
    harness
        .write(ID, "new", &noise("new", 4 * FILE_SIZE))
        .await
        .unwrap();
    let busy = seen(harness).await.unwrap();
    assert!(busy.unsent >= size(2 * FILE_SIZE), "{}", busy.unsent);
    assert!(busy.unsent < size(N_FILES * FILE_SIZE), "{}", busy.unsent);
}

/// A size is set, set again, and taken away.
pub async fn a_dataset_is_resized(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    for to in [Some(ByteSize(256 << 20)), Some(ByteSize(128 << 20)), None] {
        made(harness.backend().resize(ID, to).await);
        already_so(harness.backend().resize(ID, to).await);
        assert_eq!(seen(harness).await.unwrap().maximum_size, to);
        harness.reopen().await;
        assert_eq!(seen(harness).await.unwrap().maximum_size, to);
        already_so(harness.backend().resize(ID, to).await);
    }
    assert_full(harness).await;
}

/// What is there has room.
pub async fn a_dataset_is_never_resized_below_what_it_holds(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    made(harness.backend().resize(ID, Some(ByteSize(256 << 20))).await);
    let refusal = harness
        .backend()
        .resize(ID, Some(size(FILE_SIZE)))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::NoSpace { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(
        seen(harness).await.unwrap().maximum_size,
        Some(ByteSize(256 << 20))
    );
    assert_full(harness).await;
}

/// A write beyond the maximum size fails, and what was there stays; where the backend can do so.
pub async fn a_dataset_never_holds_more_than_it_may(harness: &dyn VolumeHarness) {
    if !harness.enforces_sizes() {
        return;
    }
    create_full(harness).await;
    made(harness.backend().resize(ID, Some(ByteSize(16 << 20))).await);
    let too_much = noise("too much", 32 << 20);
    harness.write(ID, "big", &too_much).await.unwrap_err();
    assert_full(harness).await;
    harness.remove(ID, "big").await.ok();
    made(harness.backend().resize(ID, None).await);
    harness.write(ID, "big", &too_much).await.unwrap();
}

/// How much more fits is told, or never told; and what did fit was told to be free.
pub async fn what_fits_was_said_to_be_free(harness: &dyn VolumeHarness) {
    let before = free(harness).await;
    create_full(harness).await;
    let after = free(harness).await;
    assert_eq!(before.is_some(), after.is_some(), "{before:?} {after:?}");
    if let Some(before) = before {
        assert!(before >= size(N_FILES * FILE_SIZE), "{before}");
    }
}

/// A copy that does not fit is refused before it fills what is left, and leaves no snapshot; where that can be tried out.
pub async fn a_copy_that_does_not_fit_is_refused(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    let room = size(N_FILES * FILE_SIZE / 2);
    if !beta.leave_free(Some(room)).await {
        return;
    }
    let told = free(&*beta).await.unwrap();
    assert!(told <= room, "{told} of {room}");
    create_full(harness).await;
    let last = release(harness, 2).await;
    let refusal = copy(harness, &*beta, "handoff-2", None).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::NoSpace { dataset: ID, .. }),
        "{refusal}"
    );
    assert!(seen(&*beta).await.is_none_or(|seen| seen.snapshots.is_empty()));
    assert!(beta.leave_free(None).await);
    made(copy(harness, &*beta, "handoff-2", None).await);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

async fn free(harness: &dyn VolumeHarness) -> Option<ByteSize> {
    harness.backend().inventory().await.unwrap().free
}

/// What is not here has no size.
pub async fn what_is_not_here_is_not_resized(harness: &dyn VolumeHarness) {
    let refusal = harness.backend().resize(ID, None).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::NotHere { dataset: ID }),
        "{refusal}"
    );
    assert_eq!(seen(harness).await, None);
}

async fn trash(harness: &dyn VolumeHarness) -> Vec<Trashed> {
    harness.backend().inventory().await.unwrap().trash
}

/// Destroys the copy and returns the piece of trash that it became.
async fn destroy(harness: &dyn VolumeHarness) -> Trashed {
    let before = trash(harness).await;
    made(harness.backend().destroy(ID).await);
    let mut new = trash(harness).await;
    new.retain(|piece| before.iter().all(|known| known.entry != piece.entry));
    assert_eq!(new.len(), 1, "{new:?}");
    new.remove(0)
}

/// What is destroyed is out of sight and not lost.
pub async fn a_destroyed_copy_is_in_the_trash(harness: &dyn VolumeHarness) {
    already_so(harness.backend().destroy(ID).await);
    assert_eq!(trash(harness).await, []);
    create_full(harness).await;
    let piece = destroy(harness).await;
    assert_eq!(piece.dataset, ID);
    assert_eq!(piece.role, Some(Role::Primary { epoch: Epoch::FIRST }));
    assert!(piece.used >= size(N_FILES * FILE_SIZE / 2), "{}", piece.used);
    assert_eq!(seen(harness).await, None);
    already_so(harness.backend().destroy(ID).await);
    harness.reopen().await;
    assert_eq!(seen(harness).await, None);
    assert_eq!(trash(harness).await.len(), 1);
    assert_eq!(trash(harness).await[0].entry, piece.entry);
}

/// Trash that is brought back is what it was, in every respect but estimates.
pub async fn a_destroyed_primary_comes_back_as_it_was(harness: &dyn VolumeHarness) {
    // A file system may write something of its own when it is unmounted.
    let exact = |seen: Option<Manifestation>| {
        seen.map(|seen| Manifestation {
            unsent: ByteSize(0),
            findings: None,
            ..seen
        })
    };
    create_full(harness).await;
    made(harness.backend().resize(ID, Some(ByteSize(256 << 20))).await);
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let before = seen(harness).await;
    let piece = destroy(harness).await;
    harness.reopen().await;
    made(harness.backend().restore(&piece.entry).await);
    assert_eq!(exact(seen(harness).await), exact(before));
    assert_eq!(trash(harness).await, []);
    assert_full(harness).await;
    harness.write(ID, "new", b"1").await.unwrap();
}

/// A fence comes back with the copy that it belongs to.
pub async fn a_destroyed_replica_keeps_its_fence(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    made(beta.backend().renounce(ID, Epoch(3)).await);
    let before = seen(&*beta).await;
    let piece = destroy(&*beta).await;
    made(beta.backend().restore(&piece.entry).await);
    assert_eq!(seen(&*beta).await, before);
    acquire(&*beta, 3, "handoff-2", last).await.unwrap_err();
    made(acquire(&*beta, 4, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// Trash comes back only where nothing is in its place.
pub async fn trash_never_replaces_a_copy(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let piece = destroy(harness).await;
    made(harness.backend().create(&dataset(), Epoch(2)).await);
    harness.write(ID, "data/0", b"new").await.unwrap();
    let refusal = harness.backend().restore(&piece.entry).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::AlreadyHere { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(role(harness).await, Role::Primary { epoch: Epoch(2) });
    assert_eq!(
        harness.read(ID, "data/0").await.as_deref(),
        Some(b"new".as_slice())
    );
    assert_eq!(trash(harness).await.len(), 1);
}

/// A dataset that was destroyed can be had again, empty, and the old one stays in the trash; as often as one likes.
pub async fn a_destroyed_dataset_can_be_created_again(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    destroy(harness).await;
    made(harness.backend().create(&dataset(), Epoch(2)).await);
    assert_eq!(harness.read(ID, "data/0").await, None);
    destroy(harness).await;
    made(harness.backend().create(&dataset(), Epoch(3)).await);
    assert_eq!(trash(harness).await.len(), 2);
}

/// Only what is in the trash is brought back, whatever it is called.
pub async fn there_is_no_such_trash(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let before = seen(harness).await;
    for entry in ["", "nothing", "..", "../..", "/", "a/b", &ID.to_string()] {
        let refusal = harness.backend().restore(entry).await.unwrap_err();
        assert!(
            matches!(refusal, VolumeError::NoTrash { .. }),
            "`{entry}`: {refusal}"
        );
        let entry = entry.to_owned();
        already_so(harness.backend().reclaim(&Reclaim::Trash { entry }).await);
    }
    assert_eq!(seen(harness).await, before);
    assert_full(harness).await;
}

/// Trash that was reclaimed does not come back.
pub async fn reclaimed_trash_is_gone_for_ever(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let entry = destroy(harness).await.entry;
    let reclaim = Reclaim::Trash { entry: entry.clone() };
    made(harness.backend().reclaim(&reclaim).await);
    already_so(harness.backend().reclaim(&reclaim).await);
    assert_eq!(trash(harness).await, []);
    let refusal = harness.backend().restore(&entry).await.unwrap_err();
    assert!(matches!(refusal, VolumeError::NoTrash { .. }), "{refusal}");
    harness.reopen().await;
    assert_eq!(trash(harness).await, []);
}

async fn empty_trash(harness: &dyn VolumeHarness, piece: Trashed) {
    let entry = piece.entry;
    made(harness.backend().reclaim(&Reclaim::Trash { entry }).await);
}

/// Returns what is remembered of a dataset that is not here.
async fn fence_left(harness: &dyn VolumeHarness) -> Option<Epoch> {
    let inventory = harness.backend().inventory().await.unwrap();
    inventory.fences.get(&ID).copied()
}

/// No ownership that a node has known is ever taken again there, whatever was destroyed and emptied since.
pub async fn a_fence_outlives_its_copy_and_its_trash(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    release(harness, 5).await;
    assert_eq!(fence_left(harness).await, None);
    let piece = destroy(harness).await;
    assert!(
        matches!(piece.role, Some(Role::Released { epoch: Epoch(5), .. })),
        "{:?}",
        piece.role
    );
    empty_trash(harness, piece).await;
    harness.reopen().await;
    assert_eq!(fence_left(harness).await, Some(Epoch(5)));
    for epoch in [Epoch::FIRST, Epoch(5)] {
        let refusal = harness.backend().create(&dataset(), epoch).await.unwrap_err();
        assert!(
            matches!(refusal, VolumeError::Fenced { fence: Epoch(5), .. }),
            "{refusal}"
        );
    }
    made(harness.backend().create(&dataset(), Epoch(6)).await);
    assert_eq!(fence(harness).await, Epoch(6));
    assert_eq!(fence_left(harness).await, None);
}

/// A copy that is sent again to where one was destroyed is bound by what the first one knew.
pub async fn a_copy_that_comes_anew_begins_with_the_old_fence(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    made(beta.backend().renounce(ID, Epoch(3)).await);
    let piece = destroy(&*beta).await;
    empty_trash(&*beta, piece).await;
    beta.reopen().await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    assert_eq!(fence(&*beta).await, Epoch(3));
    for epoch in [2, 3] {
        acquire(&*beta, epoch, "handoff-2", last).await.unwrap_err();
    }
    made(acquire(&*beta, 4, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// Of two owners one after the other, only the newer one comes back as it was.
pub async fn an_owner_that_was_followed_never_comes_back_from_the_trash(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let older = destroy(harness).await;
    made(harness.backend().create(&dataset(), Epoch(2)).await);
    let newer = destroy(harness).await;
    harness.reopen().await;
    let refusal = harness.backend().restore(&older.entry).await.unwrap_err();
    assert!(
        matches!(
            refusal,
            VolumeError::Fenced {
                epoch: Epoch(1),
                fence: Epoch(2),
                ..
            }
        ),
        "{refusal}"
    );
    assert_eq!(trash(harness).await.len(), 2);
    made(harness.backend().restore(&newer.entry).await);
    assert_eq!(role(harness).await, Role::Primary { epoch: Epoch(2) });
}

fn reclaim_snapshots(names: &[&str]) -> Reclaim {
    Reclaim::Snapshots {
        dataset: ID,
        names: names.iter().map(|name| snapshot(name)).collect(),
    }
}

/// Snapshots that are named go, the others and the data stay.
pub async fn reclaimed_snapshots_are_gone(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    for name in ["warm-2-1", "warm-2-2", "warm-2-3"] {
        made(harness.backend().snapshot(ID, &snapshot(name)).await);
    }
    let reclaim = reclaim_snapshots(&["warm-2-1"]);
    made(harness.backend().reclaim(&reclaim).await);
    already_so(harness.backend().reclaim(&reclaim).await);
    already_so(
        harness
            .backend()
            .reclaim(&reclaim_snapshots(&["never-taken"]))
            .await,
    );
    assert_eq!(names(harness).await, ["warm-2-2", "warm-2-3"]);
    harness.reopen().await;
    assert_eq!(names(harness).await, ["warm-2-2", "warm-2-3"]);
    assert_full(harness).await;
    already_so(beta.backend().reclaim(&reclaim).await);
}

/// The one snapshot that the next copy or the next acquisition starts from stays, on either side.
pub async fn the_newest_complete_snapshot_is_never_reclaimed(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    let last = release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", Some(warm)).await);
    for node in [harness, &*beta] {
        // Refused, or only the other one is dropped: both keep the promise.
        drop(node.backend().reclaim(&reclaim_snapshots(&["handoff-2"])).await);
        drop(
            node.backend()
                .reclaim(&reclaim_snapshots(&["warm-2-1", "handoff-2"]))
                .await,
        );
        node.reopen().await;
        assert_eq!(guid(node, "handoff-2").await, last);
    }
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// The beginning of a copy is dropped, what was complete stays, and the copy can begin anew.
pub async fn a_reclaimed_partial_is_gone_and_the_copy_can_begin_again(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let reclaim = Reclaim::Partial { dataset: ID };
    already_so(beta.backend().reclaim(&reclaim).await);
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    for (name, base) in [("warm-2-1", None), ("handoff-2", Some(warm))] {
        if name == "handoff-2" {
            harness
                .write(ID, "new", &noise("new", 8 * FILE_SIZE))
                .await
                .unwrap();
            release(harness, 2).await;
        }
        let bytes = sent(harness, &request_to_send(name, base)).await;
        let half = bytes.len() / 2;
        receive(&*beta, name, base, cut(bytes, half)).await.unwrap_err();
        assert!(seen(&*beta).await.unwrap().partial.is_some());
        made(beta.backend().reclaim(&reclaim).await);
        already_so(beta.backend().reclaim(&reclaim).await);
        beta.reopen().await;
        assert!(seen(&*beta).await.is_none_or(|seen| seen.partial.is_none()));
        made(copy(harness, &*beta, name, base).await);
    }
    let last = guid(harness, "handoff-2").await;
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}
