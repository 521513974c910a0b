//! What a real Docker engine does with our containers beyond the promises of every runtime.
//!
//! Needs what `docker_conformance.rs` needs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

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
use flocker_backends::ByteStream;
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
use flocker_model::Image;
use flocker_model::Link;
use flocker_model::PortNumber;
use flocker_model::RestartPolicy;
use flocker_model::Secret;
use sha2::Digest as _;
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

/// Adds a file to an archive.
fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content).unwrap();
}

/// Gives the engine an archive as it is.
fn load(archive: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    docker(&["load", "--input", file.path().to_str().unwrap()]);
}

/// Makes an image that has a layer twice, which Docker 20.10 writes as a link to what it has written before.
fn make_image(tag: &str, mark: &str) {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "mark", mark.as_bytes());
    let layer = layer.into_inner().unwrap();
    let digest = format!("sha256:{:x}", sha2::Sha256::digest(&layer));
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest, digest]},
    })
    .to_string();
    let path = format!("{:x}.json", sha2::Sha256::digest(&config));
    let list = serde_json::json!([{"Config": path, "RepoTags": [tag], "Layers": ["layer.tar", "layer.tar"]}]);
    let mut image = tar::Builder::new(Vec::new());
    add(&mut image, "layer.tar", &layer);
    add(&mut image, &path, config.as_bytes());
    add(&mut image, "manifest.json", list.to_string().as_bytes());
    load(&image.into_inner().unwrap());
}

async fn exported(node: &DockerNode, name: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stream = node.docker().export_image(name);
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn stream(bytes: &[u8]) -> ByteStream {
    Box::pin(std::io::Cursor::new(bytes.to_vec()))
}

/// What an engine gives out, another takes in: here the same one, which has lost it in the meantime.
#[tokio::test]
async fn an_image_travels_as_a_stream() {
    let node = DockerNode::new().await;
    let tag = format!("flocker-travelling-{}:1", node.namespace);
    make_image(&tag, "travelling");
    let name = tag.parse().unwrap();
    let before = node.docker().image_present(&name).await.unwrap().unwrap();
    let bytes = exported(&node, &name).await;
    // Engines up to 24 write the older form.
    let (mut is_old, mut is_linked) = (false, false);
    for entry in tar::Archive::new(&*bytes).entries().unwrap() {
        let entry = entry.unwrap();
        is_old |= entry.path_bytes().ends_with(b"/VERSION");
        is_linked |= entry.header().entry_type() == tar::EntryType::Symlink;
    }
    assert_eq!(is_old, is_linked);
    docker(&["rmi", &tag]);
    assert_eq!(node.docker().image_present(&name).await.unwrap(), None);
    let mut nothing = Vec::new();
    let missing = node.docker().export_image(&name).read_to_end(&mut nothing).await;
    missing.unwrap_err();
    let runtime = node.docker();
    let images = runtime.images().unwrap();
    let cut = stream(&bytes[..bytes.len() / 2]);
    images.import(&name, &before, cut).await.unwrap_err();
    assert_eq!(node.docker().image_present(&name).await.unwrap(), None);
    for change in [Change::Made, Change::AlreadySo] {
        let imported = images.import(&name, &before, stream(&bytes)).await;
        assert_eq!(imported.unwrap(), change);
    }
    assert_eq!(
        node.docker().image_present(&name).await.unwrap().as_ref(),
        Some(&before)
    );
    // One that is pinned is found by the name that it gets here, and travels on from there.
    let pinned: Image = format!("{}@{before}", tag.trim_end_matches(":1"))
        .parse()
        .unwrap();
    let imported = images.import(&pinned, &before, stream(&bytes)).await;
    assert_eq!(imported.unwrap(), Change::Made);
    let again = exported(&node, &pinned).await;
    let name_here = format!("flocker.invalid/pinned:{}", before.as_str().replace(':', "-"));
    docker(&["rmi", &tag, &name_here]);
    let imported = images.import(&pinned, &before, stream(&again)).await;
    assert_eq!(imported.unwrap(), Change::Made);
    docker(&["rmi", &name_here]);
}

/// A sender that is to give one image gives it other names, or another image its name: what the receiver has stays as it is.
#[tokio::test]
async fn an_image_that_arrives_changes_no_other_name() {
    let node = DockerNode::new().await;
    let tag = |name: &str| format!("flocker-{name}-{}:1", node.namespace);
    let [wanted, victim, evil] = ["wanted", "victim", "evil"].map(tag);
    for (tag, mark) in [(&wanted, "wanted"), (&victim, "victim"), (&evil, "evil")] {
        make_image(tag, mark);
    }
    let runtime = node.docker();
    let images = runtime.images().unwrap();
    let [wanted_name, victim_name, evil_name]: [Image; 3] =
        [&wanted, &victim, &evil].map(|tag| tag.parse().unwrap());
    let id = async |name: &Image| node.docker().image_present(name).await.unwrap();
    let (wanted_id, victim_id) = (id(&wanted_name).await.unwrap(), id(&victim_name).await);
    let [honest, other] = [&wanted_name, &evil_name].map(async |name| exported(&node, name).await);
    let (honest, other) = (honest.await, other.await);
    let renamed = |bytes: &[u8], from: &str| {
        rewritten(bytes, |path, content| match path {
            "manifest.json" | "repositories" => {
                let text = String::from_utf8(content).unwrap();
                let named = text.replace(from.trim_end_matches(":1"), victim.trim_end_matches(":1"));
                assert_ne!(text, named);
                named.into_bytes()
            }
            _ => content,
        })
    };
    docker(&["rmi", &wanted, &evil]);

    // The announced image, under the name of another one.
    let imported = images
        .import(&wanted_name, &wanted_id, stream(&renamed(&honest, &wanted)))
        .await;
    assert_eq!(imported.unwrap(), Change::Made);
    assert_eq!(id(&victim_name).await, victim_id);
    assert_eq!(id(&wanted_name).await.as_ref(), Some(&wanted_id));
    docker(&["rmi", &wanted]);

    // Another image, whole and cut anywhere before its end.
    let other = renamed(&other, &evil);
    for length in [other.len(), other.len() - 2048, other.len() / 2] {
        let refusal = images
            .import(&wanted_name, &wanted_id, stream(&other[..length]))
            .await;
        let refusal = refusal.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Io { .. }), "{refusal}");
        assert_eq!(id(&victim_name).await, victim_id);
        assert_eq!((id(&wanted_name).await, id(&evil_name).await), (None, None));
        // Nothing without a name either.
        assert!(!docker(&["images", "--all", "--no-trunc", "--quiet"]).contains(wanted_id.as_str()));
    }
    // Without our filter the engine does take it.
    load(&other);
    assert_ne!(id(&victim_name).await, victim_id);
    docker(&["rmi", &victim, victim_id.unwrap().as_str()]);
}

/// Returns an archive with the content of its files changed.
fn rewritten(bytes: &[u8], change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let mut written = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut header = entry.header().clone();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        let content = change(&path, content);
        header.set_size(content.len() as u64);
        header.set_cksum();
        written.append(&header, &*content).unwrap();
    }
    written.into_inner().unwrap()
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
