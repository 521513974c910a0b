//! What a pool keeps of a copy that was cut: it is gone on with, it is never a copy, and it goes when it is of no use.
//!
//! Where the tool cannot keep it, what is kept beside the datasets shows the same from without.

use std::io::Cursor;

use flocker_backends::Acquisition;
use flocker_backends::process::Program;
use flocker_model::ByteSize;
use flocker_model::Manifestation;
use flocker_model::PartialReceive;

use super::*;

/// Large enough that what is held back, and what was on its way, is little of it.
const LARGE: usize = 6 << 20;

/// How long the tool may take for something of that size.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// How long what stands before the first chunk of a stream is: it says where the stream begins.
const HEADER: usize = 180;

/// Says whether the tool keeps in the pool what has arrived.
async fn keeps_partial() -> bool {
    let usage = zfs(&["receive"]).await;
    String::from_utf8_lossy(&usage.stderr).contains("receive -A ")
}

fn noise(seed: u8, n_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; n_bytes];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

async fn filled() -> Parent {
    let parent = Parent::new().await;
    create(&parent).await;
    parent.write(ID, "large", &noise(1, LARGE)).await.unwrap();
    parent
}

fn request(snapshot: &str, base: Option<SnapshotGuid>, resume: Option<String>) -> SendRequest {
    SendRequest {
        resume,
        ..send_request(snapshot, base)
    }
}

async fn sent(from: &Parent, request: &SendRequest) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stream = from.backend().send(request).await.unwrap();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

async fn receive(
    to: &Parent,
    snapshot: &str,
    base: Option<SnapshotGuid>,
    bytes: &[u8],
) -> Result<Change, VolumeError> {
    let request = ReceiveRequest {
        dataset: dataset(),
        snapshot: name(snapshot),
        base,
    };
    let stream = Box::pin(Cursor::new(bytes.to_vec()));
    to.backend().receive(&request, stream).await
}

/// Sends three quarters of a snapshot.
async fn cut(from: &Parent, to: &Parent, snapshot: &str, base: Option<SnapshotGuid>) -> Vec<u8> {
    let bytes = sent(from, &request(snapshot, base, to.backend().takes())).await;
    let cut = receive(to, snapshot, base, &bytes[..bytes.len() * 3 / 4]).await;
    let cut = cut.unwrap_err();
    assert!(matches!(cut, VolumeError::Cut { .. }), "{cut:?}");
    bytes
}

async fn seen(parent: &Parent) -> Option<Manifestation> {
    let mut inventory = parent.backend().inventory().await.unwrap();
    let seen = inventory.datasets.remove(&ID);
    let found = parent.backend().find(ID).await.unwrap();
    assert_eq!(
        found.as_ref().map(|found| &found.partial),
        seen.as_ref().map(|seen| &seen.partial)
    );
    seen
}

async fn partial(parent: &Parent) -> Option<PartialReceive> {
    seen(parent).await?.partial.map(|partial| *partial)
}

/// What the pool says that it has kept in a filesystem; nothing where it can keep nothing.
pub(crate) async fn pooled(filesystem: &str) -> Option<String> {
    if !keeps_partial().await {
        return None;
    }
    let token = zfs_says(&["get", "-H", "-o", "value", "receive_resume_token", filesystem]).await;
    Some(token.trim().to_owned()).filter(|token| token != "-")
}

/// The first snapshot at both, and more that was written since.
async fn both_have_one(from: &Parent, to: &Parent) -> SnapshotGuid {
    from.backend().snapshot(ID, &name("warm-2-1")).await.unwrap();
    send(from, to, "warm-2-1", None).await.unwrap();
    from.write(ID, "more", &noise(2, LARGE / 2)).await.unwrap();
    release(from).await;
    seen(from).await.unwrap().snapshots[0].guid
}

fn acquisition(from: &str, guid: SnapshotGuid) -> Acquisition {
    Acquisition {
        dataset: ID,
        epoch: Epoch(2),
        from: name(from),
        guid: Some(guid),
    }
}

#[test]
fn a_large_copy_that_was_cut_goes_on_in_the_pool_and_nothing_is_kept_beside_it() {
    run(async {
        let (alpha, beta) = (filled().await, Parent::new().await);
        release(&alpha).await;
        let all = cut(&alpha, &beta, "handoff-2", None).await;
        beta.reopen().await;
        let told = partial(&beta).await.unwrap();
        let rest = request("handoff-2", None, Some(told.token));
        let size = alpha.backend().size_to_send(&rest).await.unwrap();
        let bytes = sent(&alpha, &rest).await;
        if keeps_partial().await {
            // Without the last chunk and the records that it was in the midst of.
            assert!(
                bytes.len() < all.len() * 2 / 5,
                "{} of {} were sent again",
                bytes.len(),
                all.len()
            );
            assert!(told.received.0 > all.len() as u64 / 2, "{}", told.received);
            let beside = beta.options.mounts.join(".incoming").join(ID.to_string());
            assert!(beside.join("note").exists() && !beside.join("stream").exists());
            let ByteSize(size) = size.unwrap();
            let is_close = size.abs_diff(bytes.len() as u64) < bytes.len() as u64 / 10;
            assert!(is_close, "{size} was told, {} were sent", bytes.len());
        } else {
            assert!(bytes.len() < all.len());
            assert_eq!(size, None);
        }
        receive(&beta, "handoff-2", None, &bytes).await.unwrap();
        let seen = seen(&beta).await.unwrap();
        assert_eq!(seen.partial, None);
        let acquisition = acquisition("handoff-2", seen.snapshots[0].guid);
        beta.backend().acquire(&acquisition).await.unwrap();
        assert!(beta.read(ID, "large").await == Some(noise(1, LARGE)));
    });
}

#[test]
fn an_increment_that_was_cut_goes_on_and_the_copy_stays_what_it_was_until_then() {
    run(async {
        let (alpha, beta) = (filled().await, Parent::new().await);
        let base = Some(both_have_one(&alpha, &beta).await);
        let all = cut(&alpha, &beta, "handoff-2", base).await;
        let had = seen(&beta).await.unwrap();
        assert_eq!((had.snapshots.len(), had.role), (1, Role::Replica));
        let token = had.partial.unwrap().token;
        // A full copy is not what was begun.
        let full = sent(&alpha, &request("handoff-2", None, Some(token.clone()))).await;
        assert!(full.len() > LARGE + LARGE / 2);
        let rest = sent(&alpha, &request("handoff-2", base, Some(token))).await;
        if keeps_partial().await {
            assert!(
                rest.len() < all.len() / 2,
                "{} of {} were sent again",
                rest.len(),
                all.len()
            );
        }
        receive(&beta, "handoff-2", base, &rest).await.unwrap();
        let guid = seen(&beta).await.unwrap().snapshots[1].guid;
        beta.backend()
            .acquire(&acquisition("handoff-2", guid))
            .await
            .unwrap();
        assert!(beta.read(ID, "more").await == Some(noise(2, LARGE / 2)));
    });
}

#[test]
fn the_beginning_of_a_first_copy_is_no_copy_and_goes_without_a_trace() {
    run(async {
        let (alpha, beta) = (filled().await, Parent::new().await);
        release(&alpha).await;
        cut(&alpha, &beta, "handoff-2", None).await;
        let had = seen(&beta).await.unwrap();
        assert_eq!((had.snapshots.len(), had.role), (0, Role::Replica));
        beta.backend().create(&dataset(), Epoch(9)).await.unwrap_err();
        let guid = seen(&alpha).await.unwrap().snapshots[0].guid;
        let acquired = beta.backend().acquire(&acquisition("handoff-2", guid)).await;
        acquired.unwrap_err();
        let reclaim = Reclaim::Partial { dataset: ID };
        assert_eq!(beta.backend().reclaim(&reclaim).await.unwrap(), Change::Made);
        assert_eq!(beta.backend().reclaim(&reclaim).await.unwrap(), Change::AlreadySo);
        assert_eq!(seen(&beta).await, None);
        assert!(!zfs(&["list", &filesystem(&beta)]).await.status.success());
        send(&alpha, &beta, "handoff-2", None).await.unwrap();
    });
}

#[test]
fn an_acquired_copy_keeps_nothing_of_what_was_arriving() {
    run(async {
        let (alpha, beta) = (filled().await, Parent::new().await);
        let base = both_have_one(&alpha, &beta).await;
        cut(&alpha, &beta, "handoff-2", Some(base)).await;
        assert_eq!(pooled(&filesystem(&beta)).await.is_some(), keeps_partial().await);
        let acquisition = acquisition("warm-2-1", base);
        beta.backend().acquire(&acquisition).await.unwrap();
        assert_eq!(partial(&beta).await, None);
        assert_eq!(pooled(&filesystem(&beta)).await, None);
        beta.write(ID, "new", b"written").await.unwrap();
    });
}

/// Two crashes, or a disk that cannot be written, may leave a note behind: it says nothing of who is primary by now.
#[test]
fn a_note_that_was_left_behind_makes_no_replica_of_a_primary() {
    run(async {
        let (alpha, beta) = (filled().await, Parent::new().await);
        release(&alpha).await;
        let guid = seen(&alpha).await.unwrap().snapshots[0].guid;
        let bytes = cut(&alpha, &beta, "handoff-2", None).await;
        let place = beta.options.mounts.join(format!(".incoming/{ID}"));
        let note = std::fs::read(place.join("note")).unwrap();
        receive(&beta, "handoff-2", None, &bytes).await.unwrap();
        let acquired = beta.backend().acquire(&acquisition("handoff-2", guid)).await;
        assert_eq!(acquired.unwrap(), Change::Made);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("note"), note).unwrap();
        assert_eq!(role(&beta).await, Role::Primary { epoch: Epoch(2) });
        assert!(!place.exists());
    });
}

#[test]
fn what_was_arriving_before_it_was_acquired_does_not_keep_its_base() {
    run(async {
        let (alpha, beta) = (filled().await, Parent::new().await);
        let base = both_have_one(&alpha, &beta).await;
        cut(&alpha, &beta, "handoff-2", Some(base)).await;
        let acquisition = acquisition("warm-2-1", base);
        beta.backend().acquire(&acquisition).await.unwrap();
        // Nobody has looked since, as after a crash.
        beta.backend().snapshot(ID, &name("warm-2-2")).await.unwrap();
        let reclaim = Reclaim::Snapshots {
            dataset: ID,
            names: vec![name("warm-2-1")],
        };
        assert_eq!(beta.backend().reclaim(&reclaim).await.unwrap(), Change::Made);
        assert_eq!(pooled(&filesystem(&beta)).await, None);
        let left = seen(&beta).await.unwrap().snapshots;
        assert_eq!(left.len(), 1);
    });
}

#[test]
fn what_is_thrown_away_can_be_let_go_of_with_what_was_arriving_in_it() {
    run(async {
        for is_crash in [false, true] {
            let (alpha, beta) = (filled().await, Parent::new().await);
            let base = both_have_one(&alpha, &beta).await;
            cut(&alpha, &beta, "handoff-2", Some(base)).await;
            if is_crash {
                // As far as it came.
                zfs_says(&["set", "flocker:trashed=1", &filesystem(&beta)]).await;
            } else {
                beta.backend().destroy(ID).await.unwrap();
                assert_eq!(pooled(&filesystem(&beta)).await, None);
            }
            let trash = beta.backend().inventory().await.unwrap().trash;
            let entry = trash[0].entry.clone();
            let change = beta.backend().reclaim(&Reclaim::Trash { entry }).await;
            assert_eq!(change.unwrap(), Change::Made);
            assert!(!zfs(&["list", &filesystem(&beta)]).await.status.success());
        }
    });
}

/// Runs the tool and returns the bytes that it wrote.
pub(crate) async fn written(arguments: [&str; 3]) -> Vec<u8> {
    let program = Program::new("zfs").arguments(arguments);
    let output = program.run(&[], 1 << 26, PATIENCE).await.unwrap();
    output.success().unwrap()
}

/// Has somebody else receive the first half of a snapshot, and returns the pool's token for it.
async fn begun_by_hand(snapshot: &str, into: &str) -> String {
    let mut half = written(["send", "-e", snapshot]).await;
    half.truncate(half.len() / 2);
    let receive = Program::new("zfs").arguments(["receive", "-su", into]);
    let cut = receive.run(&half, 1 << 20, PATIENCE).await.unwrap();
    assert!(!cut.status.success());
    pooled(into.split('@').next().unwrap()).await.unwrap()
}

#[test]
fn what_somebody_else_has_begun_to_receive_is_left_alone() {
    run(async {
        if !keeps_partial().await {
            return;
        }
        let (alpha, beta) = (filled().await, Parent::new().await);
        release(&alpha).await;
        // Even of the same snapshot, and under the name that we would take.
        let snapshot = format!("{}@handoff-2", filesystem(&alpha));
        let theirs = filesystem(&beta);
        let token = begun_by_hand(&snapshot, &format!("{theirs}@handoff-2")).await;
        assert_eq!(seen(&beta).await, None);
        cut(&alpha, &beta, "handoff-2", None).await;
        assert!(pooled(&format!("{theirs}.2")).await.is_some());
        let reclaim = Reclaim::Partial { dataset: ID };
        assert_eq!(beta.backend().reclaim(&reclaim).await.unwrap(), Change::Made);
        send(&alpha, &beta, "handoff-2", None).await.unwrap();
        assert_eq!(pooled(&theirs).await, Some(token));
    });
}

#[test]
fn a_token_of_anything_else_than_what_was_asked_for_is_not_followed() {
    run(async {
        if !keeps_partial().await {
            return;
        }
        let (alpha, beta) = (filled().await, Parent::new().await);
        alpha.backend().snapshot(ID, &name("warm-2-1")).await.unwrap();
        let secret = format!("{}/secret", alpha.options.parent);
        let path = alpha.options.mounts.join("secret");
        let mountpoint = format!("mountpoint={}", path.display());
        zfs_says(&["create", "-o", &mountpoint, "-o", "readonly=off", &secret]).await;
        std::fs::write(path.join("file"), noise(3, 1 << 20)).unwrap();
        zfs_says(&["snapshot", &format!("{secret}@s")]).await;
        let of_secret = begun_by_hand(&format!("{secret}@s"), &format!("{}/s@s", beta.options.parent)).await;
        let older = format!("{}@warm-2-1", filesystem(&alpha));
        let of_older = begun_by_hand(&older, &format!("{}/o@s", beta.options.parent)).await;
        release(&alpha).await;
        let takes = beta.backend().takes().unwrap();
        let anew = sent(&alpha, &request("handoff-2", None, Some(takes.clone()))).await;
        for token in [&*of_secret, &of_older, "1-abc-f0-789c", "1-0-0-00"] {
            let told = format!("{takes}:pool:{token}");
            let bytes = sent(&alpha, &request("handoff-2", None, Some(told))).await;
            assert!(bytes.len() > LARGE, "{token} was followed");
            assert_eq!(bytes[..HEADER], anew[..HEADER], "{token} was followed");
        }
    });
}
