//! The pieces of which a route consists in the kernel, and the text of those that only say what it is.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::PortNumber;
use flocker_model::RouteTarget;

use super::neighbours::Network;

/// How much text goes into one piece: a comment may have 127 bytes in one kind of rules, and 255 in the other.
const MOST_TEXT: usize = 100;

/// Which way connections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::router) enum Way {
    /// To an application of this node. The application sees its clients' addresses.
    Here,
    /// To another node, which sees this node's address, so that the answers come back this way.
    There,
}

impl Way {
    pub(in crate::router) const ALL: [Self; 2] = [Self::Here, Self::There];
}

/// Something in the kernel that is there or not, on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::router) enum Piece {
    /// A part of what a route says, beginning with number 0.
    Record {
        port: ExternalPort,
        part: u16,
        text: String,
    },
    /// Where a port ends.
    End {
        port: ExternalPort,
        to: SocketAddr,
        way: Way,
    },
    /// A port that ends nowhere yet.
    Held { port: ExternalPort },
    /// A network in which applications of this node live.
    Beside { network: Network },
}

impl Piece {
    /// Returns what says of a route what it is: `mongodb/27017/alpha=10.0.0.1,beta=10.0.0.2/`, in parts.
    ///
    /// None of the signs between the names can be in a name. The last one
    /// says that nothing is missing.
    pub(in crate::router) fn record(port: ExternalPort, target: &RouteTarget) -> Vec<Self> {
        let RouteTarget {
            application,
            internal,
            homes,
        } = target;
        let mut text = format!("{application}/{internal}/");
        for (n, Home { node, address }) in homes.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(text, "{comma}{node}={address}").unwrap_or_default();
        }
        text.push('/');
        // Names and addresses are ASCII, so every cut is between two characters.
        let parts = text.as_bytes().chunks(MOST_TEXT).zip(0..=u16::MAX);
        let piece = |(text, part): (&[u8], u16)| Self::Record {
            port,
            part,
            text: String::from_utf8_lossy(text).into_owned(),
        };
        parts.map(piece).collect()
    }

    /// Returns the port that ends nowhere yet, if this is one.
    #[cfg(feature = "iptables")]
    pub(in crate::router) fn held(&self) -> Option<ExternalPort> {
        match self {
            Self::Held { port } => Some(*port),
            Self::Record { .. } | Self::End { .. } | Self::Beside { .. } => None,
        }
    }

    /// Reads what all records say. One that lacks a part, or says nothing that we would have said, is left out.
    pub(super) fn read_records(pieces: &BTreeSet<Self>) -> BTreeMap<ExternalPort, RouteTarget> {
        let mut texts: BTreeMap<ExternalPort, (u16, String)> = BTreeMap::new();
        for piece in pieces {
            match piece {
                // They come in order of port and part.
                Self::Record { port, part, text } => {
                    let (n_parts, whole) = texts.entry(*port).or_default();
                    if n_parts == part {
                        *n_parts += 1;
                        whole.push_str(text);
                    }
                }
                Self::End { .. } | Self::Held { .. } | Self::Beside { .. } => {}
            }
        }
        let read = texts.into_iter();
        read.filter_map(|(port, (_, text))| Some((port, read_record(&text)?)))
            .collect()
    }
}

fn read_record(text: &str) -> Option<RouteTarget> {
    let mut fields = text.strip_suffix('/')?.splitn(3, '/');
    let application = fields.next()?.parse().ok()?;
    let internal = PortNumber::new(fields.next()?.parse().ok()?)?;
    let homes = fields.next()?;
    let home = |text: &str| {
        let (node, address) = text.split_once('=')?;
        Some(Home {
            node: node.parse().ok()?,
            address: address.parse().ok()?,
        })
    };
    let homes = match homes {
        "" => Vec::new(),
        homes => homes.split(',').map(home).collect::<Option<_>>()?,
    };
    Some(RouteTarget {
        application,
        internal,
        homes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_one_piece_that_people_can_read() {
        let port: ExternalPort = "27017/udp".parse().unwrap();
        let target = read_record("mongodb/27017/alpha=10.0.0.1,beta=fd00::2/").unwrap();
        let expected = Piece::Record {
            port,
            part: 0,
            text: "mongodb/27017/alpha=10.0.0.1,beta=fd00::2/".into(),
        };
        assert_eq!(Piece::record(port, &target), [expected]);
    }

    #[test]
    fn what_is_no_record_is_none() {
        for text in [
            "",
            "site",
            "site/0//",
            "site/80/",
            "site/80//x",
            "site/80/alpha/",
            "site/80/alpha=x/",
            "site/80/alpha=10.0.0.1",
            "site/80/,/",
            "a b/80//",
        ] {
            assert_eq!(read_record(text), None, "{text:?}");
        }
    }
}
