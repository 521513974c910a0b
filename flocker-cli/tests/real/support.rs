//! An operator with a directory of files, and the command.

#![expect(
    clippy::disallowed_methods,
    reason = "the program is run from outside, as a person runs it"
)]

use std::fmt::Write as _;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::process::Child;
use std::process::ChildStderr;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::bed::Bed;
use crate::bed::Said;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An application of a test: its text in the application file.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// PostgreSQL from Debian's packages, with everything in its volume.
///
/// What it writes, closes, and opens anew to sync it, ZFS by way of FUSE does not
/// keep through a power cut: which transactions were committed, and a file of
/// its checkpoints. So somebody has the former open all the time, and the
/// latter, which says nothing here, is taken away before each start.
pub(crate) fn postgres(name: &'static str, port: u16, maximum_size: &str) -> App {
    let start = "set -e; bin=$(echo /usr/lib/postgresql/*/bin); cd /data; chown postgres:postgres .; \
                 if [ ! -e db/PG_VERSION ]; then rm -rf new; \
                 setpriv --reuid=postgres --regid=postgres --clear-groups \
                 $bin/initdb -D /data/new -A trust >/dev/null; \
                 echo 'host all all 0.0.0.0/0 trust' >> new/pg_hba.conf; sync; mv new db; fi; \
                 rm -f db/pg_logical/replorigin_checkpoint; \
                 exec 7<db/pg_xact/0000 8<db/pg_multixact/offsets/0000 9<db/pg_multixact/members/0000; \
                 exec setpriv --reuid=postgres --regid=postgres --clear-groups \
                 $bin/postgres -D /data/db -c listen_addresses='*' \
                 -c unix_socket_directories=/tmp";
    App {
        name,
        text: format!(
            "  {name}:\n    image: database\n    command_line: [/bin/sh, -c, {start:?}]\n    ports: [{{internal: 5432, external: {port}}}]\n    \
             volume: {{mountpoint: /data, maximum_size: {maximum_size}}}\n    stop_grace: 20s\n    restart_policy: {{name: always}}\n    \
             health_check: {{command: [/bin/sh, -c, 'exec /usr/lib/postgresql/*/bin/pg_isready -q -h /tmp'], interval: 200ms, timeout: 5s, retries: 300}}\n"
        ),
    }
}

/// Redis from Debian's packages, which writes every change durably.
pub(crate) fn redis(name: &'static str, port: u16) -> App {
    App {
        name,
        text: format!(
            "  {name}:\n    image: database\n    command_line: [redis-server, --dir, /data, --appendonly, 'yes', --appendfsync, always, \
             --protected-mode, 'no', --bind, 0.0.0.0]\n    ports: [{{internal: 6379, external: {port}}}]\n    \
             volume: {{mountpoint: /data}}\n    restart_policy: {{name: always}}\n    \
             health_check: {{tcp: 6379, interval: 200ms, timeout: 5s, retries: 150}}\n"
        ),
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Returns what it printed, if it ended with this status.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    pub(crate) fn ok(self) -> String {
        self.code(0)
    }
}

/// Somebody who deploys to the bed.
pub(crate) struct Operator {
    pub(crate) bed: Bed,
    directory: tempfile::TempDir,
    apps: Vec<App>,
    /// What the deployment file says of each node beside its applications, with a comma at the end.
    pub(crate) setups: [&'static str; 3],
}

impl Operator {
    /// Takes the bed, with images loaded and nothing of an earlier test running.
    pub(crate) fn new(apps: Vec<App>) -> Self {
        let operator = Self {
            bed: Bed::take(),
            directory: tempfile::Builder::new()
                .prefix("flocker-real-")
                .tempdir()
                .unwrap(),
            apps,
            setups: [""; 3],
        };
        std::fs::write(operator.path("ssh_config"), operator.bed.ssh_config()).unwrap();
        operator
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// Writes what runs, and where: the applications of each of the three nodes.
    pub(crate) fn place(&self, nodes: [&[&str]; 3]) {
        let mut applications = String::from("version: 1\napplications:\n");
        for app in &self.apps {
            applications.push_str(&app.text);
        }
        if self.apps.is_empty() {
            applications = "version: 1\napplications: {}\n".into();
        }
        let mut deployment = String::from("version: 1\nnodes:\n");
        for ((node, names), setup) in (1..).zip(nodes).zip(self.setups) {
            let names = names.join(", ");
            writeln!(deployment, "  node{node}: {{{setup}applications: [{names}]}}").unwrap();
        }
        std::fs::write(self.path("application.yml"), applications).unwrap();
        std::fs::write(self.path("deployment.yml"), deployment).unwrap();
    }

    pub(crate) fn define(&mut self, app: App) {
        self.apps.retain(|old| old.name != app.name);
        self.apps.push(app);
    }

    fn command(&self, who: &str, arguments: &[&str]) -> Command {
        // Every pipe to a node proves its program anew, which takes long for one with all that a debugger wants to know.
        let program = std::env::var("FLOCKER_REAL_PROGRAM");
        let mut command = Command::new(program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_flocker")));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.directory.path())
            .env("USER", who)
            .env("FLOCKER_STATE_DIR", self.path(who))
            .env("FLOCKER_SSH_CONFIG", self.path("ssh_config"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.run_as("tester", arguments)
    }

    /// Runs the command as somebody with a state directory of their own.
    pub(crate) fn run_as(&self, who: &str, arguments: &[&str]) -> Done {
        let output = self.command(who, arguments).output().unwrap();
        let done = Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        println!(
            "$ flocker {}\n{}{}",
            arguments.join(" "),
            done.stdout,
            done.stderr
        );
        done
    }

    /// Starts the command, to be harmed.
    pub(crate) fn start(&self, arguments: &[&str]) -> Started {
        let mut child = self.command("tester", arguments).spawn().unwrap();
        let talk = BufReader::new(child.stderr.take().unwrap());
        let said = String::new();
        Started { child, talk, said }
    }

    pub(crate) fn deploy(&self) -> Done {
        self.run(&[
            "deploy",
            "--yes",
            "--allow-stop-all",
            "deployment.yml",
            "application.yml",
        ])
    }

    /// Starts a deploy that tells its events as JSON.
    pub(crate) fn start_deploy(&self) -> Running {
        self.start_as("tester", &["deployment.yml", "application.yml"])
    }

    /// Starts a deploy of these files as somebody with a state directory of their own.
    pub(crate) fn start_as(&self, who: &str, files: &[&str]) -> Running {
        let mut command = self.command(who, &["deploy", "--json", "--yes", "--allow-stop-all"]);
        let mut child = command.args(files).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (said, events) = mpsc::channel();
        // It ends with the command.
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if said
                    .send(serde_json::from_str(&line).unwrap_or_default())
                    .is_err()
                {
                    return;
                }
            }
        });
        Running { child, events }
    }

    /// Runs a client program in a node, in a container that is none of Flocker's.
    pub(crate) fn client(&self, node: usize, words: &[&str]) -> Said {
        let running = self
            .bed
            .exec(node, &["docker", "inspect", "-f", "{{.State.Running}}", "client"]);
        if running.stdout.trim() != "true" {
            self.bed.exec(node, &["docker", "rm", "-f", "client"]);
            self.bed
                .exec(
                    node,
                    &[
                        "docker",
                        "run",
                        "-d",
                        "--name",
                        "client",
                        "--network",
                        "host",
                        "database",
                        "sleep",
                        "infinity",
                    ],
                )
                .ok();
        }
        let mut arguments = vec!["docker", "exec", "-e", "PGCONNECT_TIMEOUT=3", "client"];
        arguments.extend(words);
        self.bed.exec(node, &arguments)
    }

    /// Asks PostgreSQL through a node, from there.
    ///
    /// A machine without power says nothing to who waits for its answer: whoever does has to ask whether it is there yet.
    pub(crate) fn sql(&self, through: usize, port: u16, text: &str) -> Said {
        let server = format!(
            "host={} port={port} user=postgres keepalives_idle=1 keepalives_interval=1 keepalives_count=3",
            self.bed.address(through)
        );
        self.client(3, &["psql", &server, "-Atqc", text])
    }

    /// Asks Redis through a node.
    pub(crate) fn redis(&self, through: usize, port: u16, words: &[&str]) -> Said {
        let (address, port) = (self.bed.address(through), port.to_string());
        let mut arguments = vec!["redis-cli", "-h", &address, "-p", &port];
        arguments.extend(words);
        self.client(3, &arguments)
    }

    /// Stops everything, and gives what it left back.
    pub(crate) fn finish(self) -> Bed {
        self.place([&[], &[], &[]]);
        self.deploy().ok();
        self.bed
    }
}

/// A command under way.
pub(crate) struct Started {
    child: Child,
    talk: BufReader<ChildStderr>,
    /// What it has said so far.
    said: String,
}

impl Started {
    /// Reads on until it says this.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        while !self.said.contains(text) {
            let n_read = self.talk.read_line(&mut self.said).unwrap();
            assert!(n_read > 0, "it never said {text}: {}", self.said);
        }
    }

    /// Kills it, so that it has no time for anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Done {
        self.talk.read_to_string(&mut self.said).unwrap();
        let mut stdout = String::new();
        let out = self.child.stdout.as_mut().unwrap();
        out.read_to_string(&mut stdout).unwrap();
        let done = Done {
            code: self.child.wait().unwrap().code(),
            stdout,
            stderr: std::mem::take(&mut self.said),
        };
        println!("{}{}", done.stdout, done.stderr);
        done
    }
}

impl Drop for Started {
    /// A test that fails leaves no command behind.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A deploy under way.
pub(crate) struct Running {
    child: Child,
    events: Receiver<Value>,
}

/// At what a deploy is stopped to be harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A step begins.
    Began,
    /// A step begins or has ended.
    BeganOrEnded,
}

impl Running {
    /// Returns the next event; nothing where it came to its end.
    #[track_caller]
    fn next(&self) -> Option<Value> {
        match self.events.recv_timeout(PATIENCE) {
            Ok(event) => Some(event),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the command says nothing for {PATIENCE:?}"),
        }
    }

    /// Reads on until the nth such moment, from 0; nothing where it came to its end before that.
    #[track_caller]
    pub(crate) fn nth_step(&self, moment: Moment, nth: usize) -> Option<String> {
        let mut n_seen = 0;
        self.reaches(|kind, _| {
            let counts = match moment {
                Moment::Began => kind == "step_started",
                Moment::BeganOrEnded => kind == "step_started" || kind == "step_done",
            };
            n_seen += usize::from(counts);
            counts && n_seen == nth + 1
        })
    }

    /// Reads on until an event of which the kind and the step are as told; returns both, or nothing where there is none.
    #[track_caller]
    pub(crate) fn reaches(&self, mut is_it: impl FnMut(&str, &str) -> bool) -> Option<String> {
        while let Some(event) = self.next() {
            let word = |name: &str| event[name].as_str().unwrap_or_default();
            if is_it(word("event"), word("step")) {
                return Some(format!("{} {}", word("event"), word("step")));
            }
        }
        None
    }

    /// Kills it, so that it has no time for anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end and returns its status.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Option<i32> {
        while self.next().is_some() {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    /// A test that fails leaves no command behind.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
