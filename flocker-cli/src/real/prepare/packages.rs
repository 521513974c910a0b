//! The packages that a node of Debian, or of one like it, needs.

use std::time::Duration;

use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;

use super::Asked;
use super::Deed;
use super::State;
use super::run;
use crate::real::examine;
use crate::real::machine::ask;
use crate::real::machine::has;

/// How long packages may take to come, and to be unpacked and built.
const PATIENCE: Duration = Duration::from_secs(1500);

/// Sees to it that every tool of the node is installed.
pub(super) async fn install(node: &examine::Asked, asked: &Asked) -> Deed {
    let subject = "packages";
    let mut packages = Vec::new();
    if node.volumes == VolumeKind::Zfs && !(has("zfs") && has("zpool")) {
        packages.extend(zfs().await);
    }
    let needs_docker = match node.runtime {
        RuntimeKind::Docker | RuntimeKind::Systemd => true,
        RuntimeKind::Process => false,
    };
    if needs_docker && !has("docker") {
        packages.push("docker.io".to_owned());
    }
    match node.router {
        RouterKind::Nftables if !has("nft") => packages.push("nftables".to_owned()),
        RouterKind::Iptables if !has("iptables-save") => packages.push("iptables".to_owned()),
        RouterKind::Auto if needs_docker && !has("nft") && !has("iptables-save") => {
            packages.push("nftables".to_owned());
        }
        RouterKind::Nftables | RouterKind::Iptables | RouterKind::Auto | RouterKind::Proxy => {}
    }
    if packages.is_empty() {
        return Deed::new(subject, State::AlreadySo, "every tool is installed");
    }
    let said = packages.join(", ");
    if !has("apt-get") {
        return Deed::new(
            subject,
            State::Refused,
            format!("missing: {said}; and there is no `apt-get`"),
        )
        .hint("install them as this machine's system has it");
    }
    let mut command = vec!["apt-get", "install", "--yes", "--no-install-recommends"];
    command.extend(packages.iter().map(String::as_str));
    if !asked.install {
        let hint = format!("`--install` runs this, or you do: {}", command.join(" "));
        return Deed::new(subject, State::Refused, format!("missing: {said}")).hint(hint);
    }
    run(subject, &said, asked, &command, PATIENCE).await
}

/// Chooses the ZFS that this machine can have: the kernel's own, else that by way of FUSE.
async fn zfs() -> Vec<String> {
    if !is_offered("zfsutils-linux").await {
        return vec!["zfs-fuse".to_owned()];
    }
    let mut packages = vec!["zfsutils-linux".to_owned()];
    let has_module = ask("modinfo", &["zfs"]).await.is_ok();
    if !has_module && is_offered("zfs-dkms").await {
        packages.push("zfs-dkms".to_owned());
        if let Ok(kernel) = ask("uname", &["-r"]).await {
            packages.push(format!("linux-headers-{kernel}"));
        }
    }
    packages
}

/// Says whether a package could be installed.
async fn is_offered(package: &str) -> bool {
    let said = ask("apt-cache", &["policy", package]).await;
    said.is_ok_and(|said| said.contains("Candidate:") && !said.contains("Candidate: (none)"))
}
