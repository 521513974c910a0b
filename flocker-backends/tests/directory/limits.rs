//! What does not fit is refused before it is begun, with numbers.

use flocker_backends::Change;
use flocker_backends::ReceiveRequest;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::ByteSize;
use flocker_model::Dataset;

use crate::node::ID;
use crate::node::Node;
use crate::node::dataset;
use crate::node::name;
use crate::node::noise;

const LIMIT: ByteSize = ByteSize(1_000_000);

#[track_caller]
fn assert_no_space(refused: &VolumeError) {
    let VolumeError::NoSpace {
        needed, available, ..
    } = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!((*needed, *available), (ByteSize(1_500_000), LIMIT));
}

#[tokio::test]
async fn a_source_that_holds_more_than_it_may_is_not_sent() {
    let alpha = Node::primary().await;
    assert_eq!(alpha.volumes.resize(ID, Some(LIMIT)).await.unwrap(), Change::Made);
    assert_eq!(
        alpha.volumes.resize(ID, Some(LIMIT)).await.unwrap(),
        Change::AlreadySo
    );
    alpha.write("table", noise(1, 1_500_000));
    alpha.snapshot("warm-2-1").await;
    assert_no_space(&alpha.send("warm-2-1", None, None).await.unwrap_err());
    alpha.volumes.resize(ID, None).await.unwrap();
    alpha.send("warm-2-1", None, None).await.unwrap();
    let refused = alpha.volumes.resize(ID, Some(LIMIT)).await;
    assert!(matches!(refused, Err(VolumeError::NoSpace { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_receiver_takes_no_more_than_the_dataset_may_hold() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("table", noise(1, 1_500_000));
    alpha.snapshot("warm-2-1").await;
    let request = |limit| ReceiveRequest {
        dataset: Dataset {
            maximum_size: Some(limit),
            ..dataset()
        },
        snapshot: name("warm-2-1"),
        base: None,
    };
    let stream = alpha.open("warm-2-1", None, None).await.unwrap();
    let refused = beta.volumes.receive(&request(LIMIT), stream).await;
    assert_no_space(&refused.unwrap_err());
    assert!(beta.volumes.inventory().await.unwrap().datasets.is_empty());
    let stream = alpha.open("warm-2-1", None, None).await.unwrap();
    let just_enough = request(ByteSize(1_500_000));
    let received = beta.volumes.receive(&just_enough, stream).await;
    assert_eq!(received.unwrap(), Change::Made);
}

#[tokio::test]
async fn what_has_outgrown_its_limit_when_it_was_let_go_arrives_where_it_is_allowed_more() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.volumes.resize(ID, Some(LIMIT)).await.unwrap();
    alpha.write("table", noise(1, 900_000));
    let base = alpha.snapshot("warm-2-1").await;
    let of = |limit| Dataset {
        maximum_size: Some(limit),
        ..dataset()
    };
    let request = |limit, snapshot, base| ReceiveRequest {
        dataset: of(limit),
        snapshot: name(snapshot),
        base,
    };
    let stream = alpha.open("warm-2-1", None, None).await.unwrap();
    beta.volumes
        .receive(&request(LIMIT, "warm-2-1", None), stream)
        .await
        .unwrap();
    // It grew until the very end.
    alpha.write("table", noise(1, 1_500_000));
    let guid = alpha.release(2).await.unwrap();
    let stream = alpha.open("handoff-2", Some(base), None).await.unwrap();
    let refused = beta
        .volumes
        .receive(&request(LIMIT, "handoff-2", Some(base)), stream)
        .await;
    assert_no_space(&refused.unwrap_err());
    let stream = alpha.open("handoff-2", Some(base), None).await.unwrap();
    let allowed = request(ByteSize(2_000_000), "handoff-2", Some(base));
    assert_eq!(
        beta.volumes.receive(&allowed, stream).await.unwrap(),
        Change::Made
    );
    beta.acquire(2, guid).await.unwrap();
}

#[tokio::test]
async fn what_the_receivers_filesystem_cannot_hold_is_refused_and_the_last_copy_stays() {
    // No filesystem holds a file of all the bytes that a number can count.
    const TOO_LARGE: u64 = i64::MAX as u64;
    for has_base in [false, true] {
        let (alpha, beta) = (Node::primary().await, Node::new());
        let mut base = None;
        if has_base {
            base = Some(alpha.snapshot("warm-2-1").await);
            alpha.push(&beta, "warm-2-1", None).await;
        }
        let sparse = std::fs::File::create(alpha.data().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        alpha.snapshot("warm-2-2").await;
        let mut bytes = alpha.send("warm-2-2", base, None).await.unwrap();
        let place = bytes
            .windows(8)
            .position(|window| window == (1_u64 << 40).to_le_bytes())
            .unwrap();
        bytes[place..place + 8].copy_from_slice(&TOO_LARGE.to_le_bytes());
        crate::hostile::sign(&mut bytes, b"warm-2-2");
        let refused = beta.receive("warm-2-2", base, bytes).await;
        assert!(matches!(refused, Err(VolumeError::Io { .. })), "{refused:?}");
        let snapshots = beta.manifestation().await.snapshots;
        assert_eq!(snapshots.len(), usize::from(has_base));
        if has_base {
            alpha.push(&beta, "warm-2-2", base).await;
        }
    }
}

#[tokio::test]
async fn a_manifest_may_be_so_long_and_no_longer() {
    let alpha = Node::primary().await;
    alpha.write("table", noise(1, 1000));
    alpha.snapshot("warm-2-1").await;
    let bytes = alpha.send("warm-2-1", None, None).await.unwrap();
    let length = u64::from_le_bytes(bytes[crate::hostile::LENGTH].try_into().unwrap());
    for (limit, is_taken) in [(length - 1, false), (length, true)] {
        let root = tempfile::tempdir().unwrap();
        let mut options = DirectoryOptions::cautious();
        options.manifest_limit = ByteSize(limit);
        let volumes = DirectoryVolumes::open(root.path(), &options).unwrap();
        let beta = Node { root, volumes };
        match beta.receive("warm-2-1", None, bytes.clone()).await {
            Ok(change) => assert!(is_taken, "{change:?}"),
            Err(VolumeError::Stream { .. }) => assert!(!is_taken),
            Err(other) => panic!("{other}"),
        }
    }
}
