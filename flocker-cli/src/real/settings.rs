//! What a node was set up with: written once, and never changed behind the back of its data.

use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::net::UdpSocket;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use flocker_backends::durable;
use flocker_model::NodeName;
use flocker_model::NodeSetup;
use flocker_model::PoolName;
use flocker_model::PortRange;
use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::VolumeKind;
use serde::Deserialize;
use serde::Serialize;

use crate::error::Failure;

const FILE: &str = "settings.json";

/// What a node was set up with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    version: u32,
    pub(crate) name: NodeName,
    /// Where the other nodes reach its applications.
    pub(crate) address: IpAddr,
    pub(crate) volumes: VolumeKind,
    pub(crate) pool: PoolName,
    pub(crate) runtime: RuntimeKind,
    pub(crate) router: RouterKind,
    /// On which ports other nodes come in with what they send; any that is free where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) transfer_ports: Option<PortRange>,
}

/// What the deployment file says of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    pub(crate) name: NodeName,
    pub(crate) setup: NodeSetup,
}

impl Settings {
    /// Reads them from the directory of a node; nothing where it was never set up.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, Failure> {
        let path = directory.join(FILE);
        let failed = || Failure::failed(format!("could not read `{}`", path.display()));
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| failed().because(&error))?,
        };
        let settings: Self = serde_json::from_slice(&text).map_err(|error| failed().because(&error))?;
        if settings.version != 1 {
            return Err(failed().hint("another version of flocker wrote it"));
        }
        Ok(Some(settings))
    }

    /// Writes them, whole and durably, into a directory that is made where it is missing.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), Failure> {
        let save = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            durable::replace(&directory.join(FILE), 0o600, &serde_json::to_vec_pretty(self)?)
        };
        save().map_err(|error| {
            let directory = directory.display();
            Failure::failed(format!("could not set the node up in `{directory}`")).because(&error)
        })
    }

    /// Returns what a node is to be set up with, from what it was set up with and what the file says.
    ///
    /// A change that would hide its data or leave old routes behind is refused.
    pub(crate) fn settle(
        before: Option<&Self>,
        wanted: Option<&Wanted>,
        reached_at: Option<IpAddr>,
    ) -> Result<Self, Failure> {
        let settled = match (before, wanted) {
            (Some(before), Some(wanted)) => before.with(wanted),
            // Who only looks comes by whatever way there is.
            (Some(before), None) => return Ok(before.clone()),
            (None, Some(wanted)) => Self::new(wanted, reached_at),
            (None, None) => Err(Failure::usage("this machine was never set up as a node")
                .hint("`flocker deploy` with a deployment file that names it sets it up")),
        }?;
        Ok(Self {
            address: address_now(settled.address, reached_at, is_here),
            ..settled
        })
    }

    fn new(wanted: &Wanted, reached_at: Option<IpAddr>) -> Result<Self, Failure> {
        let Wanted { name, setup } = wanted;
        let NodeSetup {
            volumes,
            pool,
            runtime,
            router,
            transfer_ports,
            // Only a deploy brings that about, and only the unit says it.
            at_boot: _,
        } = setup.clone();
        let address =
            reached_at.ok_or_else(|| Failure::failed("SSH does not say at which address it was reached"))?;
        let default_pool = || {
            "flocker"
                .parse()
                .map_err(|_| Failure::bug("the default pool has a wrong name"))
        };
        Ok(Self {
            version: 1,
            name: name.clone(),
            address,
            volumes: volumes.unwrap_or(VolumeKind::Zfs),
            pool: pool.map_or_else(default_pool, Ok)?,
            runtime: runtime.unwrap_or(RuntimeKind::Docker),
            router: router.unwrap_or(RouterKind::Auto),
            transfer_ports,
        })
    }

    fn with(&self, wanted: &Wanted) -> Result<Self, Failure> {
        let Wanted { name, setup } = wanted;
        let NodeSetup {
            volumes,
            pool,
            runtime,
            router,
            transfer_ports,
            at_boot: _,
        } = setup;
        self.keeps("volumes", &self.volumes, volumes.as_ref())?;
        self.keeps("pool", &self.pool, pool.as_ref())?;
        self.keeps("runtime", &self.runtime, runtime.as_ref())?;
        self.keeps("router", &self.router, router.as_ref())?;
        Ok(Self {
            name: name.clone(),
            // Nothing is kept or left behind by these.
            transfer_ports: transfer_ports.or(self.transfer_ports),
            ..self.clone()
        })
    }

    fn keeps<T: PartialEq + std::fmt::Display>(
        &self,
        key: &str,
        before: &T,
        wanted: Option<&T>,
    ) -> Result<(), Failure> {
        match wanted {
            Some(wanted) if wanted != before => Err(Failure::usage(format!(
                "{} was set up with `{key}: {before}`, and the deployment file says `{key}: {wanted}`",
                self.name
            ))
            .hint(format!(
                "write `{key}: {before}`; or move everything away from it and delete its `settings.json`"
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// Returns the address at which others are told to reach this machine.
///
/// It stays what it was while the machine has it, so that routes do not change with the way that an operator comes.
/// One that the machine has lost, or that means another machine to each of the others, gives way to the one at which
/// it is reached now.
fn address_now(before: IpAddr, reached_at: Option<IpAddr>, is_here: impl Fn(IpAddr) -> bool) -> IpAddr {
    match reached_at {
        Some(now) if !now.is_loopback() && (before.is_loopback() || !is_here(before)) => now,
        Some(_) | None => before,
    }
}

/// Says whether an address is one of this machine's; where that cannot be told, it is.
fn is_here(address: IpAddr) -> bool {
    let bound = UdpSocket::bind((address, 0));
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(setup: NodeSetup) -> Wanted {
        Wanted {
            name: "alpha".parse().unwrap(),
            setup,
        }
    }

    fn here() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    #[test]
    fn a_new_node_is_set_up_as_the_file_says_and_by_default_for_the_rest() {
        let settings = Settings::settle(None, Some(&wanted(NodeSetup::default())), Some(here())).unwrap();
        assert_eq!(settings.volumes, VolumeKind::Zfs);
        assert_eq!(settings.pool.as_str(), "flocker");
        assert_eq!(settings.runtime, RuntimeKind::Docker);
        assert_eq!(settings.router, RouterKind::Auto);
        assert_eq!(settings.address, here());
        assert!(Settings::settle(None, None, Some(here())).is_err());
        assert!(Settings::settle(None, Some(&wanted(NodeSetup::default())), None).is_err());
    }

    #[test]
    fn what_keeps_the_data_is_never_changed_behind_its_back() {
        let before = Settings::settle(None, Some(&wanted(NodeSetup::default())), Some(here())).unwrap();
        let other = NodeSetup {
            pool: Some("tank".parse().unwrap()),
            ..NodeSetup::default()
        };
        let refused = Settings::settle(Some(&before), Some(&wanted(other)), Some(here())).unwrap_err();
        assert!(refused.message.contains("`pool: flocker`"), "{}", refused.message);
        let same = NodeSetup {
            volumes: Some(VolumeKind::Zfs),
            transfer_ports: Some("7800-7899".parse().unwrap()),
            ..NodeSetup::default()
        };
        let elsewhere = Some("198.51.100.1".parse().unwrap());
        let renamed = Wanted {
            name: "beta".parse().unwrap(),
            setup: same,
        };
        let after = Settings::settle(Some(&before), Some(&renamed), elsewhere).unwrap();
        assert_eq!(after.name.as_str(), "beta");
        assert_eq!(Settings::settle(Some(&before), None, None).unwrap(), before);
        // Where others come in may change, and stays where the file says nothing of it.
        assert_eq!(after.transfer_ports.unwrap().numbers(), 7800..=7899);
        let silent = wanted(NodeSetup::default());
        let later = Settings::settle(Some(&after), Some(&silent), None).unwrap();
        assert_eq!(later.transfer_ports, after.transfer_ports);
    }

    /// A machine that got another address is reached at that, and one that was first reached from itself is not its neighbours.
    #[test]
    fn an_address_stays_while_it_leads_here() {
        let [old, new, own] = ["192.0.2.7", "192.0.2.8", "127.0.1.1"].map(|text| text.parse().unwrap());
        let now = |before, reached_at, has: &[IpAddr]| {
            address_now(before, reached_at, |address| has.contains(&address))
        };
        assert_eq!(now(old, Some(new), &[old, new]), old);
        assert_eq!(now(old, Some(own), &[old, own]), old);
        assert_eq!(now(old, Some(new), &[new]), new);
        assert_eq!(now(old, None, &[new]), old);
        assert_eq!(now(own, Some(new), &[own, new]), new);
        assert_eq!(now(own, Some(own), &[own]), own);
        // A network that is down for a moment is no reason to be nobody's but its own neighbour.
        assert_eq!(now(old, Some(own), &[own]), old);
        // 192.0.2.0/24 is for documents: no machine has an address of it.
        assert!(!is_here(old));
        assert!(is_here("127.0.0.1".parse().unwrap()));
        let before = Settings::settle(None, Some(&wanted(NodeSetup::default())), Some(old)).unwrap();
        let settle = |wanted: Option<&Wanted>| Settings::settle(Some(&before), wanted, Some(new)).unwrap();
        assert_eq!(settle(Some(&wanted(NodeSetup::default()))).address, new);
        assert_eq!(settle(None).address, old);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("flocker");
        assert_eq!(Settings::load(&directory).unwrap(), None);
        let settings = Settings::settle(None, Some(&wanted(NodeSetup::default())), Some(here())).unwrap();
        settings.save(&directory).unwrap();
        assert_eq!(Settings::load(&directory).unwrap(), Some(settings));
        std::fs::write(directory.join(FILE), "{").unwrap();
        assert!(Settings::load(&directory).is_err());
    }
}
