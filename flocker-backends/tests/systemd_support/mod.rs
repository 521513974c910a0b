//! A node on a real engine and a real systemd, of which nothing is left when it is dropped.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use flocker_backends::ContainerRuntime;
use flocker_backends::conformance::Program;
use flocker_backends::conformance::RuntimeHarness;
use flocker_backends::runtime::systemd::SystemdOptions;
use flocker_backends::runtime::systemd::SystemdRuntime;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::PortNumber;
use flocker_model::Volume;

use crate::docker_support::application;
use crate::docker_support::namespace;
use crate::docker_support::options;
use crate::docker_support::remove_containers;
use crate::docker_support::run;
use crate::docker_support::volume;

pub(crate) const UNITS: &str = "/etc/systemd/system";

/// A node on a real engine and a real systemd, told from others on the same machine by its namespace.
pub(crate) struct SystemdNode {
    pub(crate) namespace: ApplicationName,
    pub(crate) directory: tempfile::TempDir,
    run_directory: tempfile::TempDir,
    runtime: Mutex<Arc<SystemdRuntime>>,
}

impl SystemdNode {
    pub(crate) async fn new() -> Self {
        let namespace = namespace();
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("volume")).unwrap();
        let run_directory = tempfile::tempdir_in("/run").unwrap();
        let docker = options(&namespace, directory.path(), run_directory.path());
        let runtime = SystemdRuntime::open(SystemdOptions::new(docker)).await.unwrap();
        Self {
            namespace,
            directory,
            run_directory,
            runtime: Mutex::new(Arc::new(runtime)),
        }
    }

    pub(crate) fn systemd(&self) -> Arc<SystemdRuntime> {
        self.runtime.lock().unwrap().clone()
    }

    pub(crate) fn container(&self, application: &str) -> String {
        format!("flocker--{}--{application}", self.namespace)
    }

    pub(crate) fn unit(&self, application: &str) -> String {
        format!("flocker-{}-{application}.service", self.namespace)
    }

    pub(crate) fn unit_file(&self, application: &str) -> PathBuf {
        Path::new(UNITS).join(self.unit(application))
    }

    pub(crate) fn run_docker(&self) -> PathBuf {
        self.run_directory.path().join("docker")
    }

    pub(crate) fn volume_path(&self) -> PathBuf {
        self.directory.path().join("volume")
    }
}

impl Drop for SystemdNode {
    /// Leaves nothing running, whatever failed.
    fn drop(&mut self) {
        let prefix = format!("flocker-{}-", self.namespace);
        for entry in std::fs::read_dir(UNITS).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap_or_default();
            if name.starts_with(&prefix) {
                run("systemctl", &["disable", "--now", "--quiet", &name]);
                // It may have been removed by what the test did last.
                drop(std::fs::remove_file(Path::new(UNITS).join(&name)));
                run("systemctl", &["daemon-reload"]);
            }
        }
        remove_containers(&self.namespace);
    }
}

#[async_trait]
impl RuntimeHarness for SystemdNode {
    fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        self.systemd()
    }

    async fn reopen(&self) {
        let docker = options(&self.namespace, self.directory.path(), self.run_directory.path());
        let opened = SystemdRuntime::open(SystemdOptions::new(docker)).await.unwrap();
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
