//! The packages that a node of Debian, or of one like it, needs.

use std::fmt::Write as _;
use std::path::Path;

use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;

use super::Asked;
use super::Deed;
use super::State;
use super::Tell;
use super::apt;
use super::apt::HalfDone;
use crate::real::examine;
use crate::real::examine::Weight;
use crate::real::machine::ask;
use crate::real::machine::has;

/// How packages are installed: nobody is asked anything, settings that somebody wrote stay, and nothing is removed for it.
const INSTALL: [&str; 7] = [
    "apt-get",
    "install",
    "--yes",
    "--no-remove",
    "--no-install-recommends",
    "-o",
    "Dpkg::Options::=--force-confold",
];

/// How the lists are read of what could be installed.
const UPDATE: [&str; 2] = ["apt-get", "update"];

/// How what was left half way is finished.
const FINISH: [&str; 4] = ["dpkg", "--configure", "--pending", "--force-confold"];

/// The ZFS that runs on every kernel.
const FUSE: &str = "zfs-fuse";

/// A file that is there where the authorities are that a registry of images is proved by.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Says `Y` where the kernel confines programs, for which Docker needs a tool.
const CONFINES: &str = "/sys/module/apparmor/parameters/enabled";

/// Sees to it that every tool of the node is installed. What is said meanwhile is kept in `log`.
pub(super) async fn install(node: &examine::Asked, asked: &Asked, log: &Path, tell: &Tell<'_>) -> Vec<Deed> {
    let subject = "packages";
    let mut look = Look::at(node).await;
    if look.is_content() {
        return vec![Deed::new(subject, State::AlreadySo, "every tool is installed")];
    }
    if !has("apt-get") {
        let said = format!("missing: {}; and there is no `apt-get`", look.names());
        return vec![
            Deed::new(subject, State::Refused, said).hint("install them as this machine's system has it"),
        ];
    }
    if !(asked.install && asked.go) {
        return look.told(asked);
    }
    // Where somebody is at work, what is missing is known when they have ended.
    if apt::holder().is_some() {
        if let Err(why) = apt::wait_for_turn(apt::TURN, tell).await {
            let hint = "nothing was changed; ask again when that has ended";
            return vec![Deed::new(subject, State::Failed, why).hint(hint)];
        }
        look = Look::at(node).await;
        if look.is_content() {
            return vec![Deed::new(
                subject,
                State::AlreadySo,
                "every tool is installed by now",
            )];
        }
    }
    look.done(node, log, tell).await
}

/// What a machine lacks, and what is in the way of installing it.
struct Look {
    missing: Vec<String>,
    /// What was left half way, where that may be why something is missing or does not answer.
    half_done: Vec<HalfDone>,
    /// Whether the lists that are there offer all that is missing.
    is_offered: bool,
}

impl Look {
    async fn at(node: &examine::Asked) -> Self {
        let mut missing = missing(node).await;
        let mut half_done = apt::half_done().await;
        if missing.is_empty() && (half_done.is_empty() || answers(node).await) {
            half_done.clear();
        }
        let torn = half_done.iter().filter(|half| half.is_torn);
        missing.extend(torn.map(|half| half.name.clone()));
        missing.sort_unstable();
        missing.dedup();
        let mut is_offered = true;
        for package in &missing {
            is_offered &= apt::is_offered(package).await;
        }
        Self {
            missing,
            half_done,
            is_offered,
        }
    }

    fn is_content(&self) -> bool {
        self.missing.is_empty() && self.half_done.is_empty()
    }

    fn names(&self) -> String {
        self.missing.join(", ")
    }

    fn commands(&self) -> Vec<(&'static str, String, Vec<String>)> {
        let mut commands = Vec::new();
        if !self.half_done.is_empty() {
            let names: Vec<&str> = self.half_done.iter().map(|half| half.name.as_str()).collect();
            let said = format!("left half way, and finished first: {}", names.join(", "));
            commands.push(("interrupted", said, words(&FINISH)));
        }
        if !self.missing.is_empty() {
            let said = if self.is_offered {
                "read anew"
            } else {
                "read, for those that are there do not offer all of it"
            };
            commands.push(("package lists", said.to_owned(), words(&UPDATE)));
            let mut said = self.names();
            if !self.is_offered && self.missing.iter().any(|package| package == FUSE) {
                // Writing to a string cannot fail.
                let _ = write!(said, "; another ZFS than `{FUSE}` where the lists then offer one");
            }
            commands.push(("packages", said, self.install()));
        }
        commands
    }

    fn install(&self) -> Vec<String> {
        let mut command = words(&INSTALL);
        if !self.half_done.is_empty() {
            command.push("--fix-broken".to_owned());
        }
        command.extend(self.missing.iter().cloned());
        command
    }

    /// Tells what would be done, or what a person would have to do.
    fn told(&self, asked: &Asked) -> Vec<Deed> {
        if !asked.install {
            let commands: Vec<String> = self
                .commands()
                .iter()
                .map(|(_, _, command)| command.join(" "))
                .collect();
            let said = match (self.missing.is_empty(), self.half_done.as_slice()) {
                (true, _) => "what was left half way has to be finished".to_owned(),
                (false, []) => format!("missing: {}", self.names()),
                (false, _) => format!("missing: {}; and other packages were left half way", self.names()),
            };
            let hint = format!("`--install` does this, or you do: {}", commands.join(" && "));
            return vec![Deed::new("packages", State::Refused, said).hint(hint)];
        }
        let mut deeds = Vec::new();
        if let Some(holder) = apt::holder() {
            let said = format!(
                "{} is at work on them, which is waited for, {} s at most",
                holder.who,
                apt::TURN.as_secs()
            );
            deeds.push(Deed::new("turn", State::Planned, said));
        }
        let mut commands = self.commands();
        // What somebody is at work on is half done, and not left so.
        commands.retain(|(subject, _, _)| deeds.is_empty() || *subject != "interrupted");
        deeds.extend(commands.into_iter().map(|(subject, said, command)| {
            let mut deed = Deed::new(subject, State::Planned, said);
            deed.command = command;
            deed
        }));
        deeds
    }

    /// Does it.
    async fn done(mut self, node: &examine::Asked, log: &Path, tell: &Tell<'_>) -> Vec<Deed> {
        let mut deeds = Vec::new();
        let kept = format!("all that was said is in `{}` there", log.display());
        for (subject, said, mut command) in self.commands() {
            let mut said = said;
            if subject == "package lists" {
                "read".clone_into(&mut said);
            }
            if subject == "packages" {
                // Which ZFS there is, is known by now.
                let anew = Self::at(node).await;
                self.missing = if anew.missing.is_empty() {
                    self.missing
                } else {
                    anew.missing
                };
                command = self.install();
                said = self.names();
            }
            tell(&command.join(" "));
            let ended = apt::run(&command, log, tell).await;
            let mut deed = match ended {
                Ok(()) => Deed::new(subject, State::Done, said),
                // What is in the way of that may be what is installed next.
                Err(why) if subject == "interrupted" && !self.missing.is_empty() => {
                    let said = format!("{said}; not all of it could be before the rest is installed: {why}");
                    Deed::new(subject, State::Done, said)
                }
                // One source of many may be out of order.
                Err(why) if subject == "package lists" && Self::at(node).await.is_offered => {
                    let said = format!("could not all be read anew, those that are there will do: {why}");
                    Deed::new(subject, State::Done, said)
                }
                Err(why) => Deed::new(subject, State::Failed, format!("{said}: {why}")).hint(kept.clone()),
            };
            deed.command = command;
            let has_failed = deed.is_open();
            deeds.push(deed);
            if has_failed {
                return deeds;
            }
        }
        deeds
    }
}

fn words(command: &[&str]) -> Vec<String> {
    command.iter().map(|word| (*word).to_owned()).collect()
}

fn runs_docker(node: &examine::Asked) -> bool {
    match node.runtime {
        RuntimeKind::Docker | RuntimeKind::Systemd => true,
        RuntimeKind::Process => false,
    }
}

/// Names the packages of the tools that are not there.
async fn missing(node: &examine::Asked) -> Vec<String> {
    let mut packages = Vec::new();
    if node.volumes == VolumeKind::Zfs && !(has("zfs") && has("zpool")) {
        packages.extend(zfs().await);
    }
    let needs_docker = runs_docker(node);
    if needs_docker && !(has("docker") && has("dockerd")) {
        packages.push("docker.io".to_owned());
        // The command is a package of its own from Debian 13 on.
        if apt::is_offered("docker-cli").await {
            packages.push("docker-cli".to_owned());
        }
        // Docker's package only recommends what it cannot do without on many a machine.
        if !Path::new(AUTHORITIES).exists() {
            packages.push("ca-certificates".to_owned());
        }
        let confines = std::fs::read_to_string(CONFINES);
        if confines.is_ok_and(|said| said.trim() == "Y") && !has("apparmor_parser") {
            packages.push("apparmor".to_owned());
        }
    }
    match node.router {
        RouterKind::Nftables if !has("nft") => packages.push("nftables".to_owned()),
        RouterKind::Iptables if !has("iptables-save") => packages.push("iptables".to_owned()),
        RouterKind::Auto if needs_docker && !has("nft") && !has("iptables-save") => {
            packages.push("nftables".to_owned());
        }
        RouterKind::Nftables | RouterKind::Iptables | RouterKind::Auto | RouterKind::Proxy => {}
    }
    packages
}

/// Says whether the services of the node answer, which they may although something else was left half way.
async fn answers(node: &examine::Asked) -> bool {
    let docker = !runs_docker(node) || examine::docker().await.weight == Weight::Good;
    docker && (node.volumes != VolumeKind::Zfs || ask("zpool", &["list", "-H"]).await.is_ok())
}

/// Chooses the ZFS that this machine can have: the kernel's own, else that by way of FUSE.
async fn zfs() -> Vec<String> {
    let has_module = ask("modinfo", &["zfs"]).await.is_ok();
    if !has_module && !apt::is_offered("zfsutils-linux").await {
        return vec![FUSE.to_owned()];
    }
    let mut packages = vec!["zfsutils-linux".to_owned()];
    if !has_module && apt::is_offered("zfs-dkms").await {
        packages.push("zfs-dkms".to_owned());
        if let Ok(kernel) = ask("uname", &["-r"]).await {
            packages.push(format!("linux-headers-{kernel}"));
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(missing: &[&str], half_done: &[&str]) -> Look {
        Look {
            missing: words(missing),
            half_done: half_done
                .iter()
                .map(|name| HalfDone {
                    name: (*name).to_owned(),
                    is_torn: false,
                })
                .collect(),
            is_offered: false,
        }
    }

    fn asked(install: bool) -> Asked {
        Asked {
            go: false,
            install,
            pool: None,
        }
    }

    #[test]
    fn without_leave_to_install_the_whole_command_is_told() {
        let [deed] = &look(&["docker.io", "zfs-fuse"], &[]).told(&asked(false))[..] else {
            panic!("one deed is told");
        };
        assert_eq!(deed.state, State::Refused);
        assert_eq!(deed.said, "missing: docker.io, zfs-fuse");
        assert_eq!(
            deed.hint.as_deref(),
            Some(
                "`--install` does this, or you do: apt-get update && apt-get install --yes --no-remove \
                 --no-install-recommends -o Dpkg::Options::=--force-confold docker.io zfs-fuse"
            )
        );
    }

    #[test]
    fn what_was_left_half_way_is_finished_first_and_its_needs_are_met() {
        let look = look(&["docker.io"], &["containerd"]);
        let commands: Vec<String> = look
            .commands()
            .iter()
            .map(|(_, _, command)| command.join(" "))
            .collect();
        assert_eq!(commands[0], "dpkg --configure --pending --force-confold");
        assert_eq!(commands[1], "apt-get update");
        assert!(commands[2].ends_with(" --fix-broken docker.io"), "{commands:?}");
        assert!(look.told(&asked(true)).iter().all(Deed::is_open));
    }

    #[test]
    fn what_only_has_to_be_finished_installs_nothing() {
        let commands = look(&[], &["containerd"]).commands();
        assert_eq!(commands.len(), 1);
        assert!(!look(&[], &["containerd"]).is_content());
        assert!(look(&[], &[]).is_content());
    }
}
