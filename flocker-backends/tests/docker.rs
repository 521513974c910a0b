//! What a real Docker engine does with our containers beyond the promises of every runtime.
//!
//! Needs what `docker_conformance.rs` needs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod docker_images;
mod docker_support;

use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use docker_support::DockerNode;
use docker_support::PATIENCE;
use docker_support::docker;
use docker_support::image;
use docker_support::never_well;
use docker_support::script;
use docker_support::volume;
use flocker_backends::Change;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::LogRequest;
use flocker_backends::RuntimeError;
use flocker_backends::conformance::Program;
use flocker_backends::conformance::RuntimeHarness as _;
use flocker_model::Application;
use flocker_model::ByteSize;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::EnvironmentValue;
use flocker_model::Health;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::Link;
use flocker_model::PortNumber;
use flocker_model::RestartPolicy;
use flocker_model::Secret;
use tokio::io::AsyncReadExt as _;

const GRACE: Duration = Duration::from_millis(500);

fn spec(node: &DockerNode, name: &str, application: Application) -> ContainerSpec {
    ContainerSpec {
        name: name.parse().unwrap(),
        volume: application.volume.is_some().then(|| node.volume_path()),
        application,
        definition: DefinitionHash(1),
        node_address: node.node_address(),
    }
}

async fn state(node: &DockerNode, spec: &ContainerSpec) -> Option<ContainerState> {
    node.docker().list().await.unwrap().remove(&spec.name)
}

async fn wait_for(node: &DockerNode, spec: &ContainerSpec, what: &str, is_so: fn(&ContainerState) -> bool) {
    let begun = Instant::now();
    loop {
        let state = state(node, spec).await;
        if state.as_ref().is_some_and(is_so) {
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "waited in vain: {what}, found {state:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn output(node: &DockerNode, spec: &ContainerSpec) -> String {
    let request = LogRequest {
        tail: None,
        follow: false,
    };
    let mut text = String::new();
    let mut stream = node.docker().logs(&spec.name, request).await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn wait_for_output(node: &DockerNode, spec: &ContainerSpec, wanted: &str) {
    let begun = Instant::now();
    while !output(node, spec).await.contains(wanted) {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for `{wanted}`");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn run_foreign(name: &str, label: &str) {
    let image = image();
    let arguments = [
        "run", "--detach", "--name", name, "--label", label, &image, "sleep", "1000",
    ];
    docker(&arguments);
}

fn inspect(container: &str, what: &str) -> String {
    docker(&["inspect", "--format", what, container])
        .trim()
        .to_owned()
}

/// I13: what is not ours is never touched, whatever it is called.
#[tokio::test]
async fn a_foreign_container_with_our_name_is_refused_and_left_alone() {
    let node = DockerNode::new().await;
    let container = node.container("web");
    run_foreign(&container, &format!("io.flocker.namespace={}", node.namespace));
    let spec = spec(&node, "web", node.application(&Program::RunsForEver));
    for answer in [
        node.docker().prepare(&spec).await,
        node.docker().start(&spec).await,
    ] {
        let refusal = answer.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Taken { .. }), "{refusal}");
        assert!(refusal.to_string().contains(&container), "{refusal}");
    }
    assert_eq!(
        node.docker().stop(&spec.name, GRACE).await.unwrap(),
        Change::AlreadySo
    );
    assert_eq!(node.docker().list().await.unwrap().len(), 0);
    assert_eq!(inspect(&container, "{{.State.Status}}"), "running");
}

/// An image that was made from one of our containers hands its labels on.
#[tokio::test]
async fn a_foreign_container_with_our_labels_is_overlooked() {
    let node = DockerNode::new().await;
    let spec = spec(&node, "web", node.application(&Program::RunsForEver));
    node.docker().start(&spec).await.unwrap();
    let copied = format!("flocker-copied-{}", node.namespace);
    docker(&["commit", &node.container("web"), &copied]);
    let foreign = format!("foreign-{}", node.namespace);
    docker(&["run", "--detach", "--name", &foreign, &copied]);
    let label = inspect(&foreign, "{{index .Config.Labels \"io.flocker.application\"}}");
    assert_eq!(label, "web", "the engine handed the labels on");
    node.docker().stop(&spec.name, GRACE).await.unwrap();
    assert_eq!(node.docker().list().await.unwrap().len(), 0);
    assert_eq!(inspect(&foreign, "{{.State.Status}}"), "running");
    docker(&["rm", "--force", &foreign]);
    docker(&["rmi", &copied]);
}

/// A container is made from what its image was when it was prepared, not from what its tag means later.
#[tokio::test]
async fn a_prepared_container_keeps_its_image() {
    let node = DockerNode::new().await;
    let tag = format!("flocker-moving-{}:1", node.namespace);
    docker(&["tag", &image(), &tag]);
    let before = inspect(&tag, "{{.Id}}");
    let mut application = node.application(&Program::RunsForEver);
    application.image = tag.parse().unwrap();
    let spec = spec(&node, "web", application);
    node.docker().prepare(&spec).await.unwrap();
    let scratch = docker(&["create", &image()]);
    docker(&["commit", "--change", "ENV MOVED=yes", scratch.trim(), &tag]);
    docker(&["rm", scratch.trim()]);
    assert_ne!(inspect(&tag, "{{.Id}}"), before, "the tag has moved");
    node.docker().start(&spec).await.unwrap();
    assert_eq!(inspect(&node.container("web"), "{{.Image}}"), before);
    node.docker().stop(&spec.name, GRACE).await.unwrap();
    docker(&["rmi", &tag]);
}

/// L18: nothing that the engine starts by itself gets at a volume that was not seen since the boot.
#[tokio::test]
async fn a_volume_is_behind_a_gate_that_a_boot_closes() {
    let node = DockerNode::new().await;
    let mut application = script("echo started >> /data/starts; sleep 0.2; exit 1");
    application.volume = Some(volume());
    application.restart_policy = RestartPolicy::Always;
    let spec = spec(&node, "web", application);
    let starts = node.volume_path().join("starts");
    let n_starts = || {
        std::fs::read_to_string(&starts)
            .unwrap_or_default()
            .lines()
            .count()
    };
    node.docker().prepare(&spec).await.unwrap();
    let container = node.container("web");
    assert_eq!(inspect(&container, "{{.HostConfig.RestartPolicy.Name}}"), "no");
    // Somebody starts it by hand, before its volume was seen.
    let closed = "bind source path does not exist";
    let said = docker(&["start", &container]);
    assert!(said.contains(closed), "{said}");
    assert_eq!(n_starts(), 0);
    drop(node.docker().start(&spec).await);
    wait_for(&node, &spec, "it was restarted after its crash", |state| {
        state.restarts > 0
    })
    .await;
    assert!(n_starts() > 0);
    // What a boot does to a file system that does not survive it.
    docker(&["update", "--restart", "no", &container]);
    wait_for(&node, &spec, "it has ended", |state| !state.is_alive()).await;
    std::fs::remove_dir_all(node.run_directory.path().join("docker")).unwrap();
    let before = n_starts();
    let said = docker(&["start", &container]);
    assert!(said.contains(closed), "{said}");
    assert_eq!(n_starts(), before);
    assert!(
        !node
            .run_directory
            .path()
            .join("docker/volumes")
            .join(&container)
            .exists()
    );
    // Who has seen the volume opens the gate again.
    drop(node.docker().start(&spec).await);
    wait_for(&node, &spec, "it runs again", |state| state.restarts > 0).await;
    assert!(n_starts() > before);
    node.docker().stop(&spec.name, GRACE).await.unwrap();
}

/// An application that finds no data must not make itself some.
#[tokio::test]
async fn nothing_is_started_without_its_volume() {
    let node = DockerNode::new().await;
    let mut application = node.application(&Program::RunsForEver);
    application.volume = Some(volume());
    let mut spec = spec(&node, "web", application);
    spec.volume = Some(node.directory.path().join("not-here"));
    assert_eq!(node.docker().prepare(&spec).await.unwrap(), Change::Made);
    let refusal = node.docker().start(&spec).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Io { .. }), "{refusal}");
    assert_eq!(
        state(&node, &spec).await.unwrap().status,
        ContainerStatus::Prepared
    );
    spec.volume = Some(node.volume_path());
    assert_eq!(node.docker().start(&spec).await.unwrap(), Change::Made);
    node.docker().stop(&spec.name, GRACE).await.unwrap();
}

/// Routers lead ports to this address, also after the engine has started the container again.
#[tokio::test]
async fn an_address_is_kept_through_restarts() {
    let node = DockerNode::new().await;
    let mut application =
        script("test -e /again && while :; do sleep 0.02; done; touch /again; sleep 0.3; exit 1");
    application.restart_policy = RestartPolicy::Always;
    let spec = spec(&node, "web", application);
    node.docker().prepare(&spec).await.unwrap();
    let address = state(&node, &spec).await.unwrap().address.unwrap();
    drop(node.docker().start(&spec).await);
    assert_eq!(state(&node, &spec).await.unwrap().address, Some(address));
    wait_for(&node, &spec, "it was restarted", |state| {
        state.restarts > 0 && state.status == ContainerStatus::Running
    })
    .await;
    assert_eq!(state(&node, &spec).await.unwrap().address, Some(address));
    let found = inspect(
        &node.container("web"),
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
    );
    assert_eq!(found.parse::<IpAddr>().unwrap(), address);
    assert_eq!(
        docker(&["port", &node.container("web")]),
        "",
        "no port is published"
    );
    node.docker().stop(&spec.name, GRACE).await.unwrap();
}

/// A kernel that has begun to ask who has its address asks again only after a second.
#[tokio::test]
async fn a_container_that_was_asked_for_in_vain_is_found_as_soon_as_it_is_back() {
    let node = DockerNode::new().await;
    let other = spec(&node, "other", script("while :; do sleep 0.02; done"));
    let web = spec(&node, "web", script("while :; do sleep 0.02; done"));
    // The network has nobody to ask until somebody is in it.
    for spec in [&other, &web] {
        node.docker().prepare(spec).await.unwrap();
    }
    node.docker().start(&other).await.unwrap();
    let address = state(&node, &web).await.unwrap().address.unwrap();
    let is_known = || {
        let known = std::fs::read_to_string("/proc/net/arp").unwrap();
        let line = known
            .lines()
            .find(|line| line.starts_with(&format!("{address} ")));
        line.map(|line| line.split_whitespace().nth(2) == Some("0x2"))
    };
    let asking = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    asking.send_to(b"are you there?", (address, 9)).unwrap();
    assert_eq!(is_known(), Some(false));
    node.docker().start(&web).await.unwrap();
    assert_eq!(is_known(), Some(true));
    for spec in [&other, &web] {
        node.docker().stop(&spec.name, GRACE).await.unwrap();
    }
}

#[tokio::test]
async fn limits_arguments_and_aliases_arrive() {
    let node = DockerNode::new().await;
    let text = "cat /etc/hosts; printf '<%s>\\n' \"$@\"; trap 'exit 0' TERM; while :; do sleep 0.02; done";
    let mut application = script(text);
    application
        .command_line
        .extend(["sh".into(), "a  b".into(), "$HOME".into()]);
    application.limits.memory = Some(ByteSize(64 << 20));
    application.limits.cpu_shares = Some(512);
    let link = |alias: &str, local, remote| Link {
        local_port: PortNumber::new(local).unwrap(),
        remote_port: flocker_model::ExternalPort::tcp(PortNumber::new(remote).unwrap()),
        alias: alias.parse().unwrap(),
    };
    application.links = vec![link("es", 9200, 9200), link("db", 5432, 5433)].into();
    let spec = spec(&node, "web", application);
    node.docker().start(&spec).await.unwrap();
    wait_for_output(&node, &spec, "<a  b>\n<$HOME>\n").await;
    let text = output(&node, &spec).await;
    assert!(text.contains("192.0.2.1\tes\n"), "{text}");
    assert!(text.contains("10.194.21.57\tdb\n"), "{text}");
    let limits = inspect(
        &node.container("web"),
        "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}}",
    );
    assert_eq!(limits, "67108864 512");
    node.docker().stop(&spec.name, GRACE).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_health_check_is_asked() {
    let node = DockerNode::new().await;
    let port = node.free_port();
    let check = |probe| {
        Some(Box::new(HealthCheck {
            probe,
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            retries: 3.try_into().unwrap(),
        }))
    };
    let command = |command: &[&str]| HealthProbe::Command(command.iter().map(|&text| text.into()).collect());
    let http = |path: &str| HealthProbe::Http {
        port,
        path: path.into(),
    };
    for (probe, is_healthy) in [
        (http("/etc/hostname"), true),
        (http("/no/such/file"), false),
        (command(&["test", "-e", "/etc/hostname"]), true),
        (command(&["test", "-e", "/no/such/file"]), false),
        (command(&["no-such-program"]), false),
    ] {
        let mut application = node.application(&Program::Listens(port));
        application.health_check = check(probe.clone());
        let spec = spec(&node, "web", application);
        let answer = node.docker().start(&spec).await;
        match &answer {
            Ok(_) => assert!(is_healthy, "{probe:?}"),
            Err(RuntimeError::Unhealthy { .. }) => assert!(!is_healthy, "{probe:?}"),
            Err(error) => panic!("{probe:?}: {error}"),
        }
        // Another process, which knows nothing of the start, sees the same.
        node.reopen().await;
        let health = state(&node, &spec).await.unwrap().health;
        assert_eq!(health == Health::Healthy, is_healthy, "{probe:?}");
        node.docker().stop(&spec.name, GRACE).await.unwrap();
    }
}

/// A program that its image does not have is told like an image that is not here.
#[tokio::test]
async fn a_missing_program_is_told_and_not_tried_again() {
    let node = DockerNode::new().await;
    let mut application = Application::new(image().parse().unwrap());
    application.command_line = vec!["/no/such/program".into()].into();
    application.restart_policy = RestartPolicy::Always;
    let spec = spec(&node, "web", application);
    let refusal = node.docker().start(&spec).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NoImage { .. }), "{refusal}");
    assert!(!state(&node, &spec).await.unwrap().is_alive());
    assert_eq!(
        inspect(&node.container("web"), "{{.HostConfig.RestartPolicy.Name}}"),
        "no"
    );
    node.docker().stop(&spec.name, GRACE).await.unwrap();
}

/// A program that ends at once is told with what it said, and without its secrets.
#[tokio::test]
async fn what_ends_at_once_is_told_with_its_last_words() {
    let node = DockerNode::new().await;
    let mut application = script("echo first; echo \"no database at $PASSWORD\"; exit 9");
    let password = EnvironmentValue::Secret(Secret::new("hunter2"));
    application.environment.insert("PASSWORD".into(), password);
    for policy in [RestartPolicy::Never, RestartPolicy::Always] {
        application.restart_policy = policy;
        // It is not to be found running for a moment, and taken for well.
        application.health_check = Some(never_well().into());
        let spec = spec(&node, "web", application.clone());
        let failure = node.docker().start(&spec).await.unwrap_err();
        let RuntimeError::Ended { status, .. } = &failure else {
            panic!("{failure}")
        };
        assert!(
            status.contains("; the end of its output: ") && status.contains("`no database at (a secret)`"),
            "{failure}"
        );
        match policy {
            RestartPolicy::Never => assert!(status.starts_with("9; "), "{failure}"),
            RestartPolicy::Always | RestartPolicy::OnFailure { .. } => {
                assert!(status.contains(", and is started again; "), "{failure}");
            }
        }
        node.docker().stop(&spec.name, GRACE).await.unwrap();
    }
}

/// What is paused hears nothing, and is stopped all the same.
#[tokio::test]
async fn a_paused_container_is_stopped() {
    let node = DockerNode::new().await;
    let spec = spec(&node, "web", node.application(&Program::RunsForEver));
    node.docker().start(&spec).await.unwrap();
    docker(&["pause", &node.container("web")]);
    assert_eq!(
        state(&node, &spec).await.unwrap().status,
        ContainerStatus::Running
    );
    assert_eq!(node.docker().stop(&spec.name, GRACE).await.unwrap(), Change::Made);
    assert_eq!(state(&node, &spec).await, None);
}

/// Whoever follows the output gets all of it, and then its end.
#[tokio::test]
async fn a_follower_sees_everything_and_then_the_end() {
    let node = DockerNode::new().await;
    let spec = spec(
        &node,
        "web",
        script("for n in 1 2 3; do echo line $n; sleep 0.1; done; echo bad >&2"),
    );
    drop(node.docker().start(&spec).await);
    let request = LogRequest {
        tail: None,
        follow: true,
    };
    let mut stream = node.docker().logs(&spec.name, request).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(text, "line 1\nline 2\nline 3\nbad\n");
}
