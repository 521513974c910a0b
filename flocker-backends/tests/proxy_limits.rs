//! Routes in user space when no more files can be opened. Alone in its process, because the limit is the process's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::Router as _;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use nix::sys::resource::Resource;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrlimit;
use nix::sys::resource::getrusage;
use nix::sys::resource::setrlimit;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn port(number: u16) -> ExternalPort {
    ExternalPort::tcp(PortNumber::new(number).unwrap())
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let total = usage.user_time() + usage.system_time();
    Duration::from_micros(u64::try_from(total.tv_sec() * 1_000_000 + total.tv_usec()).unwrap())
}

#[tokio::test]
async fn without_files_the_router_waits_and_then_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let [.., low] = std::process::id().to_be_bytes();
    let [node, application] = [30, 131].map(|second| IpAddr::from([127, second, 1, low.clamp(1, 254)]));
    let listener = TcpListener::bind((application, 4700)).await.unwrap();
    let server = tokio::spawn(async move {
        loop {
            // Here as well: no file, no client.
            match listener.accept().await {
                Ok((mut client, _)) => drop(tokio::spawn(async move { client.write_all(b"hello").await })),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    let options = ProxyOptions {
        max_connections: 10_000,
        ..ProxyOptions::default()
    };
    let router = ProxyRouter::open(directory.path(), node, options).await.unwrap();
    let home = Home {
        node: "node".parse().unwrap(),
        address: node,
    };
    let target = RouteTarget {
        application: "web".parse().unwrap(),
        internal: port(4700).number,
        homes: vec![home],
    };
    let change = RouteChange {
        set: [(port(4701), target)].into(),
        ..RouteChange::default()
    };
    let local = [("web".parse().unwrap(), application)].into();
    router.apply(&change, &local).await.unwrap();

    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let n_open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, n_open + 20, hard).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect((node, 4701)).await {
        clients.push(client);
    }
    assert!(clients.len() > 5);
    let (before, begun) = (processor_time(), Instant::now());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = processor_time().saturating_sub(before);
    assert!(used < begun.elapsed() / 4, "it is busy with waiting: {used:?}");

    drop(clients);
    let ask = async {
        loop {
            let mut answer = String::new();
            if let Ok(mut stream) = TcpStream::connect((node, 4701)).await
                && stream.read_to_string(&mut answer).await.is_ok()
                && answer == "hello"
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ask).await.unwrap();
    server.abort();
}
