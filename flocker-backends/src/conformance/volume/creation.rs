//! How a dataset begins, and that it is never hidden by an empty one.

use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Role;

use super::VolumeHarness;
use super::steps::{
    ID, assert_full, copy, create_full, cut, dataset, receive, release, request_to_send, role, seen, sent,
    snapshot, whole,
};
use crate::conformance::already_so;
use crate::conformance::drop_after;
use crate::conformance::made;
use crate::volume::VolumeError;

/// A new dataset is here as primary of its epoch, with nothing in it.
pub async fn a_created_dataset_is_primary_and_empty(harness: &dyn VolumeHarness) {
    made(harness.backend().create(&dataset(), Epoch::FIRST).await);
    let seen = seen(harness).await.unwrap();
    assert_eq!(seen.role, Role::Primary { epoch: Epoch::FIRST });
    assert_eq!(seen.fence, Epoch::FIRST);
    assert_eq!(seen.snapshots, []);
    assert_eq!(seen.partial, None);
    harness.write(ID, "a", b"1").await.unwrap();
    assert_eq!(harness.read(ID, "a").await.as_deref(), Some(b"1".as_slice()));
}

/// The second creation changes nothing, not even what was written meanwhile.
pub async fn creating_twice_is_creating_once(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    already_so(harness.backend().create(&dataset(), Epoch::FIRST).await);
    assert_full(harness).await;
    harness.reopen().await;
    already_so(harness.backend().create(&dataset(), Epoch::FIRST).await);
    assert_full(harness).await;
}

/// A primary of another epoch is never replaced by an empty one.
pub async fn a_primary_is_never_created_again(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    refuse_to_create(harness, Epoch(2)).await;
    assert_full(harness).await;
}

/// A released copy is never replaced by an empty primary.
pub async fn a_released_copy_is_never_hidden_by_a_new_volume(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    release(harness, 2).await;
    for epoch in [1, 2, 3] {
        refuse_to_create(harness, Epoch(epoch)).await;
    }
    assert_full(harness).await;
}

/// A replica is never replaced by an empty primary.
pub async fn a_replica_is_never_hidden_by_a_new_volume(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    for epoch in [1, 2, 3] {
        refuse_to_create(&*beta, Epoch(epoch)).await;
    }
}

/// Even the beginning of a copy is never replaced by an empty primary.
pub async fn the_beginning_of_a_copy_is_never_hidden_by_a_new_volume(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("handoff-2", None)).await;
    let half = bytes.len() / 2;
    receive(&*beta, "handoff-2", None, cut(bytes, half))
        .await
        .unwrap_err();
    assert!(seen(&*beta).await.unwrap().partial.is_some());
    refuse_to_create(&*beta, Epoch(3)).await;
}

async fn refuse_to_create(harness: &dyn VolumeHarness, epoch: Epoch) {
    let before = seen(harness).await;
    let refusal = harness.backend().create(&dataset(), epoch).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::AlreadyHere { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(seen(harness).await, before);
}

/// What is here is seen from the volumes themselves: no container has to exist.
pub async fn a_dataset_is_listed_after_a_restart(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let before = seen(harness).await;
    harness.reopen().await;
    assert_eq!(seen(harness).await, before);
    assert_full(harness).await;
}

/// The data is at the same place whoever owns it.
pub async fn a_path_does_not_depend_on_the_owner(harness: &dyn VolumeHarness) {
    let path = harness.backend().path(ID);
    create_full(harness).await;
    assert_eq!(harness.backend().path(ID), path);
    release(harness, 2).await;
    assert_eq!(harness.backend().path(ID), path);
    harness.reopen().await;
    assert_eq!(harness.backend().path(ID), path);
}

/// However far a creation has come when it is dropped, the next one completes it.
pub async fn a_dropped_create_leaves_nothing_or_the_whole(harness: &dyn VolumeHarness) {
    for n_steps in 0..6 {
        let node = harness.second().await;
        let backend = node.backend();
        drop(drop_after(n_steps, backend.create(&dataset(), Epoch::FIRST)).await);
        if let Some(seen) = seen(&*node).await {
            assert_eq!(seen.role, Role::Primary { epoch: Epoch::FIRST });
        }
        backend.create(&dataset(), Epoch::FIRST).await.unwrap();
        node.reopen().await;
        assert_eq!(role(&*node).await, Role::Primary { epoch: Epoch::FIRST });
        node.write(ID, "a", b"1").await.unwrap();
    }
}

/// Who asks for one dataset is told what who asks for all of them is told of it.
pub async fn one_dataset_is_found_as_it_is_listed(harness: &dyn VolumeHarness) {
    async fn compare(harness: &dyn VolumeHarness, is_here: bool) {
        let found = harness.backend().find(ID).await.unwrap();
        let listed = seen(harness).await;
        assert_eq!(found.is_some(), is_here);
        let what = |seen: Manifestation| {
            let snapshots: Vec<_> = seen
                .snapshots
                .into_iter()
                .map(|taken| (taken.name, taken.guid))
                .collect();
            (seen.role, seen.fence, seen.maximum_size, seen.partial, snapshots)
        };
        assert_eq!(found.map(what), listed.map(what));
    }
    let beta = harness.second().await;
    compare(harness, false).await;
    create_full(harness).await;
    compare(harness, true).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let bytes = sent(harness, &request_to_send("warm-2-1", None)).await;
    let half = bytes.len() / 2;
    receive(&*beta, "warm-2-1", None, cut(bytes.clone(), half))
        .await
        .unwrap_err();
    compare(&*beta, true).await;
    made(receive(&*beta, "warm-2-1", None, whole(bytes)).await);
    compare(&*beta, true).await;
    release(harness, 2).await;
    compare(harness, true).await;
    made(harness.backend().destroy(ID).await);
    compare(harness, false).await;
}
