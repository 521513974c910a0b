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
        bed.program("net", &["heal"]).ok();
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

    /// Returns a configuration of SSH by which the nodes are reached as node1, node2 and node3.
    pub(crate) fn ssh_config(&self) -> String {
        let home = PathBuf::from(setting("FLOCKER_BED_HOME"));
        let name = std::env::var("FLOCKER_BED_NAME").unwrap_or_else(|_| "fbed".into());
        let key = home.join("image/id_ed25519");
        let known = home.join(format!("run-{name}/known_hosts"));
        assert!(
            known.exists(),
            "the bed is not up: run flocker-cli/tests/real/run"
        );
        let hosts = (1..=3).map(|node| {
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
