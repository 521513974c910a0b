//! A stream that is cut goes on where it stopped; a stream that is damaged is refused.

use std::io;

use flocker_backends::Change;
use flocker_backends::Reclaim;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_model::Epoch;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::node::ID;
use crate::node::Node;
use crate::node::dataset;
use crate::node::noise;
use crate::node::picture;

const BLOCK: usize = 128 * 1024;

/// Places in a stream: in the header, in the manifest, around each block and in the trailer.
fn places(length: usize) -> Vec<usize> {
    let mut places = vec![0, 1, 20, 137, 138, 139, 200, 400];
    for block in 0..length / BLOCK {
        places.extend([
            block * BLOCK + 700,
            (block + 1) * BLOCK,
            (block + 1) * BLOCK + 500,
        ]);
    }
    places.extend((length - 18)..length);
    places.retain(|&place| place < length);
    places.sort_unstable();
    places.dedup();
    places
}

async fn cut_and_resume(
    alpha: &Node,
    beta: &Node,
    snapshot: &str,
    base: Option<flocker_model::SnapshotGuid>,
) {
    let whole = alpha.send(snapshot, base, None).await.unwrap();
    for place in places(whole.len()) {
        let cut = beta.receive(snapshot, base, whole[..place].to_vec()).await;
        assert!(matches!(cut, Err(VolumeError::Cut { .. })), "at {place}: {cut:?}");
        // A stream of less than its beginning leaves what had arrived before.
        let datasets = beta.volumes.inventory().await.unwrap().datasets;
        let Some(partial) = datasets.get(&ID).and_then(|seen| seen.partial.clone()) else {
            assert!(place < 1000, "nothing was kept of {place} bytes");
            continue;
        };
        let rest = alpha.send(snapshot, base, Some(partial.token)).await.unwrap();
        let arrived = usize::try_from(partial.received.0).unwrap();
        assert!(
            arrived + BLOCK + 2000 > place.min(whole.len() - 50),
            "{arrived} of {place}"
        );
        assert!(
            rest.len() + arrived < whole.len() + 500,
            "{} and {arrived}",
            rest.len()
        );
    }
    let datasets = beta.volumes.inventory().await.unwrap().datasets;
    let token = datasets[&ID].partial.clone().unwrap().token;
    let rest = alpha.send(snapshot, base, Some(token)).await.unwrap();
    assert!(rest.len() < 500, "{}", rest.len());
    assert_eq!(beta.receive(snapshot, base, rest).await.unwrap(), Change::Made);
    assert!(beta.manifestation().await.partial.is_none());
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_it_stopped() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 5 * BLOCK));
    alpha.write("dir/small", b"small");
    let base = alpha.snapshot("warm-2-1").await;
    cut_and_resume(&alpha, &beta, "warm-2-1", None).await;
    assert_eq!(picture(&beta.copy()), picture(&alpha.data()));

    alpha.write("table", noise(2, 6 * BLOCK));
    let guid = alpha.release(2).await.unwrap();
    cut_and_resume(&alpha, &beta, "handoff-2", Some(base)).await;
    beta.acquire(2, guid).await.unwrap();
    assert_eq!(picture(&beta.data()), picture(&alpha.copy()));
}

#[tokio::test]
async fn a_cut_stream_with_renamed_files_goes_on_where_it_stopped() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("log", noise(1, 20 * BLOCK));
    let base = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    std::fs::rename(alpha.data().join("log"), alpha.data().join("log.1")).unwrap();
    alpha.write("table", noise(2, 20 * BLOCK));
    let guid = alpha.release(2).await.unwrap();
    let whole = alpha.send("handoff-2", Some(base), None).await.unwrap();
    let cut = beta
        .receive("handoff-2", Some(base), whole[..whole.len() / 2].to_vec())
        .await;
    assert!(matches!(cut, Err(VolumeError::Cut { .. })), "{cut:?}");
    let token = beta.manifestation().await.partial.unwrap().token;
    let rest = alpha.send("handoff-2", Some(base), Some(token)).await.unwrap();
    assert!(rest.len() < 13 * BLOCK, "{}", rest.len());
    let change = beta.receive("handoff-2", Some(base), rest).await.unwrap();
    assert_eq!(change, Change::Made);
    beta.acquire(2, guid).await.unwrap();
    assert_eq!(picture(&beta.data()), picture(&alpha.copy()));
}

#[tokio::test]
async fn a_torn_stream_goes_on_where_it_stopped() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 6 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    // All blocks change after the snapshot, and again after the cut.
    alpha.write("table", noise(2, 6 * BLOCK));
    let bytes = alpha.send("warm-2-1", None, None).await.unwrap();
    assert_ne!(alpha.guid("warm-2-1").await, None);
    let cut = beta
        .receive("warm-2-1", None, bytes[..3 * BLOCK + 9000].to_vec())
        .await;
    assert!(matches!(cut, Err(VolumeError::Cut { .. })), "{cut:?}");
    let token = beta.manifestation().await.partial.unwrap().token;
    alpha.write("table", noise(3, 6 * BLOCK));
    let rest = alpha.send("warm-2-1", None, Some(token)).await.unwrap();
    assert!(rest.len() < 4 * BLOCK, "{}", rest.len());
    assert_eq!(beta.receive("warm-2-1", None, rest).await.unwrap(), Change::Made);
    assert_eq!(beta.guid("warm-2-1").await, alpha.guid("warm-2-1").await);
    let arrived = std::fs::read(beta.copy().join("table")).unwrap();
    assert_eq!(arrived[..3 * BLOCK], noise(2, 6 * BLOCK)[..3 * BLOCK]);
    assert_eq!(arrived[3 * BLOCK..], noise(3, 6 * BLOCK)[3 * BLOCK..]);
    let base = alpha.guid("warm-2-1").await;
    alpha.hand_over(&beta, 2, base).await;
    assert_eq!(
        std::fs::read(beta.data().join("table")).unwrap(),
        noise(3, 6 * BLOCK)
    );
}

#[tokio::test]
async fn a_token_that_does_not_fit_starts_from_the_beginning() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 2 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    let whole = alpha.send("warm-2-1", None, None).await.unwrap();
    let guid = alpha.guid("warm-2-1").await.unwrap();
    let other = flocker_model::SnapshotGuid(guid.0 ^ 1);
    for token in [
        String::new(),
        "nonsense".into(),
        format!("1:{other}:1"),
        format!("1:{guid}:3"),
        format!("1:{guid}:-1"),
        format!("1:{guid}:1:5="),
        format!("1:{guid}:1:0=zz"),
        format!("2:{guid}:1"),
    ] {
        let bytes = alpha.send("warm-2-1", None, Some(token.clone())).await.unwrap();
        assert_eq!(bytes, whole, "{token}");
    }
    let unfitting = alpha
        .send("warm-2-1", None, Some(format!("1:{guid}:1")))
        .await
        .unwrap();
    let refused = beta.receive("warm-2-1", None, unfitting).await;
    assert!(matches!(refused, Err(VolumeError::Stream { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_refused_wherever_it_is() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 2 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    let whole = alpha.send("warm-2-1", None, None).await.unwrap();
    let n_places = whole.len().div_ceil(997);
    let mut places: Vec<_> = (0..n_places).map(|number| number * 997).collect();
    places.extend(0..600);
    places.extend(whole.len() - 20..whole.len());
    for place in places {
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (place % 8);
        let refused = beta.receive("warm-2-1", None, bytes).await;
        assert!(
            matches!(
                refused,
                Err(VolumeError::Stream { .. } | VolumeError::Cut { .. } | VolumeError::NoSpace { .. })
            ),
            "at {place}: {refused:?}"
        );
        let datasets = beta.volumes.inventory().await.unwrap().datasets;
        assert!(
            datasets.get(&ID).is_none_or(|seen| seen.snapshots.is_empty()),
            "at {place}"
        );
    }
    beta.receive("warm-2-1", None, whole).await.unwrap();
    assert_eq!(picture(&beta.copy()), picture(&alpha.data()));
}

#[tokio::test]
async fn a_receive_that_is_dropped_keeps_what_arrived() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 8 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    let whole = alpha.send("warm-2-1", None, None).await.unwrap();
    let (mut near, far) = tokio::io::duplex(BLOCK);
    let receive = beta.take("warm-2-1", None, Box::pin(far));
    let feed = async {
        use tokio::io::AsyncWriteExt as _;
        near.write_all(&whole[..5 * BLOCK]).await.unwrap();
    };
    tokio::select! {
        done = receive => panic!("{done:?}"),
        () = feed => {}
    }
    // The next receive waits until the dropped one has let go.
    let refused = beta
        .take("warm-2-1", None, Box::pin(io::Cursor::new(Vec::new())))
        .await;
    assert!(matches!(refused, Err(VolumeError::Cut { .. })), "{refused:?}");
    let partial = beta.manifestation().await.partial.unwrap();
    assert!(partial.received.0 > 0);
    let rest = alpha.send("warm-2-1", None, Some(partial.token)).await.unwrap();
    assert!(rest.len() < whole.len() - BLOCK);
    beta.receive("warm-2-1", None, rest).await.unwrap();
    assert_eq!(picture(&beta.copy()), picture(&alpha.data()));
}

#[tokio::test]
async fn what_arrived_and_rotted_is_found_and_sent_again() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 4 * BLOCK));
    let base = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    alpha.write("table", noise(2, 4 * BLOCK));
    alpha.snapshot("warm-2-2").await;
    let whole = alpha.send("warm-2-2", Some(base), None).await.unwrap();
    let cut = beta
        .receive("warm-2-2", Some(base), whole[..3 * BLOCK].to_vec())
        .await;
    assert!(cut.is_err());
    let token = beta.manifestation().await.partial.unwrap().token;
    let blocks = beta.data().with_file_name("incoming").join("blocks");
    let mut rotten = std::fs::read(&blocks).unwrap();
    rotten[77] ^= 1;
    std::fs::write(&blocks, rotten).unwrap();
    let rest = alpha.send("warm-2-2", Some(base), Some(token)).await.unwrap();
    let refused = beta.receive("warm-2-2", Some(base), rest).await;
    assert!(matches!(refused, Err(VolumeError::Stream { .. })), "{refused:?}");
    assert!(beta.manifestation().await.partial.is_none());
    assert_eq!(
        std::fs::read(beta.copy().join("table")).unwrap(),
        noise(1, 4 * BLOCK)
    );
    beta.receive("warm-2-2", Some(base), whole).await.unwrap();
    assert_eq!(picture(&beta.copy()), picture(&alpha.data()));
}

#[tokio::test]
async fn a_wrong_trailer_is_blamed_on_the_stream_and_not_on_the_disk() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 4 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    let mut bytes = alpha.send("warm-2-1", None, None).await.unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let refusal = beta.receive("warm-2-1", None, bytes).await.unwrap_err();
    let VolumeError::Stream { reason, .. } = refusal else {
        panic!("{refusal}")
    };
    assert_eq!(reason, "it is not what its trailer says");
}

#[tokio::test]
async fn what_arrives_for_a_copy_that_was_destroyed_or_replaced_meanwhile_does_not_count() {
    for is_replaced in [false, true] {
        let (alpha, beta) = (Node::primary().await, Node::new());
        alpha.write("table", noise(1, 4 * BLOCK));
        let base = alpha.snapshot("warm-2-1").await;
        alpha.push(&beta, "warm-2-1", None).await;
        alpha.write("table", noise(2, 4 * BLOCK));
        alpha.snapshot("warm-2-2").await;
        let bytes = alpha.send("warm-2-2", Some(base), None).await.unwrap();
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let (mut writer, reader) = tokio::io::duplex(1024);
        let meanwhile = async {
            writer.write_all(first).await.unwrap();
            beta.volumes.destroy(ID).await.unwrap();
            if is_replaced {
                beta.volumes.create(&dataset(), Epoch(9)).await.unwrap();
            }
            // Who has found out already reads no further.
            drop(writer.write_all(rest).await);
            drop(writer);
        };
        let (received, ()) = tokio::join!(beta.take("warm-2-2", Some(base), Box::pin(reader)), meanwhile);
        assert!(
            matches!(received, Err(VolumeError::NotHere { .. })),
            "{received:?}"
        );
        let mut datasets = beta.volumes.inventory().await.unwrap().datasets;
        let found = datasets.remove(&ID);
        assert_eq!(found.map(|seen| seen.snapshots.len()), is_replaced.then_some(0));
    }
}

#[tokio::test]
async fn the_beginning_of_a_copy_can_be_dropped() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 4 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    let whole = alpha.send("warm-2-1", None, None).await.unwrap();
    beta.receive("warm-2-1", None, whole[..3 * BLOCK].to_vec())
        .await
        .unwrap_err();
    let reclaim = Reclaim::Partial { dataset: ID };
    assert_eq!(beta.volumes.reclaim(&reclaim).await.unwrap(), Change::Made);
    assert_eq!(beta.volumes.reclaim(&reclaim).await.unwrap(), Change::AlreadySo);
    // Nothing else of it was ever here.
    assert!(beta.volumes.inventory().await.unwrap().datasets.is_empty());
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends() {
    let alpha = Node::primary().await;
    alpha.write("table", noise(1, 40 * BLOCK));
    alpha.snapshot("warm-2-1").await;
    let mut stream = alpha.open("warm-2-1", None, None).await.unwrap();
    let mut some = [0; 100];
    stream.read_exact(&mut some).await.unwrap();
    drop(stream);
    alpha.snapshot("warm-2-2").await;
    alpha.send("warm-2-1", None, None).await.unwrap();
}
