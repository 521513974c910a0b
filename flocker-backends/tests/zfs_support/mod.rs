//! A parent of its own in a real pool, for each test.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::VolumeBackend;
use flocker_backends::conformance::VolumeHarness;
use flocker_backends::process::Output;
use flocker_backends::process::Program;
use flocker_backends::volume::zfs::ZfsOptions;
use flocker_backends::volume::zfs::ZfsVolumes;
use flocker_model::DatasetId;

/// A parent of its own in the pool, and the backend that is open on it.
pub(crate) struct Parent {
    pub(crate) options: ZfsOptions,
    volumes: Mutex<Arc<ZfsVolumes>>,
    directory: tempfile::TempDir,
}

impl Parent {
    pub(crate) async fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "a test that needs the outside is told so by its environment"
        )]
        let pool = std::env::var("FLOCKER_TEST_ZFS_POOL")
            .expect("`FLOCKER_TEST_ZFS_POOL` names a pool that this test may fill");
        let directory = tempfile::tempdir().unwrap();
        let unique = directory.path().file_name().unwrap().to_str().unwrap();
        let parent = format!("{pool}/test-{}", unique.trim_start_matches('.'));
        let mut options = ZfsOptions::new(parent.parse().unwrap());
        options.mounts = directory.path().join("mounts");
        options.mounting = std::env::temp_dir().join("flocker-test-zfs-mounting");
        options.state = directory.path().join("state");
        let volumes = ZfsVolumes::open(&options).await.unwrap();
        Self {
            options,
            volumes: Mutex::new(Arc::new(volumes)),
            directory,
        }
    }

    pub(crate) fn file(&self, dataset: DatasetId, file: &str) -> PathBuf {
        self.backend().path(dataset).join(file)
    }
}

impl Drop for Parent {
    /// Gives the pool its room back. A test that failed leaves what it had, to be looked at.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            return;
        }
        let parent = self.options.parent.to_string();
        let cleaning = std::thread::spawn(move || flocker_backends::conformance::run(clean(&parent)));
        cleaning.join().unwrap();
        // The directories under the mounts are immutable; the next start of the machine finds them gone or empty.
        self.directory.disable_cleanup(true);
    }
}

/// Runs the tool as a person would.
pub(crate) async fn zfs(arguments: &[&str]) -> Output {
    let program = Program::new("zfs")
        .variable("LC_ALL", "C")
        .arguments(arguments.iter().copied());
    program.run(&[], 1 << 24, Duration::from_secs(60)).await.unwrap()
}

/// Runs the tool and returns what it wrote. What is busy for a moment is tried again.
pub(crate) async fn zfs_says(arguments: &[&str]) -> String {
    let output = flocker_backends::conformance::eventually("it is not busy", || async {
        let output = zfs(arguments).await;
        let is_busy = String::from_utf8_lossy(&output.stderr).contains("busy");
        (output.status.success() || !is_busy).then_some(output)
    });
    String::from_utf8(output.await.success().unwrap()).unwrap()
}

async fn clean(parent: &str) {
    let list = zfs_says(&["get", "-rH", "-o", "name,value", "userrefs", parent]).await;
    for name in list.lines().filter_map(|line| line.strip_suffix("\t1")) {
        zfs(&["release", "flocker", name]).await;
    }
    flocker_backends::conformance::eventually("the parent is gone", || async {
        zfs(&["destroy", "-r", parent])
            .await
            .status
            .success()
            .then_some(())
    })
    .await;
}

#[async_trait]
impl VolumeHarness for Parent {
    fn backend(&self) -> Arc<dyn VolumeBackend> {
        self.volumes.lock().unwrap().clone()
    }

    async fn reopen(&self) {
        let volumes = ZfsVolumes::open(&self.options).await.unwrap();
        *self.volumes.lock().unwrap() = Arc::new(volumes);
    }

    async fn second(&self) -> Box<dyn VolumeHarness> {
        Box::new(Self::new().await)
    }

    async fn write(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(dataset, file);
        std::fs::create_dir_all(path.parent().unwrap())?;
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    async fn remove(&self, dataset: DatasetId, file: &str) -> io::Result<()> {
        std::fs::remove_file(self.file(dataset, file))
    }

    async fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>> {
        std::fs::read(self.file(dataset, file)).ok()
    }

    fn enforces_sizes(&self) -> bool {
        true
    }

    fn sends_blocks(&self) -> bool {
        true
    }
}
