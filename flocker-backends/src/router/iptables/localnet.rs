//! The switch of an interface without which no client at `127.0.0.1` is led out by it: `route_localnet`.
//!
//! With it the interface also takes in what comes by wire for `127.0.0.1`, and nothing but our guard stops that. So the
//! guard is there before, and goes after. Which switches we have turned is written nowhere else than in themselves: to
//! the kernel every number but zero is on, and ours is one that nobody else writes. It is there in the same instant, no
//! flush takes it away, and it ends with the interface, the network or the machine as the switch does. What somebody
//! else has turned on is left as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;

use super::super::kernel::neighbours;
use super::super::kernel::neighbours::interfaces_towards;
use super::super::kernel::placed::Placed;
use super::super::kernel::switch;
use crate::router::RouterError;

/// What a switch says that we have turned on.
const OURS: &str = "61708";

const INTERFACES: &str = "/proc/sys/net/ipv4/conf";

fn switch_of(interface: &str) -> PathBuf {
    Path::new(INTERFACES).join(interface).join("route_localnet")
}

/// Returns the interfaces by which clients at loopback addresses are led out. To this node itself nothing leaves.
fn needed(placed: &Placed) -> Result<BTreeSet<String>, RouterError> {
    if !placed.has(IpAddr::is_ipv4) {
        return Ok(BTreeSet::new());
    }
    let found = neighbours::addresses().and_then(|own| {
        let ends = placed.ends.values().filter_map(|end| Some(end.address()?.ip()));
        let beyond: BTreeSet<Ipv4Addr> = ends
            .filter(|address| !own.contains(address))
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect();
        interfaces_towards(&beyond)
    });
    found.map_err(|source| RouterError::Io {
        what: "find the interfaces by which applications are reached".into(),
        source,
    })
}

/// Returns the interfaces whose switches we have turned on.
fn ours() -> Result<BTreeSet<String>, RouterError> {
    let listed = || -> io::Result<BTreeSet<String>> {
        let mut ours = BTreeSet::new();
        for interface in fs::read_dir(INTERFACES)? {
            let name = interface?.file_name();
            let Some(name) = name.to_str() else {
                continue;
            };
            match fs::read_to_string(switch_of(name)) {
                Ok(says) if says.trim() == OURS => drop(ours.insert(name.to_owned())),
                Ok(_) => {}
                // It went in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ours)
    };
    listed().map_err(|source| RouterError::Io {
        what: "find the interfaces that are open to loopback addresses".into(),
        source,
    })
}

/// Says whether the switches are on that are needed, and no other is that we have turned on.
pub(super) fn is_as_needed(placed: &Placed) -> Result<bool, RouterError> {
    let needed = needed(placed)?;
    let is_on = |interface: &String| switch::is_on(&switch_of(interface)).unwrap_or(false);
    Ok(needed.iter().all(is_on) && ours()?.is_subset(&needed))
}

/// Lets clients at loopback addresses be led to where these routes end, and nowhere else. The guard has to be there.
pub(super) fn open(placed: &Placed) -> Result<(), RouterError> {
    let needed = needed(placed)?;
    close_all(ours()?.difference(&needed))?;
    needed
        .iter()
        .try_for_each(|interface| switch::turn_on(&switch_of(interface), OURS))
}

/// Turns off whatever we have turned on, and says whether there was anything. To be done before the guard goes.
pub(super) fn close() -> Result<bool, RouterError> {
    let ours = ours()?;
    close_all(ours.iter())?;
    Ok(!ours.is_empty())
}

fn close_all<'i>(mut interfaces: impl Iterator<Item = &'i String>) -> Result<(), RouterError> {
    interfaces.try_for_each(|interface| switch::turn_off(&switch_of(interface)))
}
