//! Who listens on this node, as the kernel tells.

use std::collections::BTreeSet;
use std::io;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;

use super::netlink::Ask;
use super::netlink::Netlink;

/// The kind of message.
const GET_SOCKETS: u16 = 20;
/// Both kinds of addresses.
const FAMILIES: [u8; 2] = [2, 10];
/// What TCP does that listens. The kernel finds those without looking through all others.
const LISTENING: u32 = 1 << 10;
/// Names no socket.
const ANY: [u8; 48] = [0; 48];

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
    let mut netlink = Netlink::to_sockets()?;
    let mut served = BTreeSet::new();
    for protocol in Protocol::ALL {
        let (number, states) = match protocol {
            Protocol::Tcp => (6, LISTENING),
            // Every socket has its port to itself.
            Protocol::Udp => (17, u32::MAX),
        };
        for family in FAMILIES {
            let rest = [&states.to_ne_bytes()[..], &ANY].concat();
            netlink.ask_of(
                GET_SOCKETS,
                Ask::All,
                [family, number, 0, 0],
                &rest,
                |_, answer| {
                    let port = answer.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
                    let number = port.and_then(PortNumber::new);
                    served.extend(number.map(|number| ExternalPort { number, protocol }));
                },
            )?;
        }
    }
    Ok(served)
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
    }
}
