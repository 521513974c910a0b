//! How a linked port is written as an address, which containers and routers have to agree on.
//!
//! A linked application is called by its alias and the port that its clients
//! expect, whatever its external port is. So where the two ports differ, the
//! alias stands for an address whose last two octets are the external port,
//! and the router of the node leads *every* port of it to where the
//! external port of the same protocol leads. That needs one rule per route, and none per link.
//!
//! Both ranges are for use within a node. Only what comes from a container of
//! ours and goes to an address that stands for a port is led; a network of
//! these addresses elsewhere is as reachable as before for everybody else.

use std::net::Ipv4Addr;

use flocker_model::PortNumber;

/// Where the containers of a node are, whose links may be led: the first address and how many bits are the same in all.
pub(crate) const CONTAINERS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 193, 0, 0), 16);

/// The addresses that stand for ports.
pub(crate) const LINKS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 194, 0, 0), 16);

/// Returns the address that stands for an external port in containers of this node.
///
/// `links` is the first of the addresses that stand for ports; routers of this crate lead those of
/// `10.194.0.0/16`.
#[must_use]
pub fn link_address(links: Ipv4Addr, remote_port: PortNumber) -> Ipv4Addr {
    let [first, second, ..] = links.octets();
    let [high, low] = remote_port.get().to_be_bytes();
    Ipv4Addr::new(first, second, high, low)
}

/// Returns the port that an address stands for; nothing where it stands for none.
#[cfg(any(feature = "nftables", feature = "iptables"))]
pub(crate) fn linked_port(address: Ipv4Addr) -> Option<PortNumber> {
    let [first, second, high, low] = address.octets();
    let is_one = LINKS.0.octets().starts_with(&[first, second]);
    is_one
        .then(|| PortNumber::new(u16::from_be_bytes([high, low])))
        .flatten()
}

#[cfg(all(test, any(feature = "nftables", feature = "iptables")))]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_for_one_port() {
        for number in [1, 80, 255, 256, 5433, u16::MAX] {
            let port = PortNumber::new(number).unwrap();
            assert_eq!(linked_port(link_address(LINKS.0, port)), Some(port));
        }
        assert_eq!(linked_port(Ipv4Addr::new(10, 194, 0, 0)), None);
        assert_eq!(linked_port(Ipv4Addr::new(10, 193, 0, 80)), None);
    }
}
