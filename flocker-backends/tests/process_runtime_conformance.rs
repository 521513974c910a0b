//! Host programs keep the promises of every container runtime.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod process_runtime_support;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use flocker_backends::ContainerRuntime;
use flocker_backends::conformance::Program;
use flocker_backends::conformance::RuntimeHarness;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_model::Application;
use flocker_model::DatasetId;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Volume;
use process_runtime_support::World;
use process_runtime_support::node_address;
use process_runtime_support::options;

struct Node {
    world: World,
    runtime: Mutex<Arc<ProcessRuntime>>,
}

impl Node {
    fn new() -> Self {
        let world = World::new();
        let runtime = Mutex::new(Arc::new(world.runtime.clone()));
        Self { world, runtime }
    }
}

fn script(script: &str) -> Application {
    let mut application = Application::new("sh".parse().unwrap());
    application.command_line = ["-c", script].map(Into::into).into();
    application
}

#[async_trait]
impl RuntimeHarness for Node {
    fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        self.runtime.lock().unwrap().clone()
    }

    async fn reopen(&self) {
        let opened = ProcessRuntime::new(options(self.world.directory.path())).unwrap();
        *self.runtime.lock().unwrap() = Arc::new(opened);
    }

    fn application(&self, program: &Program) -> Application {
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
                let mut application = Application::new(env!("CARGO_BIN_EXE_flocker-trial").parse().unwrap());
                application.command_line = ["listen", "{address}:{port}"].map(Into::into).into();
                application.ports.push(Port {
                    internal: *port,
                    external: flocker_model::ExternalPort::tcp(*port),
                });
                application
            }
            Program::IsMissing => Application::new("/no/such/program".parse().unwrap()),
        }
    }

    async fn volume(&self) -> (Volume, PathBuf) {
        let volume = Volume {
            dataset: DatasetId::derived(&"mongodb".parse().unwrap()),
            mountpoint: "/data".into(),
            maximum_size: None,
        };
        (volume, self.world.volume())
    }

    fn free_port(&self) -> PortNumber {
        // Tests that run at the same time give their applications the same address.
        static NEXT: AtomicU16 = AtomicU16::new(4500);
        PortNumber::new(NEXT.fetch_add(1, Ordering::Relaxed)).unwrap()
    }

    fn node_address(&self) -> IpAddr {
        node_address()
    }
}

flocker_backends::runtime_conformance!(Node::new());
