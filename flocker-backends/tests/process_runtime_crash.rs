//! Host programs when something of ours is killed: the node, at any moment, or a supervisor.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process_runtime_support;

use std::process::Stdio;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_model::ContainerStatus;
use flocker_model::RestartPolicy;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use process_runtime_support::World;
use process_runtime_support::eventually;
use process_runtime_support::kill;
use process_runtime_support::node_address;
use process_runtime_support::processes_in;
use process_runtime_support::supervisors_in;

const GRACE: Duration = Duration::from_secs(5);
const NOBODY: [i32; 0] = [];

/// Does one thing in another process, which can be killed while it does.
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs a process of its own to kill"
)]
fn owner(world: &World, verb: &str, spec: &ContainerSpec) -> std::process::Child {
    std::process::Command::new(env!("CARGO_BIN_EXE_flocker-trial"))
        .arg(verb)
        .arg(world.directory.path().join("state"))
        .arg(node_address().to_string())
        .arg(env!("CARGO_BIN_EXE_flocker-supervisor"))
        .arg(spec.name.as_str())
        .arg(world.volume())
        .arg(spec.application.image.as_str())
        .args(spec.application.command_line.iter().map(|argument| &**argument))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A program that ends with status 99 where another one like it is alive on the same data.
fn jealous(world: &World) -> ContainerSpec {
    let lock = "{volume}/lock";
    world.spec("jealous", "flock", &["-n", "-E", "99", lock, "sleep", "1000"])
}

#[tokio::test]
async fn a_program_outlives_its_node_and_is_found_by_the_next() {
    let world = World::new();
    let spec = jealous(&world);
    assert!(owner(&world, "start", &spec).wait().unwrap().success());
    assert_eq!(world.status(&spec).await, Some(ContainerStatus::Running));
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::AlreadySo);
    assert_eq!(world.runtime.stop(&spec.name, GRACE).await.unwrap(), Change::Made);
    assert_eq!(processes_in(world.directory.path()), NOBODY);
}

#[tokio::test]
async fn a_node_killed_at_any_moment_of_a_start_leaves_the_truth_and_never_two_programs() {
    for delay in 0..40 {
        let world = World::new();
        let spec = jealous(&world);
        let mut owner = owner(&world, "start", &spec);
        tokio::time::sleep(Duration::from_micros(delay * 700)).await;
        owner.kill().unwrap();
        owner.wait().unwrap();
        // A state that can be read, whatever it is.
        world.runtime.list().await.unwrap();
        world.runtime.start(&spec).await.unwrap();
        assert_eq!(
            world.status(&spec).await,
            Some(ContainerStatus::Running),
            "after {delay}"
        );
        assert_eq!(supervisors_in(world.directory.path()).len(), 1, "after {delay}");
        world.runtime.stop(&spec.name, GRACE).await.unwrap();
        assert_eq!(processes_in(world.directory.path()), NOBODY, "after {delay}");
        assert_eq!(world.status(&spec).await, None, "after {delay}");
    }
}

#[tokio::test]
async fn a_node_killed_at_any_moment_of_a_stop_never_lets_the_program_restart() {
    for delay in 0..30 {
        let world = World::new();
        let mut spec = jealous(&world);
        spec.application.restart_policy = RestartPolicy::Always;
        world.runtime.start(&spec).await.unwrap();
        let mut owner = owner(&world, "stop", &spec);
        tokio::time::sleep(Duration::from_micros(delay * 700)).await;
        owner.kill().unwrap();
        owner.wait().unwrap();
        world.runtime.list().await.unwrap();
        world.runtime.stop(&spec.name, GRACE).await.unwrap();
        assert_eq!(processes_in(world.directory.path()), NOBODY, "after {delay}");
        assert_eq!(world.status(&spec).await, None, "after {delay}");
        assert_eq!(
            world.runtime.stop(&spec.name, GRACE).await.unwrap(),
            Change::AlreadySo
        );
    }
}

#[tokio::test]
async fn a_start_that_meets_a_supervisor_that_ends_starts_its_own() {
    const LAST_WORD: &str =
        r#"{"phase":{"phase":"ended","code":1},"probing":{"probing":"pending"},"restarts":0,"last_end":"1"}"#;
    for last_word in [Some(LAST_WORD), None] {
        let world = World::new();
        let spec = world.script("web", "exec sleep 1000");
        world.runtime.start(&spec).await.unwrap();
        for process in processes_in(world.directory.path()) {
            kill(process);
        }
        eventually("everything has ended", || {
            processes_in(world.directory.path()).is_empty()
        })
        .await;
        // A supervisor like any other, as far as is written down, whose program has not served yet.
        let container = world.directory.path().join("state/web/container");
        let status = container.join("status.json");
        let lock = std::fs::File::open(container.join("lock")).unwrap();
        lock.lock().unwrap();
        let running = std::fs::read_to_string(&status).unwrap();
        assert!(running.contains("settled"), "{running}");
        std::fs::write(&status, running.replace("settled", "pending")).unwrap();
        let mut start = std::pin::pin!(world.runtime.start(&spec));
        let met = tokio::time::timeout(Duration::ZERO, &mut start).await;
        met.expect_err("it waits for the supervisor that it has met");
        // Now that one ends, and says so, or is killed.
        if let Some(last_word) = last_word {
            std::fs::write(&status, last_word).unwrap();
            let met = tokio::time::timeout(Duration::from_millis(50), &mut start).await;
            met.expect_err("it waits until that one is gone");
        }
        drop(lock);
        assert_eq!(start.await.unwrap(), Change::Made);
        assert_eq!(world.status(&spec).await, Some(ContainerStatus::Running));
        assert_eq!(supervisors_in(world.directory.path()).len(), 1);
        world.runtime.stop(&spec.name, GRACE).await.unwrap();
    }
}

#[tokio::test]
async fn a_program_dies_with_its_supervisor_and_what_it_started_is_gone_after_the_stop() {
    let world = World::new();
    let spec = world.script(
        "orphan",
        "setsid sh -c 'trap \"\" TERM; echo $$ > stray; while :; do sleep 0.05; done' & exec sleep 1000",
    );
    world.runtime.start(&spec).await.unwrap();
    eventually("the stray is there", || !world.written("stray").is_empty()).await;
    let supervisors = supervisors_in(world.directory.path());
    assert_eq!(supervisors.len(), 1);
    kill(supervisors[0]);
    world
        .wait_for_status(&spec, ContainerStatus::Exited { code: None })
        .await;
    let has_main = || {
        processes_in(world.directory.path()).into_iter().any(|process| {
            let cmdline = std::fs::read_to_string(format!("/proc/{process}/cmdline"));
            cmdline.unwrap_or_default().starts_with("sleep\x001000")
        })
    };
    eventually("the program is dead", || !has_main()).await;
    let stray: i32 = world.written("stray").trim().parse().unwrap();
    assert!(processes_in(world.directory.path()).contains(&stray));
    assert_eq!(world.runtime.stop(&spec.name, GRACE).await.unwrap(), Change::Made);
    assert_eq!(processes_in(world.directory.path()), NOBODY);
}

#[tokio::test]
async fn a_start_after_a_killed_supervisor_first_ends_what_is_left() {
    let world = World::new();
    let mut spec = jealous(&world);
    // The stray holds the lock that the next start needs.
    spec.application.command_line = ["-n", "-E", "99", "{volume}/lock", "setsid", "sleep", "1000"]
        .map(Into::into)
        .into();
    for _ in 0..5 {
        assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
        for supervisor in supervisors_in(world.directory.path()) {
            kill(supervisor);
        }
        world
            .wait_for_status(&spec, ContainerStatus::Exited { code: None })
            .await;
    }
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
}

#[tokio::test]
async fn a_supervisor_that_hangs_does_not_save_its_program() {
    let world = World::new();
    let spec = jealous(&world);
    world.runtime.start(&spec).await.unwrap();
    let supervisors = supervisors_in(world.directory.path());
    nix::sys::signal::kill(Pid::from_raw(supervisors[0]), Signal::SIGSTOP).unwrap();
    assert_eq!(
        world.runtime.stop(&spec.name, Duration::ZERO).await.unwrap(),
        Change::Made
    );
    assert_eq!(processes_in(world.directory.path()), NOBODY);
}

#[tokio::test]
async fn a_stop_that_is_dropped_half_way_still_ends_the_program() {
    let world = World::new();
    let mut spec = world.script("slow", "trap '' TERM; while :; do sleep 0.05; done");
    spec.application.restart_policy = RestartPolicy::Always;
    world.runtime.start(&spec).await.unwrap();
    let stop = world.runtime.stop(&spec.name, Duration::from_millis(300));
    assert!(
        tokio::time::timeout(Duration::from_millis(30), stop)
            .await
            .is_err()
    );
    eventually("it has ended without us", || {
        processes_in(world.directory.path()).is_empty()
    })
    .await;
    assert_eq!(world.runtime.stop(&spec.name, GRACE).await.unwrap(), Change::Made);
}

#[tokio::test]
async fn a_program_ends_when_somebody_removes_its_container_by_hand() {
    let world = World::new();
    let spec = jealous(&world);
    world.runtime.start(&spec).await.unwrap();
    std::fs::remove_dir_all(world.directory.path().join("state").join("jealous")).unwrap();
    assert_eq!(world.status(&spec).await, None);
    eventually("it has ended by itself", || {
        processes_in(world.directory.path()).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_supervisor_that_is_told_to_end_ends_its_program_first() {
    let world = World::new();
    let mut spec = world.script(
        "polite",
        "trap 'echo bye > bye; exit 5' TERM; while :; do sleep 0.01; done",
    );
    spec.application.restart_policy = RestartPolicy::Always;
    world.runtime.start(&spec).await.unwrap();
    let supervisors = supervisors_in(world.directory.path());
    nix::sys::signal::kill(Pid::from_raw(supervisors[0]), Signal::SIGTERM).unwrap();
    world
        .wait_for_status(&spec, ContainerStatus::Exited { code: Some(5) })
        .await;
    assert_eq!(world.written("bye"), "bye\n");
}
