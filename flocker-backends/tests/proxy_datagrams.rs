//! Routes in user space: real datagrams while routes change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::Router as _;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_backends::router::proxy::used_ports;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use tokio::net::UdpSocket;
use tokio_util::task::AbortOnDropHandle;

const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing has to come before it counts as nothing. What comes takes no time on one machine.
const SILENCE: Duration = Duration::from_millis(150);

const PORT: u16 = 4053;
const INTERNAL: u16 = 4054;

fn port() -> ExternalPort {
    ExternalPort::udp(PortNumber::new(PORT).unwrap())
}

/// A loopback address that no other test uses.
fn address(test: u8, number: u8) -> IpAddr {
    let [.., low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 60 + number, test, low.clamp(1, 254)])
}

fn route(homes: &[IpAddr]) -> RouteChange {
    let homes = homes.iter().map(|&address| Home {
        node: "node".parse().unwrap(),
        address,
    });
    let target = RouteTarget {
        application: "dns".parse().unwrap(),
        internal: PortNumber::new(INTERNAL).unwrap(),
        homes: homes.collect(),
    };
    RouteChange {
        set: [(port(), target)].into(),
        ..RouteChange::default()
    }
}

fn listens_at(address: IpAddr) -> BTreeMap<ApplicationName, IpAddr> {
    [("dns".parse().unwrap(), address)].into()
}

/// Answers with a word and what it heard, and counts nothing.
async fn answer(at: IpAddr, word: &'static str) -> AbortOnDropHandle<()> {
    let socket = UdpSocket::bind((at, INTERNAL)).await.unwrap();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (n_bytes, client) = socket.recv_from(&mut buffer).await.unwrap();
            let said = [word.as_bytes(), b" ", &buffer[..n_bytes]].concat();
            socket.send_to(&said, client).await.unwrap();
        }
    }))
}

/// Somebody who speaks to a node, and goes on.
struct Talk(UdpSocket);

impl Talk {
    async fn new(node: IpAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect((node, PORT)).await.unwrap();
        Self(socket)
    }

    async fn ask(&self, what: &str) -> Option<String> {
        self.0.send(what.as_bytes()).await.ok()?;
        let mut buffer = vec![0; 64 * 1024];
        let heard = tokio::time::timeout(SILENCE, self.0.recv(&mut buffer)).await;
        let n_bytes = heard.ok()?.ok()?;
        Some(String::from_utf8(buffer[..n_bytes].to_vec()).unwrap())
    }

    /// Asks until there is an answer.
    async fn heard(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(said) = self.ask(what).await {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody answers");
        }
    }
}

async fn open(directory: &tempfile::TempDir, node: IpAddr, options: ProxyOptions) -> ProxyRouter {
    ProxyRouter::open(directory.path(), node, options).await.unwrap()
}

/// A client speaks to one node all along, while the application goes from there to another, away, and back.
#[tokio::test]
async fn datagrams_follow_the_route_and_the_answers_find_back() {
    let [alpha, beta, here, there] = [1, 2, 11, 12].map(|number| address(1, number));
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let on_alpha = open(&directories[0], alpha, ProxyOptions::default()).await;
    let on_beta = open(&directories[1], beta, ProxyOptions::default()).await;
    let _servers = (answer(here, "alpha").await, answer(there, "beta").await);
    let (talk, other) = (Talk::new(alpha).await, Talk::new(alpha).await);
    for router in [&on_alpha, &on_beta] {
        router.apply(&route(&[alpha]), &listens_at(here)).await.unwrap();
    }
    assert_eq!(talk.heard("1").await, "alpha 1");
    assert_eq!(other.heard("2").await, "alpha 2");
    for router in [&on_beta, &on_alpha] {
        router.apply(&route(&[beta]), &listens_at(there)).await.unwrap();
    }
    assert_eq!(talk.heard("3").await, "beta 3");
    assert_eq!(other.heard("4").await, "beta 4");
    on_alpha.apply(&route(&[]), &BTreeMap::new()).await.unwrap();
    assert_eq!(talk.ask("lost").await, None);
    on_alpha.apply(&route(&[alpha]), &listens_at(here)).await.unwrap();
    assert_eq!(talk.heard("5").await, "alpha 5");
    // The largest there is goes through whole.
    let large = "x".repeat(60_000);
    assert_eq!(talk.heard(&large).await, format!("alpha {large}"));
    let statistics = on_alpha.statistics().await[&port()];
    assert!(statistics.accepted >= 5, "{statistics:?}");
    assert!(
        statistics.received > 60_000 && statistics.sent > 60_000,
        "{statistics:?}"
    );
    // Closed, nothing of it is left.
    on_alpha.close().await;
    assert_eq!(used_ports(alpha, [port()]), BTreeSet::new());
    let again = open(&directories[0], alpha, ProxyOptions::default()).await;
    assert_eq!(talk.heard("6").await, "alpha 6");
    again.close().await;
}

#[tokio::test]
async fn a_client_that_is_silent_is_forgotten_and_one_that_speaks_is_not() {
    let [node, here] = [1, 11].map(|number| address(2, number));
    let directory = tempfile::tempdir().unwrap();
    let options = ProxyOptions {
        idle_limit: Duration::from_millis(300),
        max_connections: 4,
        ..ProxyOptions::default()
    };
    let router = open(&directory, node, options).await;
    let _server = answer(here, "here").await;
    router.apply(&route(&[node]), &listens_at(here)).await.unwrap();
    let speaker = Talk::new(node).await;
    assert_eq!(speaker.heard("1").await, "here 1");
    // There is room for two more, and they leave without a word.
    for _ in 0..2 {
        assert_eq!(Talk::new(node).await.heard("2").await, "here 2");
    }
    let late = Talk::new(node).await;
    let begun = Instant::now();
    loop {
        assert_eq!(speaker.heard("3").await, "here 3");
        if late.ask("4").await.is_some() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody was forgotten");
    }
    // The speaker, both who left, and the late one: nobody was opened twice.
    let statistics = router.statistics().await[&port()];
    assert_eq!(statistics.accepted, 4, "{statistics:?}");
}

#[tokio::test]
async fn datagrams_do_not_go_round_for_ever() {
    let [alpha, beta] = [1, 2].map(|number| address(3, number));
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let on_alpha = open(&directories[0], alpha, ProxyOptions::default()).await;
    let on_beta = open(&directories[1], beta, ProxyOptions::default()).await;
    // Each thinks that the other has it.
    on_alpha.apply(&route(&[beta]), &BTreeMap::new()).await.unwrap();
    on_beta.apply(&route(&[alpha]), &BTreeMap::new()).await.unwrap();
    let talk = Talk::new(alpha).await;
    assert_eq!(talk.ask("who").await, None);
    let mut n_clients = 0;
    for router in [&on_alpha, &on_beta] {
        n_clients += router.statistics().await[&port()].accepted;
    }
    assert_eq!(n_clients, 8);
}

#[tokio::test]
async fn a_port_of_udp_is_taken_by_udp_alone() {
    let node = address(4, 1);
    let tcp = ExternalPort::tcp(port().number);
    let program = UdpSocket::bind(SocketAddr::new(node, PORT)).await.unwrap();
    assert_eq!(used_ports(node, [tcp, port()]), BTreeSet::from([port()]));
    drop(program);
    let program = std::net::TcpListener::bind((node, PORT)).unwrap();
    assert_eq!(used_ports(node, [tcp, port()]), BTreeSet::from([tcp]));
    drop(program);
}
