//! Both kernel routers keep the promises of every router.

use std::any::Any;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::Router;
use flocker_backends::conformance::RouterHarness;
use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::network::Ip;
use crate::network::Kind;
use crate::private::call;
use crate::strangers;

/// A machine that is also all the other machines: whatever is sent to one of them ends here.
struct Node {
    kind: Kind,
    ip: Ip,
    router: Mutex<Arc<dyn Router>>,
}

impl Node {
    fn new(kind: Kind, ip: Ip) -> Self {
        call("ip link add eth0 type veth peer name far");
        call("ip link set far up");
        call("ip link set eth0 up");
        for number in 1..=4 {
            call(&format!("ip addr add 10.77.0.{number}/24 dev eth0"));
            call(&format!("ip addr add fd77::{number}/64 dev eth0 nodad"));
        }
        call("ip addr add 172.18.0.2/24 dev eth0");
        call("ip addr add fd18::2/64 dev eth0 nodad");
        Self {
            kind,
            ip,
            router: Mutex::new(kind.router(ip.machine(1))),
        }
    }
}

#[async_trait]
impl RouterHarness for Node {
    fn router(&self) -> Arc<dyn Router> {
        Arc::clone(&self.router.lock().unwrap())
    }

    async fn reopen(&self) {
        *self.router.lock().unwrap() = self.kind.router(self.node_address());
    }

    fn node_address(&self) -> IpAddr {
        self.ip.machine(1)
    }

    fn local_address(&self) -> IpAddr {
        self.ip.container(2)
    }

    fn other_node(&self, number: u8) -> IpAddr {
        self.ip.machine(1 + number)
    }

    fn port(&self, number: u8) -> PortNumber {
        PortNumber::new(4600 + u16::from(number)).unwrap()
    }

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
        let mut stream = match connect(self.node_address(), port).await {
            Some(stream) => stream,
            None => connect(self.node_address(), port).await?,
        };
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read_to_string(&mut answer)).await;
        read.ok()?.ok()?;
        answer.parse().ok()
    }
}

/// Connects, if anybody is there.
///
/// Where nobody serves yet, the packet is dropped and nothing comes. Just after forwarding was turned on, the kernel itself may
/// drop the first packets of the newer kind, the longer the busier the machine is; one more comes after a second.
async fn connect(address: IpAddr, port: ExternalPort) -> Option<TcpStream> {
    let connecting = TcpStream::connect((address, port.get()));
    let connected = tokio::time::timeout(Duration::from_millis(1_700), connecting).await;
    connected.ok()?.ok()
}

macro_rules! conformance {
    ($($module:ident $kind:ident $ip:ident)*) => {$(
        mod $module {
            use crate::network::Ip;
            use crate::network::Kind;
            use crate::private::privately;
            flocker_backends::router_conformance!(super::Node::new(Kind::$kind, Ip::$ip), within privately);
        }
    )*};
}

conformance! {
    nftables_v4 Nftables V4
    nftables_v6 Nftables V6
    iptables_nft_v4 IptablesNft V4
    iptables_nft_v6 IptablesNft V6
    iptables_legacy_v4 IptablesLegacy V4
    iptables_legacy_v6 IptablesLegacy V6
}
