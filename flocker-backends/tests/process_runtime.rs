//! Host programs as applications: real processes, from their start to their certain end.

mod process_runtime_support;

use std::num::NonZeroU32;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::RuntimeError;
use flocker_model::ByteSize;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::EnvironmentValue;
use flocker_model::Health;
use flocker_model::RestartPolicy;
use flocker_model::Secret;
use process_runtime_support::World;
use process_runtime_support::eventually;
use process_runtime_support::processes_in;
use process_runtime_support::supervisors_in;

const GRACE: Duration = Duration::from_secs(5);
const NOBODY: [i32; 0] = [];
const NO_GRACE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_program_is_started_once_and_stopped_once() {
    let world = World::new();
    let spec = world.script("web", "echo $$ >> pids; exec sleep 1000");
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::AlreadySo);
    let state = world.state(&spec).await.unwrap();
    assert_eq!(state.status, ContainerStatus::Running);
    assert_eq!(state.health, Health::NotChecked);
    assert_eq!(state.definition, spec.definition);
    assert_eq!(world.written("pids").lines().count(), 1);

    assert_eq!(world.runtime.stop(&spec.name, GRACE).await.unwrap(), Change::Made);
    assert_eq!(processes_in(world.directory.path()), NOBODY);
    assert_eq!(world.status(&spec).await, None);
    assert_eq!(
        world.runtime.stop(&spec.name, GRACE).await.unwrap(),
        Change::AlreadySo
    );
    // And once more from the beginning.
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
    assert_eq!(world.written("pids").lines().count(), 2);
}

#[tokio::test]
async fn a_program_finds_its_data_its_address_and_its_environment() {
    let world = World::new();
    let mut spec = world.spec(
        "web",
        "/bin/sh",
        &[
            "-c",
            "echo $1; env; pwd; exec sleep 1000",
            "sh",
            "{address}:{port}",
        ],
    );
    let value = EnvironmentValue::Plain("its own".into());
    spec.application.environment.insert("VALUE".into(), value);
    world.runtime.start(&spec).await.unwrap();
    let address = world.state(&spec).await.unwrap().address.unwrap();
    let text = world.logs(&spec.name, None).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("{address}:8080"));
    assert_eq!(lines[lines.len() - 1], world.volume().to_str().unwrap());
    for expected in [
        "FLOCKER_APPLICATION=web".to_owned(),
        format!("FLOCKER_ADDRESS={address}"),
        format!("FLOCKER_VOLUME={}", world.volume().display()),
        "FLOCKER_PORT=8080".to_owned(),
        "VALUE=its own".to_owned(),
    ] {
        assert!(lines.contains(&expected.as_str()), "{expected} is not in {text}");
    }
    let ours = lines.iter().filter(|line| line.starts_with("CARGO")).count();
    assert_eq!(ours, 0, "our own environment must not leak: {text}");
}

#[tokio::test]
async fn another_definition_is_refused_while_one_is_alive() {
    let world = World::new();
    let spec = world.script("web", "exec sleep 1000");
    let mut other = spec.clone();
    other.definition = DefinitionHash(2);
    world.runtime.start(&spec).await.unwrap();
    let refusal = world.runtime.start(&other).await.unwrap_err();
    assert!(
        matches!(refusal, RuntimeError::OtherDefinition { .. }),
        "{refusal}"
    );
    world.runtime.stop(&spec.name, GRACE).await.unwrap();
    world.runtime.start(&other).await.unwrap();
    assert_eq!(world.state(&other).await.unwrap().definition, other.definition);
}

#[tokio::test]
async fn a_prepared_container_is_listed_and_can_be_removed() {
    let world = World::new();
    let mut spec = world.script("web", "exec sleep 1000");
    // The data may still be elsewhere.
    spec.volume = Some(world.directory.path().join("not-here-yet"));
    assert_eq!(world.runtime.prepare(&spec).await.unwrap(), Change::Made);
    assert_eq!(world.runtime.prepare(&spec).await.unwrap(), Change::AlreadySo);
    let state = world.state(&spec).await.unwrap();
    assert_eq!(state.status, ContainerStatus::Prepared);
    assert_eq!(state.definition, spec.definition);
    assert_eq!(world.runtime.stop(&spec.name, GRACE).await.unwrap(), Change::Made);
    assert_eq!(world.status(&spec).await, None);
    assert_eq!(processes_in(world.directory.path()), NOBODY);

    world.runtime.prepare(&spec).await.unwrap();
    std::fs::create_dir(spec.volume.as_ref().unwrap()).unwrap();
    assert_eq!(world.runtime.start(&spec).await.unwrap(), Change::Made);
    assert_eq!(world.runtime.prepare(&spec).await.unwrap(), Change::AlreadySo);
    assert_eq!(world.status(&spec).await, Some(ContainerStatus::Running));
}

#[tokio::test]
async fn what_is_missing_is_found_before_anything_is_stopped() {
    let world = World::new();
    let spec = world.spec("web", "no-such-program", &[]);
    for refusal in [
        world.runtime.prepare(&spec).await.unwrap_err(),
        world.runtime.start(&spec).await.unwrap_err(),
    ] {
        assert!(matches!(refusal, RuntimeError::NoImage { .. }), "{refusal}");
    }
    assert_eq!(world.status(&spec).await, None);
}

#[tokio::test]
async fn a_program_is_not_started_without_its_data() {
    let world = World::new();
    let mut spec = world.script("web", "echo started > /dev/stderr; exec sleep 1000");
    spec.volume = Some(world.directory.path().join("missing"));
    world.runtime.start(&spec).await.unwrap_err();
    assert_eq!(world.status(&spec).await, None);
    assert_eq!(world.logs(&spec.name, None).await, "");
    assert!(!spec.volume.unwrap().exists());
}

#[tokio::test]
async fn an_early_end_fails_the_start_with_its_status() {
    let world = World::new();
    for (name, script, code, said) in [
        ("three", "exit 3", 3, "3"),
        ("zero", "exit 0", 0, "0"),
        ("killed", "kill -9 $$", 137, "137 (signal 9)"),
    ] {
        let spec = world.script(name, script);
        let failure = world.runtime.start(&spec).await.unwrap_err();
        let RuntimeError::Ended { status, .. } = &failure else {
            panic!("{failure}")
        };
        assert_eq!(status, said);
        let state = world
            .wait_for_status(&spec, ContainerStatus::Exited { code: Some(code) })
            .await;
        assert_eq!(state.restarts, 0);
        // What has ended may be replaced, even by another definition.
        let mut other = world.script(name, "exec sleep 1000");
        other.definition = DefinitionHash(2);
        assert_eq!(world.runtime.start(&other).await.unwrap(), Change::Made);
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_says_why() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    let program = world.directory.path().join("program");
    std::fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let spec = world.spec("web", program.to_str().unwrap(), &[]);
    let failure = world.runtime.start(&spec).await.unwrap_err().to_string();
    assert!(
        failure.contains("could not start") && failure.contains("No such file"),
        "{failure}"
    );
    assert!(world.logs(&spec.name, None).await.contains("could not start"));
}

#[tokio::test]
async fn a_restart_policy_counts_and_gives_up() {
    let world = World::new();
    let mut spec = world.script("failing", "echo run >> runs; exit 7");
    spec.application.restart_policy = RestartPolicy::OnFailure {
        maximum_retry_count: NonZeroU32::new(3),
    };
    world.runtime.start(&spec).await.unwrap_err();
    let state = world
        .wait_for_status(&spec, ContainerStatus::Exited { code: Some(7) })
        .await;
    assert_eq!(state.restarts, 3);
    assert_eq!(world.written("runs").lines().count(), 4);
}

#[tokio::test]
async fn a_success_is_not_restarted_on_failure() {
    let world = World::new();
    let mut spec = world.script("done", "echo run >> runs; exit 0");
    spec.application.restart_policy = RestartPolicy::OnFailure {
        maximum_retry_count: None,
    };
    world.runtime.start(&spec).await.unwrap_err();
    world
        .wait_for_status(&spec, ContainerStatus::Exited { code: Some(0) })
        .await;
    assert_eq!(world.written("runs").lines().count(), 1);
}

#[tokio::test]
async fn always_means_until_it_is_stopped() {
    let world = World::new();
    let mut spec = world.script("always", "echo run >> runs; exit 0");
    spec.application.restart_policy = RestartPolicy::Always;
    world.runtime.start(&spec).await.unwrap_err();
    eventually("six runs", || world.written("runs").lines().count() >= 6).await;
    assert!(world.state(&spec).await.unwrap().is_alive());
    assert_eq!(world.runtime.stop(&spec.name, GRACE).await.unwrap(), Change::Made);
    let runs = world.written("runs");
    assert_eq!(processes_in(world.directory.path()), NOBODY);
    assert_eq!(world.written("runs"), runs);
}

#[tokio::test]
async fn a_program_that_ends_when_asked_keeps_its_status_and_is_not_forced() {
    let world = World::new();
    let spec = world.script(
        "polite",
        "trap 'echo bye > bye; exit 0' TERM; echo ready > ready; while :; do sleep 0.01; done",
    );
    world.runtime.start(&spec).await.unwrap();
    eventually("its trap is set", || world.written("ready") == "ready\n").await;
    world
        .runtime
        .stop(&spec.name, Duration::from_secs(600))
        .await
        .unwrap();
    assert_eq!(world.written("bye"), "bye\n");
}

#[tokio::test]
async fn stop_returns_when_even_a_stubborn_runaway_grandchild_is_gone() {
    let world = World::new();
    let stubborn = "trap '' TERM; echo there >> there; while :; do sleep 0.05; done";
    let spec = world.script(
        "stubborn",
        &format!("trap '' TERM; setsid sh -c \"{stubborn}\" & (setsid sh -c \"{stubborn}\" &); {stubborn}"),
    );
    world.runtime.start(&spec).await.unwrap();
    eventually("all three are there", || {
        world.written("there").lines().count() == 3
    })
    .await;
    assert_eq!(
        world.runtime.stop(&spec.name, NO_GRACE).await.unwrap(),
        Change::Made
    );
    assert_eq!(processes_in(world.directory.path()), NOBODY);
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let world = World::new();
    let spec = world.script(
        "daemon",
        "setsid sh -c 'echo there > there; exec sleep 1000' & sleep 0.3; exit 4",
    );
    world.runtime.start(&spec).await.unwrap();
    world
        .wait_for_status(&spec, ContainerStatus::Exited { code: Some(4) })
        .await;
    assert_eq!(world.written("there"), "there\n");
    eventually("the supervisor has left", || {
        processes_in(world.directory.path()).is_empty()
    })
    .await;
}

#[tokio::test]
async fn secrets_reach_the_program_and_nothing_else() {
    let world = World::new();
    let mut spec = world.script("secret", "echo ${#PASSWORD} >> lengths; exec sleep 1000");
    let secret = EnvironmentValue::Secret(Secret::new("correct-horse"));
    spec.application.environment.insert("PASSWORD".into(), secret);
    spec.application.restart_policy = RestartPolicy::Always;
    world.runtime.start(&spec).await.unwrap();
    eventually("it has run", || world.written("lengths") == "13\n").await;
    // Also after the supervisor has started it again from memory.
    let supervisors = supervisors_in(world.directory.path());
    assert_eq!(supervisors.len(), 1);
    for process in processes_in(world.directory.path()) {
        let cmdline = std::fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap();
        assert!(!cmdline.contains("correct-horse"));
        if cmdline.starts_with("sleep") {
            process_runtime_support::kill(process);
        }
    }
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", supervisors[0])).unwrap();
    assert!(!environ.contains("correct-horse"));
    eventually("it was started again", || world.written("lengths") == "13\n13\n").await;
    let mut open = vec![world.directory.path().to_owned()];
    let mut n_files = 0;
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                n_files += 1;
                let text = std::fs::read(entry.path()).unwrap();
                assert!(
                    !String::from_utf8_lossy(&text).contains("correct-horse"),
                    "{entry:?}"
                );
            }
        }
    }
    assert!(n_files >= 4);
}

#[tokio::test]
async fn limits_are_those_of_the_program() {
    let world = World::new();
    let mut spec = world.script("limited", "ulimit -v > memory; nice > nice; exec sleep 1000");
    spec.application.limits.memory = Some(ByteSize(512 * 1024 * 1024));
    spec.application.limits.cpu_shares = Some(512);
    world.runtime.start(&spec).await.unwrap();
    eventually("it has told", || !world.written("nice").is_empty()).await;
    assert_eq!(world.written("memory").trim(), (512 * 1024).to_string());
    let nice: i32 = world.written("nice").trim().parse().unwrap();
    // What the tests were started with: a program's share is less than that, not than nothing.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_the_name) = stat.rsplit_once(')').unwrap();
    let own: i32 = after_the_name
        .split_ascii_whitespace()
        .nth(16)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(nice, (own + 4).min(19));
}

#[tokio::test]
async fn two_applications_with_one_internal_port_have_two_addresses() {
    let world = World::new();
    let first = world.script("first", "exec sleep 1000");
    let second = world.script("second", "exec sleep 1000");
    let (one, two) = tokio::join!(world.runtime.start(&first), world.runtime.start(&second));
    assert_eq!((one.unwrap(), two.unwrap()), (Change::Made, Change::Made));
    let one = world.state(&first).await.unwrap().address.unwrap();
    let two = world.state(&second).await.unwrap().address.unwrap();
    assert_ne!(one, two);
    let bound = [one, two].map(|address| std::net::TcpListener::bind((address, 8080)).unwrap());
    assert_eq!(bound.len(), 2);
}

#[tokio::test]
async fn supervisors_that_have_left_are_collected() {
    let world = World::new();
    let spec = world.script("short", "exec sleep 1000");
    for _ in 0..3 {
        world.runtime.start(&spec).await.unwrap();
        world.runtime.stop(&spec.name, GRACE).await.unwrap();
    }
    let me = std::process::id().to_string();
    let is_zombie_of_ours = |stat: &str| {
        let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
        let mut fields = rest.split_ascii_whitespace();
        stat.contains("(flocker-superv") && fields.next() == Some("Z") && fields.next() == Some(&me)
    };
    eventually("no dead supervisor is left", || {
        let processes = std::fs::read_dir("/proc").unwrap();
        let mut stats =
            processes.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
        !stats.any(|stat| is_zombie_of_ours(&stat))
    })
    .await;
}
