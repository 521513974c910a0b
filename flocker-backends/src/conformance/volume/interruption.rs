//! Copies that are cut, damaged, dropped and gone on with.

use flocker_model::Role;
use flocker_model::SnapshotGuid;

use super::VolumeHarness;
use super::steps::{
    FILE_SIZE, ID, acquire, assert_full, copy, create_full, cut, guid, names, noise, receive, release,
    request_to_send, seen, sent, size, snapshot, stuck, whole,
};
use crate::change::Change;
use crate::conformance::made;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

/// A cut costs what was on its way, never what was complete.
pub async fn a_cut_stream_leaves_the_last_complete_snapshot_and_a_partial(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    harness
        .write(ID, "new", &noise("new", 8 * FILE_SIZE))
        .await
        .unwrap();
    release(harness, 2).await;
    let before = seen(&*beta).await.unwrap().snapshots;
    let bytes = sent(harness, &request_to_send("handoff-2", Some(warm))).await;
    let half = bytes.len() / 2;
    let failure = receive(&*beta, "handoff-2", Some(warm), cut(bytes, half))
        .await
        .unwrap_err();
    assert!(
        matches!(failure, VolumeError::Cut { dataset: ID, .. }),
        "{failure}"
    );
    for _ in 0..2 {
        let seen = seen(&*beta).await.unwrap();
        assert_eq!(seen.snapshots, before);
        assert_eq!(seen.role, Role::Replica);
        let partial = seen.partial.unwrap();
        assert_eq!(partial.snapshot, snapshot("handoff-2"));
        assert!(partial.received <= size(half), "{}", partial.received);
        beta.reopen().await;
    }
    acquire(&*beta, 2, "warm-2-1", SnapshotGuid(1)).await.unwrap_err();
}

/// Wherever a stream ends before its end, it does not count, and the next one does.
pub async fn a_stream_that_ends_early_never_counts(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let last = release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("handoff-2", None)).await;
    for kept in [0, 1, bytes.len() / 3, bytes.len() - 1] {
        let beta = harness.second().await;
        let beginning = whole(bytes[..kept].to_vec());
        receive(&*beta, "handoff-2", None, beginning).await.unwrap_err();
        assert!(
            seen(&*beta).await.is_none_or(|seen| seen.snapshots.is_empty()),
            "cut after {kept}"
        );
        made(receive(&*beta, "handoff-2", None, whole(bytes.clone())).await);
        made(acquire(&*beta, 2, "handoff-2", last).await);
        assert_full(&*beta).await;
    }
}

/// A copy that was cut is completed with the rest, not begun anew.
pub async fn a_cut_copy_goes_on_where_it_stopped(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    let mut request = request_to_send("handoff-2", None);
    let bytes = sent(harness, &request).await;
    let full = bytes.len();
    receive(&*beta, "handoff-2", None, cut(bytes, full / 2))
        .await
        .unwrap_err();
    beta.reopen().await;
    let partial = seen(&*beta).await.unwrap().partial.unwrap();
    assert!(
        partial.received >= size(full / 4),
        "only {} were kept",
        partial.received
    );
    request.resume = Some(partial.token);
    // Cut once more, so that what a resumed stream brings is kept too.
    let rest = sent(harness, &request).await;
    assert!(
        rest.len() < full * 3 / 4 + FILE_SIZE,
        "{} of {full} bytes were sent again",
        rest.len()
    );
    let half = rest.len() / 2;
    receive(&*beta, "handoff-2", None, cut(rest, half))
        .await
        .unwrap_err();
    let partial = seen(&*beta).await.unwrap().partial.unwrap();
    assert!(
        partial.received >= size(full / 2),
        "only {} were kept",
        partial.received
    );
    request.resume = Some(partial.token);
    let rest = sent(harness, &request).await;
    assert!(
        rest.len() < full / 2 + FILE_SIZE,
        "{} of {full} bytes were sent again",
        rest.len()
    );
    made(receive(&*beta, "handoff-2", None, whole(rest)).await);
    assert_eq!(seen(&*beta).await.unwrap().partial, None);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// What the token of another copy says is not followed: the stream starts at the beginning.
pub async fn a_token_that_does_not_fit_is_ignored(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let bytes = sent(harness, &request_to_send("warm-2-1", None)).await;
    let half = bytes.len() / 2;
    receive(&*beta, "warm-2-1", None, cut(bytes, half))
        .await
        .unwrap_err();
    let token = seen(&*beta).await.unwrap().partial.unwrap().token;
    release(harness, 2).await;
    for (n, token) in ["", "nonsense", "1-2-3", &token].into_iter().enumerate() {
        let gamma = harness.second().await;
        let request = SendRequest {
            resume: Some(token.into()),
            ..request_to_send("handoff-2", None)
        };
        let bytes = sent(harness, &request).await;
        assert!(bytes.len() >= 16 * FILE_SIZE, "token {n} was followed");
        made(receive(&*gamma, "handoff-2", None, whole(bytes)).await);
    }
}

/// The rest of a stream counts after its own beginning, all of it, and after nothing else.
pub async fn the_rest_of_a_copy_is_refused_without_its_beginning(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let other = sent(harness, &request_to_send("warm-2-1", None)).await;
    let last = release(harness, 2).await;
    let mut request = request_to_send("handoff-2", None);
    let bytes = sent(harness, &request).await;
    let full = bytes.len();
    receive(&*beta, "handoff-2", None, cut(bytes.clone(), full * 3 / 4))
        .await
        .unwrap_err();
    request.resume = Some(seen(&*beta).await.unwrap().partial.unwrap().token);
    let rest = sent(harness, &request).await;
    for (name, beginning) in [
        ("handoff-2", &bytes[..0]),
        ("handoff-2", &bytes[..full / 4]),
        ("warm-2-1", &other[..other.len() - 1]),
    ] {
        let gamma = harness.second().await;
        let beginning = whole(beginning.to_vec());
        receive(&*gamma, name, None, beginning).await.unwrap_err();
        let refused = receive(&*gamma, "handoff-2", None, whole(rest.clone())).await;
        refused.unwrap_err();
        assert!(seen(&*gamma).await.is_none_or(|seen| seen.snapshots.is_empty()));
        made(receive(&*gamma, "handoff-2", None, whole(bytes.clone())).await);
    }
    made(receive(&*beta, "handoff-2", None, whole(rest)).await);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// A stream may go on from less than has arrived by now: what comes twice is taken once, or is refused and nothing is lost.
pub async fn a_copy_goes_on_from_an_older_token_too(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    let last = release(harness, 2).await;
    let mut request = request_to_send("handoff-2", None);
    let bytes = sent(harness, &request).await;
    let full = bytes.len();
    receive(&*beta, "handoff-2", None, cut(bytes, full / 2))
        .await
        .unwrap_err();
    let older = seen(&*beta).await.unwrap().partial.unwrap();
    request.resume = Some(older.token);
    let rest = sent(harness, &request).await;
    let half = rest.len() / 2;
    receive(&*beta, "handoff-2", None, cut(rest.clone(), half))
        .await
        .unwrap_err();
    let newer = seen(&*beta).await.unwrap().partial.unwrap();
    assert!(newer.received > older.received);
    match receive(&*beta, "handoff-2", None, whole(rest)).await {
        Ok(change) => assert_eq!(change, Change::Made),
        // It cannot tell what came already from what is new.
        Err(VolumeError::Stream { .. }) => {
            assert_eq!(seen(&*beta).await.unwrap().partial.as_deref(), Some(&*newer));
            request.resume = Some(newer.token);
            let rest = sent(harness, &request).await;
            made(receive(&*beta, "handoff-2", None, whole(rest)).await);
        }
        Err(failure) => panic!("{failure}"),
    }
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// A stream that changed on its way never becomes a snapshot.
pub async fn a_damaged_stream_is_refused(harness: &dyn VolumeHarness) {
    create_full(harness).await;
    let last = release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("handoff-2", None)).await;
    for position in [bytes.len() / 3, bytes.len() / 2, bytes.len() * 9 / 10] {
        let beta = harness.second().await;
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x20;
        receive(&*beta, "handoff-2", None, whole(damaged))
            .await
            .unwrap_err();
        assert!(seen(&*beta).await.is_none_or(|seen| seen.snapshots.is_empty()));
        made(receive(&*beta, "handoff-2", None, whole(bytes.clone())).await);
        made(acquire(&*beta, 2, "handoff-2", last).await);
        assert_full(&*beta).await;
    }
}

/// Two streams of one snapshot do not mix, whichever of them makes it.
pub async fn two_receives_at_once_make_one_snapshot(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    made(copy(harness, &*beta, "warm-2-1", None).await);
    let warm = guid(harness, "warm-2-1").await;
    harness
        .write(ID, "new", &noise("new", 8 * FILE_SIZE))
        .await
        .unwrap();
    let last = release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("handoff-2", Some(warm))).await;
    let one = receive(&*beta, "handoff-2", Some(warm), whole(bytes.clone()));
    let two = receive(&*beta, "handoff-2", Some(warm), whole(bytes.clone()));
    let (one, two) = tokio::join!(one, two);
    let n_made = [&one, &two]
        .into_iter()
        .filter(|answer| matches!(answer, Ok(Change::Made)))
        .count();
    assert!(n_made <= 1, "{one:?} {two:?}");
    match receive(&*beta, "handoff-2", Some(warm), whole(bytes)).await {
        Ok(Change::AlreadySo) => {}
        Ok(Change::Made) => assert_eq!(n_made, 0, "{one:?} {two:?}"),
        Err(failure) => panic!("{failure}, after {one:?} and {two:?}"),
    }
    assert_eq!(names(&*beta).await, ["warm-2-1", "handoff-2"]);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
    assert_eq!(beta.read(ID, "new").await, Some(noise("new", 8 * FILE_SIZE)));
}

/// Two full copies into nothing do not mix either, and nor do a copy and the beginning of another.
pub async fn two_full_copies_at_once_make_one_dataset(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let early = sent(harness, &request_to_send("warm-2-1", None)).await;
    let last = release(harness, 2).await;
    let late = sent(harness, &request_to_send("handoff-2", None)).await;
    let half = early.len() / 2;
    let cut_short = receive(&*beta, "warm-2-1", None, cut(early, half));
    let whole_one = receive(&*beta, "handoff-2", None, whole(late.clone()));
    let (cut_short, whole_one) = tokio::join!(cut_short, whole_one);
    cut_short.unwrap_err();
    if whole_one.is_err() {
        made(receive(&*beta, "handoff-2", None, whole(late)).await);
    }
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_full(&*beta).await;
}

/// A receiver that was dropped has what it had; the copy is gone on with or begun anew.
pub async fn a_dropped_receive_can_be_done_again(harness: &dyn VolumeHarness) {
    let beta = harness.second().await;
    create_full(harness).await;
    made(harness.backend().snapshot(ID, &snapshot("warm-2-1")).await);
    let warm = guid(harness, "warm-2-1").await;
    made(copy(harness, &*beta, "warm-2-1", None).await);
    harness.write(ID, "new", &noise("new", FILE_SIZE)).await.unwrap();
    let last = release(harness, 2).await;
    let bytes = sent(harness, &request_to_send("handoff-2", Some(warm))).await;
    let (stream, reached) = stuck(bytes.clone(), bytes.len() / 2);
    tokio::select! {
        answer = receive(&*beta, "handoff-2", Some(warm), stream) => panic!("{answer:?}"),
        () = reached.notified() => {}
    }
    assert_eq!(names(&*beta).await, ["warm-2-1"]);
    made(receive(&*beta, "handoff-2", Some(warm), whole(bytes)).await);
    made(acquire(&*beta, 2, "handoff-2", last).await);
    assert_eq!(beta.read(ID, "new").await, Some(noise("new", FILE_SIZE)));
}
