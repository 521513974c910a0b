//! Names and identities, each its own type, each valid once it exists.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use arcstr::ArcStr;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de;
use thiserror::Error;
use uuid::Uuid;

use crate::number::Epoch;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text has no characters.
    #[error("a {what} must not be empty")]
    Empty {
        /// What the text was meant to name.
        what: &'static str,
    },
    /// The text is longer than names of this kind may be.
    #[error("the {what} `{name}` has {length} characters; at most {limit} are allowed")]
    TooLong {
        /// What the text was meant to name.
        what: &'static str,
        /// The text, cut to the limit.
        name: Box<str>,
        /// How many bytes it has.
        length: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The text has a character that names of this kind may not have there.
    #[error("the {what} `{name}` must not have {found:?} {place}; allowed are {allowed}")]
    Character {
        /// What the text was meant to name.
        what: &'static str,
        /// The text.
        name: Box<str>,
        /// The first character that is not allowed.
        found: char,
        /// Where it may not stand.
        place: &'static str,
        /// What is allowed instead.
        allowed: &'static str,
    },
}

struct Alphabet {
    what: &'static str,
    limit: usize,
    first: Bytes,
    rest: Bytes,
    allowed: &'static str,
}

/// Which bytes may stand at a place. A table, because a report of many nodes has hundreds of thousands of names.
struct Bytes([bool; 256]);

const LETTERS: &[(u8, u8)] = &[(b'a', b'z'), (b'A', b'Z')];
const LETTERS_AND_DIGITS: &[(u8, u8)] = &[(b'a', b'z'), (b'A', b'Z'), (b'0', b'9')];

impl Bytes {
    /// Takes ranges of ASCII, ends included, and single characters.
    const fn of(ranges: &[(u8, u8)], single: &[u8]) -> Self {
        let mut has = [false; 256];
        let mut n_ranges = 0;
        while n_ranges < ranges.len() {
            let (mut byte, last) = ranges[n_ranges];
            while byte <= last {
                has[byte as usize] = true;
                byte += 1;
            }
            n_ranges += 1;
        }
        let mut n_single = 0;
        while n_single < single.len() {
            has[single[n_single] as usize] = true;
            n_single += 1;
        }
        Self(has)
    }

    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte)]
    }
}

fn check(text: &str, alphabet: &Alphabet) -> Result<ArcStr, NameError> {
    let what = alphabet.what;
    let first = text.chars().next().ok_or(NameError::Empty { what })?;
    if text.len() > alphabet.limit {
        let name = text.chars().take(alphabet.limit).collect::<String>().into();
        return Err(NameError::TooLong {
            what,
            name,
            length: text.len(),
            limit: alphabet.limit,
        });
    }
    let refuse = |found, place| {
        Err(NameError::Character {
            what,
            name: text.into(),
            found,
            place,
            allowed: alphabet.allowed,
        })
    };
    // Only ASCII is allowed, of which each character is a byte; of anything else, no byte is in the tables.
    let bytes = text.as_bytes();
    if !alphabet.first.has(bytes[0]) {
        return refuse(first, "at its start");
    }
    match bytes.iter().skip(1).position(|&byte| !alphabet.rest.has(byte)) {
        Some(n_before) => {
            let found = text[1 + n_before..].chars().next().unwrap_or(first);
            refuse(found, "in it")
        }
        None => Ok(text.into()),
    }
}

/// Reads a value from the text that it is written as, which is not kept.
struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Lets a type be written as text, in this way, and read as it is parsed.
macro_rules! as_text {
    ($name:ident, |$value:ident, $serializer:ident| $write:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, $serializer: S) -> Result<S::Ok, S::Error> {
                let $value = self;
                $write
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(PhantomData))
            }
        }
    };
}

/// Declares a name: a shared string that was checked against an alphabet.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $alphabet:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(ArcStr);

        as_text!($name, |name, serializer| serializer.serialize_str(&name.0));

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                static ALPHABET: Alphabet = $alphabet;
                check(text, &ALPHABET).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_str().into()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }
    };
}

name! {
    /// The name of an application, unique within a deployment.
    ///
    /// Docker's container alphabet: it ends up in container names.
    ApplicationName,
    Alphabet {
        what: "name of an application",
        limit: 63,
        first: Bytes::of(LETTERS_AND_DIGITS, b""),
        rest: Bytes::of(LETTERS_AND_DIGITS, b"_.-"),
        allowed: "letters, digits, `_`, `.` and `-`, starting with a letter or digit",
    }
}

name! {
    /// What the deployment file calls a node: a host name, an address or a name of the operator's choice.
    ///
    /// It says how to find a node, never who it is: that is its [`NodeId`].
    /// It can never be mistaken for a command-line option.
    NodeName,
    Alphabet {
        what: "name of a node",
        limit: 253,
        first: Bytes::of(LETTERS_AND_DIGITS, b":"),
        rest: Bytes::of(LETTERS_AND_DIGITS, b"_.-:"),
        allowed: "letters, digits, `_`, `.`, `-` and `:`, starting with a letter or digit",
    }
}

name! {
    /// The name of a snapshot that Flocker took: `warm-8-1`, `handoff-8`.
    SnapshotName,
    Alphabet {
        what: "name of a snapshot",
        limit: 64,
        first: Bytes::of(&[(b'a', b'z')], b""),
        rest: Bytes::of(&[(b'a', b'z'), (b'0', b'9')], b"-"),
        allowed: "lower-case letters, digits and `-`, starting with a letter",
    }
}

name! {
    /// The name of a ZFS pool, or of a file system in one: `tank`, `tank/flocker`.
    PoolName,
    Alphabet {
        what: "name of a pool",
        limit: 200,
        first: Bytes::of(LETTERS, b""),
        rest: Bytes::of(LETTERS_AND_DIGITS, b"_.-:/"),
        allowed: "letters, digits, `_`, `.`, `-`, `:` and `/`, starting with a letter",
    }
}

impl SnapshotName {
    /// Returns the name of the `round`th copy made while the application still runs, on the way to `epoch`.
    #[must_use]
    pub fn warm(epoch: Epoch, round: u32) -> Self {
        Self(format!("warm-{epoch}-{round}").into())
    }

    /// Returns the name of the last snapshot before `epoch` begins: taken after the stop, complete.
    #[must_use]
    pub fn handoff(epoch: Epoch) -> Self {
        Self(format!("handoff-{epoch}").into())
    }

    /// Returns the round of a warm snapshot on the way to `epoch`, or nothing for any other.
    #[must_use]
    pub fn warm_round(&self, epoch: Epoch) -> Option<u32> {
        let (written, round) = self.0.strip_prefix("warm-")?.split_once('-')?;
        let is_own = written.parse() == Ok(epoch.0) && written.starts_with(|c: char| c.is_ascii_digit());
        let is_plain = written == "0" || !written.starts_with('0');
        (is_own && is_plain).then(|| round.parse().ok()).flatten()
    }

    /// Returns the ownership on the way to which the snapshot was taken.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        let rest = self
            .0
            .strip_prefix("warm-")
            .or_else(|| self.0.strip_prefix("handoff-"))?;
        let digits = rest.split('-').next()?;
        digits.parse().ok().map(Epoch)
    }
}

/// The identity of a node: generated once by the node itself, kept for its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Uuid);

/// The identity of one boot of a node. What was seen before a reboot is not a fact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub Uuid);

/// The identity of a dataset across the whole cluster, wherever its copies are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatasetId(pub Uuid);

impl DatasetId {
    /// Returns the id of the dataset of an application that names none: MD5 of its name, marked as version 4.
    ///
    /// This is the rule of Flocker 1.3 and later.
    #[must_use]
    pub fn derived(application: &ApplicationName) -> Self {
        use md5::Digest as _;
        let digest: [u8; 16] = md5::Md5::digest(application.as_str().as_bytes()).into();
        Self(uuid::Builder::from_random_bytes(digest).into_uuid())
    }
}

macro_rules! uuid_text {
    ($($name:ident),*) => {$(
        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::try_parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    )*};
}

uuid_text!(NodeId, BootId, DatasetId);

/// Declares a 128-bit value that is written as 32 hexadecimal digits.
macro_rules! hexadecimal {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        // Aligned as two words: of what holds one there are millions, and 16 bytes of alignment cost each 8 more.
        #[repr(Rust, packed(8))]
        pub struct $name(pub u128);

        as_text!($name, |value, serializer| serializer.collect_str(value));

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", { self.0 })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", { self.0 })
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                u128::from_str_radix(text, 16).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = std::num::ParseIntError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

hexadecimal! {
    /// What makes a snapshot the same snapshot on two nodes, whatever either calls it.
    SnapshotGuid
}

hexadecimal! {
    /// The fingerprint of an application's normalised definition: equal exactly when nothing has to restart.
    DefinitionHash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_dataset_id_is_that_of_flocker_1_3() {
        for (name, id) in [
            ("myapp", "8358a413-eaf7-4ed7-8c99-8b8a083871af"),
            ("elasticsearch", "18897dcf-ce6a-4e7a-a63a-3baeed443c48"),
            ("mongodb-volume-example", "e83b21be-2d1a-4bd5-bee3-43dfa025f6e8"),
        ] {
            let name: ApplicationName = name.parse().unwrap();
            assert_eq!(DatasetId::derived(&name).to_string(), id);
        }
    }

    #[test]
    fn a_name_that_could_be_an_option_or_a_path_is_refused() {
        for text in [
            "", "-v", "../x", "a/b", "a b", "a;b", "a\nb", "$(x)", "`x`", ".", "é",
        ] {
            assert!(text.parse::<ApplicationName>().is_err(), "{text:?}");
            assert!(text.parse::<NodeName>().is_err(), "{text:?}");
            assert!(text.parse::<SnapshotName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(64).parse::<ApplicationName>().is_err());
    }

    #[test]
    fn the_character_that_is_refused_is_named_whole() {
        for (text, place) in [
            ("aé", "'é' in it"),
            ("é", "'é' at its start"),
            ("a:b", "':' in it"),
        ] {
            let error = text.parse::<ApplicationName>().unwrap_err().to_string();
            assert!(error.contains(place), "{error}");
        }
        assert_eq!("a:b".parse::<NodeName>().unwrap().as_str(), "a:b");
    }

    #[test]
    fn a_warm_snapshot_knows_its_round() {
        let epoch = Epoch(8);
        assert_eq!(SnapshotName::warm(epoch, 3).warm_round(epoch), Some(3));
        assert_eq!(SnapshotName::warm(epoch, 3).warm_round(Epoch(9)), None);
        assert_eq!(SnapshotName::handoff(epoch).warm_round(epoch), None);
        assert_eq!(SnapshotName::handoff(epoch).as_str(), "handoff-8");
        assert_eq!(SnapshotName::handoff(epoch).epoch(), Some(epoch));
        assert_eq!(SnapshotName::warm(epoch, 3).epoch(), Some(epoch));
    }
}
