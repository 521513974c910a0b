//! The machines, as somebody sees them who stands beside them.

#![expect(
    clippy::disallowed_methods,
    reason = "the machines are worked on from outside"
)]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// Returns what it printed, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.ok, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// The bed, which one test has at a time.
pub(crate) struct Bed {
    /// Held for as long as the bed is ours.
    turn: MutexGuard<'static, ()>,
    net: String,
}

static TURN: Mutex<()> = Mutex::new(());

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: these tests need three real nodes; run flocker-cli/tests/real/run")
    })
}

impl Bed {
    /// Takes the bed, with all three nodes up and joined.
    pub(crate) fn take() -> Self {
        let bed = Self {
            turn: TURN.lock().unwrap_or_else(PoisonError::into_inner),
            net: std::env::var("FLOCKER_BED_NET4").unwrap_or_else(|_| "10.218.7".into()),
        };
        bed.heal();
        // A test that failed may have left a node without its cable, and it would not come up so.
        for node in ["1", "2", "3"] {
            bed.program("net", &["join", node]);
            bed.program("net", &["fast", node]);
        }
        bed.up();
        bed
    }

    fn program(&self, name: &str, arguments: &[&str]) -> Said {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/real/bed")
            .join(name);
        let () = *self.turn;
        let output = Command::new(path)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Said {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Takes all nodes away with what is on their disks, and starts new ones.
    pub(crate) fn renew(&self) {
        self.program("down", &[]).ok();
        self.up();
        for image in ["busybox", "database"] {
            self.program("load", &[image]).ok();
        }
    }

    /// Starts a fourth machine, on which nothing is installed, in the place of one that may be left of an earlier test.
    pub(crate) fn bare(&self) {
        self.no_fourth();
        self.program("up", &["--bare", "4"]).ok();
    }

    /// Takes the fourth machine away with what is on its disks.
    pub(crate) fn no_fourth(&self) {
        self.program("down", &["4"]).ok();
    }

    /// Says by which name this bed is told from others.
    #[expect(clippy::unused_self, reason = "who has no bed has no name of one")]
    pub(crate) fn name(&self) -> String {
        std::env::var("FLOCKER_BED_NAME").unwrap_or_else(|_| "fbed".into())
    }

    /// Starts what is down.
    pub(crate) fn up(&self) {
        self.program("up", &["3"]).ok();
    }

    /// Takes the power of a node away: everything in it dies at once, its disks stay.
    pub(crate) fn cut_power(&self, node: usize) {
        self.program("down", &["--keep", &node.to_string()]).ok();
    }

    /// Lets nothing pass between two nodes, until [`Self::heal`].
    pub(crate) fn split(&self, one: usize, other: usize) {
        self.program("net", &["split", &one.to_string(), &other.to_string()])
            .ok();
    }

    pub(crate) fn heal(&self) {
        self.program("net", &["heal"]).ok();
    }

    /// Pulls the cable of a node, until [`Self::join`].
    pub(crate) fn cut(&self, node: usize) {
        self.program("net", &["cut", &node.to_string()]).ok();
    }

    pub(crate) fn join(&self, node: usize) {
        self.program("net", &["join", &node.to_string()]).ok();
    }

    /// Limits what a node sends and gets, until [`Self::fast`].
    pub(crate) fn slow(&self, node: usize, rate: &str) {
        self.program("net", &["slow", &node.to_string(), rate]).ok();
    }

    pub(crate) fn fast(&self, node: usize) {
        self.program("net", &["fast", &node.to_string()]).ok();
    }

    /// Kills Docker of a node. Its keeper starts it again, however often that was of late.
    pub(crate) fn kill_docker(&self, node: usize) {
        let units = ["docker.service", "docker.socket"];
        self.exec(node, &["systemctl", "reset-failed", units[0], units[1]])
            .ok();
        self.kill(node, "/usr/sbin/dockerd");
    }

    /// Kills every process of a node of which the command line contains this, so that it has no time for anything.
    pub(crate) fn kill(&self, node: usize, command_line: &str) {
        // The bracket keeps the searcher from finding itself.
        let (first, rest) = command_line.split_at(1);
        let pattern = format!("[{first}]{rest}");
        self.exec(node, &["pkill", "-KILL", "-f", &pattern]).ok();
    }

    /// Runs a program in a node, as root.
    pub(crate) fn exec(&self, node: usize, words: &[&str]) -> Said {
        let node = node.to_string();
        let mut arguments = vec![node.as_str()];
        arguments.extend(words);
        self.program("exec", &arguments)
    }

    /// Returns where a node is reached.
    pub(crate) fn address(&self, node: usize) -> String {
        format!("{}.{}", self.net, 10 + node)
    }

    /// Returns a configuration of SSH by which the nodes are reached as node1, node2 and node3, and a fourth one where there is any.
    pub(crate) fn ssh_config(&self) -> String {
        let home = PathBuf::from(setting("FLOCKER_BED_HOME"));
        let name = self.name();
        let key = home.join("image/id_ed25519");
        let known = home.join(format!("run-{name}/known_hosts"));
        assert!(
            known.exists(),
            "the bed is not up: run flocker-cli/tests/real/run"
        );
        let hosts = (1..=4).map(|node| {
            format!(
                "Host node{node}\n  HostName {}\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  \
                 UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n",
                self.address(node),
                key.display(),
                known.display()
            )
        });
        hosts.collect()
    }
}
