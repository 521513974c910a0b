//! A volume backend of one's own: a store in front of another, which keeps an account of every change.
//!
//! The store behind it is the twin in memory; it could be any. What makes it a
//! backend is that every promise of [`VolumeBackend`] still holds, and those
//! come as tests: `cargo test -p flocker-examples --example custom_volume_backend`.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

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
use flocker_backends::memory::MemoryNode;
use flocker_examples::Outcome;
use flocker_examples::check;
use flocker_model::ByteSize;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::SnapshotName;

/// A store that accounts for what is done to the one behind it.
#[derive(Debug)]
struct Accounted<B> {
    store: B,
    account: Arc<Mutex<Vec<String>>>,
}

impl<B> Accounted<B> {
    fn new(store: B) -> Self {
        Self {
            store,
            account: Arc::default(),
        }
    }

    /// Enters what was really done: what was so already, or was refused, is no change.
    fn enter(&self, entry: String, answer: Result<Change, VolumeError>) -> Result<Change, VolumeError> {
        if let Ok(Change::Made) = answer {
            self.entries().push(entry);
        }
        answer
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl<B: VolumeBackend> VolumeBackend for Accounted<B> {
    async fn inventory(&self) -> Result<Inventory, VolumeError> {
        self.store.inventory().await
    }

    fn takes(&self) -> Option<String> {
        self.store.takes()
    }

    fn path(&self, dataset: DatasetId) -> PathBuf {
        self.store.path(dataset)
    }

    async fn create(&self, dataset: &Dataset, epoch: Epoch) -> Result<Change, VolumeError> {
        let answer = self.store.create(dataset, epoch).await;
        self.enter(format!("create for {}, epoch {epoch}", dataset.owner), answer)
    }

    async fn resize(&self, dataset: DatasetId, to: Option<ByteSize>) -> Result<Change, VolumeError> {
        let answer = self.store.resize(dataset, to).await;
        let to = to.map_or_else(|| "no limit".into(), |to| to.to_string());
        self.enter(format!("resize to {to}"), answer)
    }

    async fn snapshot(&self, dataset: DatasetId, name: &SnapshotName) -> Result<Change, VolumeError> {
        let answer = self.store.snapshot(dataset, name).await;
        self.enter(format!("snapshot {name}"), answer)
    }

    async fn send(&self, request: &SendRequest) -> Result<ByteStream, VolumeError> {
        self.store.send(request).await
    }

    async fn receive(&self, request: &ReceiveRequest, stream: ByteStream) -> Result<Change, VolumeError> {
        let answer = self.store.receive(request, stream).await;
        self.enter(format!("receive {}", request.snapshot), answer)
    }

    async fn release(&self, handoff: &Handoff) -> Result<Change, VolumeError> {
        let answer = self.store.release(handoff).await;
        self.enter(
            format!("release to {}, epoch {}", handoff.to, handoff.epoch),
            answer,
        )
    }

    async fn acquire(&self, acquisition: &Acquisition) -> Result<Change, VolumeError> {
        let answer = self.store.acquire(acquisition).await;
        self.enter(format!("acquire, epoch {}", acquisition.epoch), answer)
    }

    async fn renounce(&self, dataset: DatasetId, epoch: Epoch) -> Result<Change, VolumeError> {
        let answer = self.store.renounce(dataset, epoch).await;
        self.enter(format!("renounce epoch {epoch}"), answer)
    }

    async fn destroy(&self, dataset: DatasetId) -> Result<Change, VolumeError> {
        let answer = self.store.destroy(dataset).await;
        self.enter("destroy".into(), answer)
    }

    async fn restore(&self, entry: &str) -> Result<Change, VolumeError> {
        let answer = self.store.restore(entry).await;
        self.enter(format!("restore {entry}"), answer)
    }

    async fn reclaim(&self, what: &Reclaim) -> Result<Change, VolumeError> {
        let answer = self.store.reclaim(what).await;
        self.enter(format!("reclaim {what:?}"), answer)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let (alpha, beta) = (
        MemoryNode::alone("alpha".parse()?),
        MemoryNode::alone("beta".parse()?),
    );
    let (source, target) = (Accounted::new(alpha.volumes()), Accounted::new(beta.volumes()));
    let owner = "mongodb".parse()?;
    let dataset = Dataset {
        id: DatasetId::derived(&owner),
        owner,
        maximum_size: None,
    };
    let id = dataset.id;
    source.create(&dataset, Epoch::FIRST).await?;
    source.create(&dataset, Epoch::FIRST).await?;
    alpha.volumes().put(id, "journal", b"first entry")?;

    let epoch = Epoch::FIRST.next();
    let last = SnapshotName::handoff(epoch);
    let handoff = Handoff {
        dataset: id,
        epoch,
        to: "beta".parse()?,
        last: last.clone(),
    };
    source.release(&handoff).await?;
    let send = SendRequest {
        dataset: id,
        snapshot: last.clone(),
        base: None,
        resume: None,
    };
    let receive = ReceiveRequest {
        dataset,
        snapshot: last.clone(),
        base: None,
    };
    target.receive(&receive, source.send(&send).await?).await?;
    let arrived = &target.inventory().await?.datasets[&id];
    let guid = arrived.snapshots.last().ok_or("nothing arrived")?.guid;
    let acquisition = Acquisition {
        dataset: id,
        epoch,
        from: last,
        guid: Some(guid),
    };
    target.acquire(&acquisition).await?;

    for (node, store) in [("alpha", &source), ("beta", &target)] {
        println!("the account of {node}:");
        for entry in store.entries().iter() {
            println!("  {entry}");
        }
    }
    check(
        source.entries().len() == 2,
        "what is asked for twice is entered once",
    )?;
    check(
        beta.volumes().read(id, "journal").as_deref() == Some(b"first entry"),
        "the data has moved",
    )?;
    println!("its promises: cargo test -p flocker-examples --example custom_volume_backend");
    Ok(())
}

#[cfg(test)]
mod promises {
    use std::io;

    use flocker_backends::conformance::VolumeHarness;

    use super::*;

    /// A node whose volumes are accounted for.
    struct Node(MemoryNode);

    impl Node {
        fn new(name: &str) -> Self {
            Self(MemoryNode::alone(name.parse().unwrap()))
        }
    }

    #[async_trait]
    impl VolumeHarness for Node {
        fn backend(&self) -> Arc<dyn VolumeBackend> {
            Arc::new(Accounted::new(self.0.volumes()))
        }

        async fn reopen(&self) {
            self.0.kill();
            self.0.restart();
        }

        async fn second(&self) -> Box<dyn VolumeHarness> {
            Box::new(Self::new("other"))
        }

        async fn write(&self, dataset: DatasetId, file: &str, bytes: &[u8]) -> io::Result<()> {
            self.0
                .volumes()
                .put(dataset, file, bytes)
                .map_err(io::Error::other)
        }

        async fn remove(&self, dataset: DatasetId, file: &str) -> io::Result<()> {
            let was_there = self.0.volumes().remove(dataset, file).map_err(io::Error::other)?;
            was_there
                .then_some(())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        async fn read(&self, dataset: DatasetId, file: &str) -> Option<Vec<u8>> {
            self.0.volumes().read(dataset, file)
        }

        fn enforces_sizes(&self) -> bool {
            true
        }
    }

    flocker_backends::volume_conformance!(Node::new("alpha"));
}
