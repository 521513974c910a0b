//! Loopback addresses: each node has its own, and no two share one.
//!
//! A running node claims its address by a name in the machine's list of Unix
//! sockets, which vanishes with the process, whatever it dies of.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixListener;

use super::ports;
use crate::error::Failure;

/// Where to begin to look for free addresses, unless told otherwise.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The first address that is left to applications and routers.
const END: Ipv4Addr = Ipv4Addr::new(127, 128, 0, 0);

/// A claim on an address. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Claimed(
    #[expect(dead_code, reason = "it is kept open, and nobody is accepted")] UnixListener,
);

/// Claims an address for this process, or says that another node has it.
pub(super) fn claim(address: Ipv4Addr) -> io::Result<Claimed> {
    let name = SocketAddr::from_abstract_name(format!("flocker-node-{address}"))?;
    UnixListener::bind_addr(&name).map(Claimed)
}

/// Says whether an address is free: no node has it, and nobody listens on it.
pub(super) fn is_free(address: Ipv4Addr) -> io::Result<bool> {
    match claim(address) {
        Ok(_claimed) => Ok(ports::listening_at(address.into())?.is_empty()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the first free address that is not among those taken.
pub(super) fn choose(first: Ipv4Addr, taken: &BTreeSet<Ipv4Addr>) -> Result<Ipv4Addr, Failure> {
    for number in u32::from(first)..u32::from(END) {
        let address = Ipv4Addr::from(number);
        // What ends so looks like a network or a broadcast.
        if matches!(address.octets()[3], 0 | 255) || taken.contains(&address) {
            continue;
        }
        let is_free = is_free(address).map_err(|error| {
            Failure::failed(format!("could not find out whether {address} is free")).because(&error)
        })?;
        if is_free {
            return Ok(address);
        }
    }
    Err(Failure::failed(format!("no address from {first} on is free")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_address_that_is_claimed_or_listened_on_is_passed_over() {
        let first = Ipv4Addr::new(127, 113, 7, 253);
        let claimed = claim(first).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::new(127, 113, 7, 254), 0)).unwrap();
        let taken = BTreeSet::from([Ipv4Addr::new(127, 113, 8, 1)]);
        assert_eq!(choose(first, &taken).unwrap(), Ipv4Addr::new(127, 113, 8, 2));
        drop((claimed, listener));
        assert_eq!(choose(first, &taken).unwrap(), first);
    }

    #[test]
    fn addresses_of_applications_are_never_chosen() {
        assert!(choose(END, &BTreeSet::new()).is_err());
    }
}
