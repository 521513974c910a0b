//! Telling the kernel of this machine where a container is that has just been started.
//!
//! As long as somebody sends to an address of which nobody knows who has it, the
//! kernel asks once a second, and holds back what is sent. So a container that
//! was away for a moment, while clients tried to reach it, would be found again
//! up to a second after it is back.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockaddrStorage;

use super::seen::Seen;
use crate::blocking::blocking;
use crate::netlink::Ask;
use crate::netlink::Nested;
use crate::netlink::Netlink;
use crate::netlink::attribute;

const NEW_NEIGHBOUR: u16 = 28;
const IPV4: u8 = 2;
/// It was true once, and is asked for again when it has been used for a while.
const STALE: u16 = 0x04;
const ADDRESS: u16 = 1;
const HARDWARE_ADDRESS: u16 = 2;

/// What a container is called by the hardware of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HardwareAddress([u8; 6]);

impl HardwareAddress {
    /// Reads `02:42:0a:c1:01:02`; nothing where it is anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut address = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut address {
            // Numbers may have a sign otherwise.
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && !part.starts_with('+'))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(address))
    }
}

/// Tells the kernel where a container is, so that what it holds back for it arrives at once.
///
/// Where that cannot be done, or is not so, the kernel finds out by itself.
pub(super) async fn introduce(seen: &Seen) {
    let (Some(IpAddr::V4(address)), Some(hardware)) = (seen.address, seen.hardware_address) else {
        return;
    };
    if let Err(error) = blocking(move || tell(address, hardware)).await {
        tracing::debug!(%address, %error, "the kernel is not told where a container is");
    }
}

fn tell(address: Ipv4Addr, hardware: HardwareAddress) -> io::Result<()> {
    let interface = interface_to(address)?.ok_or(io::ErrorKind::NetworkUnreachable)?;
    let (prefix, rest) = told(interface, address, hardware);
    let mut kernel = Netlink::to(SockProtocol::NetlinkRoute)?;
    kernel.ask_of(NEW_NEIGHBOUR, Ask::Replace, prefix, &rest, |_, _| {})
}

/// Finds the interface in whose own network an address is.
fn interface_to(address: Ipv4Addr) -> io::Result<Option<u32>> {
    let ipv4 = |found: Option<SockaddrStorage>| Some(found?.as_sockaddr_in()?.ip());
    let mut nearest: Option<(u32, String)> = None;
    for interface in getifaddrs()? {
        let (Some(own), Some(mask)) = (ipv4(interface.address), ipv4(interface.netmask)) else {
            continue;
        };
        let mask = mask.to_bits();
        if (own.to_bits() ^ address.to_bits()) & mask == 0
            && nearest.as_ref().is_none_or(|(known, _)| *known < mask)
        {
            nearest = Some((mask, interface.interface_name));
        }
    }
    let index = nearest.map(|(_, name)| if_nametoindex(name.as_str()));
    Ok(index.transpose()?)
}

/// What the kernel is told of a neighbour: what every message begins with, and the rest.
fn told(interface: u32, address: Ipv4Addr, hardware: HardwareAddress) -> ([u8; 4], Vec<u8>) {
    let parts = [
        &interface.to_ne_bytes()[..],
        &STALE.to_ne_bytes(),
        &[0, 0],
        &attribute(ADDRESS, Nested::No, &address.octets()),
        &attribute(HARDWARE_ADDRESS, Nested::No, &hardware.0),
    ];
    ([IPV4, 0, 0, 0], parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_has_six_bytes_and_nothing_else() {
        let expected = HardwareAddress([2, 0x42, 0x0a, 0xc1, 1, 2]);
        assert_eq!(HardwareAddress::parse("02:42:0a:c1:01:02"), Some(expected));
        for text in [
            "",
            "02:42:0a:c1:01",
            "02:42:0a:c1:01:02:03",
            "2:42:0a:c1:01:02",
            "02:42:0a:c1:01:+2",
        ] {
            assert_eq!(HardwareAddress::parse(text), None, "{text}");
        }
    }

    #[test]
    fn loopback_is_the_interface_to_itself() {
        let loopback = if_nametoindex("lo").unwrap();
        assert_eq!(interface_to(Ipv4Addr::new(127, 1, 2, 3)).unwrap(), Some(loopback));
    }

    #[test]
    fn what_is_told_has_the_interface_and_both_addresses() {
        let (prefix, rest) = told(
            7,
            Ipv4Addr::new(10, 193, 1, 2),
            HardwareAddress([2, 0x42, 10, 193, 1, 2]),
        );
        assert_eq!(prefix, [2, 0, 0, 0]);
        assert_eq!(rest.len(), 8 + 8 + 12);
        assert_eq!(rest[..4], 7_u32.to_ne_bytes());
        assert_eq!(rest[12..16], [10, 193, 1, 2]);
        assert_eq!(rest[20..28], [2, 0x42, 10, 193, 1, 2, 0, 0]);
    }
}
