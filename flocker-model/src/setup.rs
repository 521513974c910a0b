//! What a node is put together from, as far as a deployment file says it.
//!
//! A node remembers what it was set up with. What a file leaves out stays as
//! it is there, and is the default where the node is new.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::id::PoolName;
use crate::number::PortNumber;

/// Declares what can be chosen by a word.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident, $what:literal, { $($(#[$variant_doc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every choice, in the order in which they are told.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// Returns the word that files have.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ChoiceError;

            fn from_str(text: &str) -> Result<Self, ChoiceError> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(ChoiceError { what: $what, words: Self::WORDS }),
                }
            }
        }
    };
}

pub(crate) use choice;

choice! {
    /// What keeps the datasets of a node.
    VolumeKind, "volumes", {
        /// File systems of a ZFS pool.
        Zfs => "zfs",
        /// Plain directories.
        Directory => "directory",
    }
}

choice! {
    /// What runs the applications of a node.
    RuntimeKind, "runtime", {
        /// Docker.
        Docker => "docker",
        /// Units of systemd that run containers.
        Systemd => "systemd",
        /// Programs of the node itself.
        Process => "process",
    }
}

choice! {
    /// What answers for the ports on a node.
    RouterKind, "router", {
        /// The first of the others that works there.
        Auto => "auto",
        /// A table of nftables.
        Nftables => "nftables",
        /// Chains of iptables.
        Iptables => "iptables",
        /// A forwarder in the node's own process.
        Proxy => "proxy",
    }
}

choice! {
    /// What a node does by itself after its machine has started anew.
    AtBoot, "at_boot", {
        /// Nothing: what runs there waits for the next deploy.
        Wait => "wait",
        /// It starts again what it owns the data of, without having heard of any other node.
        Start => "start",
    }
}

/// Why a text is none of the words that can be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{what}` is one of {}", words.join(", "))]
pub struct ChoiceError {
    pub(crate) what: &'static str,
    pub(crate) words: &'static [&'static str],
}

/// Some ports in a row: `7800-7899`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: PortNumber,
    last: PortNumber,
}

/// Why a text is no range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a range of ports is the first and the last of them, as in 7800-7899")]
pub struct PortRangeError;

impl PortRange {
    /// Returns the numbers of the ports, from the first to the last.
    #[must_use]
    pub fn numbers(self) -> RangeInclusive<u16> {
        self.first.get()..=self.last.get()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.first, self.last))
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let number = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
            text.parse().ok().filter(|_| is_plain).and_then(PortNumber::new)
        };
        let (first, last) = text.split_once('-').ok_or(PortRangeError)?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(PortRangeError),
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

/// What a deployment file says of how a node is put together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSetup {
    /// What keeps its datasets; `zfs` where nobody ever said.
    pub volumes: Option<VolumeKind>,
    /// The ZFS pool, or a file system of one, below which they are; `flocker` where nobody ever said.
    pub pool: Option<PoolName>,
    /// What runs its applications; `docker` where nobody ever said.
    pub runtime: Option<RuntimeKind>,
    /// What answers for its ports; `auto` where nobody ever said.
    pub router: Option<RouterKind>,
    /// On which ports it lets other nodes in with what they send; any that is free where nobody ever said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_ports: Option<PortRange>,
    /// What it does by itself after its machine has started anew; `wait` where nobody ever said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_boot: Option<AtBoot>,
}

impl NodeSetup {
    /// Says whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_reads_back() {
        for text in ["7800-7899", "1-65535", "80-80"] {
            let range: PortRange = text.parse().unwrap();
            assert_eq!(range.to_string(), text);
            let json = serde_json::to_string(&range).unwrap();
            assert_eq!(serde_json::from_str::<PortRange>(&json).unwrap(), range);
        }
        assert_eq!("80-82".parse::<PortRange>().unwrap().numbers(), 80..=82);
        for text in [
            "", "80", "82-80", "0-80", "80-65536", "+80-81", "80-081", "80 - 81", "80-81-82", "-80",
        ] {
            assert_eq!(text.parse::<PortRange>(), Err(PortRangeError), "{text}");
        }
    }

    #[test]
    fn every_word_reads_back() {
        for word in VolumeKind::WORDS {
            assert_eq!(word.parse::<VolumeKind>().unwrap().as_str(), *word);
        }
        for word in RuntimeKind::WORDS {
            assert_eq!(word.parse::<RuntimeKind>().unwrap().as_str(), *word);
        }
        for word in RouterKind::WORDS {
            assert_eq!(word.parse::<RouterKind>().unwrap().as_str(), *word);
            assert_eq!(
                serde_json::to_value(word.parse::<RouterKind>().unwrap()).unwrap(),
                *word
            );
        }
        for word in AtBoot::WORDS {
            assert_eq!(word.parse::<AtBoot>().unwrap().as_str(), *word);
        }
        let error = "ZFS".parse::<VolumeKind>().unwrap_err();
        assert_eq!(error.to_string(), "`volumes` is one of zfs, directory");
    }
}
