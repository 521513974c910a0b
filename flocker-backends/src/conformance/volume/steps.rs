//! The steps that promises about volumes are tried out with.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::ReadBuf;
use tokio::sync::Notify;
use uuid::Uuid;

use super::VolumeHarness;
use crate::change::Change;
use crate::conformance::made;
use crate::volume::Acquisition;
use crate::volume::ByteStream;
use crate::volume::Handoff;
use crate::volume::ReceiveRequest;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

/// The dataset that most promises are about.
pub(super) const ID: DatasetId = DatasetId(Uuid::from_u128(0x8358_a413_eaf7_4ed7_8c99_8b8a_0838_71af));

/// How many bytes one file of the usual content has.
pub(super) const FILE_SIZE: usize = 64 * 1024;

/// How many files the usual content has.
pub(super) const N_FILES: usize = 16;

pub(super) fn dataset() -> Dataset {
    dataset_of(ID)
}

pub(super) fn dataset_of(id: DatasetId) -> Dataset {
    Dataset {
        id,
        owner: "mongodb".parse().unwrap(),
        maximum_size: None,
    }
}

pub(super) fn snapshot(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

pub(super) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// Returns bytes that look random and do not compress, the same for the same seed.
pub(super) fn noise(seed: &str, n_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; n_bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Creates the dataset at the first epoch with the usual content: a megabyte in files of one size.
pub(super) async fn create_full(harness: &dyn VolumeHarness) {
    made(harness.backend().create(&dataset(), Epoch::FIRST).await);
    for n in 0..N_FILES {
        let file = format!("data/{n}");
        harness.write(ID, &file, &noise(&file, FILE_SIZE)).await.unwrap();
    }
}

/// Panics unless the dataset holds the usual content.
pub(super) async fn assert_full(harness: &dyn VolumeHarness) {
    for n in 0..N_FILES {
        let file = format!("data/{n}");
        let found = harness.read(ID, &file).await;
        assert!(
            found == Some(noise(&file, FILE_SIZE)),
            "`{file}` is not as it was"
        );
    }
}

pub(super) async fn seen(harness: &dyn VolumeHarness) -> Option<Manifestation> {
    seen_of(harness, ID).await
}

/// Returns what is here of a dataset. Its age is left out: it is the one thing that changes by itself.
pub(super) async fn seen_of(harness: &dyn VolumeHarness, id: DatasetId) -> Option<Manifestation> {
    let mut inventory = harness.backend().inventory().await.unwrap();
    let mut manifestation = inventory.datasets.remove(&id)?;
    manifestation.age = std::time::Duration::ZERO;
    Some(manifestation)
}

pub(super) async fn role(harness: &dyn VolumeHarness) -> Role {
    seen(harness).await.unwrap().role
}

pub(super) async fn fence(harness: &dyn VolumeHarness) -> Epoch {
    seen(harness).await.unwrap().fence
}

/// Returns the names of the snapshots here, oldest first.
pub(super) async fn names(harness: &dyn VolumeHarness) -> Vec<String> {
    let manifestation = seen(harness).await.unwrap();
    let names = manifestation.snapshots.iter().map(|s| s.name.to_string());
    names.collect()
}

/// Returns the identity of a snapshot that is here.
pub(super) async fn guid(harness: &dyn VolumeHarness, name: &str) -> SnapshotGuid {
    let manifestation = seen(harness).await.unwrap();
    let snapshot = manifestation.snapshots.iter().find(|s| s.name.as_str() == name);
    snapshot
        .unwrap_or_else(|| panic!("there is no snapshot `{name}`"))
        .guid
}

pub(super) fn handoff(epoch: u64, to: &str, last: &str) -> Handoff {
    Handoff {
        dataset: ID,
        epoch: Epoch(epoch),
        to: node(to),
        last: snapshot(last),
    }
}

/// Releases the dataset for an epoch under the usual name and returns the identity of the last snapshot.
pub(super) async fn release(harness: &dyn VolumeHarness, epoch: u64) -> SnapshotGuid {
    let last = format!("handoff-{epoch}");
    made(harness.backend().release(&handoff(epoch, "beta", &last)).await);
    guid(harness, &last).await
}

pub(super) async fn acquire(
    harness: &dyn VolumeHarness,
    epoch: u64,
    from: &str,
    guid: impl Into<Option<SnapshotGuid>>,
) -> Result<Change, VolumeError> {
    let acquisition = Acquisition {
        dataset: ID,
        epoch: Epoch(epoch),
        from: snapshot(from),
        guid: guid.into(),
    };
    harness.backend().acquire(&acquisition).await
}

pub(super) fn request_to_receive(name: &str, base: Option<SnapshotGuid>) -> ReceiveRequest {
    ReceiveRequest {
        dataset: dataset(),
        snapshot: snapshot(name),
        base,
    }
}

pub(super) fn request_to_send(name: &str, base: Option<SnapshotGuid>) -> SendRequest {
    SendRequest {
        dataset: ID,
        snapshot: snapshot(name),
        base,
        resume: None,
    }
}

/// Returns the whole stream of a snapshot.
pub(super) async fn sent(from: &dyn VolumeHarness, request: &SendRequest) -> Vec<u8> {
    let mut stream = from.backend().send(request).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Takes a stream in, given as the bytes that arrive.
pub(super) async fn receive(
    to: &dyn VolumeHarness,
    name: &str,
    base: Option<SnapshotGuid>,
    stream: ByteStream,
) -> Result<Change, VolumeError> {
    to.backend()
        .receive(&request_to_receive(name, base), stream)
        .await
}

/// Copies a snapshot from one node to another.
pub(super) async fn copy(
    from: &dyn VolumeHarness,
    to: &dyn VolumeHarness,
    name: &str,
    base: Option<SnapshotGuid>,
) -> Result<Change, VolumeError> {
    let stream = from.backend().send(&request_to_send(name, base)).await?;
    receive(to, name, base, stream).await
}

/// Moves the dataset: release, the last copy, acquire.
pub(super) async fn hand_over(
    from: &dyn VolumeHarness,
    to: &dyn VolumeHarness,
    epoch: u64,
    base: Option<SnapshotGuid>,
) -> SnapshotGuid {
    let last = format!("handoff-{epoch}");
    let guid = release(from, epoch).await;
    made(copy(from, to, &last, base).await);
    made(acquire(to, epoch, &last, guid).await);
    guid
}

/// A stream that is all there.
pub(super) fn whole(bytes: Vec<u8>) -> ByteStream {
    Box::pin(io::Cursor::new(bytes))
}

/// A stream that fails after so many bytes.
pub(super) fn cut(mut bytes: Vec<u8>, after: usize) -> ByteStream {
    bytes.truncate(after);
    Box::pin(io::Cursor::new(bytes).chain(Failing))
}

/// A stream that never goes on after so many bytes, and tells when they were read.
pub(super) fn stuck(mut bytes: Vec<u8>, after: usize) -> (ByteStream, Arc<Notify>) {
    bytes.truncate(after);
    let reached = Arc::new(Notify::new());
    let stuck = Stuck(Arc::clone(&reached));
    (Box::pin(io::Cursor::new(bytes).chain(stuck)), reached)
}

struct Failing;

impl AsyncRead for Failing {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

struct Stuck(Arc<Notify>);

impl AsyncRead for Stuck {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.notify_one();
        Poll::Pending
    }
}

/// Returns the size of so many bytes.
pub(super) fn size(n_bytes: usize) -> ByteSize {
    ByteSize(n_bytes as u64)
}
