//! How copies are made: full, by increment, cut, resumed and refused.

use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Keeps;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::VolumeHarness;
use super::steps::{
    FILE_SIZE, ID, acquire, assert_full, copy, create_full, dataset, dataset_of, fence, guid, hand_over,
    handoff, names, noise, receive, release, request_to_receive, request_to_send, role, seen, seen_of, sent,
    snapshot, whole,
};
use crate::conformance::already_so;
use crate::conformance::made;
use crate::volume::ReceiveRequest;
use crate::volume::VolumeError;

/// A copy is the same snapshot, under the same name and identity, with the same content.
pub async fn a_full_copy_carries_everything(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    assert_eq!(role(&*beta).await, Role::Replica);
    assert_eq!(guid(&*beta, "handoff-2").await, last);
    assert_eq!(seen(&*beta).await.unwrap().partial, None);
    beta.reopen().await;
    assert_eq!(guid(&*beta, "handoff-2").await, last);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// Through an increment a file appears, changes, shrinks, grows and vanishes.
pub async fn an_increment_carries_what_was_written_and_removed(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    assert_eq!(guid(&*beta, "warm-2-1").await, warm);
    let (changed, grown) = (noise("changed", FILE_SIZE), noise("grown", 2 * FILE_SIZE));
    harness.write(ID, "new", b"new").await.unwrap();
    harness.write(ID, "data/1", &changed).await.unwrap();
    harness.write(ID, "data/2", b"short").await.unwrap();
    harness.write(ID, "data/3", &grown).await.unwrap();
    harness.write(ID, "data/4", b"").await.unwrap();
    harness.remove(ID, "data/5").await.unwrap();
    hand_over(harness, &*beta, 2, Some(warm)).await;
    assert_eq!(beta.read(ID, "new").await.as_deref(), Some(b"new".as_slice()));
    assert!(beta.read(ID, "data/1").await == Some(changed));
    assert_eq!(
        beta.read(ID, "data/2").await.as_deref(),
        Some(b"short".as_slice())
    );
    assert!(beta.read(ID, "data/3").await == Some(grown));
    assert_eq!(beta.read(ID, "data/4").await.as_deref(), Some(b"".as_slice()));
    assert_eq!(beta.read(ID, "data/5").await, None);
    assert!(beta.read(ID, "data/6").await == Some(noise("data/6", FILE_SIZE)));
}

/// What both sides have is not sent again.
pub async fn an_increment_carries_only_the_difference(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    harness
        .write(ID, "data/1", &noise("changed", FILE_SIZE))
        .await
        .unwrap();
    release(harness, 2).await;
    let full = sent(harness, &request_to_send("handoff-2", None)).await.len();
    let increment = sent(harness, &request_to_send("handoff-2", Some(warm)))
        .await
        .len();
    assert!(full >= 16 * FILE_SIZE, "a full stream of {full} bytes");
    assert!(increment >= FILE_SIZE, "an increment of {increment} bytes");
    assert!(
        increment < full / 4,
        "an increment of {increment} of {full} bytes"
    );
}

/// A stream that comes again changes nothing.
pub async fn receiving_twice_is_receiving_once(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    already_so(copy(harness, &*beta, "warm-2-1", None).await);
    release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", Some(warm)).await);
    let before = seen(&*beta).await;
    already_so(copy(harness, &*beta, "handoff-2", Some(warm)).await);
    beta.reopen().await;
    already_so(copy(harness, &*beta, "handoff-2", Some(warm)).await);
    already_so(copy(harness, &*beta, "warm-2-1", None).await);
    assert_eq!(seen(&*beta).await, before);
}

/// Nothing is ever received over data that is being written.
pub async fn a_primary_refuses_to_receive(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(&*beta).await;
    made(harness.backend().create(&dataset(), Epoch::FIRST).await);
    harness.write(ID, "data/0", b"other").await.unwrap();
    release(harness, 2).await;
    let before = seen(&*beta).await;
    let refusal = copy(harness, &*beta, "handoff-2", None).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::WrongRole { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(seen(&*beta).await, before);
    assert_full(&*beta).await;
}

/// An increment fits only onto the snapshot that it starts from.
pub async fn a_stream_from_another_base_is_refused_and_changes_nothing(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    let gamma = harness.second().await;
    create_full(harness).await;
    for (name, file) in [("warm-2-1", "one"), ("warm-2-2", "two")] {
        harness.write(ID, file, b"1").await.unwrap();
        made(harness.backend().snapshot(ID, &snapshot(name)).await);
    }
    let first = guid(harness, "warm-2-1").await;
    let second = guid(harness, "warm-2-2").await;
    harness.write(ID, "three", b"1").await.unwrap();
    release(harness, 2).await;
    // It has the first and not the second; the other has none at all.
    made(copy(harness, &*beta, "warm-2-1", None).await);
    let before = seen(&*beta).await;
    let refusal = copy(harness, &*beta, "handoff-2", Some(second))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::Diverged { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(seen(&*beta).await, before);
    copy(harness, &*gamma, "handoff-2", Some(second))
        .await
        .unwrap_err();
    assert!(seen(&*gamma).await.is_none_or(|seen| seen.snapshots.is_empty()));
    // The first is here, but no longer the newest.
    made(copy(harness, &*beta, "warm-2-2", Some(first)).await);
    let before = seen(&*beta).await;
    let refusal = copy(harness, &*beta, "handoff-2", Some(first)).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::Diverged { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(seen(&*beta).await, before);
    // The request names the right base, the stream starts from another.
    let bytes = sent(harness, &request_to_send("handoff-2", Some(first))).await;
    receive(&*beta, "handoff-2", Some(second), whole(bytes))
        .await
        .unwrap_err();
    assert_eq!(names(&*beta).await, ["warm-2-1", "warm-2-2"]);
    made(copy(harness, &*beta, "handoff-2", Some(second)).await);
}

/// Where a copy is, a full one does not replace it.
pub async fn a_full_stream_never_overwrites_a_copy(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    made(copy(harness, &*beta, "warm-2-1", None).await);
    release(harness, 2).await;
    let before = seen(&*beta).await;
    let refusal = copy(harness, &*beta, "handoff-2", None).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::Diverged { dataset: ID, .. }),
        "{refusal}"
    );
    assert_eq!(seen(&*beta).await, before);
}

/// What arrives must be what was announced.
pub async fn a_stream_of_another_snapshot_is_refused(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("warm-2-1", None)).await;
    let refusal = receive(&*beta, "handoff-2", None, whole(bytes))
        .await
        .unwrap_err();
    assert!(
        matches!(refusal, VolumeError::Stream { dataset: ID, .. }),
        "{refusal}"
    );
    assert!(seen(&*beta).await.is_none_or(|seen| seen.snapshots.is_empty()));
    made(copy(harness, &*beta, "handoff-2", None).await);
}

/// A stream that was meant for another dataset does not land in this one.
pub async fn a_stream_of_another_dataset_is_refused(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("handoff-2", None)).await;
    let other = DatasetId(Uuid::from_u128(7));
    let request = ReceiveRequest {
        dataset: dataset_of(other),
        ..request_to_receive("handoff-2", None)
    };
    beta.backend().receive(&request, whole(bytes)).await.unwrap_err();
    assert!(
        seen_of(&*beta, other)
            .await
            .is_none_or(|seen| seen.snapshots.is_empty())
    );
    assert_eq!(seen(&*beta).await, None);
}

/// A name that is here already is not the snapshot that is here already.
pub async fn a_snapshot_of_the_same_name_with_other_content_is_refused(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    let gamma = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    made(gamma.backend().create(&dataset(), Epoch::FIRST).await);
    gamma.write(ID, "data/0", b"other").await.unwrap();
    assert_ne!(release(&*gamma, 2).await, last);
    made(copy(harness, &*beta, "handoff-2", None).await);
    copy(&*gamma, &*beta, "handoff-2", None).await.unwrap_err();
    assert_eq!(guid(&*beta, "handoff-2").await, last);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// Who was primary once and gets a newer copy is a replica that still knows which epochs are past.
pub async fn a_released_copy_that_receives_becomes_a_replica_and_keeps_its_fence(
    harness: &dyn VolumeHarness,
) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = hand_over(harness, &*beta, 4, None).await;
    beta.write(ID, "new", b"1").await.unwrap();
    made(beta.backend().snapshot(ID, &snapshot("warm-5-1")).await);
    made(copy(&*beta, harness, "warm-5-1", Some(last)).await);
    for _ in 0..2 {
        assert_eq!(
            (role(harness).await, fence(harness).await),
            (Role::Replica, Epoch(4))
        );
        harness.reopen().await;
    }
    let warm = guid(harness, "warm-5-1").await;
    let refusal = acquire(harness, 4, "warm-5-1", warm).await.unwrap_err();
    assert!(
        matches!(refusal, VolumeError::Fenced { dataset: ID, .. }),
        "{refusal}"
    );
}

/// Each way costs one increment, and every write is there at its end.
pub async fn a_dataset_moves_there_and_back(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let first = hand_over(harness, &*beta, 2, None).await;
    beta.write(ID, "at beta", b"2").await.unwrap();
    let second = hand_over(&*beta, harness, 3, Some(first)).await;
    harness.write(ID, "at alpha", b"3").await.unwrap();
    harness.remove(ID, "data/7").await.unwrap();
    made(harness.backend().release(&handoff(4, "beta", "handoff-4")).await);
    let mut increment = harness
        .backend()
        .send(&request_to_send("handoff-4", Some(second)))
        .await
        .unwrap();
    let mut bytes = Vec::new();
    increment.read_to_end(&mut bytes).await.unwrap();
    assert!(
        bytes.len() < 4 * FILE_SIZE,
        "an increment of {} bytes",
        bytes.len()
    );
    made(receive(&*beta, "handoff-4", Some(second), whole(bytes)).await);
    made(acquire(&*beta, 4, "handoff-4", guid(harness, "handoff-4").await).await);
    assert_eq!(role(&*beta).await, Role::Primary { epoch: Epoch(4) });
    assert_eq!(beta.read(ID, "at beta").await.as_deref(), Some(b"2".as_slice()));
    assert_eq!(beta.read(ID, "at alpha").await.as_deref(), Some(b"3".as_slice()));
    assert_eq!(beta.read(ID, "data/7").await, None);
    assert!(beta.read(ID, "data/8").await == Some(noise("data/8", FILE_SIZE)));
    assert_eq!(names(&*beta).await, names(harness).await);
}

/// What comes along with a first copy is what an increment to a third node starts from.
pub async fn a_dataset_goes_round_by_increments(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    let gamma = harness.second().await;
    let nodes: [&dyn VolumeHarness; 3] = [harness, &*beta, &*gamma];
    for node in nodes {
        if !node.bring_earlier().await {
            return;
        }
    }
    create_full(harness).await;
    let mut bases = vec![hand_over(harness, &*beta, 2, None).await];
    for turn in 1..9_u64 {
        let at = usize::try_from(turn).unwrap();
        let (from, to) = (nodes[at % 3], nodes[(at + 1) % 3]);
        from.write(ID, &format!("turn {turn}"), b"written").await.unwrap();
        let (epoch, last) = (turn + 2, format!("handoff-{}", turn + 2));
        let base = at.checked_sub(2).map(|before| bases[before]);
        bases.push(release(from, epoch).await);
        let bytes = sent(from, &request_to_send(&last, base)).await;
        assert!(
            base.is_none() || bytes.len() < 4 * FILE_SIZE,
            "{} bytes",
            bytes.len()
        );
        made(receive(to, &last, base, whole(bytes)).await);
        to.reopen().await;
        assert_eq!(names(to).await.last(), Some(&last));
        made(acquire(to, epoch, &last, bases[at]).await);
        assert_full(to).await;
        for turn in 1..=turn {
            let found = to.read(ID, &format!("turn {turn}")).await;
            assert_eq!(found.as_deref(), Some(b"written".as_slice()));
        }
        let told = seen(to).await.unwrap();
        let since = told
            .snapshots
            .iter()
            .rev()
            .take(if base.is_none() { 1 } else { 2 });
        let since: u64 = since.map(|snapshot| snapshot.written.0).sum();
        assert!(since < FILE_SIZE as u64, "{told:#?}");
    }
}

/// Who keeps what older snapshots held sends them, and by way of them a copy on any node stays good for an increment.
pub async fn a_dataset_goes_round_by_way_of_older_snapshots(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    let gamma = harness.second().await;
    if harness.backend().inventory().await.unwrap().keeps != Keeps::Content {
        return;
    }
    let nodes: [&dyn VolumeHarness; 3] = [harness, &*beta, &*gamma];
    create_full(harness).await;
    let mut bases = vec![hand_over(harness, &*beta, 2, None).await];
    for turn in 1..9_u64 {
        let at = usize::try_from(turn).unwrap();
        let (from, to) = (nodes[at % 3], nodes[(at + 1) % 3]);
        let changed = noise(&format!("turn {turn}"), FILE_SIZE);
        from.write(ID, &format!("data/{turn}"), &changed).await.unwrap();
        // The third node has nothing newer than what it let go last.
        let older = format!("handoff-{}", turn + 1);
        let base = at.checked_sub(2).map(|before| bases[before]);
        let bytes = sent(from, &request_to_send(&older, base)).await;
        assert!(
            base.is_none() || bytes.len() < 3 * FILE_SIZE,
            "{} bytes",
            bytes.len()
        );
        made(receive(to, &older, base, whole(bytes)).await);
        to.reopen().await;
        assert_eq!(guid(to, &older).await, bases[at - 1]);
        let (epoch, last) = (turn + 2, format!("handoff-{}", turn + 2));
        bases.push(release(from, epoch).await);
        let bytes = sent(from, &request_to_send(&last, Some(bases[at - 1]))).await;
        assert!(bytes.len() < 3 * FILE_SIZE, "{} bytes", bytes.len());
        made(receive(to, &last, Some(bases[at - 1]), whole(bytes)).await);
        made(acquire(to, epoch, &last, bases[at]).await);
        for file in 0..16 {
            let last_turn = (1..=turn).find(|turn| *turn == file);
            let seed = last_turn.map_or(format!("data/{file}"), |turn| format!("turn {turn}"));
            let found = to.read(ID, &format!("data/{file}")).await;
            assert!(found == Some(noise(&seed, FILE_SIZE)), "turn {turn}, file {file}");
        }
        assert_eq!(harness.backend().inventory().await.unwrap().trash, []);
    }
}

/// Data is sent by who wrote it last.
pub async fn a_replica_is_never_sent(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    release(harness, 2).await;
    made(copy(harness, &*beta, "handoff-2", None).await);
    let Err(refusal) = beta.backend().send(&request_to_send("handoff-2", None)).await else {
        panic!("it was sent");
    };
    assert!(
        matches!(refusal, VolumeError::WrongRole { dataset: ID, .. }),
        "{refusal}"
    );
}

/// Neither a dataset nor a snapshot nor a base that is not here is made up.
pub async fn what_is_not_here_is_not_sent(harness: &dyn VolumeHarness) {
    let absent = request_to_send("warm-2-1", None);
    let Err(refusal) = harness.backend().send(&absent).await else {
        panic!("it was sent");
    };
    assert!(
        matches!(refusal, VolumeError::NotHere { dataset: ID }),
        "{refusal}"
    );
    create_full(harness).await;
    let Err(refusal) = harness.backend().send(&absent).await else {
        panic!("it was sent");
    };
    assert!(
        matches!(refusal, VolumeError::NoSnapshot { dataset: ID, .. }),
        "{refusal}"
    );
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let from_nowhere = request_to_send("warm-2-1", Some(SnapshotGuid(1)));
    assert!(harness.backend().send(&from_nowhere).await.is_err());
}
