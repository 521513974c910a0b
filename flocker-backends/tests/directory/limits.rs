//! What does not fit is refused before it is begun, with numbers.

use flocker_backends::Change;
use flocker_backends::ReceiveRequest;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
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
    let request = ReceiveRequest {
        dataset: Dataset {
            maximum_size: Some(LIMIT),
            ..dataset()
        },
        snapshot: name("warm-2-1"),
        base: None,
    };
    let stream = alpha.open("warm-2-1", None, None).await.unwrap();
    assert_no_space(&beta.volumes.receive(&request, stream).await.unwrap_err());
    assert!(beta.volumes.inventory().await.unwrap().datasets.is_empty());
}
