//! Whether a machine can be a node: everything that is in the way, at once, and nothing is changed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use flocker_backends::process::DEFAULT_PATH;
use flocker_backends::process::Program;
use flocker_backends::process::find_program;
use flocker_engine::clock;
use flocker_engine::one_line;
use flocker_model::ByteSize;
use flocker_model::NodeSetup;
use flocker_model::PortNumber;
use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;
use serde::Deserialize;
use serde::Serialize;

use super::settings::Settings;
use super::settings::Wanted;
use crate::local;
use crate::local::Live;
use crate::runtime::block_on;

/// How long a tool may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much it may say.
const LONGEST: usize = 64 * 1024;

/// Less room than this is a problem.
const LEAST_ROOM: u64 = 1 << 30;

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Weight {
    /// It is as it must be.
    Good,
    /// It works, and may not be as meant.
    Note,
    /// With this, it cannot be a node as the files say.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finding {
    pub(crate) subject: String,
    pub(crate) weight: Weight,
    pub(crate) said: String,
    pub(crate) hint: Option<String>,
}

impl Finding {
    pub(crate) fn new(subject: &str, weight: Weight, said: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            weight,
            said: said.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What was found on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Examination {
    /// Its time of day, in seconds since 1970.
    pub(crate) time: u64,
    pub(crate) findings: Vec<Finding>,
    /// The ports on which anybody listens.
    pub(crate) listening: BTreeSet<PortNumber>,
}

/// Looks at this machine.
pub(super) fn examine(directory: &Path, wanted: Option<&Wanted>, reached_at: Option<IpAddr>) -> Examination {
    let before = Settings::load(directory);
    let settled = before
        .clone()
        .and_then(|before| Settings::settle(before.as_ref(), wanted, reached_at));
    let mut findings = vec![setting_up(&before, &settled)];
    let asked = Asked::of(settled.as_ref().ok(), wanted);
    findings.push(privileges(&asked, rustix::process::geteuid().is_root()));
    findings.push(room(directory));
    findings.extend(other_program(directory));
    let tools = block_on(async {
        let mut found = Vec::new();
        if asked.volumes == VolumeKind::Zfs {
            found.push(pool(&asked.pool).await);
        }
        match asked.runtime {
            RuntimeKind::Docker => found.push(docker().await),
            RuntimeKind::Systemd => {
                found.push(systemd());
                found.push(docker().await);
            }
            RuntimeKind::Process => {}
        }
        found.extend(router(asked.router).await);
        Ok(found)
    });
    match tools {
        Ok(found) => findings.extend(found),
        Err(failure) => findings.push(Finding::new("tools", Weight::Problem, failure.message)),
    }
    Examination {
        time: clock::time_of_day(),
        findings,
        listening: reached_at
            .and_then(|address| local::listening_at(address).ok())
            .unwrap_or_default(),
    }
}

/// Says where the process of the node runs another program than this one, which it does while it keeps routes.
fn other_program(directory: &Path) -> Option<Finding> {
    let live = Live::find(directory).ok()??;
    if live.runs_our_program() != Some(false) {
        return None;
    }
    let said = format!(
        "process {} is the node, and another flocker than this one: it stays while somebody talks to it or it keeps routes of `router: proxy`",
        live.id
    );
    let hint = format!(
        "`kill {}` on that machine ends it, and whatever is asked of the node next starts this one; what runs there runs on, and connections through it break",
        live.id
    );
    Some(Finding::new("program", Weight::Note, said).hint(hint))
}

/// What the machine is to be able to do.
struct Asked {
    volumes: VolumeKind,
    pool: String,
    runtime: RuntimeKind,
    router: RouterKind,
}

impl Asked {
    /// What the node is set up with; where it cannot be settled, what the file says.
    fn of(settled: Option<&Settings>, wanted: Option<&Wanted>) -> Self {
        if let Some(settings) = settled {
            return Self {
                volumes: settings.volumes,
                pool: settings.pool.to_string(),
                runtime: settings.runtime,
                router: settings.router,
            };
        }
        let setup = wanted.map(|wanted| wanted.setup.clone()).unwrap_or_default();
        let NodeSetup {
            volumes,
            pool,
            runtime,
            router,
        } = setup;
        Self {
            volumes: volumes.unwrap_or(VolumeKind::Zfs),
            pool: pool.map_or_else(|| "flocker".to_owned(), |pool| pool.to_string()),
            runtime: runtime.unwrap_or(RuntimeKind::Docker),
            router: router.unwrap_or(RouterKind::Auto),
        }
    }
}

fn setting_up(
    before: &Result<Option<Settings>, crate::error::Failure>,
    settled: &Result<Settings, crate::error::Failure>,
) -> Finding {
    let subject = "set-up";
    match (before, settled) {
        (Ok(Some(_)), Ok(settings)) => {
            let Settings {
                volumes,
                pool,
                runtime,
                router,
                address,
                ..
            } = settings;
            let pool = match volumes {
                VolumeKind::Zfs => format!(" in `{pool}`"),
                VolumeKind::Directory => String::new(),
            };
            let said = format!("{volumes}{pool}, {runtime}, {router}; others reach it at {address}");
            Finding::new(subject, Weight::Good, said)
        }
        (Ok(None), Ok(_)) => Finding::new(
            subject,
            Weight::Note,
            "not a node yet; the first deploy sets it up",
        ),
        (Ok(None), Err(failure)) => Finding::new(subject, Weight::Note, failure.message.clone()),
        (_, Err(failure)) | (Err(failure), Ok(_)) => {
            let finding = Finding::new(subject, Weight::Problem, failure.message.clone());
            match &failure.hint {
                Some(hint) => finding.hint(hint.clone()),
                None => finding,
            }
        }
    }
}

fn privileges(asked: &Asked, is_root: bool) -> Finding {
    let subject = "privileges";
    let needs_root = asked.volumes == VolumeKind::Zfs
        || asked.runtime != RuntimeKind::Process
        || matches!(asked.router, RouterKind::Nftables | RouterKind::Iptables);
    match (is_root, needs_root) {
        (true, _) => Finding::new(subject, Weight::Good, "root"),
        (false, true) => Finding::new(subject, Weight::Problem, "not root, and `sudo -n` is not allowed")
            .hint("log in as root, or allow the user `sudo` without a password"),
        (false, false) => Finding::new(subject, Weight::Note, "not root, which is enough for this set-up"),
    }
}

fn room(directory: &Path) -> Finding {
    let subject = "room";
    match rustix::fs::statvfs(directory) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let weight = if free < LEAST_ROOM {
                Weight::Problem
            } else {
                Weight::Good
            };
            let said = format!("{} free in `{}`", ByteSize(free), directory.display());
            Finding::new(subject, weight, said)
        }
        Err(error) => Finding::new(subject, Weight::Problem, format!("could not be told: {error}")),
    }
}

fn has(tool: &str) -> bool {
    find_program(Path::new(tool), OsStr::new(DEFAULT_PATH)).is_some()
}

/// Runs a tool and returns what it says, or why it does not.
async fn ask(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let asked = Program::new(tool)
        .arguments(arguments.iter().copied())
        .variable("PATH", DEFAULT_PATH)
        .run(b"", LONGEST, PATIENCE)
        .await
        .and_then(flocker_backends::process::Output::success);
    match asked {
        Ok(said) => Ok(String::from_utf8_lossy(&said).trim().to_owned()),
        Err(error) => Err(one_line(&error)),
    }
}

async fn pool(named: &str) -> Finding {
    let subject = "zfs";
    // What is below the pool is made where it is missing.
    let pool = named.split('/').next().unwrap_or(named);
    if !has("zfs") || !has("zpool") {
        return Finding::new(subject, Weight::Problem, "`zfs` and `zpool` are not installed")
            .hint("install ZFS, or write `volumes: directory`");
    }
    match ask("zfs", &["list", "-H", "-o", "avail", pool]).await {
        Ok(free) => Finding::new(subject, Weight::Good, format!("pool `{pool}`, {free} free")),
        Err(why) => Finding::new(subject, Weight::Problem, format!("no pool `{pool}`: {why}"))
            .hint("`pool` in the deployment file names another one; `zpool create` makes one"),
    }
}

async fn docker() -> Finding {
    let subject = "docker";
    if !has("docker") {
        return Finding::new(subject, Weight::Problem, "`docker` is not installed")
            .hint("install Docker, or write `runtime: process`");
    }
    match ask("docker", &["version", "--format", "{{.Server.Version}}"]).await {
        Ok(version) => Finding::new(subject, Weight::Good, format!("version {version}")),
        Err(why) => Finding::new(subject, Weight::Problem, format!("it does not answer: {why}"))
            .hint("`systemctl start docker` starts it"),
    }
}

fn systemd() -> Finding {
    let subject = "systemd";
    if Path::new("/run/systemd/system").is_dir() && has("systemctl") {
        Finding::new(subject, Weight::Good, "it runs this machine")
    } else {
        Finding::new(subject, Weight::Problem, "it does not run this machine").hint("write `runtime: docker`")
    }
}

async fn router(router: RouterKind) -> Vec<Finding> {
    match router {
        RouterKind::Proxy => Vec::new(),
        RouterKind::Nftables => vec![nftables().await],
        RouterKind::Iptables => vec![iptables().await],
        RouterKind::Auto => {
            let mut found = vec![nftables().await, iptables().await];
            if found.iter().any(|finding| finding.weight == Weight::Good) {
                found.retain(|finding| finding.weight == Weight::Good);
            }
            // Without either there is still the proxy.
            for finding in &mut found {
                finding.weight = finding.weight.min(Weight::Note);
            }
            found
        }
    }
}

async fn nftables() -> Finding {
    rules("nftables", "nft", &["list", "tables"]).await
}

async fn iptables() -> Finding {
    rules("iptables", "iptables-save", &["-t", "nat"]).await
}

async fn rules(subject: &str, tool: &str, arguments: &[&str]) -> Finding {
    if !has(tool) {
        return Finding::new(subject, Weight::Problem, format!("`{tool}` is not installed"));
    }
    match ask(tool, arguments).await {
        Ok(_) => Finding::new(subject, Weight::Good, "it works"),
        Err(why) => Finding::new(subject, Weight::Problem, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight_of(asked: &Asked, is_root: bool) -> Weight {
        privileges(asked, is_root).weight
    }

    #[test]
    fn root_is_needed_for_what_only_root_may() {
        let mut asked = Asked {
            volumes: VolumeKind::Directory,
            pool: "flocker".into(),
            runtime: RuntimeKind::Process,
            router: RouterKind::Auto,
        };
        assert_eq!(weight_of(&asked, true), Weight::Good);
        assert_eq!(weight_of(&asked, false), Weight::Note);
        asked.router = RouterKind::Nftables;
        assert_eq!(weight_of(&asked, false), Weight::Problem);
        asked.router = RouterKind::Proxy;
        asked.volumes = VolumeKind::Zfs;
        assert_eq!(weight_of(&asked, false), Weight::Problem);
    }

    #[test]
    fn all_problems_are_found_at_once() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("settings.json"), "{").unwrap();
        let wanted = Wanted {
            name: "alpha".parse().unwrap(),
            setup: NodeSetup {
                volumes: Some(VolumeKind::Zfs),
                pool: Some("no-such-pool-anywhere".parse().unwrap()),
                ..NodeSetup::default()
            },
        };
        let found = examine(place.path(), Some(&wanted), Some([127, 0, 0, 1].into()));
        let problems: Vec<&str> = found
            .findings
            .iter()
            .filter(|finding| finding.weight == Weight::Problem)
            .map(|finding| finding.subject.as_str())
            .collect();
        assert!(
            problems.contains(&"set-up") && problems.contains(&"zfs"),
            "{problems:?}"
        );
    }
}
