//! The switches of the kernel without which nothing is passed on.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::placed::Placed;
use crate::router::RouterError;

/// A kind of addresses.
type Kind = fn(&IpAddr) -> bool;

/// Switches that a node needs in order to pass packets on, with the kind of addresses that need them.
const FORWARDING: [(&str, Kind); 2] = [
    ("/proc/sys/net/ipv4/ip_forward", IpAddr::is_ipv4),
    ("/proc/sys/net/ipv6/conf/all/forwarding", IpAddr::is_ipv6),
];

pub(in crate::router) fn is_on(path: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(path)?.trim() != "0")
}

/// Turns a switch on by writing this to it, and leaves it alone where it is.
pub(in crate::router) fn turn_on(path: &Path, on: &str) -> Result<(), RouterError> {
    let turned = match is_on(path) {
        Ok(true) => Ok(()),
        Ok(false) => fs::write(path, on),
        Err(error) => Err(error),
    };
    turned.map_err(|source| RouterError::Io {
        what: format!("turn `{}` on", path.display()),
        source,
    })
}

/// Turns a switch off. One that is gone is off.
#[cfg(feature = "iptables")]
pub(in crate::router) fn turn_off(path: &Path) -> Result<(), RouterError> {
    match fs::write(path, "0") {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RouterError::Io {
            what: format!("turn `{}` off", path.display()),
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lets this node pass packets on, for those kinds of addresses at which something ends.
pub(in crate::router) fn turn_forwarding_on(placed: &Placed) -> Result<(), RouterError> {
    for (path, kind) in FORWARDING {
        if placed.has(kind) {
            turn_on(Path::new(path), "1")?;
        }
    }
    Ok(())
}

/// Says whether this node passes on what it has to.
pub(in crate::router) fn is_forwarding(placed: &Placed) -> bool {
    // A switch is read sooner than all routes are looked through.
    FORWARDING
        .iter()
        .all(|(path, kind)| is_on(Path::new(path)).unwrap_or(false) || !placed.has(*kind))
}

/// Says whether any of these tables may be there of which `nf_tables` knows nothing, and does not count the changes.
#[cfg(feature = "iptables")]
pub(in crate::router) fn has_oldest_tables(tables: &[&str]) -> bool {
    ["ip_tables_names", "ip6_tables_names"].iter().any(|file| {
        // The network of this thread may be another than that of the process.
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(names) => names.lines().any(|name| tables.contains(&name)),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    })
}
