//! Routes in user space: real connections while routes change.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::Change;
use flocker_backends::Router as _;
use flocker_backends::RouterError;
use flocker_backends::router::proxy::PortStatistics;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_backends::router::proxy::used_ports;
use flocker_model::ApplicationName;
use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(20);

/// The port that the cluster offers.
const PORT: u16 = 4000;

/// The port on which applications listen.
const INTERNAL: u16 = 4001;

fn port(number: u16) -> ExternalPort {
    ExternalPort::tcp(PortNumber::new(number).unwrap())
}

/// Loopback addresses for one test, which no other test uses.
struct Addresses([u8; 2]);

impl Addresses {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., low] = std::process::id().to_be_bytes();
        Self([NEXT.fetch_add(1, Ordering::Relaxed), low.clamp(1, 254)])
    }

    fn node(&self, number: u8) -> IpAddr {
        let [high, low] = self.0;
        IpAddr::from([127, 10 + number, high, low])
    }

    fn application(&self, number: u8) -> IpAddr {
        let [high, low] = self.0;
        IpAddr::from([127, 130 + number, high, low])
    }
}

fn options(hold_limit: Duration) -> ProxyOptions {
    ProxyOptions {
        hold_limit,
        ..ProxyOptions::default()
    }
}

/// A route of [`PORT`] to these nodes.
fn route(homes: &[IpAddr]) -> RouteChange {
    let homes = homes.iter().map(|&address| Home {
        node: "node".parse().unwrap(),
        address,
    });
    let target = RouteTarget {
        application: "web".parse().unwrap(),
        internal: port(INTERNAL).number,
        homes: homes.collect(),
    };
    RouteChange {
        set: [(port(PORT), target)].into(),
        ..RouteChange::default()
    }
}

fn dropped() -> RouteChange {
    RouteChange {
        drop: [port(PORT)].into(),
        ..RouteChange::default()
    }
}

fn listens_at(address: IpAddr) -> BTreeMap<ApplicationName, IpAddr> {
    [("web".parse().unwrap(), address)].into()
}

/// A server that says who it is and then repeats what it hears until its client ends.
struct Server(JoinHandle<()>);

impl Server {
    fn start(address: IpAddr, word: &'static str) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::new(address, INTERNAL)).unwrap();
        let listener = socket.listen(4096).unwrap();
        Self(tokio::spawn(serve(listener, word)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, word: &'static str) {
    let mut clients = tokio::task::JoinSet::new();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        clients.spawn(async move {
            client.write_all(word.as_bytes()).await?;
            let (mut reader, mut writer) = client.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await
        });
        while clients.try_join_next().is_some() {}
    }
}

/// Connects, says `hello`, ends, and returns all that comes back.
async fn ask(node: IpAddr) -> std::io::Result<String> {
    let work = async {
        let mut stream = TcpStream::connect((node, PORT)).await?;
        stream.write_all(b" hello").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("an answer in time")
}

async fn wait_for(router: &ProxyRouter, condition: impl Fn(&PortStatistics) -> bool) {
    let begun = Instant::now();
    loop {
        let statistics = router.statistics().await;
        if statistics.values().any(&condition) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{statistics:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn open(directory: &tempfile::TempDir, node: IpAddr, hold_limit: Duration) -> ProxyRouter {
    let directory = directory.path().join(node.to_string());
    ProxyRouter::open(&directory, node, options(hold_limit))
        .await
        .unwrap()
}

#[tokio::test]
async fn every_node_answers_wherever_the_application_is() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let [alpha, beta] = [1, 2].map(|number| addresses.node(number));
    let application = addresses.application(1);
    let _server = Server::start(application, "alpha");
    let on_alpha = open(&directory, alpha, PATIENCE).await;
    let on_beta = open(&directory, beta, PATIENCE).await;
    let change = route(&[alpha]);
    for (router, local) in [(&on_alpha, listens_at(application)), (&on_beta, BTreeMap::new())] {
        assert_eq!(router.apply(&change, &local).await.unwrap(), Change::Made);
        assert_eq!(router.apply(&change, &local).await.unwrap(), Change::AlreadySo);
        assert_eq!(router.current().await.unwrap().entries(), &change.set);
    }
    assert_eq!(ask(alpha).await.unwrap(), "alpha hello");
    assert_eq!(ask(beta).await.unwrap(), "alpha hello");
    wait_for(&on_beta, |statistics| {
        statistics.accepted == 1 && statistics.open == 0
    })
    .await;
    let statistics = on_beta.statistics().await[&port(PORT)];
    assert_eq!((statistics.received, statistics.sent), (6, 11));
}

#[tokio::test]
async fn a_connection_is_held_until_the_application_serves() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let application = addresses.application(1);
    let router = open(&directory, node, PATIENCE).await;
    router
        .apply(&route(&[node]), &listens_at(application))
        .await
        .unwrap();
    let client = tokio::spawn(ask(node));
    wait_for(&router, |statistics| statistics.held == 1).await;
    let _server = Server::start(application, "late");
    assert_eq!(client.await.unwrap().unwrap(), "late hello");
    wait_for(&router, |statistics| statistics.held == 0 && statistics.open == 0).await;
}

#[tokio::test]
async fn a_held_connection_goes_on_at_once_when_the_route_changes() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let [alpha, beta] = [1, 2].map(|number| addresses.node(number));
    let application = addresses.application(2);
    let on_alpha = open(&directory, alpha, PATIENCE).await;
    let on_beta = open(&directory, beta, PATIENCE).await;
    // Alpha is home, but nothing listens: the application has been stopped.
    let nowhere = listens_at(addresses.application(1));
    on_alpha.apply(&route(&[alpha]), &nowhere).await.unwrap();
    on_beta.apply(&route(&[alpha]), &BTreeMap::new()).await.unwrap();
    let clients: Vec<_> = [alpha, beta, alpha, beta]
        .map(|node| tokio::spawn(ask(node)))
        .into();
    wait_for(&on_alpha, |statistics| statistics.held == 4).await;
    let _server = Server::start(application, "beta");
    on_beta
        .apply(&route(&[beta]), &listens_at(application))
        .await
        .unwrap();
    on_alpha.apply(&route(&[beta]), &BTreeMap::new()).await.unwrap();
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap(), "beta hello");
    }
}

#[tokio::test]
async fn a_connection_is_not_held_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let router = open(&directory, node, Duration::from_millis(100)).await;
    router.apply(&route(&[node]), &BTreeMap::new()).await.unwrap();
    let begun = Instant::now();
    let mut stream = TcpStream::connect((node, PORT)).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!((read.unwrap(), answer.len()), (0, 0));
    assert!(begun.elapsed() >= Duration::from_millis(100));
    wait_for(&router, |statistics| {
        statistics.given_up == 1 && statistics.open == 0
    })
    .await;
}

#[tokio::test]
async fn what_has_a_connection_keeps_it_and_what_is_new_goes_the_new_way() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let [old, new] = [1, 2].map(|number| addresses.application(number));
    let _old_server = Server::start(old, "old");
    let _new_server = Server::start(new, "new");
    let router = open(&directory, node, PATIENCE).await;
    router.apply(&route(&[node]), &listens_at(old)).await.unwrap();
    let mut stream = TcpStream::connect((node, PORT)).await.unwrap();
    let mut word = [0; 3];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"old");
    assert_eq!(
        router.apply(&route(&[node]), &listens_at(new)).await.unwrap(),
        Change::Made
    );
    assert_eq!(ask(node).await.unwrap(), "new hello");
    assert_eq!(
        router.apply(&dropped(), &BTreeMap::new()).await.unwrap(),
        Change::Made
    );
    let refusal = TcpStream::connect((node, PORT)).await.unwrap_err();
    assert_eq!(refusal.kind(), std::io::ErrorKind::ConnectionRefused);
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "still here");
}

#[tokio::test]
async fn a_connection_to_a_server_that_dies_ends() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let application = addresses.application(1);
    let server = Server::start(application, "mortal");
    let router = open(&directory, node, PATIENCE).await;
    router
        .apply(&route(&[node]), &listens_at(application))
        .await
        .unwrap();
    let mut stream = TcpStream::connect((node, PORT)).await.unwrap();
    stream.read_exact(&mut [0; 6]).await.unwrap();
    drop(server);
    let end = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1]))
        .await
        .unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_refused_while_routes_switch() {
    const N_CONNECTIONS: usize = 1000;
    const N_SWITCHES: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let [alpha, beta] = [1, 2].map(|number| addresses.node(number));
    let [on_alpha, on_beta] = [1, 2].map(|number| addresses.application(number));
    let _servers = (Server::start(on_alpha, "alpha"), Server::start(on_beta, "beta"));
    let routers = [
        open(&directory, alpha, PATIENCE).await,
        open(&directory, beta, PATIENCE).await,
    ];
    // Both know where an application would be on them; the routes alone decide.
    let locals = [listens_at(on_alpha), listens_at(on_beta)];
    for (router, local) in routers.iter().zip(&locals) {
        router.apply(&route(&[alpha]), local).await.unwrap();
    }
    let clients = async {
        let mut asking = tokio::task::JoinSet::new();
        let mut answers = BTreeMap::<String, usize>::new();
        for number in 0..N_CONNECTIONS {
            asking.spawn(ask(if number % 2 == 0 { alpha } else { beta }));
            if asking.len() >= 50 {
                let answer = asking.join_next().await.unwrap().unwrap().unwrap();
                *answers.entry(answer).or_default() += 1;
            }
        }
        while let Some(answer) = asking.join_next().await {
            *answers.entry(answer.unwrap().unwrap()).or_default() += 1;
        }
        answers
    };
    let switches = async {
        for number in 0..N_SWITCHES {
            let home = if number % 2 == 0 { beta } else { alpha };
            for (router, local) in routers.iter().zip(&locals) {
                assert_eq!(router.apply(&route(&[home]), local).await.unwrap(), Change::Made);
            }
        }
    };
    let (answers, ()) = tokio::join!(clients, switches);
    let words: Vec<&str> = answers.keys().map(String::as_str).collect();
    assert!(
        words
            .iter()
            .all(|word| ["alpha hello", "beta hello"].contains(word)),
        "{answers:?}"
    );
    assert_eq!(answers.values().sum::<usize>(), N_CONNECTIONS);
}

#[tokio::test]
async fn a_connection_does_not_go_round_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let [alpha, beta] = [1, 2].map(|number| addresses.node(number));
    let on_alpha = open(&directory, alpha, Duration::from_millis(300)).await;
    let on_beta = open(&directory, beta, Duration::from_millis(300)).await;
    // Each believes that the other has it.
    on_alpha.apply(&route(&[beta]), &BTreeMap::new()).await.unwrap();
    on_beta.apply(&route(&[alpha]), &BTreeMap::new()).await.unwrap();
    assert_eq!(ask(alpha).await.unwrap(), "");
    let accepted = |statistics: BTreeMap<ExternalPort, PortStatistics>| statistics[&port(PORT)].accepted;
    let total = accepted(on_alpha.statistics().await) + accepted(on_beta.statistics().await);
    assert_eq!(total, 9, "the client's own, and eight that were passed on");
}

#[tokio::test]
async fn a_port_of_somebody_else_is_refused_and_everything_stays() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let application = addresses.application(1);
    let _server = Server::start(application, "web");
    let router = open(&directory, node, PATIENCE).await;
    let change = route(&[node]);
    router.apply(&change, &listens_at(application)).await.unwrap();
    let foreign = std::net::TcpListener::bind((node, PORT + 10)).unwrap();
    let mut bigger = RouteChange::default();
    let target = change.set[&port(PORT)].clone();
    for number in [PORT + 9, PORT + 10, PORT + 11] {
        bigger.set.insert(port(number), target.clone());
    }
    bigger.drop.insert(port(PORT));
    let refusal = router.apply(&bigger, &listens_at(application)).await.unwrap_err();
    assert!(
        matches!(&refusal, RouterError::PortInUse { port: taken, .. } if taken.get() == PORT + 10),
        "{refusal}"
    );
    assert_eq!(router.current().await.unwrap().entries(), &change.set);
    assert_eq!(ask(node).await.unwrap(), "web hello");
    assert!(TcpStream::connect((node, PORT + 9)).await.is_err());
    let asked = [PORT, PORT + 9, PORT + 10].map(port);
    assert_eq!(
        router.foreign_ports(asked).await,
        BTreeSet::from([port(PORT + 10)])
    );
    assert_eq!(
        used_ports(node, asked),
        BTreeSet::from([port(PORT), port(PORT + 10)])
    );
    drop(foreign);
    assert_eq!(
        router.apply(&bigger, &listens_at(application)).await.unwrap(),
        Change::Made
    );
    assert_eq!(router.current().await.unwrap().entries().len(), 3);
}

#[tokio::test]
async fn routes_are_back_after_a_restart_as_far_as_their_ports_are_free() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let application = addresses.application(1);
    let _server = Server::start(application, "web");
    let router = open(&directory, node, PATIENCE).await;
    let mut change = route(&[node]);
    let target = change.set[&port(PORT)].clone();
    change.set.insert(port(PORT + 10), target);
    router.apply(&change, &listens_at(application)).await.unwrap();
    router.close().await;
    assert!(TcpStream::connect((node, PORT)).await.is_err());

    let router = open(&directory, node, PATIENCE).await;
    assert_eq!(router.current().await.unwrap().entries(), &change.set);
    assert_eq!(ask(node).await.unwrap(), "web hello");
    let again = router.apply(&change, &listens_at(application)).await.unwrap();
    assert_eq!(again, Change::AlreadySo);
    drop(router);

    let begun = Instant::now();
    let foreign = loop {
        match std::net::TcpListener::bind((node, PORT + 10)) {
            Ok(listener) => break listener,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let router = open(&directory, node, PATIENCE).await;
    let ports: Vec<u16> = router
        .current()
        .await
        .unwrap()
        .entries()
        .keys()
        .map(|port| port.get())
        .collect();
    assert_eq!(ports, [PORT], "what is not in force is not told");
    assert_eq!(ask(node).await.unwrap(), "web hello");
    drop(foreign);
    assert_eq!(
        router.apply(&change, &listens_at(application)).await.unwrap(),
        Change::Made
    );
}

#[tokio::test]
async fn damaged_saved_routes_are_none_and_can_be_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let state = directory.path().join(node.to_string());
    std::fs::create_dir(&state).unwrap();
    for damage in ["", "{", "[1]"] {
        std::fs::write(state.join("routes.json"), damage).unwrap();
        let router = open(&directory, node, PATIENCE).await;
        assert!(router.current().await.unwrap().entries().is_empty());
        assert_eq!(
            router.apply(&route(&[node]), &BTreeMap::new()).await.unwrap(),
            Change::Made
        );
        router.close().await;
    }
}

#[tokio::test]
async fn who_finds_no_room_waits_and_is_not_refused() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = Addresses::new();
    let node = addresses.node(1);
    let application = addresses.application(1);
    let _server = Server::start(application, "web");
    let mut narrow = options(PATIENCE);
    narrow.max_connections = 4;
    let router = ProxyRouter::open(directory.path(), node, narrow).await.unwrap();
    router
        .apply(&route(&[node]), &listens_at(application))
        .await
        .unwrap();
    let clients: Vec<_> = (0..50).map(|_| tokio::spawn(ask(node))).collect();
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap(), "web hello");
    }
    wait_for(&router, |statistics| {
        statistics.accepted == 50 && statistics.open == 0
    })
    .await;
}
