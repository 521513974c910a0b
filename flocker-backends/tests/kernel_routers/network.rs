//! Machines, each a network namespace, that see each other through one bridge.

use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Router;
use flocker_backends::conformance::run;
use flocker_backends::router::iptables::IptablesRouter;
use flocker_backends::router::iptables::Variant;
use flocker_backends::router::nftables::NftablesRouter;
use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use nix::sched::CloneFlags;
use nix::sched::setns;

use super::private::call;

/// Which router a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

impl Kind {
    pub(crate) fn router(self, own: IpAddr) -> Arc<dyn Router> {
        match self {
            Self::Nftables => Arc::new(NftablesRouter::new(own)),
            Self::IptablesNft => Arc::new(IptablesRouter::new(own, Variant::Nft)),
            Self::IptablesLegacy => Arc::new(IptablesRouter::new(own, Variant::Legacy)),
        }
    }

    /// The program by which others add rules to the same filter.
    pub(crate) fn iptables(self) -> &'static str {
        match self {
            Self::Nftables => "iptables",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

/// Declares a test for each kind of router, in a network of its own.
macro_rules! for_each_router {
    ($($name:ident)*) => {
        for_each_router!(nftables, Nftables, $($name)*);
        for_each_router!(iptables_nft, IptablesNft, $($name)*);
        for_each_router!(iptables_legacy, IptablesLegacy, $($name)*);
    };
    ($module:ident, $kind:ident, $($name:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    crate::private::privately(|| super::$name(crate::network::Kind::$kind));
                }
            )*
        }
    };
}
pub(crate) use for_each_router;

pub(crate) fn port(number: u16) -> ExternalPort {
    ExternalPort::tcp(PortNumber::new(number).unwrap())
}

/// Which kind of addresses a test uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    /// The address of a machine on the wire.
    pub(crate) fn machine(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([10, 77, 0, number]),
            Self::V6 => format!("fd77::{number}").parse().unwrap(),
        }
    }

    /// The address of a container of machine 1.
    pub(crate) fn container(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([172, 18, 0, number]),
            Self::V6 => format!("fd18::{number}").parse().unwrap(),
        }
    }

    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::from([127, 0, 0, 1]),
            Self::V6 => "::1".parse().unwrap(),
        }
    }
}

/// The names of machines 1 to 3, and of the client, machine 9.
pub(crate) const ALPHA: &str = "alpha";
pub(crate) const BETA: &str = "beta";
pub(crate) const GAMMA: &str = "gamma";
pub(crate) const CLIENT: &str = "client";
/// Two containers of alpha, 2 and 3.
pub(crate) const BOX: &str = "box";
pub(crate) const NEIGHBOUR: &str = "neighbour";

fn wire(machine: &str, to: &str, bridge_in: Option<&str>, addresses: [String; 2]) {
    let inside = bridge_in.map_or(String::new(), |name| format!("-n {name} "));
    let far = match bridge_in {
        Some(name) => format!(" netns {name}"),
        None => String::new(),
    };
    call(&format!(
        "ip -n {machine} link add eth0 type veth peer name {machine}{far}"
    ));
    if bridge_in.is_none() {
        call(&format!("ip -n {machine} link set {machine} netns 1"));
    }
    call(&format!("ip {inside}link set {machine} master {to} up"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        call(&format!("ip -n {machine} addr add {address} dev eth0{nodad}"));
    }
    call(&format!("ip -n {machine} link set eth0 up"));
    call(&format!("ip -n {machine} link set lo up"));
}

/// Builds all machines.
pub(crate) fn build() {
    // The machines see each other through a machine that does nothing else.
    call("ip netns add wire");
    call("ip -n wire link add hub type bridge forward_delay 0");
    call("ip -n wire link set hub up");
    for (name, number) in [(ALPHA, 1), (BETA, 2), (GAMMA, 3), (CLIENT, 9)] {
        call(&format!("ip netns add {name}"));
        let addresses = [format!("10.77.0.{number}/24"), format!("fd77::{number}/64")];
        wire(name, "hub", Some("wire"), addresses);
    }
    call("ip -n alpha link add docker0 type bridge forward_delay 0");
    call("ip -n alpha addr add 172.18.0.1/24 dev docker0");
    call("ip -n alpha addr add fd18::1/64 dev docker0 nodad");
    call("ip -n alpha link set docker0 up");
    for (name, number) in [(BOX, 2), (NEIGHBOUR, 3)] {
        call(&format!("ip netns add {name}"));
        let addresses = [format!("172.18.0.{number}/24"), format!("fd18::{number}/64")];
        wire(name, "docker0", Some(ALPHA), addresses);
        call(&format!("ip -n {name} route add default via 172.18.0.1"));
        call(&format!("ip -n {name} route add default via fd18::1"));
    }
}

/// Runs something on a machine and waits for it.
pub(crate) fn on<T: Send>(machine: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(machine);
                work()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter(machine: &str) {
    let network = File::open(format!("/run/netns/{machine}")).unwrap();
    setns(network, CloneFlags::CLONE_NEWNET).unwrap();
}

/// Serves on a machine for as long as the test lives: tells every client where it arrived and who it seems to be, and then repeats what it says.
pub(crate) fn serve(machine: &'static str, at: SocketAddr) {
    let listener = on(machine, || TcpListener::bind(at).unwrap());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            std::thread::spawn(move || {
                let from = client.peer_addr().unwrap().ip();
                writeln!(client, "{machine} {from}").unwrap();
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = client.read(&mut buffer) {
                    client.write_all(&buffer[..n]).unwrap();
                }
            });
        }
    });
}

/// What is read from a served connection first: where it arrived, and as whom.
pub(crate) fn greeting(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while byte != [b'\n'] {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8(line).unwrap().trim().to_owned())
}

/// Connects from a machine; nothing where that fails or takes as long as this.
pub(crate) fn connect(from: &str, to: SocketAddr, patience: Duration) -> Option<(TcpStream, String)> {
    on(from, || {
        let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
        stream.set_read_timeout(Some(patience)).unwrap();
        let greeting = greeting(&mut stream).ok()?;
        Some((stream, greeting))
    })
}

/// Connects and says where that arrived and as whom.
pub(crate) fn arrives(from: &str, to: SocketAddr) -> String {
    let arrived = connect(from, to, Duration::from_secs(4));
    arrived.map_or_else(|| "nowhere".into(), |(_, greeting)| greeting)
}

/// Whether a connection attempt is told that nobody is there.
pub(crate) fn is_refused(from: &str, to: SocketAddr) -> bool {
    let tried = on(from, || TcpStream::connect_timeout(&to, Duration::from_secs(4)));
    tried.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// Returns one of the kernel's counters of a machine: how many packets were passed on (`Ip`, `ForwDatagrams`), and the like.
pub(crate) fn counter(machine: &str, of: &str, name: &str) -> u64 {
    let counters = on(machine, || {
        std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap()
    });
    let mut lines = counters
        .lines()
        .filter_map(|line| line.strip_prefix(of)?.strip_prefix(": "));
    let at = lines.next().unwrap().split(' ').position(|other| other == name);
    let number = lines.next().unwrap().split(' ').nth(at.unwrap());
    number.unwrap().parse().unwrap()
}

/// A route of the application `site`, which listens at port 8080.
pub(crate) fn target(homes: &[IpAddr]) -> RouteTarget {
    let homes = homes.iter().enumerate().map(|(n, address)| Home {
        node: format!("node-{n}").parse().unwrap(),
        address: *address,
    });
    RouteTarget {
        application: "site".parse().unwrap(),
        internal: port(8080).number,
        homes: homes.collect(),
    }
}

pub(crate) fn set(number: u16, homes: &[IpAddr]) -> RouteChange {
    RouteChange {
        set: [(port(number), target(homes))].into(),
        ..RouteChange::default()
    }
}

/// The same for a port of UDP.
pub(crate) fn set_udp(number: u16, homes: &[IpAddr]) -> RouteChange {
    RouteChange {
        set: [(ExternalPort::udp(port(number).number), target(homes))].into(),
        ..RouteChange::default()
    }
}

/// Makes a change on a machine, where `site` listens at this address, if it is there.
pub(crate) fn apply(
    machine: &str,
    router: &Arc<dyn Router>,
    change: &RouteChange,
    local: Option<IpAddr>,
) -> flocker_backends::Change {
    let local = local
        .map(|address| ("site".parse().unwrap(), address))
        .into_iter()
        .collect();
    on(machine, || {
        let mut made = None;
        run(async { made = Some(router.apply(change, &local).await.unwrap()) });
        made.unwrap()
    })
}

/// Returns the ports that are in force on a machine.
pub(crate) fn ports(machine: &str, router: &Arc<dyn Router>) -> Vec<u16> {
    on(machine, || {
        let mut ports = Vec::new();
        run(async {
            let table = router.current().await.unwrap();
            ports = table.entries().keys().map(|port| port.get()).collect();
        });
        ports
    })
}
