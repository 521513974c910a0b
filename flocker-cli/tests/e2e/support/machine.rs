//! Nodes, files and commands of one test.

#![expect(
    clippy::disallowed_methods,
    reason = "the program is run from outside, as a person runs it"
)]

use std::fmt::Write as _;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use super::PATIENCE;
use super::processes;
use super::processes_about;
use super::until;
use super::writer::Writer;
use super::writer::check;

/// A state directory with nodes. Whatever is left of it is killed when it is dropped.
pub(crate) struct Machine {
    directory: tempfile::TempDir,
    first_address: Ipv4Addr,
    /// Everything that was ever printed.
    said: Mutex<String>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Returns what it printed, if it ended with status 0.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.code(0)
    }

    /// Returns what it printed, if it ended so.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Reads the last line that it printed.
    #[track_caller]
    pub(crate) fn last(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A command under way.
pub(crate) struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    stdout: String,
    stderr: JoinHandle<String>,
}

impl Running {
    /// Reads on until a line suits, and returns it; nothing where it ended before that.
    pub(crate) fn line_where(&mut self, mut suits: impl FnMut(&str) -> bool) -> Option<String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.stdout.push_str(&line);
                    self.stdout.push('\n');
                    if suits(&line) {
                        return Some(line);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing was printed for long"),
            }
        }
    }

    /// Reads on until a step begins or ends, for the `nth` time from 0; returns what it was.
    pub(crate) fn nth_step(&mut self, nth: usize, kinds: &[&str]) -> Option<String> {
        let mut n_seen = 0;
        let line = self.line_where(|line| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            let is_step = kinds.iter().any(|kind| event["event"] == *kind);
            n_seen += usize::from(is_step);
            is_step && n_seen == nth + 1
        })?;
        let event: Value = serde_json::from_str(&line).unwrap();
        Some(format!("{} {}", event["event"], event["step"]))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(i32::try_from(self.child.id()).unwrap(), signal);
    }

    /// Kills it, so that it has no time for anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Done {
        self.line_where(|_| false);
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        Done {
            code: status.code(),
            stdout: self.stdout,
            stderr: self.stderr.join().unwrap(),
        }
    }
}

impl Machine {
    /// Makes a machine without nodes.
    pub(crate) fn new() -> Self {
        // A range of its own, so that tests that run at the same time share nothing.
        let [second, third, ..] = *uuid::Uuid::new_v4().as_bytes();
        let directory = tempfile::Builder::new().prefix("flocker-e2e-").tempdir().unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_flocker"), directory.path().join("flocker")).unwrap();
        Self {
            directory,
            first_address: Ipv4Addr::new(127, 1 + second % 126, third, 1),
            said: Mutex::default(),
        }
    }

    /// Makes a machine with nodes that run.
    pub(crate) fn with_nodes(names: &[&str]) -> Self {
        let machine = Self::new();
        machine.up(names).ok();
        machine
    }

    pub(crate) fn up(&self, names: &[&str]) -> Done {
        let first = self.first_address.to_string();
        let mut arguments = vec!["local", "up", "--first-address", &first];
        arguments.extend(names);
        self.run(&arguments)
    }

    pub(crate) fn first_address(&self) -> Ipv4Addr {
        self.first_address
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Starts a command in the directory of the machine, with nothing in its environment that is not said here.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        self.spawn_as(Path::new(env!("CARGO_BIN_EXE_flocker")), arguments)
    }

    /// Starts a command of another flocker.
    pub(crate) fn spawn_as(&self, program: &Path, arguments: &[&str]) -> Running {
        let mut child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut words = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            words.read_to_string(&mut text).ok();
            text
        });
        Running {
            child,
            lines,
            stdout: String::new(),
            stderr,
        }
    }

    /// Begins a command in the directory of the machine.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.directory())
            .env("TMPDIR", self.directory())
            .env("USER", "tester")
            .env("FLOCKER_STATE_DIR", self.directory().join("state"))
            .current_dir(self.directory());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        let done = self.spawn(arguments).wait();
        let mut said = self.said.lock().unwrap();
        said.push_str(&done.stdout);
        said.push_str(&done.stderr);
        drop(said);
        done
    }

    /// Returns everything that the commands have printed.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Writes the files: these nodes, and the ledger on that one.
    pub(crate) fn write_files(&self, nodes: &[&str], home: &str, application: &str) {
        let mut deployment = "version: 1\nnodes:\n".to_owned();
        for node in nodes {
            let here = if *node == home { "ledger" } else { "" };
            writeln!(deployment, "  {node}: [{here}]").unwrap();
        }
        std::fs::write(self.path("deployment.yml"), deployment).unwrap();
        std::fs::write(self.path("application.yml"), application).unwrap();
    }

    /// Returns the application file with the ledger, which begins with so many records of a kilobyte.
    pub(crate) fn ledger(&self, filling: u32) -> String {
        let program = self.path("flocker").display().to_string();
        format!(
            "version: 1
applications:
  ledger:
    image: {program}
    command_line: [demo-program, --listen, \"{{address}}:{{port}}\", --volume, \"{{volume}}\", --fill, \"{filling}\"]
    ports: [{{internal: 7000, external: 7000}}]
    volume: {{mountpoint: /data}}
    health_check: {{tcp: 7000, interval: 50ms}}
    restart_policy: {{name: always}}
"
        )
    }

    /// Writes the files with the ledger on a node of three.
    pub(crate) fn place(&self, home: &str) {
        self.write_files(&["alpha", "beta", "gamma"], home, &self.ledger(0));
    }

    /// Starts a deploy of the files, with its events on standard output.
    pub(crate) fn start_deploy(&self, more: &[&str]) -> Running {
        let mut arguments = vec!["deploy", "--yes", "--json"];
        arguments.extend(more);
        arguments.extend(["deployment.yml", "application.yml"]);
        self.spawn(&arguments)
    }

    /// Deploys the files. Another deploy that was killed may still hold the lock for a moment.
    pub(crate) fn deploy(&self) -> Done {
        let files = ["deployment.yml", "application.yml"];
        self.run(&["deploy", "--yes", "--lock-wait", "30s", files[0], files[1]])
    }

    /// Returns what `local status` says of the nodes.
    #[track_caller]
    pub(crate) fn status(&self) -> Vec<Value> {
        let text = self.run(&["local", "status", "--json"]).ok();
        let status: Value = serde_json::from_str(&text).unwrap();
        status["nodes"].as_array().unwrap().clone()
    }

    fn node(&self, name: &str) -> Value {
        let directory = self.path("state").join("nodes").join(name);
        let text = std::fs::read_to_string(directory.join("local.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn address(&self, node: &str) -> Ipv4Addr {
        self.node(node)["address"].as_str().unwrap().parse().unwrap()
    }

    /// Returns the process of a node.
    fn node_process(&self, name: &str) -> i32 {
        let directory = self.path("state").join("nodes").join(name);
        let all = processes_about(&directory).into_iter();
        let mut serving = all.filter(|(_, command_line)| command_line.contains(" node-serve "));
        serving.next().unwrap().0
    }

    /// Sends a signal to the process of a node, and returns which that is.
    pub(crate) fn signal_node(&self, name: &str, signal: Signal) -> i32 {
        let id = self.node_process(name);
        processes::signal(id, signal);
        id
    }

    /// Kills the process of a node and returns when it is gone.
    pub(crate) fn kill_node(&self, name: &str) {
        let id = self.node_process(name);
        processes::kill(id);
        until("a killed node is gone", || processes::is_gone(id).then_some(()));
    }

    /// Kills nodes, supervisors and programs, until none is left.
    pub(crate) fn kill_everything(&self) {
        loop {
            let left = processes_about(self.directory());
            if left.is_empty() {
                return;
            }
            for (id, _) in left {
                processes::kill(id);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Returns where a node has the data of the ledger, if it may write it.
    pub(crate) fn data(&self, node: &str) -> Option<PathBuf> {
        let datasets = self
            .path("state")
            .join("nodes")
            .join(node)
            .join("volumes/datasets");
        let mut datasets = std::fs::read_dir(datasets).ok()?.flatten();
        let data = datasets.next()?.path().join("data");
        assert!(datasets.next().is_none(), "there is one dataset");
        data.exists().then_some(data)
    }

    /// Demands that nothing is left to do, that one node alone has the data, and that it has what was acknowledged, once.
    #[track_caller]
    pub(crate) fn proves(&self, home: &str, writer: &Writer) {
        let acknowledged = writer.acknowledged();
        let nothing = self.run(&["plan", "--exit-code", "deployment.yml", "application.yml"]);
        nothing.ok();
        for node in ["alpha", "beta", "gamma"] {
            assert_eq!(self.data(node).is_some(), node == home, "{node}");
        }
        let records = std::fs::read_to_string(self.data(home).unwrap().join("records")).unwrap();
        check(&acknowledged, &records);
    }

    /// Takes everything down, and demands that nothing is left.
    #[track_caller]
    pub(crate) fn finish(self) {
        self.run(&["local", "down", "--delete-data", "--yes"]).ok();
        let left = processes_about(self.directory());
        assert!(left.is_empty(), "{left:?}");
        let left: Vec<_> = std::fs::read_dir(self.path("state/nodes"))
            .unwrap()
            .flatten()
            .collect();
        assert!(left.iter().all(|entry| entry.file_name() == ".lock"), "{left:?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill_everything();
    }
}
