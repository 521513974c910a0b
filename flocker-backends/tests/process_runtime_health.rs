//! Host programs: whether they serve, and what they say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process_runtime_support;

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::Change;
use flocker_backends::Classify as _;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::ErrorClass;
use flocker_backends::LogRequest;
use flocker_backends::RuntimeError;
use flocker_backends::runtime::process::application_address;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::EnvironmentValue;
use flocker_model::Health;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::PortNumber;
use flocker_model::RestartPolicy;
use flocker_model::Secret;
use process_runtime_support::PATIENCE;
use process_runtime_support::World;
use process_runtime_support::eventually;
use process_runtime_support::node_address;
use tokio::io::AsyncReadExt as _;

const PORT: u16 = 8080;

fn check(probe: HealthProbe) -> HealthCheck {
    HealthCheck {
        probe,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        retries: NonZeroU32::new(3).unwrap(),
    }
}

fn tcp() -> HealthProbe {
    HealthProbe::Tcp {
        port: PortNumber::new(PORT).unwrap(),
    }
}

/// The test itself listens where the application should, so that it decides what is answered.
fn listen(spec: &ContainerSpec) -> TcpListener {
    TcpListener::bind((application_address(node_address(), &spec.name), PORT)).unwrap()
}

async fn wait_for_health(world: &World, spec: &ContainerSpec, wanted: Health) {
    let begun = Instant::now();
    while world.state(spec).await.unwrap().health != wanted {
        assert!(begun.elapsed() < PATIENCE, "waited for {wanted:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_start_returns_when_the_port_accepts() {
    let world = World::new();
    let mut spec = world.script("tcp", "exec sleep 1000");
    let mut patient = check(tcp());
    patient.interval = Duration::from_secs(5);
    spec.application.health_check = Some(patient.into());
    let start = world.runtime.start(&spec);
    tokio::pin!(start);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut start).await;
    assert!(early.is_err(), "nobody listens yet: {early:?}");
    assert_eq!(world.state(&spec).await.unwrap().health, Health::Unhealthy);
    let listener = listen(&spec);
    let begun = Instant::now();
    assert_eq!(start.await.unwrap(), Change::Made);
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "the first success must not wait for the interval"
    );
    assert_eq!(world.state(&spec).await.unwrap().health, Health::Healthy);
    drop(listener);
}

#[tokio::test]
async fn health_follows_what_the_port_does() {
    let world = World::new();
    let mut spec = world.script("follow", "exec sleep 1000");
    spec.application.health_check = Some(check(tcp()).into());
    let listener = listen(&spec);
    world.runtime.start(&spec).await.unwrap();
    drop(listener);
    wait_for_health(&world, &spec, Health::Unhealthy).await;
    assert_eq!(world.status(&spec).await, Some(ContainerStatus::Running));
    let listener = listen(&spec);
    wait_for_health(&world, &spec, Health::Healthy).await;
    drop(listener);
}

#[tokio::test]
async fn what_never_serves_is_unhealthy_and_left_for_its_logs_to_be_read() {
    let world = World::new();
    let mut spec = world.script("deaf", "echo I am deaf; exec sleep 1000");
    spec.application.health_check = Some(check(tcp()).into());
    let failure = world.runtime.start(&spec).await.unwrap_err();
    let RuntimeError::Unhealthy { reason, .. } = &failure else {
        panic!("{failure}")
    };
    assert!(reason.contains("refused"), "{reason}");
    let state = world.state(&spec).await.unwrap();
    assert_eq!(
        (state.status, state.health),
        (ContainerStatus::Running, Health::Unhealthy)
    );
    assert_eq!(world.logs(&spec.name, None).await, "I am deaf\n");
}

#[tokio::test]
async fn http_is_healthy_from_200_to_399() {
    let world = World::new();
    let mut spec = world.script("http", "exec sleep 1000");
    spec.application.health_check = Some(
        check(HealthProbe::Http {
            port: PortNumber::new(PORT).unwrap(),
            path: "/health?full".into(),
        })
        .into(),
    );
    let listener = listen(&spec);
    let status = Arc::new(AtomicU16::new(500));
    let answered = Arc::clone(&status);
    let server = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let n_read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..n_read]).into_owned();
            if request.starts_with("END") {
                return;
            }
            assert!(
                request.starts_with("GET /health?full HTTP/1.1\r\nHost: 127."),
                "{request}"
            );
            let answer = match answered.load(Ordering::Relaxed) {
                // Bytes without end, and without a line in them.
                0 => "x".repeat(100_000),
                status => format!("HTTP/1.1 {status} Word\r\n\r\n{}", "x".repeat(100_000)),
            };
            // The probe does not read all of it.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let failure = world.runtime.start(&spec).await.unwrap_err().to_string();
    assert!(failure.contains("status 500"), "{failure}");
    for (answer, health) in [
        (204, Health::Healthy),
        (404, Health::Unhealthy),
        (302, Health::Healthy),
        (0, Health::Unhealthy),
        (200, Health::Healthy),
    ] {
        status.store(answer, Ordering::Relaxed);
        wait_for_health(&world, &spec, health).await;
    }
    world.runtime.stop(&spec.name, Duration::ZERO).await.unwrap();
    let address = application_address(node_address(), &spec.name);
    let mut end = std::net::TcpStream::connect((address, PORT)).unwrap();
    end.write_all(b"END").unwrap();
    server.join().unwrap();
}

#[tokio::test]
async fn a_command_checks_with_the_environment_of_the_application() {
    let world = World::new();
    let mut spec = world.script("command", "echo ready > ready; exec sleep 1000");
    let script = "echo $FLOCKER_APPLICATION $1 > probed; test -e ready";
    let command = ["sh", "-c", script, "sh", "{port}"].map(Into::into).into();
    spec.application.health_check = Some(check(HealthProbe::Command(command)).into());
    world.runtime.start(&spec).await.unwrap();
    eventually("it was probed", || world.written("probed") == "command 8080\n").await;
    std::fs::remove_file(world.volume().join("ready")).unwrap();
    wait_for_health(&world, &spec, Health::Unhealthy).await;
}

#[tokio::test]
async fn a_command_that_hangs_is_ended_and_counts_as_failed() {
    let world = World::new();
    let mut spec = world.script("hanging", "exec sleep 1000");
    let mut hanging = check(HealthProbe::Command(["sleep", "2000"].map(Into::into).into()));
    hanging.timeout = Duration::from_millis(30);
    spec.application.health_check = Some(hanging.into());
    let failure = world.runtime.start(&spec).await.unwrap_err().to_string();
    assert!(failure.contains("no answer within 30ms"), "{failure}");
}

#[tokio::test]
async fn logs_are_followed_across_files_to_the_end_of_the_application() {
    let world = World::new();
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; echo line $i.5 >&2; i=$((i+1)); sleep 0.001; done; sleep 1000";
    let spec = world.script("talker", script);
    world.runtime.start(&spec).await.unwrap();
    let request = LogRequest {
        tail: None,
        follow: true,
    };
    let mut stream = world.runtime.logs(&spec.name, request).await.unwrap();
    let mut text = Vec::new();
    let read_all = async {
        while !text.ends_with(b"line 299.5\n") {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "it ended early");
        }
    };
    tokio::time::timeout(PATIENCE, read_all).await.unwrap();
    let expected: Vec<String> = (0..300)
        .map(|number| format!("line {number}\nline {number}.5\n"))
        .collect();
    let expected = expected.concat();
    assert!(expected.len() > 4096 && expected.ends_with(std::str::from_utf8(&text).unwrap()));
    world.runtime.stop(&spec.name, Duration::ZERO).await.unwrap();
    let rest = stream.read_buf(&mut text);
    assert_eq!(tokio::time::timeout(PATIENCE, rest).await.unwrap().unwrap(), 0);
    // The output outlives the container.
    assert_eq!(world.logs(&spec.name, Some(2)).await, "line 299\nline 299.5\n");
}

#[tokio::test]
async fn logs_of_what_was_never_here_are_refused() {
    let world = World::new();
    let request = LogRequest {
        tail: None,
        follow: false,
    };
    let name = "stranger".parse().unwrap();
    match world.runtime.logs(&name, request).await {
        Err(RuntimeError::NotHere { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("there are none"),
    }
}

#[tokio::test]
async fn what_keeps_ending_is_told_soon_and_with_its_last_words() {
    let world = World::new();
    let mut spec = world.script("loop", "echo first; echo \"no database at $PASSWORD\"; exit 9");
    spec.application.restart_policy = RestartPolicy::Always;
    let password = EnvironmentValue::Secret(Secret::new("hunter2"));
    spec.application.environment.insert("PASSWORD".into(), password);
    let mut patient = check(tcp());
    patient.interval = Duration::from_secs(60);
    spec.application.health_check = Some(patient.into());
    for n_starts in 1..=2 {
        let begun = Instant::now();
        let failure = world.runtime.start(&spec).await.unwrap_err();
        assert!(begun.elapsed() < PATIENCE, "{n_starts}: {:?}", begun.elapsed());
        let RuntimeError::KeepsEnding { times, status, .. } = &failure else {
            panic!("{failure}")
        };
        assert!(*times >= 3, "{failure}");
        assert!(
            status.starts_with("9; the end of its output: ")
                && status.contains("`no database at (a secret)`"),
            "{failure}"
        );
        assert_eq!(failure.class(), ErrorClass::Permanent);
    }
    // It goes on trying: what it waits for may come.
    assert!(world.state(&spec).await.unwrap().is_alive());
}

#[tokio::test]
async fn what_is_never_restarted_keeps_ending_at_its_third_start() {
    let world = World::new();
    let spec = world.script("once", "exit 4");
    for _ in 0..2 {
        let failure = world.runtime.start(&spec).await.unwrap_err();
        assert!(matches!(failure, RuntimeError::Ended { .. }), "{failure}");
    }
    let failure = world.runtime.start(&spec).await.unwrap_err();
    assert!(
        matches!(failure, RuntimeError::KeepsEnding { times: 3, .. }),
        "{failure}"
    );
    // Another definition has not failed yet.
    let mut other = world.script("once", "exit 5");
    other.definition = DefinitionHash(2);
    let failure = world.runtime.start(&other).await.unwrap_err();
    assert!(matches!(failure, RuntimeError::Ended { .. }), "{failure}");
}

#[tokio::test]
async fn what_fails_at_first_and_then_serves_has_started() {
    let world = World::new();
    let mut spec = world.script(
        "late",
        "echo try >> tries; test $(wc -l < tries) -ge 3 && exec sleep 1000",
    );
    spec.application.restart_policy = RestartPolicy::Always;
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
    // On a busy machine the second try may take as long as what has started.
    let begun = Instant::now();
    while world.state(&spec).await.unwrap().restarts != 2 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.state(&spec).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
