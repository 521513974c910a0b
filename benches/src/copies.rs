//! Copies of a dataset from directory to directory, beside a plain copy of the same files: from nothing, and after an
//! eighth or a hundredth of it has changed.
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
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Instant;

use flocker_backends::ByteStream;
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
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::runtime::Runtime;

use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;

const ID: DatasetId = DatasetId(uuid::Uuid::from_u128(0x5eed));
const FILE: u32 = 1 << 20;
/// How much of a file changes between two copies: the smallest part of a file that travels.
const CHANGED: u32 = 128 << 10;
/// How many such parts a file has: where one of each changes, an eighth of all has changed.
const N_PARTS: u32 = FILE / CHANGED;

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

    /// Sends a snapshot to another node until it is durable there, and returns how many bytes that took.
    async fn push(&self, to: &Self, snapshot: &SnapshotName, base: Option<SnapshotGuid>) -> io::Result<u64> {
        let request = SendRequest {
            dataset: ID,
            snapshot: snapshot.clone(),
            base,
            resume: None,
        };
        let n_bytes = Arc::new(AtomicU64::new(0));
        let stream = Counted {
            stream: self.volumes.send(&request).await.map_err(io::Error::other)?,
            n_bytes: Arc::clone(&n_bytes),
        };
        let request = ReceiveRequest {
            dataset: dataset(),
            snapshot: snapshot.clone(),
            base,
        };
        let received = to.volumes.receive(&request, Box::pin(stream)).await;
        received.map(drop).map_err(io::Error::other)?;
        Ok(n_bytes.load(Ordering::Relaxed))
    }
}

/// A stream of which is known how much of it was read.
struct Counted {
    stream: ByteStream,
    n_bytes: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.stream.as_mut().poll_read(context, buffer);
        let n_read = buffer.filled().len() - before;
        self.n_bytes.fetch_add(n_read as u64, Ordering::Relaxed);
        polled
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

fn seconds<T>(run: impl FnOnce() -> io::Result<T>) -> io::Result<(f64, T)> {
    let start = Instant::now();
    let made = run()?;
    Ok((start.elapsed().as_secs_f64(), made))
}

/// Returns a number of bytes as one that can be divided. None here is near the four thousand million that fit.
fn bytes(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Measures full and incremental copies.
pub fn measure(effort: Effort, figures: &mut Figures) -> io::Result<()> {
    let n_files = match effort {
        Effort::Quick => 32,
        Effort::Full => 256,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let Samples {
        snapshots,
        copies,
        full,
        eighth,
        hundredth,
    } = Samples::take(n_files, &runtime)?;
    let size = f64::from(n_files) * f64::from(FILE);
    let name = |what: &str| format!("copies of {n_files} files of 1 MiB: {what}");
    let rate = |what: &str, bytes: f64, seconds: Vec<f64>| {
        let rates = seconds.into_iter().map(|seconds| 1e-6 * bytes / seconds);
        Figure::new(name(what), Unit::MegabytesPerSecond, rates.collect())
    };
    let plain = rate("plain copy, durable", size, copies);
    let from_nothing = rate("from nothing, send to receive", size, full.seconds);
    let ratio = plain.median / from_nothing.median;
    figures.add(rate("snapshot, all of it new", size, snapshots));
    figures.add(plain);
    figures.add(from_nothing);
    figures.add(Figure::new(
        name("plain copy's rate divided by that from nothing"),
        Unit::Ratio,
        vec![ratio],
    ));
    figures.add(Figure::new(name("from nothing, sent"), Unit::Bytes, full.sent));
    for (what, n_parts, copies) in [
        ("an eighth changed", n_files, eighth),
        ("1 % changed", n_changed(n_files), hundredth),
    ] {
        let changed = f64::from(n_parts) * f64::from(CHANGED);
        let took = Figure::new(name(what), Unit::Seconds, copies.seconds.clone());
        figures.add(took);
        figures.add(rate(&format!("{what}, for all"), size, copies.seconds));
        figures.add(Figure::new(
            name(&format!("{what}, sent")),
            Unit::Bytes,
            copies.sent.clone(),
        ));
        let sent = copies.sent.into_iter().map(|sent| sent / changed).collect();
        let per_change = format!("{what}, sent for each byte that changed");
        figures.add(Figure::new(name(&per_change), Unit::Ratio, sent));
    }
    Ok(())
}

/// Returns how many parts of all are a hundredth, or one at least.
fn n_changed(n_files: u32) -> u32 {
    (n_files * N_PARTS / 100).max(1)
}

/// Seconds of every copy of one kind, and bytes sent.
#[derive(Default)]
struct Copies {
    seconds: Vec<f64>,
    sent: Vec<f64>,
}

impl Copies {
    fn add(&mut self, (seconds, sent): (f64, u64)) {
        self.seconds.push(seconds);
        self.sent.push(bytes(sent));
    }
}

/// What every run took.
#[derive(Default)]
struct Samples {
    snapshots: Vec<f64>,
    copies: Vec<f64>,
    full: Copies,
    eighth: Copies,
    hundredth: Copies,
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
            let [first, second, third] = [1, 2, 3].map(|round| SnapshotName::warm(Epoch(2), round));
            let snapshot = |name: &SnapshotName| {
                let taken = runtime.block_on(alpha.volumes.snapshot(ID, name));
                taken.map_err(io::Error::other)
            };
            samples.snapshots.push(seconds(|| snapshot(&first))?.0);
            samples.copies.push(seconds(|| copy(&data, beside.path()))?.0);
            let push = |name, base| runtime.block_on(alpha.push(&beta, name, base));
            samples.full.add(seconds(|| push(&first, None))?);
            for (name, n_parts, copies) in [
                (&second, n_files, &mut samples.eighth),
                (&third, n_changed(n_files), &mut samples.hundredth),
            ] {
                let base = runtime.block_on(beta.newest())?;
                for file in 0..n_parts {
                    let place = u64::from(file % N_PARTS) * u64::from(CHANGED);
                    let open = File::options().write(true).open(path(&data, file))?;
                    // Seeds from the other end: of the parts that change, none is what it was.
                    open.write_all_at(&noise(!(file + n_parts), CHANGED), place)?;
                }
                snapshot(name)?;
                copies.add(seconds(|| push(name, base))?);
                arrived_whole(n_files, &data, &beta)?;
            }
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
        for copies in [&samples.full, &samples.eighth, &samples.hundredth] {
            assert_eq!(copies.seconds.len(), N as usize);
        }
        // What is sent is what changed, and little else.
        for (full, few) in samples.full.sent.iter().zip(&samples.hundredth.sent) {
            assert!(*full > 3.0 * f64::from(FILE), "{full}");
            assert!(
                (f64::from(CHANGED)..2.0 * f64::from(CHANGED)).contains(few),
                "{few}"
            );
        }
        assert_ne!(noise(1, 64), noise(2, 64));
    }
}
