//! A host program behind routes in user space, stopped and started under its clients.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process_runtime_support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flocker_backends::ContainerRuntime as _;
use flocker_backends::Router as _;
use flocker_backends::router::proxy::ProxyOptions;
use flocker_backends::router::proxy::ProxyRouter;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use process_runtime_support::PATIENCE;
use process_runtime_support::World;
use process_runtime_support::node_address;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

const PORT: u16 = 4800;
const N_RESTARTS: usize = 5;

/// Asks until it is told to end, and counts: answers, and connections that broke.
async fn ask_again_and_again(is_over: Arc<AtomicBool>) -> (usize, usize) {
    let (mut n_answers, mut n_broken) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        // Never refused, whatever happens behind.
        let mut stream = TcpStream::connect((node_address(), PORT)).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
        match read.unwrap() {
            Ok(_) if answer == "hello" => n_answers += 1,
            Ok(_) | Err(_) => n_broken += 1,
        }
    }
    (n_answers, n_broken)
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
        set: [(PortNumber::new(PORT).unwrap(), target)].into(),
        ..RouteChange::default()
    };
    router
        .apply(&change, &[(spec.name.clone(), address)].into())
        .await
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let client = tokio::spawn(ask_again_and_again(Arc::clone(&is_over)));
    for _ in 0..N_RESTARTS {
        world
            .runtime
            .stop(&spec.name, Duration::from_secs(5))
            .await
            .unwrap();
        world.runtime.prepare(&spec).await.unwrap();
        world.runtime.start(&spec).await.unwrap();
        assert_eq!(world.state(&spec).await.unwrap().address, Some(address));
    }
    is_over.store(true, Ordering::Relaxed);
    let (n_answers, n_broken) = client.await.unwrap();
    assert!(n_answers > N_RESTARTS, "{n_answers} answers");
    // Whoever the program had, or was about to have, when it ended.
    assert!(n_broken <= N_RESTARTS, "{n_broken} broke");
}
