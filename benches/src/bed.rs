//! Three machines of the bed, an operator who deploys to them, and what is run in them beside that.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::child;

/// Where the bed is, and who deploys to it.
#[derive(Debug)]
pub struct Bed {
    programs: PathBuf,
    flocker: PathBuf,
    net: String,
    files: TempDir,
}

/// An application that writes, and in what volume.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// How much is in the volume that nobody writes.
    pub mebibytes: u32,
    /// The port by which it is reached everywhere.
    pub port: u16,
    /// How often its client writes while it moves.
    pub writes_per_second: u32,
}

impl Store {
    /// Returns its name.
    #[must_use]
    pub fn name(self) -> String {
        format!("store{}-{}", self.mebibytes, self.writes_per_second)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the bed's own programs are told by the environment, too"
)]
fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.into())
}

impl Bed {
    /// Finds the bed by its programs and its settings, and makes files for an operator of it.
    pub fn find(programs: &Path, flocker: &Path) -> io::Result<Self> {
        let bed = Self {
            programs: programs.to_owned(),
            flocker: flocker.to_owned(),
            net: setting("FLOCKER_BED_NET4", "10.218.7"),
            files: tempfile::tempdir()?,
        };
        let home = setting("FLOCKER_BED_HOME", "/var/tmp/flocker-bed");
        let name = setting("FLOCKER_BED_NAME", "fbed");
        let mut config = String::new();
        for node in 1..=3 {
            write!(
                config,
                "Host node{node}\n  HostName {}\n  User root\n  IdentityFile {home}/image/id_ed25519\n  IdentitiesOnly yes\n  \
                 UserKnownHostsFile {home}/run-{name}/known_hosts\n  GlobalKnownHostsFile /dev/null\n",
                bed.address(node)
            )
            .map_err(io::Error::other)?;
        }
        std::fs::write(bed.files.path().join("ssh_config"), config)?;
        // The nodes reach each other as the operator reaches them, for what Flocker is compared with.
        let key = std::fs::read_to_string(format!("{home}/image/id_ed25519"))?;
        for node in 1..=3 {
            bed.exec(
                node,
                &format!(
                    "mkdir -p -m 700 ~/.ssh; umask 077; cat > ~/.ssh/id_ed25519 <<'END'\n{}\nEND\n",
                    key.trim_end()
                ),
            )?;
        }
        Ok(bed)
    }

    /// Returns where a node is reached.
    #[must_use]
    pub fn address(&self, node: u8) -> String {
        format!("{}.{}", self.net, 10 + node)
    }

    /// Returns where a port of a node is.
    pub fn socket(&self, node: u8, port: u16) -> io::Result<SocketAddr> {
        let address: IpAddr = self.address(node).parse().map_err(io::Error::other)?;
        Ok(SocketAddr::new(address, port))
    }

    /// Runs a script in a node, as root, and returns what it wrote.
    pub fn exec(&self, node: u8, script: &str) -> io::Result<String> {
        let words = [&node.to_string(), "bash", "-c", script].map(String::from);
        let output = child::output(&self.programs.join("exec"), &words, Path::new("."))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("node{node}: {script}: {}", said.trim())))
    }

    /// Copies a program of this machine into the nodes.
    pub fn copy(&self, program: &Path, to: &str) -> io::Result<()> {
        for node in 1..=3 {
            let config = self.files.path().join("ssh_config").display().to_string();
            let words = [
                "-q",
                "-F",
                &config,
                &program.display().to_string(),
                &format!("node{node}:{to}"),
            ];
            let output = child::output(Path::new("scp"), &words.map(String::from), Path::new("."))?;
            if !output.status.success() {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&output.stderr).into_owned(),
                ));
            }
        }
        Ok(())
    }

    /// Runs the command and returns how it ended.
    pub fn flocker(&self, words: &[&str]) -> io::Result<Output> {
        let files = self.files.path().display().to_string();
        // Nothing of this user's settings is to matter.
        let all: Vec<String> = ["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "USER=tester"]
            .map(String::from)
            .into_iter()
            .chain([
                format!("HOME={files}"),
                format!("FLOCKER_STATE_DIR={files}/state"),
                format!("FLOCKER_SSH_CONFIG={files}/ssh_config"),
                self.flocker.display().to_string(),
            ])
            .chain(words.iter().map(|word| (*word).to_owned()))
            .collect();
        child::output(Path::new("env"), &all, self.files.path())
    }

    /// Deploys these stores, each to a node, and returns every line that was said as JSON.
    pub fn deploy(&self, stores: &[(Store, u8)]) -> io::Result<Vec<Value>> {
        let mut applications = String::from("version: 1\napplications:\n");
        for (store, _) in stores {
            let (name, port) = (store.name(), store.port);
            write!(
                applications,
                "  {name}:\n    image: database\n    command_line: [redis-server, --dir, /data, --appendonly, 'yes', --appendfsync, always, \
                 --auto-aof-rewrite-min-size, 1mb, --save, '', --protected-mode, 'no', --bind, 0.0.0.0]\n    ports: [{{internal: 6379, external: {port}}}]\n    \
                 volume: {{mountpoint: /data}}\n    restart_policy: {{name: always}}\n    \
                 health_check: {{tcp: 6379, interval: 50ms, timeout: 5s, retries: 600}}\n"
            )
            .map_err(io::Error::other)?;
        }
        if stores.is_empty() {
            applications = "version: 1\napplications: {}\n".into();
        }
        let mut deployment = String::from("version: 1\nnodes:\n");
        for node in 1..=3 {
            let here = stores.iter().filter(|(_, home)| *home == node);
            let names: Vec<String> = here.map(|(store, _)| store.name()).collect();
            writeln!(
                deployment,
                "  node{node}: {{applications: [{}]}}",
                names.join(", ")
            )
            .map_err(io::Error::other)?;
        }
        std::fs::write(self.files.path().join("application.yml"), applications)?;
        std::fs::write(self.files.path().join("deployment.yml"), deployment)?;
        let words = [
            "deploy",
            "--json",
            "--yes",
            "--allow-stop-all",
            "deployment.yml",
            "application.yml",
        ];
        let output = self.flocker(&words)?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let talk = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{said}\n{talk}")));
        }
        let lines = said.lines().map(serde_json::from_str);
        Ok(lines.collect::<Result<_, _>>()?)
    }
}
