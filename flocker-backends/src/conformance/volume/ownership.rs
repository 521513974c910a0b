//! Who may write: creation, release, acquisition and the fence.

use flocker_model::Epoch;
use flocker_model::Role;
use flocker_model::SnapshotGuid;

use super::VolumeHarness;
use super::steps::{
    ID, acquire, assert_full, copy, create_full, fence, guid, hand_over, handoff, names, release, role, seen,
    snapshot,
};
use crate::conformance::already_so;
use crate::conformance::drop_after;
use crate::conformance::made;
use crate::volume::VolumeError;

/// A primary does not let go for its own epoch or an older one.
pub async fn only_a_newer_epoch_is_released_for(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    hand_over(harness, &*beta, 5, None).await;
    for epoch in [4, 5] {
        let before = seen(&*beta).await;
        let refused = beta
            .backend()
            .release(&handoff(epoch, "alpha", "handoff-x"))
            .await;
        refused.unwrap_err();
        assert_eq!(seen(&*beta).await, before);
    }
}

/// What is written after a release is refused or comes to nothing: the last snapshot is the last word.
pub async fn a_released_dataset_is_never_written(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let guid = release(harness, 2).await;
    let written = harness.write(ID, "data/0", b"too late").await;
    let copied = copy(harness, &*beta, "handoff-2", None).await;
    // Whoever is not stopped by a read-only volume is root; then a copy that
    // differs from its snapshot must not pass for it.
    if written.is_ok() && copied.is_err() {
        return;
    }
    made(copied);
    made(acquire(&*beta, 2, "handoff-2", guid).await);
    assert_full(&*beta).await;
}

/// All that a hand-off consists of is durable: its epoch, its taker, its last snapshot and the fence.
pub async fn a_release_outlives_a_restart(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let guid = release(harness, 2).await;
    harness.reopen().await;
    let seen = seen(harness).await.unwrap();
    let released = Role::Released {
        epoch: Epoch(2),
        to: "beta".parse().unwrap(),
        last: snapshot("handoff-2"),
        guid,
    };
    assert_eq!(seen.role, released);
    assert_eq!(seen.fence, Epoch(2));
    assert_eq!(seen.snapshots.last().map(|s| s.guid), Some(guid));
    assert_full(harness).await;
}

/// The same hand-off again changes nothing.
pub async fn releasing_twice_is_releasing_once(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    release(harness, 2).await;
    let before = seen(harness).await;
    already_so(harness.backend().release(&handoff(2, "beta", "handoff-2")).await);
    harness.reopen().await;
    already_so(harness.backend().release(&handoff(2, "beta", "handoff-2")).await);
    assert_eq!(seen(harness).await, before);
}

/// Whoever changes their mind about the taker lets go for a newer epoch, with the same last snapshot.
pub async fn a_released_copy_is_released_again_for_another_taker(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let guid = release(harness, 2).await;
    made(harness.backend().release(&handoff(3, "gamma", "handoff-2")).await);
    let again = Role::Released {
        epoch: Epoch(3),
        to: "gamma".parse().unwrap(),
        last: snapshot("handoff-2"),
        guid,
    };
    assert_eq!(role(harness).await, again);
    harness.reopen().await;
    assert_eq!(role(harness).await, again);
    assert_eq!(fence(harness).await, Epoch(3));
    already_so(harness.backend().release(&handoff(3, "gamma", "handoff-2")).await);
}

/// Two nodes are never told that they may take one epoch, nor an older one than was promised last.
pub async fn an_epoch_is_never_promised_twice(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    release(harness, 3).await;
    let before = seen(harness).await;
    for (epoch, to) in [(3, "gamma"), (2, "beta"), (2, "gamma"), (1, "beta")] {
        let refused = harness.backend().release(&handoff(epoch, to, "handoff-3")).await;
        refused.unwrap_err();
        assert_eq!(seen(harness).await, before, "epoch {epoch} for {to}");
    }
}

/// There is one last snapshot, whatever a later release calls it.
pub async fn a_new_release_never_makes_another_last_snapshot(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let guid = release(harness, 2).await;
    // Refused, or taken to mean the snapshot that is there: both keep the promise.
    drop(harness.backend().release(&handoff(3, "beta", "handoff-3")).await);
    let Role::Released {
        last, guid: found, ..
    } = role(harness).await
    else {
        panic!("it is not released any more");
    };
    assert_eq!((last, found), (snapshot("handoff-2"), guid));
    assert_eq!(names(harness).await, ["handoff-2"]);
}

/// Neither a released copy nor a replica takes snapshots: they have nothing new to keep.
pub async fn only_a_primary_takes_snapshots(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    for node in [harness, &*beta] {
        let refusal = node
            .backend()
            .snapshot(ID, &snapshot("warm-3-1"))
            .await
            .unwrap_err();
        assert!(
            matches!(refusal, VolumeError::WrongRole { dataset: ID, .. }),
            "{refusal}"
        );
        assert_eq!(names(node).await, ["handoff-2"]);
    }
}

/// Whoever has nothing can let nothing go, take nothing and snapshot nothing; and a replica lets nothing go.
pub async fn a_release_of_what_is_not_here_is_refused(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    let refusal = beta
        .backend()
        .release(&handoff(2, "alpha", "handoff-2"))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::NotHere { dataset: ID }),
        "{refusal}"
    );
    let refusal = beta
        .backend()
        .snapshot(ID, &snapshot("warm-2-1"))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::NotHere { dataset: ID }),
        "{refusal}"
    );
    let refusal = acquire(&*beta, 2, "handoff-2", SnapshotGuid(1))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::NotHere { dataset: ID }),
        "{refusal}"
    );
    assert_eq!(seen(&*beta).await, None);
    create_full(harness).await;
    release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    let refusal = beta
        .backend()
        .release(&handoff(3, "alpha", "handoff-2"))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::WrongRole { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(role(&*beta).await, Role::Replica);
}

/// A node never goes back to an ownership that it knows to be past or promised to another.
pub async fn an_epoch_at_or_below_the_fence_is_never_taken(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let guid = release(harness, 3).await;
    for epoch in [1, 2, 3] {
        let refusal = acquire(harness, epoch, "handoff-3", guid).await.unwrap_err();
        assert!(
            matches!(
                refusal,
                VolumeError::Fenced {
                    dataset: ID,
                    fence: Epoch(3),
                    ..
                }
            ),
            "{refusal}"
        );
        harness.reopen().await;
    }
    assert!(matches!(
        role(harness).await,
        Role::Released { epoch: Epoch(3), .. }
    ));
}

/// A copy that holds more than the named snapshot, or does not hold it, is never gone on from.
pub async fn only_the_newest_snapshot_is_acquired(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    harness.write(ID, "late", b"acknowledged").await.unwrap();
    let last = release(harness, 2).await;
    acquire(&*beta, 2, "handoff-2", last).await.unwrap_err();
    assert_eq!(role(&*beta).await, Role::Replica);
    made(copy(harness, &*beta, "handoff-2", Some(warm)).await);
    acquire(&*beta, 2, "warm-2-1", warm).await.unwrap_err();
    assert_eq!(role(&*beta).await, Role::Replica);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_eq!(
        beta.read(ID, "late").await.as_deref(),
        Some(b"acknowledged".as_slice())
    );
}

/// The name of a snapshot proves nothing; its identity does.
pub async fn a_snapshot_of_another_identity_is_never_acquired(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    let other = SnapshotGuid(last.0.wrapping_add(1));
    let refusal = acquire(&*beta, 2, "handoff-2", other).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::Diverged { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(role(&*beta).await, Role::Replica);
}

/// Where nobody could know the identity beforehand, the newest snapshot here has to have the name.
pub async fn a_snapshot_may_be_known_by_its_name_alone(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    acquire(&*beta, 2, "handoff-3", None).await.unwrap_err();
    assert_eq!(role(&*beta).await, Role::Replica);
    made(acquire(&*beta, 2, "handoff-2", None).await);
    assert_eq!(role(&*beta).await, Role::Primary { epoch: Epoch(2) });
    assert_full(&*beta).await;
}

/// The same acquisition again changes nothing, not even what was written meanwhile.
pub async fn acquiring_twice_is_acquiring_once(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = hand_over(harness, &*beta, 2, None).await;
    beta.write(ID, "new", b"1").await.unwrap();
    already_so(acquire(&*beta, 2, "handoff-2", last).await);
    assert_eq!(role(&*beta).await, Role::Primary { epoch: Epoch(2) });
    assert_eq!(beta.read(ID, "new").await.as_deref(), Some(b"1".as_slice()));
}

/// Who was made primary is primary after a restart.
pub async fn an_acquisition_outlives_a_restart(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    hand_over(harness, &*beta, 2, None).await;
    beta.reopen().await;
    assert_eq!(role(&*beta).await, Role::Primary { epoch: Epoch(2) });
    assert_eq!(fence(&*beta).await, Epoch(2));
    assert_full(&*beta).await;
    beta.write(ID, "new", b"1").await.unwrap();
}

/// A hand-off that was called off ends where it began, one epoch later.
pub async fn a_released_copy_is_taken_back_with_a_newer_epoch(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(acquire(harness, 3, "handoff-2", last).await);
    assert_eq!(role(harness).await, Role::Primary { epoch: Epoch(3) });
    assert_full(harness).await;
    harness.write(ID, "data/0", b"new").await.unwrap();
    assert_eq!(
        harness.read(ID, "data/0").await.as_deref(),
        Some(b"new".as_slice())
    );
}

/// What a node has renounced it never takes, not even after a restart.
pub async fn a_renounced_epoch_is_never_taken(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    made(beta.backend().renounce(ID, Epoch(4)).await);
    already_so(beta.backend().renounce(ID, Epoch(4)).await);
    already_so(beta.backend().renounce(ID, Epoch(3)).await);
    for epoch in [2, 3, 4] {
        beta.reopen().await;
        let refusal = acquire(&*beta, epoch, "handoff-2", last).await.unwrap_err();
        assert!(
            matches!(
                refusal,
                VolumeError::Fenced {
                    dataset: ID,
                    fence: Epoch(4),
                    ..
                }
            ),
            "{refusal}"
        );
    }
    assert_eq!(
        (role(&*beta).await, fence(&*beta).await),
        (Role::Replica, Epoch(4))
    );
    made(acquire(&*beta, 5, "handoff-2", last).await);
}

/// A primary has its epoch; it cannot renounce what it has.
pub async fn a_primary_refuses_to_renounce(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    for epoch in [1, 2] {
        let refusal = harness.backend().renounce(ID, Epoch(epoch)).await.unwrap_err();
        assert!(
            matches!(refusal, VolumeError::WrongRole { dataset: ID, .. }),
            "{refusal}"
        );
    }
    assert_eq!(fence(harness).await, Epoch::FIRST);
}

/// A node with nothing of a dataset has nothing to renounce, and gets no trace of it.
pub async fn renouncing_leaves_no_trace_where_nothing_is(harness: &dyn VolumeHarness) {
    already_so(harness.backend().renounce(ID, Epoch(4)).await);
    assert_eq!(seen(harness).await, None);
}

/// A snapshot that was taken while the application wrote is a base for the next one and nothing else.
pub async fn a_blurred_snapshot_is_never_acquired(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    if !harness.take_blurred(ID, &snapshot("warm-2-1")).await {
        return;
    }
    let blurred = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    acquire(&*beta, 2, "warm-2-1", blurred).await.unwrap_err();
    beta.reopen().await;
    acquire(&*beta, 2, "warm-2-1", blurred).await.unwrap_err();
    assert_eq!(role(&*beta).await, Role::Replica);
    hand_over(harness, &*beta, 2, Some(blurred)).await;
}

/// However far a release has come when it is dropped, the copy has one of two roles, and the next one completes it.
pub async fn a_dropped_release_leaves_it_primary_or_released(harness: &dyn VolumeHarness) {
    for n_steps in 0..6 {
        let node = harness.second().await;
        create_full(&*node).await;
        let backend = node.backend();
        let handoff = handoff(2, "beta", "handoff-2");
        drop(drop_after(n_steps, backend.release(&handoff)).await);
        match role(&*node).await {
            Role::Primary { epoch } => assert_eq!(epoch, Epoch::FIRST),
            Role::Released { epoch, .. } => assert_eq!(epoch, Epoch(2)),
            Role::Replica => panic!("it became a replica"),
        }
        backend.release(&handoff).await.unwrap();
        node.reopen().await;
        assert!(matches!(
            role(&*node).await,
            Role::Released { epoch: Epoch(2), .. }
        ));
        assert_eq!(names(&*node).await, ["handoff-2"]);
        assert_full(&*node).await;
    }
}

/// However far an acquisition has come when it is dropped, the copy has one of two roles, and the next one completes it.
pub async fn a_dropped_acquire_leaves_it_as_before_or_primary(harness: &dyn VolumeHarness) {
    for n_steps in 0..6 {
        let node = harness.second().await;
        create_full(&*node).await;
        let last = release(&*node, 2).await;
        drop(drop_after(n_steps, acquire(&*node, 3, "handoff-2", last)).await);
        match role(&*node).await {
            Role::Primary { epoch } => assert_eq!(epoch, Epoch(3)),
            Role::Released { epoch, .. } => assert_eq!(epoch, Epoch(2)),
            Role::Replica => panic!("it became a replica"),
        }
        acquire(&*node, 3, "handoff-2", last).await.unwrap();
        node.reopen().await;
        assert_eq!(role(&*node).await, Role::Primary { epoch: Epoch(3) });
        assert_full(&*node).await;
    }
}
