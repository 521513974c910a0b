//! What a real systemd does with our units beyond the promises of every runtime.
//!
//! Needs what `systemd_conformance.rs` needs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod docker_support;
mod systemd_support;

use std::time::Duration;
use std::time::Instant;

use docker_support::PATIENCE;
use docker_support::docker;
use docker_support::never_well;
use docker_support::run;
use docker_support::script;
use docker_support::volume;
use flocker_backends::Change;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::RuntimeError;
use flocker_backends::conformance::Program;
use flocker_backends::conformance::RuntimeHarness as _;
use flocker_model::Application;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::EnvironmentValue;
use flocker_model::RestartPolicy;
use flocker_model::Secret;
use systemd_support::SystemdNode;

const GRACE: Duration = Duration::from_millis(500);

fn spec(node: &SystemdNode, name: &str, application: Application) -> ContainerSpec {
    ContainerSpec {
        name: name.parse().unwrap(),
        volume: application.volume.is_some().then(|| node.volume_path()),
        application,
        definition: DefinitionHash(1),
        node_address: node.node_address(),
    }
}

fn is_enabled(unit: &str) -> String {
    run("systemctl", &["is-enabled", unit]).trim().to_owned()
}

/// I13: what is not ours is never touched, whatever it is called.
#[tokio::test]
async fn a_foreign_unit_with_our_name_is_refused_and_left_alone() {
    let node = SystemdNode::new().await;
    let file = node.unit_file("web");
    let foreign = "[Unit]\nDescription=Flocker application web\n[Service]\nExecStart=/bin/sleep 1000\n";
    std::fs::write(&file, foreign).unwrap();
    let spec = spec(&node, "web", node.application(&Program::RunsForEver));
    for answer in [
        node.systemd().prepare(&spec).await,
        node.systemd().start(&spec).await,
    ] {
        let refusal = answer.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Taken { .. }), "{refusal}");
    }
    assert_eq!(
        node.systemd().stop(&spec.name, GRACE).await.unwrap(),
        Change::AlreadySo
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), foreign);
}

/// What was made by the other runtime of this machine is not ours either.
#[tokio::test]
async fn a_container_of_another_runtime_is_left_alone() {
    let node = SystemdNode::new().await;
    let spec = spec(&node, "web", node.application(&Program::RunsForEver));
    let image = docker_support::image();
    let container = node.container("web");
    docker(&["run", "--detach", "--name", &container, &image, "sleep", "1000"]);
    let refusal = node.systemd().start(&spec).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Taken { .. }), "{refusal}");
    let status = docker(&["inspect", "--format", "{{.State.Status}}", &container]);
    assert_eq!(status.trim(), "running");
    docker(&["rm", "--force", &container]);
}

/// A unit starts at boot while its application is here, and never after it has left.
#[tokio::test]
async fn a_unit_is_enabled_exactly_while_its_application_is_here() {
    let node = SystemdNode::new().await;
    let unit = node.unit("web");
    let mut application = node.application(&Program::RunsForEver);
    application.volume = Some(volume());
    let spec = spec(&node, "web", application);
    node.systemd().prepare(&spec).await.unwrap();
    assert!(
        !node.unit_file("web").exists(),
        "what is prepared does not start at boot"
    );
    node.systemd().start(&spec).await.unwrap();
    assert_eq!(is_enabled(&unit), "enabled");
    let verified = run(
        "systemd-analyze",
        &["verify", &node.unit_file("web").to_string_lossy()],
    );
    assert!(!verified.contains(&unit), "{verified}");
    node.systemd().stop(&spec.name, GRACE).await.unwrap();
    assert!(!node.unit_file("web").exists());
    assert_ne!(is_enabled(&unit), "enabled");
    let wants = std::path::Path::new(systemd_support::UNITS).join("multi-user.target.wants");
    assert!(!wants.join(&unit).is_symlink());
}

/// I11: what is secret is in the container alone.
#[tokio::test]
async fn a_secret_is_in_no_unit_and_in_no_argument() {
    let node = SystemdNode::new().await;
    let mut application = script("test \"$PASSWORD\" = hunter2-$$x && while :; do sleep 0.02; done");
    let secret = EnvironmentValue::Secret(Secret::new("hunter2-1x"));
    application.environment.insert("PASSWORD".into(), secret);
    let spec = spec(&node, "web", application);
    node.systemd().start(&spec).await.unwrap();
    let unit = std::fs::read_to_string(node.unit_file("web")).unwrap();
    assert!(!unit.contains("hunter2-"), "{unit}");
    for entry in std::fs::read_dir("/proc").unwrap() {
        let line = std::fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains("hunter2-1x"));
    }
    node.systemd().stop(&spec.name, GRACE).await.unwrap();
}

/// A program that ends soon is told with what it said, and without its secrets.
#[tokio::test]
async fn what_ends_soon_is_told_with_its_last_words() {
    let node = SystemdNode::new().await;
    let mut application = script("echo \"no database at $PASSWORD\"; sleep 1; exit 9");
    let secret = EnvironmentValue::Secret(Secret::new("hunter2"));
    application.environment.insert("PASSWORD".into(), secret);
    application.health_check = Some(never_well().into());
    let spec = spec(&node, "web", application);
    let failure = node.systemd().start(&spec).await.unwrap_err().to_string();
    assert!(failure.contains("`no database at (a secret)`"), "{failure}");
    node.systemd().stop(&spec.name, GRACE).await.unwrap();
}

/// A volume that is a plain directory is there at boot, and the unit opens the gate to it.
#[tokio::test]
async fn a_unit_opens_the_gate_that_a_boot_has_closed() {
    let node = SystemdNode::new().await;
    let mut application = script("echo started >> /data/starts; while :; do sleep 0.02; done");
    application.volume = Some(volume());
    application.restart_policy = RestartPolicy::Always;
    let spec = spec(&node, "web", application);
    node.systemd().start(&spec).await.unwrap();
    let n_starts = || {
        let starts = std::fs::read_to_string(node.volume_path().join("starts"));
        starts.unwrap_or_default().lines().count()
    };
    let begun = Instant::now();
    while n_starts() == 0 {
        assert!(begun.elapsed() < PATIENCE, "it never wrote");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unit = node.unit("web");
    run("systemctl", &["stop", &unit]);
    std::fs::remove_dir_all(node.run_docker()).unwrap();
    run("systemctl", &["start", &unit]);
    let begun = Instant::now();
    while n_starts() < 2 {
        assert!(begun.elapsed() < PATIENCE, "it was not started by its unit");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.systemd().stop(&spec.name, GRACE).await.unwrap();
}

/// What is mounted for a test, for as long as it needs it.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn at(place: std::path::PathBuf) -> Self {
        let said = run("mount", &["-t", "tmpfs", "none", &place.to_string_lossy()]);
        assert_eq!(said, "");
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", &self.0.to_string_lossy()]);
    }
}

/// After a boot nobody has seen the data: nothing runs, nothing is tried again and again, and no start is used up.
#[tokio::test]
async fn a_unit_whose_volume_is_not_mounted_is_passed_over_once() {
    let node = SystemdNode::new().await;
    let place = node.volume_path();
    let mounted = Mounted::at(place.clone());
    // It ends well when it is asked to, as databases do when a machine is shut down.
    let mut application =
        script("trap 'exit 0' TERM; echo started > /data/started; while :; do sleep 0.02; done");
    application.volume = Some(volume());
    application.restart_policy = RestartPolicy::OnFailure {
        maximum_retry_count: std::num::NonZeroU32::new(1),
    };
    let spec = spec(&node, "web", application);
    node.systemd().start(&spec).await.unwrap();
    let begun = Instant::now();
    while !place.join("started").exists() {
        assert!(begun.elapsed() < PATIENCE, "it never wrote");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unit = node.unit("web");
    run("systemctl", &["stop", &unit]);
    let code = docker(&[
        "inspect",
        "--format",
        "{{.State.ExitCode}}",
        &node.container("web"),
    ]);
    assert_eq!(code.trim(), "0");
    drop(mounted);
    std::fs::remove_dir_all(node.run_docker()).unwrap();

    let show = |property: &str| run("systemctl", &["show", "--value", "--property", property, &unit]);
    assert_eq!(run("systemctl", &["start", &unit]), "");
    assert_eq!(show("ActiveState").trim(), "inactive");
    assert_eq!(show("Result").trim(), "success");
    assert_eq!(show("NRestarts").trim(), "0");
    assert_eq!(is_enabled(&unit), "enabled");
    assert!(std::fs::read_dir(&place).unwrap().next().is_none());
    // That it ended well before the boot is no reason to leave it alone.
    let state = node.systemd().list().await.unwrap().remove(&spec.name).unwrap();
    assert_eq!(state.status, ContainerStatus::Exited { code: None });

    let _mounted = Mounted::at(place.clone());
    assert_eq!(node.systemd().start(&spec).await.unwrap(), Change::Made);
    let state = node.systemd().list().await.unwrap().remove(&spec.name).unwrap();
    assert_eq!(state.status, ContainerStatus::Running);
    node.systemd().stop(&spec.name, GRACE).await.unwrap();
}

/// Whoever stops a unit by hand has stopped its container.
#[tokio::test]
async fn a_unit_that_is_stopped_by_hand_leaves_nothing_running() {
    let node = SystemdNode::new().await;
    let mut application = node.application(&Program::IgnoresTermination);
    application.stop_grace = Duration::from_secs(1);
    application.restart_policy = RestartPolicy::Always;
    let spec = spec(&node, "web", application);
    node.systemd().start(&spec).await.unwrap();
    run("systemctl", &["stop", &node.unit("web")]);
    let state = node.systemd().list().await.unwrap().remove(&spec.name).unwrap();
    assert_eq!(state.status, ContainerStatus::Exited { code: Some(137) });
    // And who is asked to start it, starts it.
    assert_eq!(node.systemd().start(&spec).await.unwrap(), Change::Made);
    node.systemd().stop(&spec.name, GRACE).await.unwrap();
}
