//! The twin of a volume backend.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::arrival::Arrival;
use super::arrival::Begun;
use super::arrival::FRAMES_PER_SYNC;
use super::content::Content;
use super::faults::Effect;
use super::faults::Injected;
use super::faults::Life;
use super::faults::Power;
use super::node::Inject;
use super::node::Machine;
use super::node::MemoryNode;
use super::node::State;
use super::observer::Violation;
use super::stream;
use super::stream::FrameError;
use crate::change::Change;
use crate::volume::Acquisition;
use crate::volume::ByteStream;
use crate::volume::Handoff;
use crate::volume::Inventory;
use crate::volume::ReceiveRequest;
use crate::volume::Reclaim;
use crate::volume::SendRequest;
use crate::volume::VolumeBackend;
use crate::volume::VolumeError;

/// Volumes in memory, with all promises of [`VolumeBackend`] and none of its costs.
///
/// Cloning is cheap and gives the same volumes. Whoever plays the application
/// writes with [`append`](Self::append); whoever prepares a test writes with
/// [`put`](Self::put) and [`remove`](Self::remove).
#[derive(Clone, Debug)]
pub struct MemoryVolumes {
    machine: Arc<Machine>,
    process: Option<u64>,
}

impl Inject for VolumeError {
    fn inject(injected: Injected, effect: &Effect) -> Self {
        match (injected, effect.dataset()) {
            (Injected::DiskFull, Some(dataset)) => Self::NoSpace {
                dataset,
                needed: ByteSize(1),
                available: ByteSize(0),
            },
            (Injected::Refused, Some(dataset)) => Self::Diverged {
                dataset,
                reason: "a fault was asked for".into(),
            },
            (
                Injected::Down
                | Injected::Failed
                | Injected::Refused
                | Injected::DiskFull
                | Injected::ReplyLost,
                _,
            ) => Self::Io {
                what: format!("make {effect:?}"),
                source: injected.to_io(),
            },
        }
    }
}

impl MemoryVolumes {
    /// Makes the volumes of a node that has nothing else.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        MemoryNode::alone(node).volumes()
    }

    /// Takes a machine, and which run of our process alone may do anything to it.
    pub(super) fn of(machine: Arc<Machine>, process: Option<u64>) -> Self {
        Self { machine, process }
    }

    /// Returns where the data of a dataset is said to be.
    pub(super) fn mountpoint(dataset: DatasetId) -> PathBuf {
        Path::new("/memory").join(dataset.to_string())
    }

    /// Adds to a file as the application does, durable before it returns: from here on it must never be lost.
    ///
    /// Refused unless the dataset is primary here and a container is started
    /// on it. A write to a dataset that is not primary is a [`Violation`] too.
    pub fn append(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> Result<(), VolumeError> {
        self.write_as_application(dataset, |content| content.append(file, bytes))?;
        self.sync(dataset)
    }

    /// Adds to a file as the application does, without making it durable: a loss of power may take it.
    ///
    /// Refused as [`append`](Self::append) is.
    pub fn append_unsynced(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> Result<(), VolumeError> {
        self.write_as_application(dataset, |content| content.append(file, bytes))
    }

    /// Makes durable what was written, and tells the observer that it must never be lost.
    pub fn sync(&self, dataset: DatasetId) -> Result<(), VolumeError> {
        let mut state = self.machine.lock();
        let held = state.disk.writable(dataset)?;
        if !is_planted(Bug::SyncDoesNothing) {
            held.synced = held.live.clone();
        }
        self.machine.observer.acknowledge(dataset, &held.live);
        Ok(())
    }

    /// Sets a file of a primary, durable, whether or not a container is started on it.
    pub fn put(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> Result<(), VolumeError> {
        self.write(dataset, |content| content.put(file, bytes))?;
        self.sync(dataset)
    }

    /// Removes a file of a primary, durable; says whether it was there.
    pub fn remove(&self, dataset: DatasetId, file: &str) -> Result<bool, VolumeError> {
        let mut was_there = false;
        self.write(dataset, |content| was_there = content.remove(file))?;
        self.sync(dataset)?;
        Ok(was_there)
    }

    /// Reads a file of any copy; of a replica, as its newest snapshot has it.
    #[must_use]
    pub fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>> {
        let state = self.machine.lock();
        let held = state.disk.datasets.get(&dataset)?;
        held.live.get(file).map(<[u8]>::to_vec)
    }

    /// Says whether a file of any copy begins with these bytes.
    #[must_use]
    pub fn begins_with(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> bool {
        let state = self.machine.lock();
        let held = state.disk.datasets.get(&dataset);
        held.and_then(|held| held.live.get(file))
            .is_some_and(|found| found.starts_with(bytes))
    }

    /// Says whether there is a copy with this snapshot.
    #[must_use]
    pub fn has_snapshot(&self, dataset: DatasetId, snapshot: &SnapshotName) -> bool {
        let state = self.machine.lock();
        let held = state.disk.datasets.get(&dataset);
        held.is_some_and(|held| held.find(snapshot).is_some())
    }

    /// Says whether there is any trace of a dataset but trash.
    #[must_use]
    pub fn is_here(&self, dataset: DatasetId) -> bool {
        self.machine.lock().disk.datasets.contains_key(&dataset)
    }

    /// Returns how large a dataset may grow, if it is here.
    #[must_use]
    pub fn maximum_size(&self, dataset: DatasetId) -> Option<Option<ByteSize>> {
        let state = self.machine.lock();
        state.disk.datasets.get(&dataset).map(|held| held.maximum_size)
    }

    /// Says whether a dataset can be mounted from now on, as any can at first: what cannot is listed all the same.
    pub fn set_mountable(&self, dataset: DatasetId, can_be: bool) {
        let hidden = &mut self.machine.lock().disk.hidden;
        if can_be {
            hidden.remove(&dataset);
        } else {
            hidden.insert(dataset);
        }
    }

    fn write_as_application(
        &self,
        dataset: DatasetId,
        edit: impl FnOnce(&mut Content),
    ) -> Result<(), VolumeError> {
        let is_off = self.machine.faults.power() == Power::Off;
        if is_off || !self.machine.lock().containers.uses(dataset) {
            return Err(VolumeError::Io {
                what: format!("write dataset `{dataset}`: no container is started on it"),
                source: std::io::ErrorKind::NotConnected.into(),
            });
        }
        self.write(dataset, edit)
    }

    fn write(&self, dataset: DatasetId, edit: impl FnOnce(&mut Content)) -> Result<(), VolumeError> {
        let mut state = self.machine.lock();
        let mut content = match state.disk.writable(dataset) {
            Ok(held) => held.live.clone(),
            Err(refusal) => {
                self.machine.observer.add(Violation::WroteWithoutOwnership {
                    dataset,
                    node: self.machine.name.clone(),
                });
                return Err(refusal);
            }
        };
        edit(&mut content);
        state.disk.fits(dataset, &content)?;
        let held = state.disk.writable(dataset)?;
        held.live = content;
        let seen = held.seen();
        self.machine
            .observer
            .look_at_written(&self.machine.name, dataset, seen);
        Ok(())
    }

    fn life(&self, what: &str) -> Result<Life, VolumeError> {
        self.machine
            .faults
            .life(self.process)
            .map_err(|injected| VolumeError::Io {
                what: what.into(),
                source: injected.to_io(),
            })
    }

    /// Returns the error for a stream that did not come to its end; what arrived is kept.
    fn interrupted(&self, dataset: DatasetId, failure: FrameError) -> VolumeError {
        let state = self.machine.lock();
        let arrival = state
            .disk
            .datasets
            .get(&dataset)
            .and_then(|held| held.arrival.as_ref());
        match failure {
            FrameError::Cut(source) => VolumeError::Cut {
                dataset,
                received: ByteSize(arrival.map_or(0, Arrival::size)),
                source,
            },
            FrameError::Damaged(reason) => VolumeError::Stream {
                dataset,
                reason: reason.into(),
            },
        }
    }

    /// Refuses to take a volume away under a container, as a busy file system does.
    fn refuse_if_in_use(&self, dataset: DatasetId, verb: &str) -> Result<(), VolumeError> {
        if !self.machine.lock().containers.uses(dataset) {
            return Ok(());
        }
        self.machine.observer.add(Violation::TakenFromContainer {
            dataset,
            node: self.machine.name.clone(),
        });
        Err(VolumeError::Io {
            what: format!("{verb} dataset `{dataset}`"),
            source: std::io::ErrorKind::ResourceBusy.into(),
        })
    }
}

#[async_trait]
impl VolumeBackend for MemoryVolumes {
    async fn inventory(&self) -> Result<Inventory, VolumeError> {
        self.life("list datasets")?;
        Ok(self.machine.lock().disk.inventory())
    }

    async fn ready(&self, dataset: DatasetId) -> Result<Option<Role>, VolumeError> {
        self.life("mount a dataset")?;
        let state = self.machine.lock();
        let role = state.disk.datasets.get(&dataset).map(|held| held.role.clone());
        if matches!(role, Some(Role::Primary { .. })) && state.disk.hidden.contains(&dataset) {
            return Err(VolumeError::Io {
                what: format!("mount dataset `{dataset}`"),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        Ok(role)
    }

    fn takes(&self) -> Option<String> {
        Some(super::stream::TAKES.into())
    }

    fn path(&self, dataset: DatasetId) -> PathBuf {
        Self::mountpoint(dataset)
    }

    async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let life = self.life("create a dataset")?;
        let effect = Effect::Create(dataset.id);
        self.machine
            .effect(effect, &life, |state| state.disk.create(dataset, epoch))
            .await
    }

    async fn resize(&self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        let life = self.life("resize a dataset")?;
        let effect = Effect::Resize(dataset);
        self.machine
            .effect(effect, &life, |state| state.disk.resize(dataset, to))
            .await
    }

    async fn snapshot(&self, dataset: DatasetId, name: &SnapshotName) -> Result<Change, VolumeError> {
        let life = self.life("take a snapshot")?;
        let effect = Effect::Snapshot(dataset);
        let apply = |state: &mut State| {
            let is_written = state.containers.uses(dataset);
            state.disk.snapshot(dataset, name, is_written)
        };
        self.machine.effect(effect, &life, apply).await
    }

    async fn send(&self, request: &SendRequest) -> Result<ByteStream, VolumeError> {
        let life = self.life("send a snapshot")?;
        let (header, delta) = self.machine.lock().disk.outgoing(request)?;
        Ok(stream::open(&header, &delta, life))
    }

    async fn receive(&self, request: &ReceiveRequest, mut stream: ByteStream) -> Result<Change, VolumeError> {
        let life = self.life("receive a snapshot")?;
        let dataset = request.dataset.id;
        self.machine.lock().disk.may_receive(dataset)?;
        let header = match stream::read_header(&mut stream).await {
            Ok(header) => header,
            Err(failure) => return Err(self.interrupted(dataset, failure)),
        };
        if life.is_over() {
            return Err(self.interrupted(dataset, FrameError::Cut(Injected::Down.to_io())));
        }
        let (first_frame, n_frames) = (header.first_frame, header.n_frames);
        let begun = self.machine.lock().disk.begin(request, header)?;
        let Begun::Arriving { number } = begun else {
            return Ok(Change::AlreadySo);
        };
        let sync = async || {
            let effect = Effect::ReceivePart(dataset);
            let apply = |state: &mut State| state.disk.sync_arrival(dataset, number);
            self.machine.effect(effect, &life, apply).await
        };
        for _ in first_frame..n_frames {
            let arrived = stream::read_frame(&mut stream).await;
            if life.is_over() {
                return Err(self.interrupted(dataset, FrameError::Cut(Injected::Down.to_io())));
            }
            match arrived {
                Ok(frame) => {
                    let n_unsynced = self.machine.lock().disk.keep(dataset, number, frame)?;
                    if n_unsynced >= FRAMES_PER_SYNC {
                        sync().await?;
                    }
                }
                Err(failure) => {
                    sync().await?;
                    return Err(self.interrupted(dataset, failure));
                }
            }
        }
        let apply = |state: &mut State| state.disk.complete(dataset, number);
        let change = self.machine.effect(Effect::Receive(dataset), &life, apply).await;
        if matches!(change, Err(VolumeError::Stream { .. })) {
            // Every frame was whole and the sum is wrong: going on from it would end the same way.
            if let Some(held) = self
                .machine
                .lock()
                .disk
                .datasets
                .get_mut(&dataset)
                .map(Arc::make_mut)
            {
                held.arrival = held.arrival.take().filter(|arrival| arrival.number != number);
            }
        }
        change
    }

    async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError> {
        let life = self.life("release a dataset")?;
        let dataset = handoff.dataset;
        self.refuse_if_in_use(dataset, "release")?;
        let effect = Effect::Release(dataset);
        self.machine
            .effect(effect, &life, |state| state.disk.release(handoff))
            .await
    }

    async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        let life = self.life("acquire a dataset")?;
        let dataset = acquisition.dataset;
        let effect = Effect::Acquire(dataset);
        let apply = |state: &mut State| state.disk.acquire(acquisition);
        self.machine.effect(effect, &life, apply).await
    }

    async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        let life = self.life("renounce an epoch")?;
        let effect = Effect::Renounce(dataset);
        let apply = |state: &mut State| state.disk.renounce(dataset, epoch);
        self.machine.effect(effect, &life, apply).await
    }

    async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let life = self.life("destroy a copy")?;
        self.refuse_if_in_use(dataset, "destroy")?;
        let effect = Effect::Destroy(dataset);
        let apply = |state: &mut State| Ok(state.disk.destroy(dataset));
        self.machine.effect(effect, &life, apply).await
    }

    async fn restore(&self, entry: &str) -> Result<Change, VolumeError> {
        let life = self.life("restore a copy")?;
        let effect = Effect::Restore(entry.into());
        self.machine
            .effect(effect, &life, |state| state.disk.restore(entry))
            .await
    }

    async fn reclaim(&self, what: &Reclaim) -> Result<Change, VolumeError> {
        let life = self.life("reclaim space")?;
        self.machine
            .effect(Effect::Reclaim, &life, |state| state.disk.reclaim(what))
            .await
    }
}
