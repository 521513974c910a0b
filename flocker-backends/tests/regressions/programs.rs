//! Programs are started with their data or not at all, and their secrets are theirs alone.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::VolumeBackend as _;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_model::ContainerStatus;
use flocker_model::EnvironmentValue;
use flocker_model::RestartPolicy;
use flocker_model::Secret;

use crate::node::ID;
use crate::node::Node;
use crate::process_runtime_support::PATIENCE;
use crate::process_runtime_support::World;
use crate::process_runtime_support::eventually;
use crate::process_runtime_support::kill;
use crate::process_runtime_support::options;
use crate::process_runtime_support::processes_in;
use crate::process_runtime_support::supervisors_in;

const GRACE: Duration = Duration::from_secs(5);

/// Makes its place where it misses it, as images do, and notes each of its starts elsewhere.
fn eager(world: &World) -> ContainerSpec {
    let runs = world.directory.path().join("runs");
    let script = format!(
        "echo run >> {}; mkdir -p \"$FLOCKER_VOLUME\"; echo data >> \"$FLOCKER_VOLUME/data\"; exec sleep 1000",
        runs.display()
    );
    let mut spec = world.script("web", &script);
    spec.application.restart_policy = RestartPolicy::Always;
    spec
}

fn starts(world: &World) -> usize {
    let runs = std::fs::read_to_string(world.directory.path().join("runs"));
    runs.unwrap_or_default().lines().count()
}

#[tokio::test]
async fn l18_a_program_is_not_started_while_its_volume_is_elsewhere() {
    let world = World::new();
    let (alpha, beta) = (Node::primary().await, Node::new());
    let absent = beta.data();
    alpha.write("file", b"content");
    alpha.release(2).await.unwrap();
    alpha.push(&beta, "handoff-2", None).await;
    let never = Node::new().data();
    for volume in [alpha.data(), absent, never] {
        let mut spec = eager(&world);
        spec.volume = Some(volume.clone());
        world.runtime.start(&spec).await.unwrap_err();
        assert_eq!(world.status(&spec).await, None);
        assert_eq!(starts(&world), 0);
        assert!(!volume.exists(), "{}", volume.display());
    }
    // Where it does come, the program finds it whole.
    let last = alpha.guid("handoff-2").await.unwrap();
    beta.acquire(2, last).await.unwrap();
    let mut spec = world.script("web", "cat file; exec sleep 1000");
    spec.volume = Some(beta.volumes.path(ID));
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
    let read = async {
        while world.logs(&spec.name, None).await != "content" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
}

#[tokio::test]
async fn l18_after_a_reboot_no_program_comes_up_before_its_volume() {
    let world = World::new();
    let spec = eager(&world);
    world.runtime.start(&spec).await.unwrap();
    eventually("it has written", || world.written("data") == "data\n").await;
    // The machine goes down, and comes up without the volume.
    for process in processes_in(world.directory.path()) {
        kill(process);
    }
    eventually("everything has ended", || {
        processes_in(world.directory.path()).is_empty()
    })
    .await;
    let away = world.directory.path().join("unmounted");
    std::fs::rename(world.volume(), &away).unwrap();
    let runtime = ProcessRuntime::new(options(world.directory.path())).unwrap();
    let state = runtime.list().await.unwrap().remove(&spec.name);
    assert!(state.is_none_or(|state| !state.is_alive()));
    runtime.start(&spec).await.unwrap_err();
    assert_eq!(starts(&world), 1);
    assert!(!world.volume().exists());

    std::fs::rename(&away, world.volume()).unwrap();
    assert_eq!(runtime.start(&spec).await.unwrap(), Change::Made);
    eventually("it goes on with its data", || {
        world.written("data") == "data\ndata\n"
    })
    .await;
    assert_eq!(starts(&world), 2);
    runtime.stop(&spec.name, GRACE).await.unwrap();
}

#[tokio::test]
async fn l18_a_restart_policy_does_not_start_a_program_whose_volume_has_gone() {
    let world = World::new();
    let spec = eager(&world);
    world.runtime.start(&spec).await.unwrap();
    eventually("it has written", || world.written("data") == "data\n").await;
    let supervisors = supervisors_in(world.directory.path());
    let away = world.directory.path().join("unmounted");
    std::fs::rename(world.volume(), &away).unwrap();
    for process in processes_in(world.directory.path()) {
        if !supervisors.contains(&process) {
            kill(process);
        }
    }
    let begun = std::time::Instant::now();
    loop {
        let state = world.state(&spec).await.unwrap();
        let ended = !matches!(state.status, ContainerStatus::Running);
        if state.restarts >= 2 || (ended && !state.is_alive()) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{state:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(starts(&world), 1);
    assert!(!world.volume().exists());
    world.runtime.stop(&spec.name, GRACE).await.unwrap();
}

#[tokio::test]
async fn l25_what_a_program_is_given_is_in_nobodys_arguments() {
    let world = World::new();
    let secret = "canary-".repeat(14_000);
    let mut spec = world.script("web", "echo ${#PASSWORD} > length; exec sleep 1000");
    let value = EnvironmentValue::Secret(Secret::new(secret.as_str()));
    spec.application.environment.insert("PASSWORD".into(), value);
    world.runtime.start(&spec).await.unwrap();
    let length = format!("{}\n", secret.len());
    eventually("it has its secret", || world.written("length") == length).await;
    let processes = processes_in(world.directory.path());
    assert!(processes.len() >= 2, "{processes:?}");
    for process in processes {
        let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&arguments).contains("canary"));
        assert!(arguments.len() < 4096, "{process}: {} bytes", arguments.len());
    }
    let mode = world.directory.path().join("state").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700, "{mode:o}");
    world.runtime.stop(&spec.name, GRACE).await.unwrap();
}
