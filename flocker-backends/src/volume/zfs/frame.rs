//! What travels between two pools.
//!
//! ```text
//! header   magic, dataset, snapshot, guid, base, first byte, kinds of blocks, whether a pool can keep it, check
//! chunks   a length, then so many bytes of what `zfs send` writes, then the digest of everything from the very first byte on
//! trailer  the length 0, then that digest once more: there is no more to come
//! ```
//!
//! `zfs receive` sees a chunk only after its digest was found right, and the last one only after the trailer was.

use flocker_model::DatasetId;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::able::Blocks;
use super::partial::PoolToken;

const MAGIC: &[u8; 8] = b"FLKZFS03";

/// How long a header is: its fields have fixed places.
pub(super) const HEADER: usize = CHECKED + CHECK;

const NAME: usize = 64;
/// How much of it its check covers.
pub(super) const CHECKED: usize = 8 + 16 + 1 + NAME + 16 + 1 + 16 + 8 + 1 + 1 + DIGEST;
const CHECK: usize = 16;

/// The most bytes that come at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// How long the length is that begins a chunk.
pub(super) const LENGTH: usize = 4;

/// How long the digest is that ends a chunk, and a stream.
pub(super) const DIGEST: usize = 32;

/// What a stream says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dataset: DatasetId,
    pub(super) snapshot: SnapshotName,
    pub(super) guid: SnapshotGuid,
    pub(super) base: Option<SnapshotGuid>,
    /// The first byte that travels; those before it have arrived earlier.
    pub(super) first: u64,
    pub(super) blocks: Blocks,
    pub(super) pooling: Pooling,
}

/// What a stream has to do with what a pool keeps of one that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Its sender could not go on from there.
    Impossible,
    /// Its sender could go on from there.
    Possible,
    /// It does: from what the receiver's pool gave the token with this digest out for. It is a stream of its own.
    Rest(blake3::Hash),
}

impl Header {
    /// Says whether it goes on from what a pool has kept.
    pub(super) fn is_rest(&self) -> bool {
        matches!(self.pooling, Pooling::Rest(_))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let text = self.snapshot.as_str().as_bytes();
        let length = text.len().min(NAME);
        let mut name = [0; NAME];
        name[..length].copy_from_slice(&text[..length]);
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.dataset.0.as_bytes());
        bytes.push(u8::try_from(length).unwrap_or(u8::MAX));
        bytes.extend_from_slice(&name);
        bytes.extend_from_slice(&self.guid.0.to_be_bytes());
        bytes.push(self.base.is_some().into());
        bytes.extend_from_slice(&self.base.unwrap_or(SnapshotGuid(0)).0.to_be_bytes());
        bytes.extend_from_slice(&self.first.to_be_bytes());
        bytes.push(self.blocks.bits());
        let (kind, token) = match self.pooling {
            Pooling::Impossible => (0, [0; DIGEST]),
            Pooling::Possible => (1, [0; DIGEST]),
            Pooling::Rest(token) => (2, token.into()),
        };
        bytes.push(kind);
        bytes.extend_from_slice(&token);
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK]);
        bytes
    }

    /// Reads a header; the reason where it is not one.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Result<Self, &'static str> {
        let mut rest = Rest(bytes);
        if rest.array::<8>() != Some(*MAGIC) {
            return Err("it is not a stream of ZFS volumes");
        }
        let damaged = "its header was damaged on its way";
        let header = rest.header().ok_or(damaged)?;
        // The check is right, and what no field uses is zero: there is one spelling of each header.
        if header.encode() != bytes {
            return Err(damaged);
        }
        Ok(header)
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn header(&mut self) -> Option<Header> {
        let dataset = DatasetId(uuid::Uuid::from_bytes(self.array()?));
        let [length] = self.array()?;
        let name: [u8; NAME] = self.array()?;
        let name = std::str::from_utf8(name.get(..length.into())?).ok()?;
        let guid = SnapshotGuid(u128::from_be_bytes(self.array()?));
        let [has_base] = self.array()?;
        let base = SnapshotGuid(u128::from_be_bytes(self.array()?));
        Some(Header {
            dataset,
            snapshot: name.parse().ok()?,
            guid,
            base: (has_base == 1).then_some(base),
            first: u64::from_be_bytes(self.array()?),
            blocks: Blocks::from_bits(u8::from_be_bytes(self.array()?))?,
            pooling: match (self.array()?, self.array::<DIGEST>()?) {
                ([0], _) => Pooling::Impossible,
                ([1], _) => Pooling::Possible,
                ([2], token) => Pooling::Rest(token.into()),
                (_, _) => return None,
            },
        })
    }
}

/// What the sender has to know of the receiver: the text of a [`PartialReceive`](flocker_model::PartialReceive), or what
/// a backend [takes](crate::volume::VolumeBackend::takes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// The blocks that it takes as they lie on the sender's disk. Where something has arrived, those that it was sent with.
    pub(super) takes: Blocks,
    /// What has arrived of a stream already, if anything has.
    pub(super) begun: Option<Begun>,
}

/// The beginning of a stream, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It is kept beside the datasets.
    Beside(Beginning),
    /// The pool has it. The sender goes on from there only where its tool says that the token is of what was asked for.
    InPool(PoolToken),
}

/// The beginning of a stream, byte by byte.
///
/// The sender goes on from there only where the beginning of what it would send has this very digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beginning {
    pub(super) guid: SnapshotGuid,
    pub(super) base: Option<SnapshotGuid>,
    pub(super) kept: u64,
    pub(super) digest: blake3::Hash,
}

impl Token {
    /// The one spelling that there is yet.
    const FORMAT: &str = "3";

    /// Stands before the token of a pool.
    const IN_POOL: &str = "pool";

    pub(super) fn to_text(&self) -> String {
        let Self { takes, begun } = self;
        let takes = format!("{}:{}", Self::FORMAT, takes.bits());
        match begun {
            None => takes,
            Some(Begun::InPool(token)) => format!("{takes}:{}:{}", Self::IN_POOL, token.as_str()),
            Some(Begun::Beside(Beginning {
                guid,
                base,
                kept,
                digest,
            })) => {
                let base = base.map_or_else(String::new, |base| base.to_string());
                format!("{takes}:{guid}:{base}:{kept}:{digest}")
            }
        }
    }

    /// Reads a token; nothing where it is not one of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        if parts.next()? != Self::FORMAT {
            return None;
        }
        let takes = Blocks::from_bits(parts.next()?.parse().ok()?)?;
        let begun = match parts.next() {
            None => None,
            Some(Self::IN_POOL) => Some(Begun::InPool(PoolToken::parse(parts.next()?)?)),
            Some(guid) => Some(Begun::Beside(Beginning {
                guid: guid.parse().ok()?,
                base: match parts.next()? {
                    "" => None,
                    base => Some(base.parse().ok()?),
                },
                kept: parts.next()?.parse().ok()?,
                digest: blake3::Hash::from_hex(parts.next()?).ok()?,
            })),
        };
        let token = Self { takes, begun };
        (token.to_text() == text).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            dataset: DatasetId(uuid::Uuid::from_u128(7)),
            snapshot: "warm-8-1".parse().unwrap(),
            guid: SnapshotGuid(9),
            base: Some(SnapshotGuid(11)),
            first: 13,
            blocks: Blocks::from_bits(5).unwrap(),
            pooling: Pooling::Rest(blake3::hash(b"token")),
        }
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        for base in [None, Some(SnapshotGuid(u128::MAX))] {
            for pooling in [Pooling::Impossible, Pooling::Possible, header().pooling] {
                let header = Header {
                    base,
                    pooling,
                    ..header()
                };
                let bytes: [u8; HEADER] = header.encode().try_into().unwrap();
                assert_eq!(Header::decode(&bytes), Ok(header));
            }
        }
    }

    #[test]
    fn a_header_with_any_bit_changed_is_refused() {
        let bytes: [u8; HEADER] = header().encode().try_into().unwrap();
        for at in 0..HEADER {
            for bit in 0..8 {
                let mut damaged = bytes;
                damaged[at] ^= 1 << bit;
                Header::decode(&damaged).unwrap_err();
            }
        }
    }

    #[test]
    fn a_token_reads_as_it_was_written() {
        let takes = Blocks::from_bits(3).unwrap();
        let kept = |base| {
            Begun::Beside(Beginning {
                guid: SnapshotGuid(5),
                base,
                kept: 1000,
                digest: blake3::hash(b"x"),
            })
        };
        let in_pool = Begun::InPool(PoolToken::parse("1-abc-f0-789c").unwrap());
        for begun in [
            None,
            Some(in_pool),
            Some(kept(None)),
            Some(kept(Some(SnapshotGuid(3)))),
        ] {
            let token = Token { takes, begun };
            assert_eq!(Token::parse(&token.to_text()), Some(token));
        }
        for text in [
            "",
            "nonsense",
            "1-2-3",
            "3",
            "3:",
            "3:8",
            "3:07",
            "3:7:",
            "3:7:5::7",
            "3:7:5::7:zz",
            "3:7:pool",
            "3:7:pool:",
            "3:7:pool:--help",
            "3:7:pool:1-abc-f0-789c:",
            "2:7",
        ] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
