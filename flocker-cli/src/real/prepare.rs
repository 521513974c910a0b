//! Making a machine ready to be a node: what that takes, and doing it.
//!
//! Every deed looks first whether it is so already, so that done twice it is
//! as if done once. What would take somebody's data or software is left to a
//! person: packages are installed only where that is asked for, and a device
//! on which anything at all is found is refused, never cleared.

mod apt;
mod device;
mod packages;

use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use flocker_engine::clock;
use flocker_model::PoolName;
use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;
use serde::Deserialize;
use serde::Serialize;

use super::examine;
use super::examine::Weight;
use super::machine::ask;
use super::machine::ask_for;
use super::machine::has;
use super::settings::Settings;
use super::settings::Wanted;
use crate::error::Failure;
use crate::runtime::block_on;

/// How long a pool may take to be made, and a service to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long ZFS may take to answer once it is started, and how often it is asked.
const UNTIL_ZFS_ANSWERS: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Where all is kept that was said while packages were installed.
const PACKAGES_LOG: &str = "packages.log";

/// Where it is written that packets are passed on after the next start, too.
const FORWARDING_FILE: &str = "/etc/sysctl.d/60-flocker.conf";

/// The switch of the kernel itself.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// What is asked for beyond what the deployment file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Whether it is to be done, or only told.
    pub(crate) go: bool,
    /// Whether packages may be installed.
    pub(crate) install: bool,
    /// The pool that is to be made where there is none.
    pub(crate) pool: Option<NewPool>,
}

/// A ZFS pool, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPool {
    pub(crate) name: PoolName,
    pub(crate) devices: Vec<PathBuf>,
}

/// What a machine is made ready for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preparation {
    pub(super) wanted: Option<Wanted>,
    pub(super) asked: Asked,
}

/// What is being done just now, for whoever waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    pub(crate) subject: String,
    pub(crate) said: String,
}

/// Tells how far a deed is.
type Tell<'a> = dyn Fn(&str) + 'a;

/// How far a deed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It was so before.
    AlreadySo,
    /// It would be done.
    Planned,
    /// It was done.
    Done,
    /// It is not done: somebody has to decide something first.
    Refused,
    /// It was tried in vain.
    Failed,
}

/// One thing that a node needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deed {
    pub(crate) subject: String,
    pub(crate) state: State,
    pub(crate) said: String,
    /// What is run for it, word by word.
    pub(crate) command: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Deed {
    fn new(subject: &str, state: State, said: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            state,
            said: said.into(),
            command: Vec::new(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says whether the machine is not yet as it has to be for what comes after.
    pub(crate) fn is_open(&self) -> bool {
        match self.state {
            State::AlreadySo | State::Done => false,
            State::Planned | State::Refused | State::Failed => true,
        }
    }
}

/// Makes this machine ready, or tells what that would take. How far it is, is told meanwhile.
pub(super) fn prepare(
    directory: &Path,
    preparation: &Preparation,
    reached_at: Option<IpAddr>,
    tell: &dyn Fn(Progress),
) -> Vec<Deed> {
    let Preparation { wanted, asked } = preparation;
    let before = match Settings::load(directory) {
        Ok(before) => before,
        Err(failure) => return vec![not_settled(&failure)],
    };
    let settled = match Settings::settle(before.as_ref(), wanted.as_ref(), reached_at) {
        Ok(settled) => Some(settled),
        Err(failure) if before.is_some() => return vec![not_settled(&failure)],
        // Nothing is settled before the first deploy; what is asked for is all that counts.
        Err(_) => None,
    };
    let mut node = examine::Asked::of(settled.as_ref(), wanted.as_ref());
    if let (None, None, Some(pool)) = (&settled, wanted, &asked.pool) {
        node.pool = pool.name.to_string();
    }
    let privileges = examine::privileges(&node, rustix::process::geteuid().is_root());
    if privileges.weight == Weight::Problem {
        let deed = Deed::new("privileges", State::Refused, privileges.said);
        return vec![match privileges.hint {
            Some(hint) => deed.hint(hint),
            None => deed,
        }];
    }
    let prepared = block_on(async {
        let mut deeds = vec![Deed::new("privileges", State::AlreadySo, privileges.said)];
        let about = |subject: &'static str| {
            move |said: &str| {
                tell(Progress {
                    subject: subject.to_owned(),
                    said: said.to_owned(),
                });
            }
        };
        let log = directory.join(PACKAGES_LOG);
        let installed = packages::install(&node, asked, &log, &about("packages")).await;
        let are_open = asked.go && installed.iter().any(Deed::is_open);
        deeds.extend(installed);
        if are_open {
            // What comes after would only say once more what is missing.
            return Ok(deeds);
        }
        if node.volumes == VolumeKind::Zfs {
            deeds.extend(zfs(asked).await);
            deeds.push(pool(&node.pool, asked).await);
        }
        match node.runtime {
            RuntimeKind::Docker | RuntimeKind::Systemd => deeds.push(docker(asked).await),
            RuntimeKind::Process => {}
        }
        let forwards = match (node.router, node.runtime) {
            (RouterKind::Proxy, _) | (RouterKind::Auto, RuntimeKind::Process) => false,
            (RouterKind::Auto | RouterKind::Nftables | RouterKind::Iptables, _) => true,
        };
        if forwards {
            deeds.push(forwarding(
                asked,
                Path::new(FORWARDING_FILE),
                Path::new(FORWARDING),
            ));
        }
        deeds.push(Deed::new(
            "directory",
            State::AlreadySo,
            format!("`{}`", directory.display()),
        ));
        Ok(deeds)
    });
    prepared.unwrap_or_else(|failure| vec![Deed::new("tools", State::Failed, failure.message)])
}

fn not_settled(failure: &Failure) -> Deed {
    let deed = Deed::new("set-up", State::Refused, failure.message.clone());
    match &failure.hint {
        Some(hint) => deed.hint(hint.clone()),
        None => deed,
    }
}

/// Runs what a deed takes, if it is to be done.
async fn run(subject: &str, said: &str, asked: &Asked, command: &[&str], patience: Duration) -> Deed {
    let mut deed = Deed::new(subject, State::Planned, said);
    deed.command = command.iter().map(|word| (*word).to_owned()).collect();
    let (true, [tool, arguments @ ..]) = (asked.go, command) else {
        return deed;
    };
    deed.state = match ask_for(tool, arguments, patience).await {
        Ok(_) => State::Done,
        Err(why) => {
            // A tool may say its reason in several lines.
            let why: Vec<&str> = why
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            deed.said = format!("{}: {}", deed.said, why.join("; "));
            State::Failed
        }
    };
    deed
}

/// Sees to it that ZFS answers, where it is installed.
async fn zfs(asked: &Asked) -> Option<Deed> {
    let answers = async || ask("zpool", &["list", "-H"]).await.is_ok();
    if !has("zpool") || answers().await {
        return None;
    }
    let command: &[&str] = if has("zfs-fuse") {
        &["systemctl", "enable", "--now", "zfs-fuse"]
    } else {
        &["modprobe", "zfs"]
    };
    let deed = run(
        "zfs",
        "it does not answer; it is started",
        asked,
        command,
        PATIENCE,
    )
    .await;
    if deed.state == State::Done {
        let end = clock::now() + UNTIL_ZFS_ANSWERS;
        while !answers().await && clock::now() < end {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    Some(deed)
}

/// Sees to the pool.
async fn pool(wanted: &str, asked: &Asked) -> Deed {
    let subject = "pool";
    let name = wanted.split('/').next().unwrap_or(wanted);
    if has("zpool") {
        if let Ok(free) = ask("zfs", &["list", "-H", "-o", "avail", name]).await {
            return Deed::new(subject, State::AlreadySo, format!("`{name}`, {free} free"));
        }
        match ask("zpool", &["list", "-H"]).await {
            Ok(_) => {}
            Err(_) if !asked.go => {
                let said = format!("`{name}` can be seen to once ZFS answers");
                return Deed::new(subject, State::Planned, said);
            }
            Err(why) => {
                return Deed::new(subject, State::Refused, format!("ZFS does not answer: {why}"))
                    .hint("`modprobe zfs`, or `systemctl start zfs-fuse`, there");
            }
        }
    } else if !asked.install || asked.go {
        return Deed::new(subject, State::Refused, "`zpool` is not installed");
    }
    // Where ZFS is still to come, there is no pool.
    let Some(new) = &asked.pool else {
        return Deed::new(subject, State::Refused, format!("there is no pool `{name}`")).hint(format!(
            "`--pool {name} --device PATH` makes one of a device that holds nothing"
        ));
    };
    if new.name.as_str() != name {
        let said = format!(
            "the node keeps its data in `{name}`, and `--pool` names `{}`",
            new.name
        );
        return Deed::new(subject, State::Refused, said)
            .hint("write `pool` in the deployment file, or name that one");
    }
    for path in &new.devices {
        if let Err(held) = device::holds_nothing(path) {
            return Deed::new(
                subject,
                State::Refused,
                format!("`{}` is not taken: {held}", path.display()),
            )
            .hint("name a device that holds nothing; nothing on this one was changed");
        }
    }
    let devices = new.devices.iter().map(|path| path.to_string_lossy());
    let devices: Vec<String> = devices.map(std::borrow::Cow::into_owned).collect();
    let mut command = vec!["zpool", "create", "-m", "none", name];
    command.extend(devices.iter().map(String::as_str));
    let said = format!("pool `{name}` of {}", devices.join(", "));
    run(subject, &said, asked, &command, PATIENCE).await
}

/// Sees to it that the engine answers.
async fn docker(asked: &Asked) -> Deed {
    let subject = "docker";
    if !has("docker") {
        return if asked.install && !asked.go {
            Deed::new(subject, State::Planned, "it is started once it is installed")
        } else {
            Deed::new(subject, State::Refused, "it is not installed")
        };
    }
    let found = examine::docker().await;
    if found.weight == Weight::Good {
        return Deed::new(subject, State::AlreadySo, found.said);
    }
    let command = ["systemctl", "enable", "--now", "docker"];
    let said = "it does not answer; it is started, now and after every start of the machine";
    run(subject, said, asked, &command, PATIENCE).await
}

/// Sees to it that packets are passed on, now and after the next start.
fn forwarding(asked: &Asked, file: &Path, switch: &Path) -> Deed {
    let subject = "forwarding";
    let is_on = std::fs::read_to_string(switch).is_ok_and(|text| text.trim() != "0");
    if is_on {
        return Deed::new(subject, State::AlreadySo, "`net.ipv4.ip_forward` is on");
    }
    let said = format!(
        "`net.ipv4.ip_forward` is turned on, and `{}` written",
        file.display()
    );
    if !asked.go {
        return Deed::new(subject, State::Planned, said);
    }
    // A machine with little on it may lack even the directory.
    let turned = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(file, "# Written by flocker: a node leads connections to where applications are.\nnet.ipv4.ip_forward = 1\n"))
        .and_then(|()| std::fs::write(switch, "1\n"));
    match turned {
        Ok(()) => Deed::new(subject, State::Done, said),
        Err(error) => Deed::new(subject, State::Failed, format!("{said}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(go: bool) -> Asked {
        Asked {
            go,
            install: false,
            pool: None,
        }
    }

    #[test]
    fn forwarding_is_told_first_then_done_and_then_so() {
        let place = tempfile::tempdir().unwrap();
        let (file, switch) = (place.path().join("60.conf"), place.path().join("ip_forward"));
        std::fs::write(&switch, "0\n").unwrap();
        let state = |go| forwarding(&asked(go), &file, &switch).state;
        assert_eq!(state(false), State::Planned);
        assert!(!file.exists());
        assert_eq!(state(true), State::Done);
        assert!(
            std::fs::read_to_string(&file)
                .unwrap()
                .contains("net.ipv4.ip_forward = 1")
        );
        assert_eq!(state(true), State::AlreadySo);
    }
}
