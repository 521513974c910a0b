//! A process runtime in a temporary directory, and ways to look at what it really does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::LogRequest;
use flocker_backends::runtime::process::ProcessOptions;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_backends::runtime::process::RestartTiming;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionHash;
use flocker_model::Port;
use flocker_model::PortNumber;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;

/// Longer than anything here takes, even on a machine with other work to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) runtime: ProcessRuntime,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("volume")).unwrap();
        let runtime = ProcessRuntime::new(options(directory.path())).unwrap();
        Self { directory, runtime }
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.directory.path().join("volume")
    }

    pub(crate) fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.volume().join(name)).unwrap_or_default()
    }

    /// A shell script as an application: the program happens to be a shell.
    pub(crate) fn script(&self, name: &str, script: &str) -> ContainerSpec {
        self.spec(name, "/bin/sh", &["-c", script])
    }

    pub(crate) fn spec(&self, name: &str, image: &str, arguments: &[&str]) -> ContainerSpec {
        let mut application = Application::new(image.parse().unwrap());
        application.command_line = arguments.iter().map(|&text| text.into()).collect();
        application.ports.push(Port {
            internal: PortNumber::new(8080).unwrap(),
            external: "80".parse().unwrap(),
        });
        ContainerSpec {
            name: name.parse().unwrap(),
            application,
            definition: DefinitionHash(1),
            volume: Some(self.volume()),
            node_address: node_address(),
        }
    }

    pub(crate) async fn state(&self, spec: &ContainerSpec) -> Option<ContainerState> {
        self.runtime.list().await.unwrap().remove(&spec.name)
    }

    pub(crate) async fn status(&self, spec: &ContainerSpec) -> Option<ContainerStatus> {
        self.state(spec).await.map(|state| state.status)
    }

    pub(crate) async fn wait_for_status(
        &self,
        spec: &ContainerSpec,
        wanted: ContainerStatus,
    ) -> ContainerState {
        let begun = Instant::now();
        loop {
            let state = self.state(spec).await;
            match state {
                Some(state) if state.status == wanted => return state,
                _ => assert!(
                    begun.elapsed() < PATIENCE,
                    "waited for {wanted:?}, found {state:?}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn logs(&self, name: &ApplicationName, tail: Option<u32>) -> String {
        let request = LogRequest { tail, follow: false };
        let mut stream = self.runtime.logs(name, request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

impl Drop for World {
    /// Leaves nothing running, whatever failed.
    fn drop(&mut self) {
        for process in processes_in(self.directory.path()) {
            kill(process);
        }
    }
}

pub(crate) fn options(directory: &Path) -> ProcessOptions {
    let supervisor = env!("CARGO_BIN_EXE_flocker-supervisor").into();
    let mut options = ProcessOptions::new(directory.join("state"), node_address(), supervisor);
    options.restart_timing = RestartTiming {
        first: Duration::from_millis(5),
        longest: Duration::from_millis(50),
        reset_after: Duration::from_secs(60),
    };
    options.log_limit = ByteSize(4096);
    options.supervisor_margin = Duration::from_secs(2);
    options
}

/// No two tests that run at the same time on this machine should meet.
pub(crate) fn node_address() -> IpAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    IpAddr::from([127, 1, high, low])
}

pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every living process whose environment or arguments name this directory.
pub(crate) fn processes_in(directory: &Path) -> Vec<i32> {
    let wanted = directory.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let names_it = |file| {
            let text = std::fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            text.windows(wanted.len()).any(|window| window == wanted)
        };
        if process != std::process::id().cast_signed() && (names_it("environ") || names_it("cmdline")) {
            found.push(process);
        }
    }
    found
}

/// The supervisors of everything in this directory.
pub(crate) fn supervisors_in(directory: &Path) -> Vec<i32> {
    let mut processes = processes_in(directory);
    processes.retain(|process| {
        let cmdline = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&cmdline).contains("flocker-supervisor\0supervise")
    });
    processes
}

pub(crate) fn kill(process: i32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(Pid::from_raw(process), Signal::SIGKILL);
}
