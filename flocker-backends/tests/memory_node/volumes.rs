//! What a twin of a volume backend refuses, to the byte.

use std::collections::BTreeSet;

use flocker_backends::Change;
use flocker_backends::ReceiveRequest;
use flocker_backends::Reclaim;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend;
use flocker_backends::VolumeError;
use flocker_backends::memory::MemoryNode;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use super::steps::{copy, dataset, id, release, two_nodes};

/// Makes the dataset with so many bytes, releases it, and returns the stream of its last snapshot.
async fn released(node: &MemoryNode, n_bytes: usize) -> Vec<u8> {
    node.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    node.volumes().put(id(), "file", &vec![7; n_bytes]).unwrap();
    release(node, 2).await;
    let request = SendRequest {
        dataset: id(),
        snapshot: "handoff-2".parse().unwrap(),
        base: None,
        resume: None,
    };
    let mut stream = node.volumes().send(&request).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn request() -> ReceiveRequest {
    ReceiveRequest {
        dataset: dataset(),
        snapshot: "handoff-2".parse().unwrap(),
        base: None,
    }
}

async fn receive(node: &MemoryNode, bytes: Vec<u8>) -> Result<Change, VolumeError> {
    let stream = Box::pin(std::io::Cursor::new(bytes));
    node.volumes().receive(&request(), stream).await
}

async fn seen(node: &MemoryNode) -> Option<Manifestation> {
    node.volumes().inventory().await.unwrap().datasets.remove(&id())
}

#[tokio::test]
async fn two_snapshots_of_one_name_and_content_are_two() {
    let (_, alpha, beta) = two_nodes();
    let mut guids = BTreeSet::new();
    for (node, epoch) in [(&alpha, 1), (&alpha, 2), (&beta, 3)] {
        let volumes = node.volumes();
        volumes.create(&dataset(), Epoch(epoch)).await.unwrap();
        volumes.put(id(), "file", b"the same").unwrap();
        volumes
            .snapshot(id(), &"warm-9-1".parse().unwrap())
            .await
            .unwrap();
        guids.insert(seen(node).await.unwrap().snapshots[0].guid);
        volumes.destroy(id()).await.unwrap();
    }
    assert_eq!(guids.len(), 3, "{guids:?}");
}

#[tokio::test]
async fn what_fits_fits_to_the_byte_and_what_others_hold_is_not_free() {
    let (_, alpha, _) = two_nodes();
    let volumes = alpha.volumes();
    let other = Dataset {
        id: DatasetId(uuid::Uuid::from_u128(7)),
        ..dataset()
    };
    volumes.create(&other, Epoch::FIRST).await.unwrap();
    volumes.create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha.set_capacity(Some(ByteSize(1000)));
    volumes.put(other.id, "", &[7; 600]).unwrap();
    let refusal = volumes.put(id(), "", &[7; 401]).unwrap_err();
    let VolumeError::NoSpace {
        needed, available, ..
    } = refusal
    else {
        panic!("{refusal}")
    };
    assert_eq!((needed, available), (ByteSize(401), ByteSize(400)));
    volumes.put(id(), "", &[7; 400]).unwrap();
    volumes.resize(id(), Some(ByteSize(399))).await.unwrap_err();
    let resized = volumes.resize(id(), Some(ByteSize(400))).await.unwrap();
    assert_eq!(resized, Change::Made);
}

#[tokio::test]
async fn a_copy_that_knew_of_no_ownership_leaves_no_fence() {
    let (_, alpha, beta) = two_nodes();
    released(&alpha, 100).await;
    copy(&alpha, &beta, "handoff-2", None).await;
    for node in [&alpha, &beta] {
        node.volumes().destroy(id()).await.unwrap();
    }
    let fences = async |node: &MemoryNode| node.volumes().inventory().await.unwrap().fences;
    assert_eq!(fences(&alpha).await, [(id(), Epoch(2))].into());
    assert_eq!(fences(&beta).await, [].into());
}

#[tokio::test]
async fn the_beginning_of_a_copy_leaves_no_trace_unless_something_was_renounced() {
    let (_, alpha, beta) = two_nodes();
    let mut beginning = released(&alpha, 100_000).await;
    beginning.truncate(50_000);
    let reclaim = Reclaim::Partial { dataset: id() };
    for renounced in [None, Some(Epoch(2))] {
        receive(&beta, beginning.clone()).await.unwrap_err();
        if let Some(epoch) = renounced {
            beta.volumes().renounce(id(), epoch).await.unwrap();
        }
        beta.volumes().reclaim(&reclaim).await.unwrap();
        assert_eq!(seen(&beta).await.map(|seen| seen.fence), renounced);
    }
}

#[tokio::test]
async fn a_stream_that_another_has_taken_the_place_of_adds_nothing() {
    let (_, alpha, beta) = two_nodes();
    let bytes = released(&alpha, 100_000).await;
    let half = bytes.len() / 2;
    let volumes = beta.volumes();
    let (mut first, first_end) = tokio::io::duplex(bytes.len());
    let (mut second, second_end) = tokio::io::duplex(bytes.len());
    let (request, other_request) = (request(), request());
    let mut overtaken = volumes.receive(&request, Box::pin(first_end));
    let mut newer = volumes.receive(&other_request, Box::pin(second_end));
    first.write_all(&bytes[..half]).await.unwrap();
    tokio::select! {
        biased;
        answer = &mut overtaken => panic!("{answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    second.write_all(&bytes[..half]).await.unwrap();
    tokio::select! {
        biased;
        answer = &mut newer => panic!("{answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    first.write_all(&bytes[half..]).await.unwrap();
    let refusal = overtaken.await.unwrap_err();
    assert!(matches!(refusal, VolumeError::Stream { .. }), "{refusal}");
    second.write_all(&bytes[half..]).await.unwrap();
    assert_eq!(newer.await.unwrap(), Change::Made);
    assert_eq!(beta.volumes().read(id(), "file"), Some(vec![7; 100_000]));
}

/// Says of the content that it is of another snapshot, in a header that is whole.
fn lie(bytes: &[u8]) -> Vec<u8> {
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    let (header, rest) = bytes[36..].split_at(length);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    header["origin"] = "elsewhere/1".into();
    let header = serde_json::to_vec(&header).unwrap();
    let mut lie = u32::try_from(header.len()).unwrap().to_be_bytes().to_vec();
    lie.extend_from_slice(blake3::hash(&header).as_bytes());
    lie.extend_from_slice(&header);
    lie.extend_from_slice(rest);
    lie
}

#[tokio::test]
async fn what_arrives_whole_and_is_not_what_it_says_is_refused_and_not_gone_on_from() {
    let (_, alpha, beta) = two_nodes();
    let bytes = released(&alpha, 100_000).await;
    let refusal = receive(&beta, lie(&bytes)).await.unwrap_err();
    assert!(matches!(refusal, VolumeError::Stream { .. }), "{refusal}");
    let seen = seen(&beta).await.unwrap();
    assert_eq!((seen.snapshots.len(), seen.partial), (0, None));
    assert_eq!(receive(&beta, bytes).await.unwrap(), Change::Made);
}
