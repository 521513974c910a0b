//! Who listens on this node, as the kernel answers that question alone.
//!
//! Its tables in `/proc` say the same. But to write them it goes through every
//! place where a connection could be, which takes it milliseconds however few
//! there are; and every look at a node asks.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use nix::sys::socket::SockProtocol;

use crate::netlink::Ask;
use crate::netlink::Netlink;

/// The kind of message.
const GET_SOCKETS: u16 = 20;
/// Both kinds of addresses.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// What TCP does that listens. The kernel finds those without looking through all others.
const LISTENING: u32 = 1 << 10;
/// What a socket of UDP does that is for anybody.
const FOR_ANYBODY: u32 = 1 << 7;
/// Names no socket.
const ANY: [u8; 48] = [0; 48];

/// Returns where sockets of this network wait for whoever comes: TCP that listens, and UDP that nobody is connected to.
///
/// An error where this kernel does not tell. Blocks for a moment.
pub fn waiting() -> io::Result<Vec<(IpAddr, ExternalPort)>> {
    let mut netlink = Netlink::to(SockProtocol::NetlinkSockDiag)?;
    let mut found = Vec::new();
    for (protocol, states) in [(Protocol::Tcp, LISTENING), (Protocol::Udp, FOR_ANYBODY)] {
        sockets(&mut netlink, protocol, states, |address, port| {
            found.push((address, port));
        })?;
    }
    Ok(found)
}

/// Returns those of these ports at which anybody of this network listens, whatever the address; all of them where that is not told.
pub(super) fn served_of(ports: BTreeSet<ExternalPort>) -> BTreeSet<ExternalPort> {
    match served() {
        Ok(served) => &ports & &served,
        Err(error) => {
            tracing::debug!(%error, "each port is tried");
            ports
        }
    }
}

fn served() -> io::Result<BTreeSet<ExternalPort>> {
    let mut netlink = Netlink::to(SockProtocol::NetlinkSockDiag)?;
    let mut served = BTreeSet::new();
    // Every socket of UDP has its port to itself.
    for (protocol, states) in [(Protocol::Tcp, LISTENING), (Protocol::Udp, u32::MAX)] {
        sockets(&mut netlink, protocol, states, |_, port| {
            served.insert(port);
        })?;
    }
    Ok(served)
}

/// Asks for the sockets in these states.
fn sockets(
    netlink: &mut Netlink,
    protocol: Protocol,
    states: u32,
    mut found: impl FnMut(IpAddr, ExternalPort),
) -> io::Result<()> {
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let rest = [&states.to_ne_bytes()[..], &ANY].concat();
    for family in [IPV4, IPV6] {
        let asked = [family, number, 0, 0];
        netlink.ask_of(GET_SOCKETS, Ask::All, asked, &rest, |family, answer| {
            if let Some((address, number)) = place(family, answer) {
                found(address, ExternalPort { number, protocol });
            }
        })?;
    }
    Ok(())
}

/// Reads the address and the port of a socket, which come as they travel.
fn place(family: u8, answer: &[u8]) -> Option<(IpAddr, PortNumber)> {
    let port = PortNumber::new(u16::from_be_bytes(*answer.first_chunk()?))?;
    let address = answer.get(4..)?;
    if family == IPV4 {
        let octets: [u8; 4] = *address.first_chunk()?;
        return Some((Ipv4Addr::from(octets).into(), port));
    }
    let octets: [u8; 16] = *address.first_chunk()?;
    Some((Ipv6Addr::from(octets).into(), port))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::net::TcpListener;
    use std::net::UdpSocket;

    use super::*;

    fn port(at: SocketAddr, protocol: Protocol) -> ExternalPort {
        let number = PortNumber::new(at.port()).unwrap();
        ExternalPort { number, protocol }
    }

    #[test]
    fn ports_that_are_served_are_told_from_those_that_are_not() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let serving = TcpListener::bind(any).unwrap();
        let datagrams = UdpSocket::bind(any).unwrap();
        // Held, so that nobody else begins to listen there.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind(any).unwrap();
        let tcp = port(serving.local_addr().unwrap(), Protocol::Tcp);
        let udp = port(datagrams.local_addr().unwrap(), Protocol::Udp);
        let held = port(silent.local_addr().unwrap(), Protocol::Tcp);
        assert!(served().unwrap().contains(&tcp));
        let waiting = waiting().unwrap();
        let here = IpAddr::from([127, 0, 0, 1]);
        assert!(waiting.contains(&(here, tcp)) && waiting.contains(&(here, udp)));
        assert!(!waiting.iter().any(|(_, port)| *port == held));
        assert_eq!(served_of([tcp, udp, held].into()), [tcp, udp].into());
    }

    #[test]
    fn whoever_listens_at_the_newer_addresses_is_told_too() {
        // A machine may have none.
        let Ok(serving) = TcpListener::bind("[::1]:0") else {
            return;
        };
        let tcp = port(serving.local_addr().unwrap(), Protocol::Tcp);
        assert_eq!(served_of([tcp].into()), [tcp].into());
        let here: IpAddr = "::1".parse().unwrap();
        assert!(waiting().unwrap().contains(&(here, tcp)));
    }

    #[test]
    fn an_answer_that_is_too_short_is_no_place() {
        let answer = [0x1f, 0x90, 0, 0, 127, 0, 0, 11];
        let port = PortNumber::new(8080).unwrap();
        assert_eq!(place(IPV4, &answer), Some(([127, 0, 0, 11].into(), port)));
        assert_eq!(place(IPV6, &answer), None);
        assert_eq!(place(IPV4, &answer[..7]), None);
        assert_eq!(place(IPV4, &[0; 8]), None, "no port");
    }
}
