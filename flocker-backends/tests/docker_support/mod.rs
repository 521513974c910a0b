//! A node on a real Docker engine, of which nothing is left when it is dropped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ContainerRuntime;
use flocker_backends::conformance::Program;
use flocker_backends::conformance::RuntimeHarness;
use flocker_backends::process::Program as HostProgram;
use flocker_backends::runtime::docker::DockerOptions;
use flocker_backends::runtime::docker::DockerRuntime;
use flocker_backends::runtime::docker::Pull;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Volume;

/// Longer than anything here takes, even on a machine with other work to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node on a real engine, told from others on the same engine by its namespace.
pub(crate) struct DockerNode {
    pub(crate) namespace: ApplicationName,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) run_directory: tempfile::TempDir,
    runtime: Mutex<Arc<DockerRuntime>>,
}

impl DockerNode {
    pub(crate) async fn new() -> Self {
        let namespace = namespace();
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("volume")).unwrap();
        let run_directory = tempfile::tempdir_in("/run").unwrap();
        let options = options(&namespace, directory.path(), run_directory.path());
        let runtime = DockerRuntime::open(options).await.unwrap();
        Self {
            namespace,
            directory,
            run_directory,
            runtime: Mutex::new(Arc::new(runtime)),
        }
    }

    pub(crate) fn docker(&self) -> Arc<DockerRuntime> {
        self.runtime.lock().unwrap().clone()
    }

    pub(crate) fn container(&self, application: &str) -> String {
        format!("flocker--{}--{application}", self.namespace)
    }

    pub(crate) fn volume_path(&self) -> PathBuf {
        self.directory.path().join("volume")
    }
}

impl Drop for DockerNode {
    /// Leaves nothing running, whatever failed.
    fn drop(&mut self) {
        remove_containers(&self.namespace);
    }
}

/// No two nodes of this machine have the same one.
pub(crate) fn namespace() -> ApplicationName {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{number}", std::process::id()).parse().unwrap()
}

pub(crate) fn options(namespace: &ApplicationName, state: &Path, run: &Path) -> DockerOptions {
    let mut options = DockerOptions::new(state.join("state"));
    options.namespace = Some(namespace.clone());
    options.run_directory = run.join("docker");
    options.network = "flocker-test".into();
    options.subnet = "10.195.0.0/16".parse().unwrap();
    options.pull = Pull::WhereMissing(Duration::from_secs(10));
    options
}

/// Removes every container of a namespace.
pub(crate) fn remove_containers(namespace: &ApplicationName) {
    let filter = format!("label=io.flocker.namespace={namespace}");
    let listed = docker(&["ps", "--all", "--quiet", "--filter", &filter]);
    for container in listed.split_whitespace() {
        docker(&["rm", "--force", "--volumes", container]);
    }
}

/// Runs `docker` and returns what it wrote, whether it succeeded or not.
pub(crate) fn docker(arguments: &[&str]) -> String {
    run("docker", arguments)
}

/// Runs a program and returns what it wrote, whether it succeeded or not.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let program = program.to_owned();
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    // It is called from within runtimes, and from where they are dropped.
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let program = HostProgram::new(program)
            .arguments(arguments)
            .variable("HOME", "/");
        let output = runtime.unwrap().block_on(program.run(b"", 1 << 20, PATIENCE));
        let output = output.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    });
    running.join().unwrap()
}

/// The image that `FLOCKER_TEST_DOCKER` names.
pub(crate) fn image() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is how a test is told where to run"
    )]
    let image = std::env::var("FLOCKER_TEST_DOCKER");
    image.expect("`FLOCKER_TEST_DOCKER` names an image of this engine that has a shell and `httpd`")
}

pub(crate) fn script(script: &str) -> Application {
    let mut application = Application::new(image().parse().unwrap());
    application.command_line = ["sh", "-c", script].map(Into::into).into();
    application
}

pub(crate) fn application(program: &Program) -> Application {
    // The shell is the first process of its container, which ignores whatever it does not handle.
    const AND_RUN: &str = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
    match program {
        Program::RunsForEver => script(AND_RUN),
        Program::IgnoresTermination => script("trap '' TERM; while :; do sleep 0.02; done"),
        Program::Exits(code) => script(&format!("exit {code}")),
        Program::Prints(text) => {
            let mut application = script(&format!("printf '%s\\n' \"$1\"; {AND_RUN}"));
            application
                .command_line
                .extend(["sh".into(), text.as_str().into()]);
            application
        }
        Program::PrintsVariable(name) => script(&format!("printf '%s\\n' \"${name}\"; {AND_RUN}")),
        Program::Listens(port) => {
            let mut application = script(&format!("httpd -p {port} -h /; {AND_RUN}"));
            application.ports.push(Port {
                internal: *port,
                external: flocker_model::ExternalPort::tcp(*port),
            });
            application
        }
        Program::IsMissing => Application::new("flocker-no-such-image:1".parse().unwrap()),
    }
}

#[async_trait]
impl RuntimeHarness for DockerNode {
    fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        self.docker()
    }

    async fn reopen(&self) {
        let options = options(&self.namespace, self.directory.path(), self.run_directory.path());
        let opened = DockerRuntime::open(options).await.unwrap();
        *self.runtime.lock().unwrap() = Arc::new(opened);
    }

    fn application(&self, program: &Program) -> Application {
        application(program)
    }

    async fn volume(&self) -> (Volume, PathBuf) {
        (volume(), self.volume_path())
    }

    fn free_port(&self) -> PortNumber {
        // Every container has an address of its own.
        PortNumber::new(4500).unwrap()
    }

    fn node_address(&self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, 1).into()
    }
}

pub(crate) fn volume() -> Volume {
    Volume {
        dataset: DatasetId::derived(&"mongodb".parse().unwrap()),
        mountpoint: "/data".into(),
        maximum_size: None,
    }
}

/// What is not found well at the first moment at which it runs, nor ever after.
pub(crate) fn never_well() -> HealthCheck {
    HealthCheck {
        probe: HealthProbe::Command(vec!["/bin/false".into()]),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        retries: u32::MAX.try_into().unwrap(),
    }
}
