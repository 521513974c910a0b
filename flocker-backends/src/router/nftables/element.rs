//! The elements of maps and sets of which a piece consists, as `nft` reads them and as the kernel does.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::PortNumber;
use flocker_model::Protocol;

use super::super::kernel::neighbours::Network;
use super::super::kernel::piece::Piece;
use super::super::kernel::piece::Way;
use super::rules::split_name;
use crate::links;
use crate::links::link_address;

/// For what protocol a set is and what it is called there, with what is to be put into it or taken out.
///
/// Sets for both protocols are among those of the first.
pub(super) type Sets<'a> = BTreeMap<(Protocol, &'static str), Vec<Element<'a>>>;

/// One element of one map or set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Element<'a> {
    /// A part of what a route says.
    Record {
        port: ExternalPort,
        part: u16,
        text: &'a str,
    },
    /// Where a port leads.
    End { port: ExternalPort, to: SocketAddr },
    /// Which way connections go that were led so.
    Led {
        port: ExternalPort,
        to: SocketAddr,
        way: Way,
    },
    /// Where an address leads that stands for a port.
    Link {
        protocol: Protocol,
        link: Ipv4Addr,
        to: SocketAddr,
    },
    /// Which way connections go that were led from such an address.
    Linked {
        protocol: Protocol,
        link: Ipv4Addr,
        to: SocketAddr,
        way: Way,
    },
    /// A port that leads nowhere yet.
    Held { port: ExternalPort },
    /// A network in which applications of this node live.
    Beside { network: Network },
}

/// Sorts pieces by the sets in which their elements are.
pub(super) fn in_sets(pieces: &BTreeSet<Piece>) -> Sets<'_> {
    let mut sets = Sets::new();
    for element in pieces.iter().flat_map(of) {
        sets.entry((element.protocol(), element.set()))
            .or_default()
            .push(element);
    }
    sets
}

/// Returns the elements of which a piece consists.
fn of(piece: &Piece) -> impl Iterator<Item = Element<'_>> {
    let elements = match *piece {
        Piece::Record { port, part, ref text } => {
            [Some(Element::Record { port, part, text }), None, None, None]
        }
        Piece::End { port, to, way } => {
            let ExternalPort { number, protocol } = port;
            let link = to.is_ipv4().then(|| link_address(links::LINKS.0, number));
            [
                Some(Element::End { port, to }),
                Some(Element::Led { port, to, way }),
                link.map(|link| Element::Link { protocol, link, to }),
                link.map(|link| Element::Linked {
                    protocol,
                    link,
                    to,
                    way,
                }),
            ]
        }
        Piece::Held { port } => [Some(Element::Held { port }), None, None, None],
        Piece::Beside { network } => [Some(Element::Beside { network }), None, None, None],
    };
    elements.into_iter().flatten()
}

impl<'a> Element<'a> {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Record { port, .. }
            | Self::End { port, .. }
            | Self::Led { port, .. }
            | Self::Held { port } => port.protocol,
            Self::Link { protocol, .. } | Self::Linked { protocol, .. } => *protocol,
            Self::Beside { .. } => Protocol::Tcp,
        }
    }

    fn set(&self) -> &'static str {
        let by_version = |is_ipv4, four, six| if is_ipv4 { four } else { six };
        match self {
            Self::Record { .. } => "records",
            Self::End { to, .. } => by_version(to.is_ipv4(), "ends4", "ends6"),
            Self::Led { to, way, .. } => match way {
                Way::Here => by_version(to.is_ipv4(), "here4", "here6"),
                Way::There => by_version(to.is_ipv4(), "there4", "there6"),
            },
            Self::Link { .. } => "links",
            Self::Linked { way, .. } => match way {
                Way::Here => "linkhere",
                Way::There => "linkthere",
            },
            Self::Held { .. } => "held",
            Self::Beside { network } => by_version(network.is_ipv4(), "beside4", "beside6"),
        }
    }

    /// Returns where it leads, if it is of a map.
    pub(super) fn leads_to(&self) -> Option<SocketAddr> {
        match *self {
            Self::End { to, .. } | Self::Link { to, .. } => Some(to),
            Self::Record { .. }
            | Self::Led { .. }
            | Self::Linked { .. }
            | Self::Held { .. }
            | Self::Beside { .. } => None,
        }
    }

    /// Returns what is noted beside it.
    pub(super) fn comment(&self) -> Option<&'a str> {
        match *self {
            Self::Record { text, .. } => Some(text),
            Self::End { .. }
            | Self::Led { .. }
            | Self::Link { .. }
            | Self::Linked { .. }
            | Self::Held { .. }
            | Self::Beside { .. } => None,
        }
    }

    /// Returns where the range ends that begins with it: the first address after it.
    ///
    /// Nothing where it is no range, and where the range reaches to the highest address.
    pub(super) fn ends_before(&self) -> Option<IpAddr> {
        match *self {
            Self::Beside { network } => network.after_last(),
            Self::Record { .. }
            | Self::End { .. }
            | Self::Led { .. }
            | Self::Link { .. }
            | Self::Linked { .. }
            | Self::Held { .. } => None,
        }
    }

    /// Writes what names it as the kernel compares it: of a range, the first value.
    pub(super) fn write_key(&self, bytes: &mut Vec<u8>) {
        match *self {
            Self::Record { port, part, .. } => {
                write_number(bytes, port.get());
                write_number(bytes, part);
            }
            // The only value of a key is as long as it is; among others each begins at a multiple of four.
            Self::End { port, .. } | Self::Held { port } => bytes.extend(port.get().to_be_bytes()),
            Self::Led { port, to, .. } => {
                write_number(bytes, port.get());
                write_socket(bytes, to);
            }
            Self::Link { link, .. } => bytes.extend(link.octets()),
            Self::Linked { link, to, .. } => {
                bytes.extend(link.octets());
                write_socket(bytes, to);
            }
            Self::Beside { network } => write_address(bytes, network.first()),
        }
    }

    /// Reads an element of the set that is called so as the kernel has it; nothing where we would not have put it there.
    ///
    /// What is one of a range is no element, but half of one.
    pub(super) fn read(set: &str, key: &[u8], data: &[u8], comment: Option<&'a str>) -> Option<Self> {
        let (protocol, set) = split_name(set);
        let external = |key| {
            let number = PortNumber::new(read_number(key)?)?;
            Some(ExternalPort { number, protocol })
        };
        let has_data = matches!(set, "ends4" | "ends6" | "links");
        if has_data == data.is_empty() {
            return None;
        }
        let element = match set {
            "records" => {
                let (of, part) = key.split_at_checked(4)?;
                Self::Record {
                    port: external(of)?,
                    part: read_number(part)?,
                    text: comment?,
                }
            }
            "held" => Self::Held { port: external(key)? },
            "ends4" | "ends6" => Self::End {
                port: external(key)?,
                to: read_socket(data)?,
            },
            "here4" | "here6" | "there4" | "there6" => {
                let (port, to) = key.split_at_checked(4)?;
                Self::Led {
                    port: external(port)?,
                    to: read_socket(to)?,
                    way: if set.starts_with("here") {
                        Way::Here
                    } else {
                        Way::There
                    },
                }
            }
            "links" => Self::Link {
                protocol,
                link: read_v4(key)?,
                to: read_socket(data)?,
            },
            "linkhere" | "linkthere" => {
                let (link, to) = key.split_at_checked(4)?;
                Self::Linked {
                    protocol,
                    link: read_v4(link)?,
                    to: read_socket(to)?,
                    way: if set == "linkhere" { Way::Here } else { Way::There },
                }
            }
            _ => return None,
        };
        // What we would have put somewhere else is not ours here.
        (element.set() == set).then_some(element)
    }
}

/// Reads a number that is alone or, among others, filled up to a multiple of four.
fn read_number(bytes: &[u8]) -> Option<u16> {
    match *bytes {
        [high, low] | [high, low, 0, 0] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

fn read_v4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// Reads what [`write_socket`] writes.
fn read_socket(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let port = PortNumber::new(read_number(port)?)?.get();
    Some(SocketAddr::new(read_address(address)?, port))
}

/// Reads an address of either kind, which is told by its length.
pub(super) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => read_v4(bytes).map(IpAddr::V4),
        _ => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

fn write_number(bytes: &mut Vec<u8>, number: u16) {
    bytes.extend(number.to_be_bytes());
    bytes.extend([0, 0]);
}

/// Writes an address as the kernel compares it.
pub(super) fn write_address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
}

/// Writes an address and a port as the kernel has them one after the other.
pub(super) fn write_socket(bytes: &mut Vec<u8>, socket: SocketAddr) {
    write_address(bytes, socket.ip());
    write_number(bytes, socket.port());
}

/// What names it, as `nft` reads it.
impl fmt::Display for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { port, part, .. } => write!(f, "{} . {part}", port.number),
            Self::End { port, .. } | Self::Held { port } => write!(f, "{}", port.number),
            Self::Led { port, to, .. } => {
                write!(f, "{} . {} . {}", port.number, to.ip(), to.port())
            }
            Self::Link { link, .. } => write!(f, "{link}"),
            Self::Linked { link, to, .. } => write!(f, "{link} . {} . {}", to.ip(), to.port()),
            Self::Beside { network } => write!(f, "{network}"),
        }
    }
}
