//! Connections that go on leading to where an application no longer is.
//!
//! To the kernel, datagrams between the same two ports are a connection, too.
//! The kernel asks the rules once for each connection and remembers the answer.
//! What it remembers of a port that has moved is taken from it, so that the
//! next packet of such a connection is told by the new home that it knows
//! nothing of it, and a client that is still trying arrives at the new home.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;

use super::neighbours::addresses;
use super::netlink::Kept;
use super::netlink::number;
use crate::links::linked_port;
use crate::netlink::Ask;
use crate::netlink::Nested;
use crate::netlink::Netlink;
use crate::netlink::attribute;
use crate::netlink::attributes;

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const GET_COUNT: u16 = 1 << 8 | 5;

/// How many connections of this network are remembered.
const COUNT: u16 = 1;

/// Attributes of a remembered connection.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Attributes of one of its directions.
const ADDRESSES: u16 = 1;
const PORTS: u16 = 2;
const SOURCE_4: u16 = 1;
const SOURCE_6: u16 = 3;
const TARGET_4: u16 = 2;
const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const TARGET_PORT: u16 = 3;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Its target was replaced.
const REDIRECTED: u32 = 1 << 5;
/// There is no such thing.
const NOT_FOUND: i32 = 2;

/// A port, and where connections to it were led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::router) struct Moved {
    pub(in crate::router) port: ExternalPort,
    /// Nothing where they stayed on this node, and nobody was there.
    pub(in crate::router) to: Option<SocketAddr>,
}

/// A connection that the kernel remembers, with all that names it in an order.
struct Remembered {
    family: u8,
    name: Vec<u8>,
}

/// Makes the kernel forget every connection that was led so, and no other. Returns how many there were.
pub(super) fn end(netlink: &Kept, moved: &BTreeSet<Moved>) -> io::Result<usize> {
    netlink.with(|netlink| {
        // The kernel looks for them in a place that is as large as there may be connections on the whole machine,
        // and counts those that are about to be remembered among them.
        if count(netlink).is_ok_and(|count| count == Some(0)) {
            return Ok(0);
        }
        end_remembered(netlink, moved)
    })
}

fn count(netlink: &mut Netlink) -> io::Result<Option<u32>> {
    let mut count = None;
    netlink.ask(GET_COUNT, Ask::One, 0, &[], |_, answer| {
        count = number(answer, COUNT);
    })?;
    Ok(count)
}

fn end_remembered(netlink: &mut Netlink, moved: &BTreeSet<Moved>) -> io::Result<usize> {
    let own = addresses()?;
    let mut found = Vec::new();
    netlink.ask(GET, Ask::All, 0, &[], |family, answer| {
        if led(answer, &own).is_some_and(|led| moved.contains(&led)) {
            found.push(Remembered {
                family,
                name: name(answer),
            });
        }
    })?;
    for Remembered { family, name } in &found {
        match netlink.ask(DELETE, Ask::One, *family, name, |_, _| {}) {
            // It has ended by itself.
            Err(error) if error.raw_os_error() == Some(NOT_FOUND) => {}
            other => other?,
        }
    }
    Ok(found.len())
}

/// Returns what names a connection: one direction, the zone and the number that it has as long as it lives.
fn name(connection: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    for (kind, value) in attributes(connection) {
        match kind {
            ORIGINAL => name.extend(attribute(kind, Nested::Yes, value)),
            ZONE | ID => name.extend(attribute(kind, Nested::No, value)),
            _ => {}
        }
    }
    name
}

/// Reads which port of the node, or which that an address stands for, a connection was opened to, and who answers instead.
///
/// Nothing where the target was not replaced, unless it is a port of UDP at one of this node's `own` addresses.
fn led(connection: &[u8], own: &BTreeSet<IpAddr>) -> Option<Moved> {
    let get = |bytes, kind| attributes(bytes).find(|(other, _)| *other == kind);
    let (_, status) = get(connection, STATUS)?;
    let is_redirected = u32::from_be_bytes(*status.first_chunk()?) & REDIRECTED != 0;
    let port = |direction, kind| {
        let (_, ports) = get(direction, PORTS)?;
        let (_, port) = get(ports, kind)?;
        Some(u16::from_be_bytes(*port.first_chunk()?))
    };
    let (_, original) = get(connection, ORIGINAL)?;
    let (_, reply) = get(connection, REPLY)?;
    let (_, spoken) = get(original, PORTS)?;
    let protocol = match *get(spoken, PROTOCOL)?.1.first()? {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    let (_, addresses) = get(reply, ADDRESSES)?;
    let v4 = get(addresses, SOURCE_4).and_then(|(_, bytes)| Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?)));
    let v6 =
        get(addresses, SOURCE_6).and_then(|(_, bytes)| Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?)));
    let address = v4.map(IpAddr::V4).or(v6.map(IpAddr::V6))?;
    // To an address that stands for a port, every port leads there.
    let link = get(original, ADDRESSES)
        .and_then(|(_, addresses)| get(addresses, TARGET_4))
        .and_then(|(_, bytes)| linked_port(Ipv4Addr::from(*bytes.first_chunk::<4>()?)));
    let opened_to = PortNumber::new(port(original, TARGET_PORT)?)?;
    let stayed = protocol == Protocol::Udp && own.contains(&address);
    if !is_redirected && !stayed {
        return None;
    }
    let answers = SocketAddr::new(address, port(reply, SOURCE_PORT)?);
    Some(Moved {
        port: ExternalPort {
            number: link.unwrap_or(opened_to),
            protocol,
        },
        to: is_redirected.then_some(answers),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn direction(source: &[u8], from: u16, to: u16) -> Vec<u8> {
        let kind = if source.len() == 4 { SOURCE_4 } else { SOURCE_6 };
        let ports = [
            attribute(PROTOCOL, Nested::No, &[TCP]),
            attribute(SOURCE_PORT, Nested::No, &from.to_be_bytes()),
            attribute(TARGET_PORT, Nested::No, &to.to_be_bytes()),
        ];
        let addresses = attribute(kind, Nested::No, source);
        [
            attribute(ADDRESSES, Nested::Yes, &addresses),
            attribute(PORTS, Nested::Yes, &ports.concat()),
        ]
        .concat()
    }

    /// What only says that it is UDP instead.
    fn datagrams(connection: &[u8]) -> Vec<u8> {
        let [tcp, udp] = [TCP, UDP].map(|protocol| attribute(PROTOCOL, Nested::No, &[protocol]));
        let mut bytes = connection.to_vec();
        for at in 0..bytes.len() {
            if bytes[at..].starts_with(&tcp) {
                bytes[at..at + udp.len()].copy_from_slice(&udp);
            }
        }
        bytes
    }

    fn led(connection: &[u8]) -> Option<Moved> {
        super::led(connection, &[IpAddr::from([172, 18, 0, 2])].into())
    }

    fn connection(status: u32) -> Vec<u8> {
        [
            attribute(ORIGINAL, Nested::Yes, &direction(&[10, 0, 0, 9], 40_000, 80)),
            attribute(REPLY, Nested::Yes, &direction(&[172, 18, 0, 2], 8080, 40_000)),
            attribute(STATUS, Nested::No, &status.to_be_bytes()),
            attribute(ID, Nested::No, &[1, 2, 3, 4]),
        ]
        .concat()
    }

    #[test]
    fn only_a_connection_that_was_led_elsewhere_is_one_of_ours() {
        let expected = Moved {
            port: "80".parse().unwrap(),
            to: Some(([172, 18, 0, 2], 8080).into()),
        };
        assert_eq!(led(&connection(REDIRECTED | 0xe)), Some(expected));
        assert_eq!(led(&connection(0xe)), None);
    }

    #[test]
    fn datagrams_are_ours_where_they_were_led_elsewhere_or_stayed_here() {
        let port = "80/udp".parse().unwrap();
        let to = Some(([172, 18, 0, 2], 8080).into());
        let led_elsewhere = datagrams(&connection(REDIRECTED | 0xe));
        assert_eq!(led(&led_elsewhere), Some(Moved { port, to }));
        let stayed = datagrams(&connection(0xe));
        assert_eq!(led(&stayed), Some(Moved { port, to: None }));
        let by_another = super::led(&stayed, &[IpAddr::from([10, 0, 0, 1])].into());
        assert_eq!(by_another, None);
    }

    #[test]
    fn a_connection_to_an_address_that_stands_for_a_port_is_one_to_that_port() {
        let with = |target: &[u8]| {
            let addresses = [
                attribute(SOURCE_4, Nested::No, &[10, 193, 0, 9]),
                attribute(TARGET_4, Nested::No, target),
            ];
            let original = direction(&[10, 193, 0, 9], 40_000, 5432);
            let ports = attributes(&original).find(|(kind, _)| *kind == PORTS).unwrap().1;
            let original = [
                attribute(ADDRESSES, Nested::Yes, &addresses.concat()),
                attribute(PORTS, Nested::Yes, ports),
            ];
            let bytes = [
                attribute(ORIGINAL, Nested::Yes, &original.concat()),
                attribute(REPLY, Nested::Yes, &direction(&[172, 18, 0, 2], 8080, 40_000)),
                attribute(STATUS, Nested::No, &REDIRECTED.to_be_bytes()),
            ];
            led(&bytes.concat()).unwrap().port.get()
        };
        assert_eq!(with(&[10, 194, 21, 57]), 5433);
        assert_eq!(with(&[10, 0, 0, 1]), 5432);
    }

    #[test]
    fn a_connection_is_named_by_its_direction_and_its_number() {
        let name = name(&connection(REDIRECTED));
        let kinds: Vec<u16> = attributes(&name).map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [ORIGINAL, ID]);
    }

    proptest! {
        #[test]
        fn anything_can_be_looked_at(mut bytes in Just(connection(REDIRECTED)), at in 0..100_usize, with in any::<u8>()) {
            let at = at % bytes.len();
            bytes[at] = with;
            led(&bytes);
            name(&bytes);
        }
    }
}
