//! Two or more nodes on one machine, and the way between them.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use flocker_backends::Acquisition;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Handoff;
use flocker_backends::ReceiveRequest;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend as _;
use flocker_backends::VolumeError;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use tokio::io::AsyncReadExt as _;

/// The dataset of most tests.
pub(crate) const ID: DatasetId = DatasetId(uuid::Uuid::from_u128(0x5eed));

pub(crate) fn dataset() -> Dataset {
    Dataset {
        id: ID,
        owner: "mongodb".parse().unwrap(),
        maximum_size: None,
    }
}

pub(crate) fn name(text: &str) -> SnapshotName {
    text.parse().unwrap()
}

/// A node with a root of its own.
pub(crate) struct Node {
    pub(crate) root: tempfile::TempDir,
    pub(crate) volumes: DirectoryVolumes,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// A node with a root below a place, as on a disk of its own.
    pub(crate) fn below(place: &Path) -> Self {
        let root = tempfile::tempdir_in(place).unwrap();
        let volumes = DirectoryVolumes::open(root.path(), &DirectoryOptions::cautious()).unwrap();
        Self { root, volumes }
    }

    /// A node that is the primary of the dataset, in epoch 1.
    pub(crate) async fn primary() -> Self {
        Self::new().create().await
    }

    /// The same node as the primary of the dataset, in epoch 1.
    pub(crate) async fn create(self) -> Self {
        let node = self;
        let change = node.volumes.create(&dataset(), Epoch::FIRST).await.unwrap();
        assert_eq!(change, Change::Made);
        node
    }

    /// Where the application finds the data.
    pub(crate) fn data(&self) -> PathBuf {
        self.volumes.path(ID)
    }

    /// Where a copy that is not the primary's lies.
    pub(crate) fn copy(&self) -> PathBuf {
        self.data().with_file_name("copy")
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.data().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) async fn manifestation(&self) -> Manifestation {
        let mut inventory = self.volumes.inventory().await.unwrap();
        inventory.datasets.remove(&ID).unwrap()
    }

    pub(crate) async fn guid(&self, snapshot: &str) -> Option<SnapshotGuid> {
        let snapshots = self.manifestation().await.snapshots;
        let found = snapshots.iter().find(|known| known.name == name(snapshot));
        found.map(|known| known.guid)
    }

    pub(crate) async fn snapshot(&self, snapshot: &str) -> SnapshotGuid {
        let change = self.volumes.snapshot(ID, &name(snapshot)).await.unwrap();
        assert_eq!(change, Change::Made);
        self.guid(snapshot).await.unwrap()
    }

    pub(crate) async fn release(&self, epoch: u64) -> Result<SnapshotGuid, VolumeError> {
        let epoch = Epoch(epoch);
        let handoff = Handoff {
            dataset: ID,
            epoch,
            to: "beta".parse().unwrap(),
            last: SnapshotName::handoff(epoch),
        };
        self.volumes.release(&handoff).await?;
        Ok(self.guid(handoff.last.as_str()).await.unwrap())
    }

    pub(crate) async fn acquire(&self, epoch: u64, guid: SnapshotGuid) -> Result<Change, VolumeError> {
        let epoch = Epoch(epoch);
        let acquisition = Acquisition {
            dataset: ID,
            epoch,
            from: SnapshotName::handoff(epoch),
            guid: Some(guid),
        };
        self.volumes.acquire(&acquisition).await
    }

    /// Sends a snapshot and reads the stream to its end, or to its error.
    pub(crate) async fn send(
        &self,
        snapshot: &str,
        base: Option<SnapshotGuid>,
        resume: Option<String>,
    ) -> Result<Vec<u8>, VolumeError> {
        let mut stream = self.open(snapshot, base, resume).await?;
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes).await {
            Ok(_) => Ok(bytes),
            Err(source) => Err(VolumeError::Io {
                what: "read the stream".into(),
                source,
            }),
        }
    }

    pub(crate) async fn open(
        &self,
        snapshot: &str,
        base: Option<SnapshotGuid>,
        resume: Option<String>,
    ) -> Result<ByteStream, VolumeError> {
        let request = SendRequest {
            dataset: ID,
            snapshot: name(snapshot),
            base,
            resume,
        };
        self.volumes.send(&request).await
    }

    pub(crate) async fn receive(
        &self,
        snapshot: &str,
        base: Option<SnapshotGuid>,
        bytes: Vec<u8>,
    ) -> Result<Change, VolumeError> {
        self.take(snapshot, base, Box::pin(io::Cursor::new(bytes))).await
    }

    pub(crate) async fn take(
        &self,
        snapshot: &str,
        base: Option<SnapshotGuid>,
        stream: ByteStream,
    ) -> Result<Change, VolumeError> {
        let request = ReceiveRequest {
            dataset: dataset(),
            snapshot: name(snapshot),
            base,
        };
        self.volumes.receive(&request, stream).await
    }

    /// Sends a snapshot to another node, and returns how many bytes travelled.
    pub(crate) async fn push(&self, to: &Self, snapshot: &str, base: Option<SnapshotGuid>) -> usize {
        let bytes = self.send(snapshot, base, None).await.unwrap();
        let n_bytes = bytes.len();
        let change = to.receive(snapshot, base, bytes).await.unwrap();
        assert_eq!(change, Change::Made);
        assert_eq!(to.guid(snapshot).await, self.guid(snapshot).await);
        n_bytes
    }

    /// Hands the dataset over, without a warm copy before.
    pub(crate) async fn hand_over(&self, to: &Self, epoch: u64, base: Option<SnapshotGuid>) {
        let guid = self.release(epoch).await.unwrap();
        self.push(to, &format!("handoff-{epoch}"), base).await;
        assert_eq!(to.acquire(epoch, guid).await.unwrap(), Change::Made);
    }
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Everything below a directory that a move must keep: one line for each entry, in order.
pub(crate) fn picture(root: &Path) -> Vec<String> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::FileTypeExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_dir() {
            pending.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            "directory".into()
        } else if kind.is_symlink() {
            {
                let target = path.read_link().unwrap();
                format!("link to {}", target.as_os_str().as_bytes().escape_ascii())
            }
        } else if kind.is_fifo() {
            "fifo".into()
        } else if kind.is_file() {
            let content = std::fs::read(&path).unwrap();
            format!(
                "{} bytes {} {} names",
                content.len(),
                blake3::hash(&content),
                metadata.nlink()
            )
        } else {
            "something else".into()
        };
        let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
        let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
        let path = path.strip_prefix(root).unwrap();
        let path = path.as_os_str().as_bytes().escape_ascii();
        lines.push(format!(
            "{path} {content} {mode:o} {uid}:{gid} {seconds}.{nanoseconds}"
        ));
    }
    lines.sort();
    lines
}
