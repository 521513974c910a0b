//! Ports of the cluster: a number alone does not say which, because each protocol has its own.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;
use thiserror::Error;

use crate::number::PortNumber;
use crate::setup::ChoiceError;
use crate::setup::choice;

choice! {
    /// What is spoken on a port. The two have nothing to do with each other, also where their numbers are the same.
    Protocol, "protocol", {
        /// Connections.
        Tcp => "tcp",
        /// Datagrams.
        Udp => "udp",
    }
}

impl Protocol {
    /// Every protocol, in the order in which ports of one number come.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// A port under which every node of the cluster offers something: `8080`, or `53/udp`.
///
/// TCP goes without saying, in every text and in every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalPort {
    /// Its number.
    pub number: PortNumber,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// Why a text is no external port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a port is a number from 1 to 65535, with `/udp` behind it where it is not of TCP")]
pub struct ExternalPortError;

impl ExternalPort {
    /// Returns the port of TCP with this number.
    #[must_use]
    pub const fn tcp(number: PortNumber) -> Self {
        Self {
            number,
            protocol: Protocol::Tcp,
        }
    }

    /// Returns the port of UDP with this number.
    #[must_use]
    pub const fn udp(number: PortNumber) -> Self {
        Self {
            number,
            protocol: Protocol::Udp,
        }
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.number.get()
    }
}

impl fmt::Display for ExternalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, protocol } = self;
        match protocol {
            Protocol::Tcp => number.fmt(f),
            Protocol::Udp => f.pad(&format!("{number}/{protocol}")),
        }
    }
}

impl FromStr for ExternalPort {
    type Err = ExternalPortError;

    /// Reads `8080`, `8080/tcp` or `53/udp`.
    fn from_str(text: &str) -> Result<Self, ExternalPortError> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let is_digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_digits);
        let protocol = protocol.parse().ok();
        let port = number.and_then(PortNumber::new).zip(protocol);
        port.map(|(number, protocol)| Self { number, protocol })
            .ok_or(ExternalPortError)
    }
}

impl Serialize for ExternalPort {
    /// Writes a port of TCP as its number, as it was written before there were others.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.protocol {
            Protocol::Tcp => self.number.serialize(serializer),
            Protocol::Udp => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for ExternalPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// A port as it is written: a number, or a text as the keys of JSON's objects are.
struct Written;

impl de::Visitor<'_> for Written {
    type Value = ExternalPort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ExternalPortError, f)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<ExternalPort, E> {
        let number = u16::try_from(number).ok().and_then(PortNumber::new);
        number
            .map(ExternalPort::tcp)
            .ok_or_else(|| E::custom(ExternalPortError))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ExternalPort, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn port(text: &str) -> ExternalPort {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_of_tcp_reads_as_a_number_and_any_other_says_what_it_is() {
        for (text, shown) in [("8080", "8080"), ("53/udp", "53/udp"), ("53/tcp", "53")] {
            assert_eq!(port(text).to_string(), shown);
        }
        for text in [
            "", "0", "65536", "+1", "53/", "53/sctp", "/udp", "53/UDP", "53/udp/", " 53",
        ] {
            assert_eq!(text.parse::<ExternalPort>(), Err(ExternalPortError), "{text:?}");
        }
    }

    #[test]
    fn what_was_written_before_there_was_udp_is_read_and_written_the_same() {
        let old = r#"{"53":"a","8080":"b"}"#;
        let read: BTreeMap<ExternalPort, String> = serde_json::from_str(old).unwrap();
        assert_eq!(
            read.keys().copied().collect::<Vec<_>>(),
            [port("53"), port("8080")]
        );
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        let list = r#"[53,"53/udp",8080]"#;
        let read: Vec<ExternalPort> = serde_json::from_str(list).unwrap();
        assert_eq!(read, [port("53"), port("53/udp"), port("8080")]);
        assert_eq!(serde_json::to_string(&read).unwrap(), list);
        for text in ["0", "65536", "-1", "1.5", "null", "\"53/x\""] {
            assert!(serde_json::from_str::<ExternalPort>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_of_one_number_are_neighbours_and_take_no_more_room_than_they_need() {
        assert!(port("53") < port("53/udp") && port("53/udp") < port("54"));
        assert_eq!(size_of::<Option<ExternalPort>>(), 4);
    }
}
