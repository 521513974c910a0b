//! Whether a machine can be a node: everything that is in the way, at once, and nothing is changed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;

use flocker_backends::RouterError;
use flocker_backends::router::choice;
use flocker_engine::clock;
use flocker_model::AtBoot;
use flocker_model::ByteSize;
use flocker_model::ExternalPort;
use flocker_model::Image;
use flocker_model::NodeSetup;
use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;
use serde::Deserialize;
use serde::Serialize;

use super::assemble::packet_filter;
use super::boot;
use super::machine::ask;
use super::machine::has;
use super::machine::listeners;
use super::settings::Settings;
use super::settings::Wanted;
use crate::local;
use crate::local::Live;
use crate::runtime::block_on;

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
    /// The address at which others are told to reach it, where that is settled.
    pub(crate) address: Option<IpAddr>,
    pub(crate) findings: Vec<Finding>,
    /// The ports on which anybody listens.
    pub(crate) listening: BTreeSet<ExternalPort>,
    /// Who listens on those of the ports that were asked about.
    pub(crate) listeners: BTreeMap<ExternalPort, String>,
    /// What became of the images that were asked about.
    pub(crate) images: BTreeMap<Image, ImageSight>,
}

/// What is looked for besides what every node needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Closely {
    pub(crate) images: BTreeSet<Image>,
    pub(crate) ports: BTreeSet<ExternalPort>,
}

/// Whether an image can be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImageSight {
    /// It is here.
    Here,
    /// It is not here, and a registry has it.
    Pullable,
    /// It is not here, and no registry gives it.
    Missing,
}

/// What is to be looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) wanted: Option<Wanted>,
    pub(super) closely: Closely,
}

/// Looks at this machine.
pub(super) fn examine(directory: &Path, request: &Request, reached_at: Option<IpAddr>) -> Examination {
    let wanted = request.wanted.as_ref();
    let before = Settings::load(directory);
    let settled = before
        .clone()
        .and_then(|before| Settings::settle(before.as_ref(), wanted, reached_at));
    let mut findings = vec![setting_up(&before, &settled)];
    let asked = Asked::of(settled.as_ref().ok(), wanted);
    findings.push(privileges(&asked, rustix::process::geteuid().is_root()));
    findings.push(room(directory));
    findings.extend(other_program(directory));
    findings.extend(at_boot(directory, settled.as_ref().ok(), wanted));
    let address = settled.as_ref().ok().map(|settings| settings.address);
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
        let tried_at = address.or(reached_at).unwrap_or(Ipv4Addr::LOCALHOST.into());
        found.extend(router(&asked, tried_at).await);
        let images = images(asked.runtime, &request.closely.images).await;
        Ok((found, images, listeners(&request.closely.ports).await))
    });
    let (images, listeners) = match tools {
        Ok((found, images, listeners)) => {
            findings.extend(found);
            (images, listeners)
        }
        Err(failure) => {
            findings.push(Finding::new("tools", Weight::Problem, failure.message));
            (BTreeMap::new(), BTreeMap::new())
        }
    };
    Examination {
        time: clock::time_of_day(),
        address,
        findings,
        listening: reached_at
            .and_then(|address| local::listening_at(address).ok())
            .unwrap_or_default(),
        listeners,
        images,
    }
}

/// Finds out which images are here or can be had.
async fn images(runtime: RuntimeKind, wanted: &BTreeSet<Image>) -> BTreeMap<Image, ImageSight> {
    let mut found = BTreeMap::new();
    match runtime {
        RuntimeKind::Docker | RuntimeKind::Systemd => {}
        RuntimeKind::Process => return found,
    }
    for image in wanted {
        let name = image.as_str();
        let sight = if ask("docker", &["image", "inspect", "--format", "{{.Id}}", name])
            .await
            .is_ok()
        {
            ImageSight::Here
        } else if ask("docker", &["manifest", "inspect", name]).await.is_ok() {
            ImageSight::Pullable
        } else {
            ImageSight::Missing
        };
        found.insert(image.clone(), sight);
    }
    found
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

/// Says whether the node starts its applications at boot, and whether it can where the file asks for it.
fn at_boot(directory: &Path, settings: Option<&Settings>, wanted: Option<&Wanted>) -> Option<Finding> {
    let finding = |weight, said: &str| Some(Finding::new("boot", weight, said));
    let starts = boot::program_of(directory).is_some();
    match wanted.and_then(|wanted| wanted.setup.at_boot) {
        Some(AtBoot::Start) => match settings.and_then(|settings| boot::hindrance(directory, settings)) {
            Some(hindrance) => Some(hindrance),
            None if starts => finding(Weight::Good, "it starts its applications by itself"),
            None => finding(
                Weight::Note,
                "it starts its applications by itself after the next deploy",
            ),
        },
        Some(AtBoot::Wait) if starts => finding(
            Weight::Note,
            "it starts its applications by itself until the next deploy",
        ),
        None if starts => finding(Weight::Good, "it starts its applications by itself"),
        Some(AtBoot::Wait) | None => None,
    }
}

/// What the machine is to be able to do.
pub(super) struct Asked {
    pub(super) volumes: VolumeKind,
    pub(super) pool: String,
    pub(super) runtime: RuntimeKind,
    pub(super) router: RouterKind,
}

impl Asked {
    /// What the node is set up with; where it cannot be settled, what the file says.
    pub(super) fn of(settled: Option<&Settings>, wanted: Option<&Wanted>) -> Self {
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
            transfer_ports: _,
            at_boot: _,
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

pub(super) fn privileges(asked: &Asked, is_root: bool) -> Finding {
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

pub(super) async fn pool(named: &str) -> Finding {
    let subject = "zfs";
    // What is below the pool is made where it is missing.
    let pool = named.split('/').next().unwrap_or(named);
    if !has("zfs") || !has("zpool") {
        return Finding::new(subject, Weight::Problem, "`zfs` and `zpool` are not installed")
            .hint("`flocker node prepare NODE --install` installs it; or write `volumes: directory`");
    }
    match ask("zfs", &["list", "-H", "-o", "avail", pool]).await {
        Ok(free) => Finding::new(subject, Weight::Good, format!("pool `{pool}`, {free} free")),
        Err(why) => Finding::new(subject, Weight::Problem, format!("no pool `{pool}`: {why}"))
            .hint(
                "`pool` in the deployment file names another one; `flocker node prepare NODE --pool NAME --device PATH` makes one",
            ),
    }
}

pub(super) async fn docker() -> Finding {
    let subject = "docker";
    if !has("docker") {
        return Finding::new(subject, Weight::Problem, "`docker` is not installed")
            .hint("`flocker node prepare NODE --install` installs it; or write `runtime: process`");
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

/// Asks what a node asks when it starts: a filter that lists its tables may still not take our rules.
async fn router(asked: &Asked, address: IpAddr) -> Option<Finding> {
    let preference = packet_filter(asked.router, asked.runtime)?;
    Some(filter(choice::try_out(preference, address).await))
}

fn filter(tried: Result<&'static str, RouterError>) -> Finding {
    let subject = "routes";
    match tried {
        Ok(name) => Finding::new(subject, Weight::Good, format!("`{name}` takes our rules")),
        Err(error) => Finding::new(subject, Weight::Problem, error.to_string())
            .hint("`flocker node prepare NODE --install` installs `nft`; or write `router: proxy`"),
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
    fn a_filter_that_does_not_take_our_rules_is_a_problem_wherever_a_node_needs_one() {
        let refused = RouterError::NoFilter {
            tried: "could not try out our rules with `nft`".into(),
        };
        let found = filter(Err(refused));
        assert_eq!(found.weight, Weight::Problem);
        assert!(
            found.said.contains("could not try out our rules with `nft`"),
            "{found:?}"
        );
        assert_eq!(filter(Ok("nftables")).weight, Weight::Good);
        // Without a packet filter a node of containers does not start, and programs need none.
        let needs = |router, runtime| packet_filter(router, runtime).is_some();
        assert!(needs(RouterKind::Auto, RuntimeKind::Docker));
        assert!(needs(RouterKind::Auto, RuntimeKind::Systemd));
        assert!(needs(RouterKind::Nftables, RuntimeKind::Process));
        assert!(!needs(RouterKind::Auto, RuntimeKind::Process));
        assert!(!needs(RouterKind::Proxy, RuntimeKind::Docker));
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
        let request = Request {
            wanted: Some(wanted),
            closely: Closely::default(),
        };
        let found = examine(place.path(), &request, Some([127, 0, 0, 1].into()));
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
