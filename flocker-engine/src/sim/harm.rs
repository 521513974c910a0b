//! Volumes whose copies can be harmed on their way out.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;

use async_trait::async_trait;
use flocker_backends::Acquisition;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Handoff;
use flocker_backends::Inventory;
use flocker_backends::ReceiveRequest;
use flocker_backends::Reclaim;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend;
use flocker_backends::VolumeError;
use flocker_backends::memory::MemoryVolumes;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::SnapshotName;
use tokio::io::AsyncRead;
use tokio::io::ReadBuf;

/// What happens to a copy on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The byte at this place changes.
    Damage(u64),
    /// It ends cleanly at this place.
    Truncation(u64),
}

/// The volumes of a node, whose next copy out can be harmed.
#[derive(Clone, Debug)]
pub(crate) struct Harmed {
    inner: MemoryVolumes,
    next: Arc<Mutex<Option<Harm>>>,
    /// How many more lists cannot be read.
    unlisted: Arc<Mutex<u32>>,
}

impl Harmed {
    pub(crate) fn new(inner: MemoryVolumes) -> Self {
        Self {
            inner,
            next: Arc::default(),
            unlisted: Arc::default(),
        }
    }

    /// Returns the same volumes as one process has them.
    pub(crate) fn of(&self, inner: MemoryVolumes) -> Self {
        Self {
            inner,
            ..self.clone()
        }
    }

    /// Lets the next so many lists be cut short.
    pub(crate) fn unlist(&self, n_lists: u32) {
        *self.unlisted.lock().unwrap_or_else(PoisonError::into_inner) = n_lists;
    }

    /// Sets what happens to the next copy, or that nothing does.
    pub(crate) fn set(&self, harm: Option<Harm>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = harm;
    }
}

#[async_trait]
impl VolumeBackend for Harmed {
    async fn inventory(&self) -> Result<Inventory, VolumeError> {
        let is_broken = {
            let mut left = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
            let is_broken = *left > 0;
            *left = left.saturating_sub(1);
            is_broken
        };
        if is_broken {
            return Err(VolumeError::Io {
                what: "list datasets".into(),
                source: io::ErrorKind::UnexpectedEof.into(),
            });
        }
        self.inner.inventory().await
    }

    fn takes(&self) -> Option<String> {
        self.inner.takes()
    }

    fn path(&self, dataset: DatasetId) -> PathBuf {
        self.inner.path(dataset)
    }

    async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        self.inner.create(dataset, epoch).await
    }

    async fn resize(&self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        self.inner.resize(dataset, to).await
    }

    async fn snapshot(&self, dataset: DatasetId, name: &SnapshotName) -> Result<Change, VolumeError> {
        self.inner.snapshot(dataset, name).await
    }

    async fn send(&self, request: &SendRequest) -> Result<ByteStream, VolumeError> {
        let stream = self.inner.send(request).await?;
        let harm = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let position = 0;
        Ok(match harm {
            Some(harm) => Box::pin(HarmedStream {
                stream,
                harm,
                position,
            }),
            None => stream,
        })
    }

    async fn receive(&self, request: &ReceiveRequest, stream: ByteStream) -> Result<Change, VolumeError> {
        self.inner.receive(request, stream).await
    }

    async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError> {
        self.inner.release(handoff).await
    }

    async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        self.inner.acquire(acquisition).await
    }

    async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        self.inner.renounce(dataset, epoch).await
    }

    async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        self.inner.destroy(dataset).await
    }

    async fn restore(&self, entry: &str) -> Result<Change, VolumeError> {
        self.inner.restore(entry).await
    }

    async fn reclaim(&self, what: &Reclaim) -> Result<Change, VolumeError> {
        self.inner.reclaim(what).await
    }
}

struct HarmedStream {
    stream: ByteStream,
    harm: Harm,
    position: u64,
}

impl AsyncRead for HarmedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n_before = buffer.filled().len();
        let position = self.position;
        if let Harm::Truncation(end) = self.harm
            && position >= end
        {
            return Poll::Ready(Ok(()));
        }
        let polled = self.stream.as_mut().poll_read(context, buffer);
        let n_read = buffer.filled().len() - n_before;
        self.position += n_read as u64;
        let inside = |place: u64| {
            let offset = usize::try_from(place.checked_sub(position)?).ok()?;
            (offset < n_read).then_some(n_before + offset)
        };
        match self.harm {
            Harm::Damage(place) => {
                if let Some(at) = inside(place) {
                    buffer.filled_mut()[at] ^= 0x40;
                }
            }
            Harm::Truncation(end) => {
                if let Some(at) = inside(end) {
                    buffer.set_filled(at);
                }
            }
        }
        polled
    }
}
