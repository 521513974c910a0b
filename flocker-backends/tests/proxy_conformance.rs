//! Routes in user space keep the promises of every router.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod strangers;

use std::any::Any;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::Router;
use flocker_backends::conformance::RouterHarness;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

struct Node {
    directory: tempfile::TempDir,
    number: u8,
    router: Mutex<Option<Arc<ProxyRouter>>>,
}

impl Node {
    async fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            router: Mutex::new(None),
        };
        node.open().await;
        node
    }

    async fn open(&self) {
        // Where nobody serves, a test waits as long as this.
        let options = ProxyOptions {
            hold_limit: Duration::from_millis(100),
            ..ProxyOptions::default()
        };
        let opened = ProxyRouter::open(self.directory.path(), self.node_address(), options).await;
        *self.router.lock().unwrap() = Some(Arc::new(opened.unwrap()));
    }

    fn address(&self, second: u8) -> IpAddr {
        let [.., low] = std::process::id().to_be_bytes();
        IpAddr::from([127, second, self.number, low.clamp(1, 254)])
    }
}

#[async_trait]
impl RouterHarness for Node {
    fn router(&self) -> Arc<dyn Router> {
        self.router.lock().unwrap().clone().unwrap()
    }

    async fn reopen(&self) {
        let router = self.router.lock().unwrap().take().unwrap();
        // A process that is killed has closed its ports; a router that is only dropped, not yet.
        Arc::into_inner(router).unwrap().close().await;
        self.open().await;
    }

    fn node_address(&self) -> IpAddr {
        self.address(20)
    }

    fn local_address(&self) -> IpAddr {
        self.address(130)
    }

    fn other_node(&self, number: u8) -> IpAddr {
        self.address(20 + number)
    }

    fn port(&self, number: u8) -> PortNumber {
        PortNumber::new(4600 + u16::from(number)).unwrap()
    }

    /// Tells every client where it has arrived.
    async fn serve(&self, at: SocketAddr) -> Box<dyn Any + Send> {
        strangers::serve(at).await
    }

    async fn occupy(&self, port: ExternalPort) -> Option<Box<dyn Any + Send>> {
        let at = (self.node_address(), port.get()).into();
        Some(strangers::occupy(at, port.protocol))
    }

    async fn ends_at(&self, port: ExternalPort) -> Option<SocketAddr> {
        if port.protocol == Protocol::Udp {
            return strangers::datagrams_end_at((self.node_address(), port.get()).into()).await;
        }
        let mut stream = TcpStream::connect((self.node_address(), port.get())).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.parse().ok()
    }
}

flocker_backends::router_conformance!(Node::new().await);
