//! What is said between us and a Docker engine, with an engine that only says what it is told to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::ImageId;
use flocker_backends::LogRequest;
use flocker_backends::RuntimeError;
use flocker_backends::runtime::docker::DockerOptions;
use flocker_backends::runtime::docker::DockerRuntime;
use flocker_backends::runtime::docker::Pull;
use flocker_model::Application;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::Health;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

const RUNNING: &str = include_str!("data/docker-20.10/inspect-running.json");

/// What is answered to each request, one after the other.
type Answers = BTreeMap<String, VecDeque<(u16, String)>>;

/// How long this engine may take for its own work.
const MARGIN: Duration = Duration::from_millis(200);

/// At the beginning of an answer: it comes only after that.
const SLOW: &str = "(slow)";

/// At the end of an answer: it promises more than comes.
const CUT: &str = "(cut)";

/// An engine that answers from a list, and keeps what it was asked.
struct FakeEngine {
    directory: tempfile::TempDir,
    run_directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    /// What images were taken in, as they came.
    taken: Arc<Mutex<Vec<u8>>>,
    serving: JoinHandle<()>,
}

impl FakeEngine {
    fn new(answers: &[(&str, u16, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // A memory file system, as every Linux has it there.
        let run_directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut listed: Answers = BTreeMap::new();
        for &(request, status, body) in answers {
            let answers = listed.entry(request.to_owned()).or_default();
            answers.push_back((status, body.to_owned()));
        }
        let taken = Arc::default();
        let serving = tokio::spawn(serve(listener, listed, asked.clone(), Arc::clone(&taken)));
        Self {
            directory,
            run_directory,
            asked,
            taken,
            serving,
        }
    }

    async fn open(&self) -> Result<DockerRuntime, RuntimeError> {
        DockerRuntime::open(self.options()).await
    }

    fn options(&self) -> DockerOptions {
        let mut options = DockerOptions::new(self.directory.path().join("state"));
        options.socket = self.directory.path().join("socket");
        options.run_directory = self.run_directory.path().into();
        options.pull = Pull::Never;
        options.margin = MARGIN;
        options
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: UnixListener,
    mut answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    taken: Arc<Mutex<Vec<u8>>>,
) {
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match client.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut words = head.split_ascii_whitespace();
        let (Some(verb), Some(target)) = (words.next(), words.next()) else {
            continue;
        };
        let request = format!("{verb} {}", target.split('?').next().unwrap());
        asked.lock().unwrap().push(request.clone());
        if request == "POST /images/load" {
            let mut body = Vec::new();
            // What is broken off has no last chunk.
            while !body.ends_with(b"\r\n0\r\n\r\n") && client.read_buf(&mut body).await.unwrap() > 0 {}
            taken.lock().unwrap().append(&mut body);
        }
        let known = answers.get_mut(&request);
        // The last answer is given again and again.
        let answer = known.and_then(|answers| match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        });
        let (status, body) = answer.unwrap_or((404, r#"{"message":"no such thing"}"#.to_owned()));
        // One that is slow holds nobody else up.
        tokio::spawn(async move {
            let body = match body.strip_prefix(SLOW) {
                Some(rest) => {
                    tokio::time::sleep(MARGIN * 2).await;
                    rest
                }
                None => &body,
            };
            let (length, body) = match body.strip_suffix(CUT) {
                Some(rest) => (body.len(), rest),
                None => (body.len(), body),
            };
            let answer = format!(
                "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            );
            // It may have been content with less.
            drop(client.write_all(answer.as_bytes()).await);
        });
    }
}

/// The identity of the container in the captured answer.
const ID: &str = "c666030c5425184db8601affff13c190051e9316045a6db87936efcf82b11cac";

const VERSION: (&str, u16, &str) = ("GET /version", 200, r#"{"ApiVersion":"1.41"}"#);

fn one_container() -> String {
    let listed: serde_json::Value = serde_json::from_str(RUNNING).unwrap();
    listed[0].to_string()
}

fn spec() -> ContainerSpec {
    ContainerSpec {
        name: "web".parse().unwrap(),
        application: Application::new("busybox:latest".parse().unwrap()),
        definition: DefinitionHash(7),
        volume: None,
        node_address: [192, 0, 2, 1].into(),
    }
}

/// The client is told a version and drops it: the engine always answers in its newest form. The day
/// on which that changes, a version has to be chosen on purpose, and this test with it.
#[tokio::test]
async fn no_version_is_named_in_what_is_asked() {
    let engine = FakeEngine::new(&[VERSION, ("GET /containers/json", 200, "[]")]);
    let runtime = engine.open().await.unwrap();
    assert_eq!(runtime.list().await.unwrap().len(), 0);
    assert_eq!(engine.asked(), ["GET /version", "GET /containers/json"]);
}

#[tokio::test]
async fn an_engine_that_is_too_old_or_none_is_refused() {
    for (body, reason) in [
        (r#"{"ApiVersion":"1.23"}"#, "at least 1.24 is needed"),
        ("{}", "is no version"),
    ] {
        let engine = FakeEngine::new(&[("GET /version", 200, body)]);
        let refusal = engine.open().await.unwrap_err();
        let source = std::error::Error::source(&refusal).unwrap().to_string();
        assert!(source.contains(reason), "{source}");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut options = DockerOptions::new(directory.path().join("state"));
    options.socket = Path::new("/no/such/socket").into();
    assert!(DockerRuntime::open(options).await.is_err());
}

/// A stop that power has cut short has taken the policy back: whoever starts it again would leave it without for good.
#[tokio::test]
async fn what_somebody_has_begun_to_stop_is_not_resumed() {
    let mut ended: serde_json::Value = serde_json::from_str(&one_container()).unwrap();
    ended["State"]["Status"] = "exited".into();
    ended["State"]["Running"] = false.into();
    ended["State"]["Pid"] = 0.into();
    let made = |label: Option<&str>, policy: &str| {
        let mut ended = ended.clone();
        if let Some(label) = label {
            ended["Config"]["Labels"]["io.flocker.restart-policy"] = label.into();
        }
        ended["HostConfig"]["RestartPolicy"]["Name"] = policy.into();
        ended
    };
    let always = Some(r#"{"name":"always"}"#);
    for (container, is_resumable) in [
        (made(always, "always"), true),
        (made(always, "no"), false),
        (made(Some(r#"{"name":"never"}"#), "no"), true),
        // It was made before that was written down.
        (made(None, "no"), true),
    ] {
        let listed = serde_json::json!([{
            "Id": ID, "Names": ["/flocker--web"], "Labels": container["Config"]["Labels"],
        }]);
        let (by_id, body) = (format!("GET /containers/{ID}/json"), container.to_string());
        let engine = FakeEngine::new(&[
            VERSION,
            ("GET /containers/json", 200, &listed.to_string()),
            (&by_id, 200, &body),
            ("GET /containers/flocker--web/json", 200, &body),
        ]);
        let runtime = engine.open().await.unwrap();
        assert_eq!(
            runtime.resumable().await.unwrap().len(),
            usize::from(is_resumable),
            "{body}"
        );
        if !is_resumable {
            let refusal = runtime.resume(&spec().name, None).await.unwrap_err();
            assert!(matches!(refusal, RuntimeError::NotHere { .. }), "{refusal}");
            assert!(!engine.asked().iter().any(|asked| asked.ends_with("/start")));
        }
    }
}

/// I5: what cannot be read is never taken for absent. Nor does it hide the others (L20): it may run, and does not serve.
#[tokio::test]
async fn a_container_that_cannot_be_read_is_told_and_hides_no_other() {
    let well = one_container();
    let labels = serde_json::from_str::<serde_json::Value>(&well).unwrap()["Config"]["Labels"].clone();
    let listed = |name: &str, application: &str, dataset: &str| {
        let mut labels = labels.clone();
        labels["io.flocker.application"] = application.into();
        labels["io.flocker.dataset"] = dataset.into();
        serde_json::json!({"Id": "abc", "Names": [name], "Labels": labels})
    };
    let dataset = labels["io.flocker.dataset"].as_str().unwrap();
    let db = listed("/flocker--db", "db", dataset);
    let damaged = well
        .replace("flocker--web", "flocker--db")
        .replace(r#"application":"web""#, r#"application":"db""#)
        .replace("00000000000000000000000000000007", "?");
    let mut nameless = db.clone();
    nameless["Names"] = serde_json::json!([]);
    let slow = format!("{SLOW}{well}");
    let out_of_order = r#"{"message":"out of order"}"#;
    for (db, status, body, expected) in [
        (&db, 200, damaged.as_str(), Some(2)),
        (&db, 200, "{", Some(2)),
        (&db, 500, out_of_order, Some(2)),
        (&db, 200, slow.as_str(), Some(2)),
        // It was removed while we looked.
        (&db, 404, r#"{"message":"no such container"}"#, Some(1)),
        // Somebody has chosen a confusing label.
        (&listed("/mine", "db", dataset), 500, out_of_order, Some(1)),
        // Whose data it may write is not known, or not whose it is.
        (&listed("/flocker--db", "db", "?"), 500, out_of_order, None),
        (&nameless, 500, out_of_order, None),
    ] {
        let list = serde_json::json!([db, {"Id": ID, "Names": ["/flocker--web"], "Labels": labels}]);
        let engine = FakeEngine::new(&[
            VERSION,
            ("GET /containers/json", 200, &list.to_string()),
            ("GET /containers/abc/json", status, body),
            (&format!("GET /containers/{ID}/json"), 200, &well),
        ]);
        let runtime = engine.open().await.unwrap();
        let found = runtime.list().await;
        assert_eq!(found.as_ref().ok().map(BTreeMap::len), expected, "{db} {body}");
        let Ok(found) = found else { continue };
        assert_eq!(found["web"].status, ContainerStatus::Running);
        if let Some(db) = found.get("db") {
            assert_eq!(
                (db.status, db.health),
                (ContainerStatus::Restarting, Health::Unhealthy)
            );
            assert_eq!(db.dataset, Some(dataset.parse().unwrap()), "{body}");
        }
    }
}

/// Where the engine itself is out of order, nobody knows anything.
#[tokio::test]
async fn an_engine_that_does_not_answer_any_more_breaks_the_list() {
    let engine = FakeEngine::new(&[VERSION, ("GET /containers/json", 500, "{}")]);
    assert!(engine.open().await.unwrap().list().await.is_err());
    let whole: serde_json::Value = serde_json::from_str(&one_container()).unwrap();
    let list = serde_json::json!([{
        "Id": ID, "Names": ["/flocker--web"], "Labels": whole["Config"]["Labels"],
    }]);
    let engine = FakeEngine::new(&[
        VERSION,
        ("GET /version", 500, "{}"),
        ("GET /containers/json", 200, &list.to_string()),
        (&format!("GET /containers/{ID}/json"), 500, "{}"),
    ]);
    assert!(engine.open().await.unwrap().list().await.is_err());
}

/// The policy goes before anything else: a stop that is dropped right then is not undone by the engine.
#[tokio::test]
async fn a_stop_takes_the_restart_policy_back_first() {
    let whole = one_container();
    let engine = FakeEngine::new(&[
        VERSION,
        ("GET /containers/flocker--web/json", 200, &whole),
        (&format!("POST /containers/{ID}/update"), 200, "{}"),
    ]);
    let runtime = engine.open().await.unwrap();
    // It never ends, as this engine has it.
    let grace = Duration::from_millis(10);
    let refusal = runtime.stop(&"web".parse().unwrap(), grace).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NotGone { .. }), "{refusal}");
    let mut asked = engine.asked();
    asked.retain(|request| request.starts_with("POST"));
    let expected = ["update", "kill", "stop"].map(|verb| format!("POST /containers/{ID}/{verb}"));
    assert_eq!(asked, expected);
}

/// Docker 20.10 refuses this of a container that ends in the very moment, and has changed nothing then.
#[tokio::test]
async fn a_restart_policy_that_the_engine_refuses_for_a_moment_is_set_again() {
    let (id, whole, ended) = (ID, one_container(), one_ended_container());
    let update = format!("POST /containers/{id}/update");
    let refusal = r#"{"message":"cannot update a stopped container: unknown"}"#;
    let engine = FakeEngine::new(&[
        VERSION,
        ("GET /containers/flocker--web/json", 200, &whole),
        ("GET /containers/flocker--web/json", 200, &ended),
        (&update, 500, refusal),
        (&update, 500, refusal),
        (&update, 200, "{}"),
        (&format!("GET /containers/{id}/logs"), 200, ""),
        (&format!("DELETE /containers/{id}"), 204, ""),
    ]);
    let runtime = engine.open().await.unwrap();
    let stopped = runtime
        .stop(&"web".parse().unwrap(), Duration::from_secs(1))
        .await;
    assert_eq!(stopped.unwrap(), Change::Made);
    let n_updates = engine
        .asked()
        .iter()
        .filter(|&request| *request == update)
        .count();
    assert_eq!(n_updates, 3);
}

/// The container in the captured answer after its end.
fn one_ended_container() -> String {
    one_container()
        .replace("\"running\"", "\"exited\"")
        .replace("\"Pid\":782", "\"Pid\":0")
}

/// An application that has ended is let go of, and replaced, whatever became of its log.
#[tokio::test]
async fn an_output_that_cannot_be_kept_holds_nobody_up() {
    let ended = one_ended_container();
    let (update, logs) = (
        format!("POST /containers/{ID}/update"),
        format!("GET /containers/{ID}/logs"),
    );
    let remove = format!("DELETE /containers/{ID}");
    let line = "\u{1}\0\0\0\0\0\0\u{5}line\n";
    let cut = format!("{line}{CUT}");
    let damaged = r#"{"message":"invalid character '\\x00' looking for beginning of value"}"#;
    for (status, body, disk_is_well, kept) in [
        (200, line, true, Some("line\n")),
        (200, cut.as_str(), true, Some("line\n")),
        (500, damaged, true, None),
        (200, line, false, None),
    ] {
        for is_stopped in [true, false] {
            let engine = FakeEngine::new(&[
                VERSION,
                ("GET /containers/flocker--web/json", 200, &ended),
                (
                    "GET /containers/flocker--web/json",
                    if is_stopped { 404 } else { 200 },
                    &ended,
                ),
                ("GET /containers/flocker--web/json", 404, "{}"),
                (&update, 200, "{}"),
                (&logs, status, body),
                (&remove, 204, ""),
            ]);
            let runtime = engine.open().await.unwrap();
            if !disk_is_well {
                std::fs::write(engine.directory.path().join("state/output"), "in the way").unwrap();
            }
            if is_stopped {
                let stopped = runtime.stop(&"web".parse().unwrap(), Duration::ZERO).await;
                assert_eq!(stopped.unwrap(), Change::Made, "{body}");
            } else {
                // It is out of the way; this engine only lacks the image for the next one.
                let refusal = runtime.start(&spec()).await.unwrap_err();
                assert!(matches!(refusal, RuntimeError::NoImage { .. }), "{refusal}");
            }
            assert!(engine.asked().contains(&remove), "{body}");
            assert_eq!(kept_output(&runtime).await.as_deref(), kept, "{body}");
        }
    }
}

/// What is kept of what the application said.
async fn kept_output(runtime: &DockerRuntime) -> Option<String> {
    let request = LogRequest {
        tail: None,
        follow: false,
    };
    let mut output = runtime.logs(&"web".parse().unwrap(), request).await.ok()?;
    let mut text = String::new();
    output.read_to_string(&mut text).await.unwrap();
    Some(text)
}

/// I13: nothing is asked of a container that is not ours but what it is.
#[tokio::test]
async fn nothing_is_done_to_a_foreign_container() {
    let foreign = one_container().replace("io.flocker.application", "com.example.application");
    let engine = FakeEngine::new(&[VERSION, ("GET /containers/flocker--web/json", 200, &foreign)]);
    let runtime = engine.open().await.unwrap();
    for answer in [runtime.prepare(&spec()).await, runtime.start(&spec()).await] {
        assert!(matches!(answer.unwrap_err(), RuntimeError::Taken { .. }));
    }
    let stopped = runtime.stop(&"web".parse().unwrap(), Duration::ZERO).await;
    assert_eq!(stopped.unwrap(), Change::AlreadySo);
    assert!(engine.asked().iter().all(|request| request.starts_with("GET ")));
}

/// What an engine says of an image that it has.
const IMAGE: &str = r#"{"Id":"sha256:b08a86ee35248e1234fd622d7e08afdb4a1484bb4839ef99c5aa4dc2eaf18b5c"}"#;

/// What an engine says of the network of our containers.
const NETWORK: &str =
    r#"{"Labels":{"io.flocker.network":"1"},"IPAM":{"Config":[{"Subnet":"10.193.0.0/16"}]}}"#;

/// A registry has its own time: a pull that took longer than our engine may is no reason to give up when it is done.
#[tokio::test]
async fn a_pull_may_take_longer_than_making_a_container() {
    let prepared = one_ended_container().replace("\"exited\"", "\"created\"");
    let engine = FakeEngine::new(&[
        VERSION,
        ("GET /containers/flocker--web/json", 404, "{}"),
        ("GET /containers/flocker--web/json", 200, &prepared),
        ("GET /images/busybox:latest/json", 404, "{}"),
        ("GET /images/busybox:latest/json", 200, IMAGE),
        ("POST /images/create", 200, SLOW),
        ("GET /networks/flocker", 200, NETWORK),
        ("GET /containers/json", 200, "[]"),
        ("POST /containers/create", 201, r#"{"Id":"abc","Warnings":[]}"#),
    ]);
    let mut options = engine.options();
    options.pull = Pull::WhereMissing(Duration::from_secs(60));
    let runtime = DockerRuntime::open(options).await.unwrap();
    assert_eq!(runtime.prepare(&spec()).await.unwrap(), Change::Made);
}

/// Returns the archive of an image without layers, and the identity of that.
fn archive() -> (Vec<u8>, ImageId) {
    use sha2::Digest as _;

    let config = br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let digits = format!("{:x}", sha2::Sha256::digest(config));
    let path = format!("{digits}.json");
    let list = format!(r#"[{{"Config":"{path}","RepoTags":["postgres:latest"],"Layers":[]}}]"#);
    let mut written = tar::Builder::new(Vec::new());
    for (path, content) in [(&*path, &config[..]), ("manifest.json", list.as_bytes())] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        written.append_data(&mut header, path, content).unwrap();
    }
    (
        written.into_inner().unwrap(),
        format!("sha256:{digits}").parse().unwrap(),
    )
}

/// What the engine of a node pulled by its digest arrives on another without it, as engines have it. It is found there, is
/// what containers are made from, and travels on.
#[tokio::test]
async fn an_image_that_is_pinned_by_its_digest_is_found_where_it_arrived() {
    let digest = "0123456789abcdef".repeat(4);
    let image: flocker_model::Image = format!("busybox@sha256:{digest}").parse().unwrap();
    let (bytes, id) = archive();
    let name = format!("flocker.invalid/pinned:sha256-{digest}");
    let inspect = format!("GET /images/{name}/json");
    let found = format!(r#"{{"Id":"{id}"}}"#);
    for arrives in [true, false] {
        let engine = FakeEngine::new(&[
            VERSION,
            (&inspect, 404, "{}"),
            (
                &inspect,
                if arrives { 200 } else { 404 },
                if arrives { &found } else { "{}" },
            ),
            ("GET /info", 200, "{}"),
            ("POST /images/load", 200, "{}"),
            (&format!("GET /images/{name}/get"), 200, "layers"),
        ]);
        let runtime = engine.open().await.unwrap();
        let images = runtime.images().unwrap();
        let stream = Box::pin(std::io::Cursor::new(bytes.clone()));
        let imported = images.import(&image, &id, stream).await;
        assert_eq!(imported.ok(), arrives.then_some(Change::Made));
        let taken = String::from_utf8_lossy(&engine.taken.lock().unwrap()).into_owned();
        assert!(taken.contains(&format!(r#""RepoTags":["{name}"]"#)), "{taken}");
        assert!(!taken.contains("postgres"), "{taken}");
        let found = images.present(&image).await.unwrap();
        assert_eq!(found, arrives.then(|| id.clone()));
        let mut exported = String::new();
        let export = images.export(&image).read_to_string(&mut exported).await;
        assert_eq!(export.is_ok(), arrives);
        assert_eq!(exported, if arrives { "layers" } else { "" });
    }
}

/// What is refused is broken off, and it is told why; that engines know images by different things is told with what to do.
#[tokio::test]
async fn an_image_that_is_refused_is_told_with_its_reason() {
    let containerd = r#"{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#;
    let (bytes, id) = archive();
    let other: ImageId = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    for (info, id, length, reason) in [
        ("{}", &other, bytes.len(), "is of another image"),
        ("{}", &id, 600, "cannot be read"),
        (containerd, &id, bytes.len(), "`docker pull` or `docker load`"),
    ] {
        let engine = FakeEngine::new(&[
            VERSION,
            ("GET /info", 200, info),
            ("POST /images/load", 200, "{}"),
        ]);
        let runtime = engine.open().await.unwrap();
        let stream = Box::pin(std::io::Cursor::new(bytes[..length].to_vec()));
        let image = "busybox:latest".parse().unwrap();
        let refusal = runtime.images().unwrap().import(&image, id, stream).await;
        let refusal = refusal.unwrap_err();
        let source = std::error::Error::source(&refusal).unwrap().to_string();
        assert!(source.contains(reason), "{source}");
        let taken = engine.taken.lock().unwrap().clone();
        assert!(!taken.ends_with(b"\r\n0\r\n\r\n"), "{reason}");
    }
}

/// Where pulling is not wanted, nobody tries.
#[tokio::test]
async fn an_image_is_not_pulled_where_that_is_not_wanted() {
    let engine = FakeEngine::new(&[VERSION]);
    let refusal = engine.open().await.unwrap().prepare(&spec()).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NoImage { .. }), "{refusal}");
    let asked = engine.asked();
    assert!(
        asked.contains(&"GET /images/busybox:latest/json".to_owned()),
        "{asked:?}"
    );
    assert!(
        asked.iter().all(|request| request.starts_with("GET ")),
        "{asked:?}"
    );
}
