//! A host program behind routes in user space, stopped and started under its clients.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process_runtime_support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flocker_backends::ContainerRuntime as _;
use flocker_backends::Router as _;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_model::ExternalPort;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use process_runtime_support::PATIENCE;
use process_runtime_support::World;
use process_runtime_support::eventually;
use process_runtime_support::node_address;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const PORT: u16 = 4800;
const N_RESTARTS: usize = 5;

#[derive(Default)]
struct Count {
    answers: AtomicUsize,
    broken: AtomicUsize,
}

/// Asks for ever and counts: answers, and connections that broke.
async fn ask_again_and_again(count: Arc<Count>) {
    loop {
        // Never refused, whatever happens behind.
        let mut stream = TcpStream::connect((node_address(), PORT)).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        match read.unwrap() {
            Ok(_) if answer == "hello" => count.answers.fetch_add(1, Ordering::Relaxed),
            Ok(_) | Err(_) => count.broken.fetch_add(1, Ordering::Relaxed),
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_while_a_program_is_restarted_and_none_is_refused() {
    let world = World::new();
    let internal = PortNumber::new(8080).unwrap();
    let mut spec = world.spec(
        "web",
        env!("CARGO_BIN_EXE_flocker-trial"),
        &["listen", "{address}:{port}"],
    );
    spec.application.health_check = Some(Box::new(HealthCheck {
        probe: HealthProbe::Tcp { port: internal },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        retries: NonZeroU32::new(10).unwrap(),
    }));
    world.runtime.start(&spec).await.unwrap();
    let address = world.state(&spec).await.unwrap().address.unwrap();
    let options = ProxyOptions {
        hold_limit: PATIENCE,
        ..ProxyOptions::default()
    };
    let directory = world.directory.path().join("router");
    let router = ProxyRouter::open(&directory, node_address(), options)
        .await
        .unwrap();
    let home = Home {
        node: "node".parse().unwrap(),
        address: node_address(),
    };
    let target = RouteTarget {
        application: spec.name.clone(),
        internal,
        homes: vec![home],
    };
    let change = RouteChange {
        set: [(ExternalPort::tcp(PortNumber::new(PORT).unwrap()), target)].into(),
        ..RouteChange::default()
    };
    router
        .apply(&change, &[(spec.name.clone(), address)].into())
        .await
        .unwrap();
    let count = Arc::<Count>::default();
    let client = tokio::spawn(ask_again_and_again(Arc::clone(&count)));
    for _ in 0..N_RESTARTS {
        world
            .runtime
            .stop(&spec.name, Duration::from_secs(5))
            .await
            .unwrap();
        world.runtime.prepare(&spec).await.unwrap();
        world.runtime.start(&spec).await.unwrap();
        assert_eq!(world.state(&spec).await.unwrap().address, Some(address));
        let before = count.answers.load(Ordering::Relaxed);
        let is_served = || client.is_finished() || count.answers.load(Ordering::Relaxed) > before;
        eventually("the client is served again", is_served).await;
    }
    assert!(!client.is_finished(), "the client was refused");
    client.abort();
    // Whoever the program had, or was about to have, when it ended.
    let n_broken = count.broken.load(Ordering::Relaxed);
    assert!(n_broken <= N_RESTARTS, "{n_broken} broke");
}
