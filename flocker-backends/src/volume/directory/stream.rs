//! What travels between two directories.
//!
//! ```text
//! header    magic, dataset, snapshot, base, guid of the announced manifest, first block
//! manifest  only where the stream starts at the first block
//! blocks    in the order of the difference: one byte that says how, then the bytes
//! earlier   lists of the snapshots between the base and this one, oldest first
//! trailer   the guid of the manifest as it was sent
//! ```

use flocker_model::DatasetId;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;

use super::codec::LONGEST_NAME;
use super::codec::Malformed;
use super::codec::Reader;
use super::codec::Writer;
use super::difference::id_bytes;
use super::manifest::Digest;
use super::manifest::Torn;

const MAGIC: &[u8; 8] = b"FLKDIRS3";

/// How long a header is: its fields have fixed places, so that it is read in one go.
pub(super) const HEADER: usize = 8 + 16 + 1 + LONGEST_NAME + 1 + 16 + 16 + 8 + 8;

/// The most torn blocks that a token carries. Where there are more, it says that less has arrived.
const MOST_TORN: usize = 256;

/// The block is as announced; its bytes follow.
pub(super) const AS_ANNOUNCED: u8 = 1;
/// The block was changed meanwhile; its digest follows, then its bytes.
pub(super) const TORN: u8 = 2;
/// The block has become all zero meanwhile; nothing follows.
pub(super) const ZERO: u8 = 3;
/// The block is as announced, and the base has it in another place; nothing follows.
pub(super) const ELSEWHERE: u8 = 5;
/// There are no more blocks; the guid follows.
pub(super) const END: u8 = 4;
/// There are no more blocks; the [head](super::earlier::Head) of an earlier snapshot follows, then the list of it.
pub(super) const EARLIER: u8 = 6;

/// What a stream says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dataset: DatasetId,
    pub(super) snapshot: SnapshotName,
    pub(super) base: Option<SnapshotGuid>,
    /// The guid of the announced manifest.
    pub(super) plan: SnapshotGuid,
    /// The first block that travels; those before it have arrived earlier.
    pub(super) first: u64,
    /// How long the manifest is that follows; 0 where it has arrived earlier.
    pub(super) manifest_length: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.0.extend_from_slice(MAGIC);
        writer.0.extend_from_slice(&id_bytes(self.dataset));
        writer.snapshot_name(&self.snapshot);
        writer.u8(self.base.is_some().into());
        writer.guid(self.base.unwrap_or(SnapshotGuid(0)));
        writer.guid(self.plan);
        writer.u64(self.first);
        writer.u64(self.manifest_length);
        writer.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        if reader.take(8)? != MAGIC {
            return Err(Malformed("it is not a stream of a directory".into()));
        }
        let dataset = DatasetId(uuid::Uuid::from_bytes(reader.array()?));
        let snapshot = reader
            .snapshot_name()?
            .ok_or_else(|| Malformed("it names no snapshot".into()))?;
        let has_base = reader.flag()?;
        let base = reader.guid()?;
        let header = Self {
            dataset,
            snapshot,
            base: has_base.then_some(base),
            plan: reader.guid()?,
            first: reader.u64()?,
            manifest_length: reader.u64()?,
        };
        reader.end()?;
        // What no field uses is zero: there is one spelling of each header.
        if header.encode() != bytes {
            return Err(Malformed("its header was damaged on its way".into()));
        }
        if (header.first == 0) != (header.manifest_length > 0) {
            return Err(Malformed(
                "it has a manifest where none belongs, or none where one does".into(),
            ));
        }
        Ok(header)
    }
}

/// What the sender needs in order to go on: the text of a [`PartialReceive`](flocker_model::PartialReceive).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) plan: SnapshotGuid,
    pub(super) next: u64,
    /// Which of the blocks before were not as announced.
    pub(super) torn: Torn,
}

impl Token {
    /// Says how far a copy has come, or a little less where saying so takes too many words.
    pub(super) fn new(plan: SnapshotGuid, next: u64, torn: &Torn) -> Self {
        let next = torn.keys().nth(MOST_TORN).copied().unwrap_or(next);
        let torn = torn.range(..next).map(|(&at, &digest)| (at, digest)).collect();
        Self { plan, next, torn }
    }

    pub(super) fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("1:{}:{}", self.plan, self.next);
        for (at, digest) in &self.torn {
            let digest = digest.map_or_else(String::new, |digest| {
                blake3::Hash::from_bytes(digest).to_hex().to_string()
            });
            // Writing to a string cannot fail.
            let _ = write!(text, ":{at}={digest}");
        }
        text
    }

    /// Reads a token; nothing where it is not one of ours.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        if parts.next()? != "1" {
            return None;
        }
        let plan = parts.next()?.parse().ok()?;
        let next = parts.next()?.parse().ok()?;
        let mut torn = Torn::new();
        for part in parts {
            let (at, digest) = part.split_once('=')?;
            let digest: Option<Digest> = match digest {
                "" => None,
                digest => Some(*blake3::Hash::from_hex(digest).ok()?.as_bytes()),
            };
            torn.insert(at.parse().ok().filter(|at| *at < next)?, digest);
        }
        Some(Self { plan, next, torn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_was_written() {
        let header = Header {
            dataset: DatasetId(uuid::Uuid::from_u128(7)),
            snapshot: "warm-8-1".parse().unwrap(),
            base: Some(SnapshotGuid(9)),
            plan: SnapshotGuid(11),
            first: 0,
            manifest_length: 13,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn a_token_reads_as_it_was_written_and_stays_short() {
        let torn: Torn = (0..1000)
            .map(|at| (at * 2, (at % 3 > 0).then_some([7; 32])))
            .collect();
        let token = Token::new(SnapshotGuid(5), 2000, &torn);
        assert_eq!(token.next, 512);
        assert_eq!(Token::parse(&token.to_text()), Some(token));
    }
}
