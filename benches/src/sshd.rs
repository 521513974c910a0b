//! Many hosts on one machine: a network of its own in which each loopback address is a host, and one `sshd` for them all.
//!
//! Each is a node that keeps plain directories, runs plain programs and needs
//! nothing installed. Whatever runs in that network was started by this bench,
//! and ends with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::fs::Permissions;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use flocker_backends::transport::ssh::NodeProgram;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::child;

/// Where `sshd` listens.
pub const PORT: u16 = 22022;

/// How long anything may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// What of `sshd` every host shares. A fan-out is not to be turned away.
const SERVER: &str = "UsePAM no\nStrictModes no\nUseDNS no\nMaxStartups 2000:30:4000\nMaxSessions 2000\nPermitRootLogin yes\n\
    PasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\nPrintLastLog no\nPidFile none\n";

/// How a client is to reach the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As it likes best.
    Any,
    /// By the program `ssh`: the configuration says something that only that can do, and which changes nothing here.
    Program,
}

impl Way {
    fn file(self) -> &'static str {
        match self {
            Self::Any => "ssh_config",
            Self::Program => "ssh_config_program",
        }
    }
}

/// The hosts, until this is dropped.
#[derive(Debug)]
pub struct Hosts {
    network: String,
    server: Child,
    files: TempDir,
    operator: PathBuf,
}

/// What runs in the network.
struct Running {
    id: Pid,
    name: String,
    words: String,
}

/// Runs a program that has to succeed.
fn succeed(program: &str, words: &[&str]) -> io::Result<()> {
    let all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let output = child::output(Path::new(program), &all, Path::new("."))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{program}: {}", said.trim())))
}

/// Returns the address of a host, by its number from 1.
fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, host)
}

impl Hosts {
    /// Makes a network and as many hosts in it, each with the program of this operator in its place.
    pub fn start(operator: &Path, n_hosts: u8) -> io::Result<Self> {
        let files = tempfile::tempdir()?;
        // Programs that drop their privileges look into it.
        std::fs::set_permissions(files.path(), Permissions::from_mode(0o755))?;
        let network = format!("flocker-hosts-{}", std::process::id());
        succeed("ip", &["netns", "add", &network])?;
        let server = configure(&files, operator, n_hosts).and_then(|config| {
            succeed("ip", &["-n", &network, "link", "set", "lo", "up"])?;
            // OpenSSH's server wants it where it runs as root, and the service makes it when it starts.
            DirBuilder::new().recursive(true).create("/run/sshd")?;
            let server = child::find("sshd").unwrap_or_else(|| "/usr/sbin/sshd".into());
            let words = ["-D", "-E", &at(&files, "sshd.log"), "-f", &config].map(String::from);
            child::start(&network, &server, &words)
        });
        let server = server.inspect_err(|_| drop(succeed("ip", &["netns", "delete", &network])))?;
        let hosts = Self {
            network,
            server,
            files,
            operator: operator.to_owned(),
        };
        let probe = format!("exec 3<>/dev/tcp/{}/{PORT}", address(1));
        hosts.until("sshd listens", || {
            let output = hosts.run(&["bash", "-c", &probe])?;
            Ok(output.status.success())
        })?;
        Ok(hosts)
    }

    /// Returns the path of a file of this bench.
    #[must_use]
    pub fn at(&self, name: &str) -> String {
        at(&self.files, name)
    }

    /// Returns where the configuration of SSH is that leads one way.
    #[must_use]
    pub fn ssh_config(&self, way: Way) -> String {
        self.at(way.file())
    }

    /// Writes a file of this bench, and returns its path.
    pub fn write(&self, name: &str, content: &str) -> io::Result<String> {
        let path = self.at(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// Runs a program in the network, with an environment that has nothing of this user's.
    pub fn run(&self, words: &[&str]) -> io::Result<Output> {
        let files = self.files.path().display().to_string();
        let all: Vec<String> = [
            format!("--net=/run/netns/{}", self.network),
            "env".into(),
            "-i".into(),
        ]
        .into_iter()
        .chain(
            [
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "USER=tester",
                "LANG=C.UTF-8",
            ]
            .map(String::from),
        )
        .chain([format!("HOME={files}")])
        .chain(words.iter().map(|word| (*word).to_owned()))
        .collect();
        child::output(Path::new("nsenter"), &all, self.files.path())
    }

    /// Runs the command of an operator who has a place for each group of hosts that he deploys to.
    pub fn flocker(&self, way: Way, group: &str, words: &[&str]) -> io::Result<Output> {
        let state = format!("FLOCKER_STATE_DIR={}", self.state(way, group).display());
        let config = format!("FLOCKER_SSH_CONFIG={}", self.ssh_config(way));
        let operator = self.operator.display().to_string();
        let before = ["env", &state, &config, &operator];
        let all: Vec<&str> = before.into_iter().chain(words.iter().copied()).collect();
        self.run(&all)
    }

    fn state(&self, way: Way, group: &str) -> PathBuf {
        let way = match way {
            Way::Any => "any",
            Way::Program => "program",
        };
        self.files.path().join(format!("{group}-{way}"))
    }

    /// Says whether an operator has ever reached a host by the program `ssh`: only that needs a place for shared connections.
    #[must_use]
    pub fn has_used_program(&self, way: Way, group: &str) -> bool {
        self.state(way, group).join("ssh").exists()
    }

    /// Ends every connection, so that the next one is a new one. Nodes and their applications run on.
    pub fn hang_up(&self) -> io::Result<()> {
        self.until("all connections end", || {
            let mut is_over = true;
            for Running { id, name, words } in self.running()? {
                if name == "ssh" {
                    // It may have ended by itself.
                    let _ = kill(id, Signal::SIGTERM);
                }
                let is_session = name == "sshd" && id.as_raw().unsigned_abs() != self.server.id();
                is_over &= name != "ssh" && !is_session && !words.contains("node-stdio");
            }
            Ok(is_over)
        })
    }

    /// Returns the seconds of processor time of all connections that have ended, and of all that was started by them and waited for.
    pub fn processor(&self) -> io::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.id()))?;
        // What stands before the last bracket is a name, and may be anything.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_ascii_whitespace().skip(13).take(2);
        let ticks: Vec<f64> = ticks.filter_map(|ticks| ticks.parse().ok()).collect();
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok(ticks.iter().sum::<f64>() / f64::from(i32::try_from(per_second).unwrap_or(100)))
    }

    fn running(&self) -> io::Result<Vec<Running>> {
        let ids = child::call(&format!("ip netns pids {}", self.network))?;
        let found = ids.lines().filter_map(|line| {
            let id: i32 = line.trim().parse().ok()?;
            let read = |what: &str| std::fs::read(format!("/proc/{id}/{what}")).ok();
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', " ");
            Some(Running {
                id: Pid::from_raw(id),
                name: text(read("comm")?).trim().to_owned(),
                words: text(read("cmdline")?),
            })
        });
        Ok(found.collect())
    }

    fn until(&self, what: &str, mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is_so()? {
            if Instant::now() >= end {
                let log = std::fs::read_to_string(self.at("sshd.log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                return Err(io::Error::other(format!("it did not happen that {what}: {last}")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// Returns the names of so many hosts, from one number on.
#[must_use]
pub fn names(first: u8, n_hosts: u8) -> Vec<String> {
    (first..first + n_hosts)
        .map(|host| format!("host{host}"))
        .collect()
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Whoever has no server any more starts nothing new.
        drop(self.server.kill());
        drop(self.server.wait());
        drop(self.until("everything ends", || {
            let running = self.running()?;
            for Running { id, .. } in &running {
                let _ = kill(*id, Signal::SIGKILL);
            }
            Ok(running.is_empty())
        }));
        drop(succeed("ip", &["netns", "delete", &self.network]));
    }
}

fn at(files: &TempDir, name: &str) -> String {
    files.path().join(name).display().to_string()
}

/// Writes keys and configurations of both sides and puts the program in its places; returns the configuration of `sshd`.
fn configure(files: &TempDir, operator: &Path, n_hosts: u8) -> io::Result<String> {
    for name in ["host", "client"] {
        let key = at(files, name);
        succeed(
            "ssh-keygen",
            &["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", &key],
        )?;
    }
    let host_key = std::fs::read_to_string(at(files, "host.pub"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let program = NodeProgram::new(operator);
    let hash = runtime.block_on(program.hash())?;
    // All hosts share one copy of it.
    let copy = at(files, "flocker");
    std::fs::copy(operator, &copy)?;
    std::fs::set_permissions(&copy, Permissions::from_mode(0o700))?;
    let mut known = String::new();
    let mut server = format!(
        "Port {PORT}\nListenAddress 0.0.0.0\nHostKey {}\nAuthorizedKeysFile {}\n{SERVER}",
        at(files, "host"),
        at(files, "client.pub"),
    );
    let mut client = String::new();
    for host in 1..=n_hosts {
        let address = address(host);
        let node = files.path().join(format!("node{host}"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(node.join("bin"))?;
        std::fs::hard_link(&copy, node.join(format!("bin/flocker-{hash}")))?;
        let write = [
            write!(known, "[{address}]:{PORT} {host_key}"),
            // A home without the settings of whoever measures.
            write!(
                server,
                "Match LocalAddress {address}\n  SetEnv FLOCKER_NODE_DIR={} HOME={}\n",
                node.display(),
                files.path().display()
            ),
            write!(client, "Host host{host}\n  HostName {address}\n"),
        ];
        write
            .into_iter()
            .collect::<Result<(), _>>()
            .map_err(io::Error::other)?;
    }
    write!(
        client,
        "Host *\n  Port {PORT}\n  User root\n  IdentityFile {}\n  IdentitiesOnly yes\n  BatchMode yes\n  UserKnownHostsFile {}\n  \
         GlobalKnownHostsFile /dev/null\n",
        at(files, "client"),
        at(files, "known_hosts"),
    )
    .map_err(io::Error::other)?;
    let by_program = format!("{client}  AddressFamily inet\n");
    let written = BTreeMap::from([
        ("known_hosts", known),
        ("sshd_config", server),
        (Way::Any.file(), client),
        (Way::Program.file(), by_program),
    ]);
    for (name, content) in written {
        std::fs::write(at(files, name), content)?;
    }
    Ok(at(files, "sshd_config"))
}
