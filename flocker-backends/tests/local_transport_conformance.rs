//! The way to nodes on this machine keeps the promises of every transport.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use flocker_backends::Transport;
use flocker_backends::conformance::TransportHarness;
use flocker_backends::transport::local::LocalListener;
use flocker_backends::transport::local::LocalTransport;
use flocker_model::NodeAddress;
use tokio::io::AsyncWriteExt as _;
use tokio_util::task::AbortOnDropHandle;

struct Nodes {
    directory: tempfile::TempDir,
    serving: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Nodes {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            serving: Mutex::new(None),
        }
    }
}

async fn serve(listener: LocalListener) {
    let mut channels = tokio::task::JoinSet::new();
    loop {
        let (mut reader, mut writer) = tokio::io::split(listener.accept().await.unwrap());
        channels.spawn(async move {
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        });
    }
}

#[async_trait]
impl TransportHarness for Nodes {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(LocalTransport)
    }

    async fn echo(&self) -> NodeAddress {
        let directory = self.directory.path().join("echo");
        let listener = LocalListener::bind(&directory).unwrap();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener)));
        *self.serving.lock().unwrap() = Some(serving);
        NodeAddress::Local { directory }
    }

    fn nobody(&self) -> NodeAddress {
        NodeAddress::Local {
            directory: self.directory.path().join("nobody"),
        }
    }

    fn unsupported(&self) -> NodeAddress {
        NodeAddress::Ssh {
            host: "alpha".into(),
            user: None,
            port: None,
        }
    }
}

flocker_backends::transport_conformance!(Nodes::new());
