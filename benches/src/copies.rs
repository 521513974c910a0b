//! Copies of a dataset from directory to directory, beside a plain copy of the same files.
//!
//! What is timed is what the engine does between two nodes of one machine:
//! the sender's stream is read by the receiver until it says that all of it is
//! complete, verified and durable. The plain copy reads and writes each file
//! and makes it durable, and does nothing else. Both are run in turn.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use flocker_backends::ReceiveRequest;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend as _;
use flocker_backends::volume::directory::DirectoryOptions;
use flocker_backends::volume::directory::DirectoryVolumes;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use tokio::runtime::Runtime;

use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;

const ID: DatasetId = DatasetId(uuid::Uuid::from_u128(0x5eed));
const FILE: u32 = 1 << 20;
/// How much of each file changes between two copies: the smallest part of a file that travels.
const CHANGED: u32 = 128 << 10;

/// How many runs of each.
const N: u32 = 5;

struct Node {
    volumes: DirectoryVolumes,
    _root: tempfile::TempDir,
}

impl Node {
    fn new() -> io::Result<Self> {
        let root = tempfile::tempdir()?;
        let volumes =
            DirectoryVolumes::open(root.path(), &DirectoryOptions::cautious()).map_err(io::Error::other)?;
        Ok(Self { volumes, _root: root })
    }

    async fn newest(&self) -> io::Result<Option<SnapshotGuid>> {
        let inventory = self.volumes.inventory().await.map_err(io::Error::other)?;
        let copy = inventory.datasets.get(&ID);
        Ok(copy
            .and_then(|copy| copy.snapshots.last())
            .map(|newest| newest.guid))
    }

    async fn push(&self, to: &Self, snapshot: &SnapshotName, base: Option<SnapshotGuid>) -> io::Result<()> {
        let request = SendRequest {
            dataset: ID,
            snapshot: snapshot.clone(),
            base,
            resume: None,
        };
        let stream = self.volumes.send(&request).await.map_err(io::Error::other)?;
        let request = ReceiveRequest {
            dataset: dataset(),
            snapshot: snapshot.clone(),
            base,
        };
        let received = to.volumes.receive(&request, stream).await;
        received.map(drop).map_err(io::Error::other)
    }
}

fn dataset() -> Dataset {
    Dataset {
        id: ID,
        owner: crate::cluster::application_name(0),
        maximum_size: None,
    }
}

/// Bytes without a pattern: nothing is gained by leaving them out or by compressing them.
fn noise(seed: u32, length: u32) -> Vec<u8> {
    let mut state = u64::from(seed) << 32 | 1;
    let words = (0..length / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn path(directory: &Path, file: u32) -> std::path::PathBuf {
    directory.join(format!("file-{file:04}"))
}

/// Copies a directory of plain files, durable when it returns.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut buffer = vec![0; CHANGED as usize];
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let mut source = File::open(entry.path())?;
        let mut copy = File::create(to.join(entry.file_name()))?;
        loop {
            let n_read = source.read(&mut buffer)?;
            if n_read == 0 {
                break;
            }
            copy.write_all(&buffer[..n_read])?;
        }
        copy.sync_all()?;
    }
    File::open(to)?.sync_all()
}

fn seconds<T>(run: impl FnOnce() -> io::Result<T>) -> io::Result<f64> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Measures full and incremental copies.
pub fn measure(effort: Effort, figures: &mut Figures) -> io::Result<()> {
    let n_files = match effort {
        Effort::Quick => 32,
        Effort::Full => 256,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let samples = Samples::take(n_files, &runtime)?;
    let Samples {
        snapshots,
        copies,
        full,
        incremental,
    } = samples;
    let size = f64::from(n_files) * f64::from(FILE);
    let changed = f64::from(n_files) * f64::from(CHANGED);
    let rate = |what: &str, bytes: f64, seconds: Vec<f64>| {
        let rates = seconds.into_iter().map(|seconds| 1e-6 * bytes / seconds);
        let name = format!("copies of {n_files} files of 1 MiB: {what}");
        Figure::new(name, Unit::MegabytesPerSecond, rates.collect())
    };
    let plain = rate("plain copy, durable", size, copies);
    let full = rate("full copy, send to receive", size, full);
    let ratio = plain.median / full.median;
    figures.add(rate("snapshot, all of it new", size, snapshots));
    figures.add(plain);
    figures.add(full);
    figures.add(Figure::new(
        format!("copies of {n_files} files of 1 MiB: plain copy's rate divided by that of a full copy"),
        Unit::Ratio,
        vec![ratio],
    ));
    figures.add(rate(
        "increment of an eighth, for what changed",
        changed,
        incremental.clone(),
    ));
    figures.add(rate("increment of an eighth, for all", size, incremental));
    Ok(())
}

/// Seconds of every run.
#[derive(Default)]
struct Samples {
    snapshots: Vec<f64>,
    copies: Vec<f64>,
    full: Vec<f64>,
    incremental: Vec<f64>,
}

impl Samples {
    fn take(n_files: u32, runtime: &Runtime) -> io::Result<Self> {
        let mut samples = Self::default();
        for round in 0..N {
            let (alpha, beta, beside) = (Node::new()?, Node::new()?, tempfile::tempdir()?);
            let created = runtime.block_on(alpha.volumes.create(&dataset(), Epoch::FIRST));
            created.map_err(io::Error::other)?;
            let data = alpha.volumes.path(ID);
            for file in 0..n_files {
                fs::write(path(&data, file), noise(round * n_files + file, FILE))?;
            }
            let [first, second] = [1, 2].map(|round| SnapshotName::warm(Epoch(2), round));
            let snapshot = |name: &SnapshotName| {
                let taken = runtime.block_on(alpha.volumes.snapshot(ID, name));
                taken.map_err(io::Error::other)
            };
            samples.snapshots.push(seconds(|| snapshot(&first))?);
            samples.copies.push(seconds(|| copy(&data, beside.path()))?);
            let push = |name, base| runtime.block_on(alpha.push(&beta, name, base));
            samples.full.push(seconds(|| push(&first, None))?);
            let base = runtime.block_on(beta.newest())?;
            for file in 0..n_files {
                let place = u64::from(file % (FILE / CHANGED)) * u64::from(CHANGED);
                let open = File::options().write(true).open(path(&data, file))?;
                open.write_all_at(&noise(file + 1, CHANGED), place)?;
            }
            snapshot(&second)?;
            samples.incremental.push(seconds(|| push(&second, base))?);
            arrived_whole(n_files, &data, &beta)?;
        }
        Ok(samples)
    }
}

/// Fails where the receiver does not have just what the sender has: then nothing was measured.
fn arrived_whole(n_files: u32, data: &Path, beta: &Node) -> io::Result<()> {
    let copy = beta.volumes.path(ID).with_file_name("copy");
    for file in 0..n_files {
        if fs::read(path(data, file))? != fs::read(path(&copy, file))? {
            return Err(io::Error::other(format!("file {file} did not arrive as it is")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_arrives() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let samples = Samples::take(3, &runtime).unwrap();
        assert_eq!(samples.full.len(), N as usize);
        assert_eq!(samples.incremental.len(), N as usize);
        assert_ne!(noise(1, 64), noise(2, 64));
    }
}
