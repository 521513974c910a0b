//! The first record of what `zfs send` writes: whose snapshot it is, and from where on.
//!
//! It is read before anything is given to `zfs receive`, because a stream can
//! hold more than one snapshot, properties, and orders to destroy. Only the
//! plain stream of one snapshot passes.

/// How long the record is.
pub(super) const LENGTH: usize = 312;

const MAGIC: u64 = 0x0000_0002_F5BA_CBAC;

/// The kind of a stream that holds one snapshot and nothing else.
const ONE_SNAPSHOT: u64 = 1;

/// What the first record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) to: u64,
    /// Nothing for a full stream.
    pub(super) from: Option<u64>,
}

impl Begin {
    /// Reads the record; the reason where it is not one of the one kind that is taken.
    pub(super) fn parse(record: &[u8; LENGTH]) -> Result<Self, &'static str> {
        let word = |at: usize| -> [u8; 8] {
            let mut word = [0; 8];
            word.copy_from_slice(&record[at..at + 8]);
            word
        };
        let read: fn([u8; 8]) -> u64 = if u64::from_le_bytes(word(8)) == MAGIC {
            u64::from_le_bytes
        } else if u64::from_be_bytes(word(8)) == MAGIC {
            u64::from_be_bytes
        } else {
            return Err("it is not a stream of ZFS");
        };
        // The record's own kind, 0, and the length of its payload: a plain stream has neither.
        if word(0) != [0; 8] {
            return Err("it does not begin as the stream of one snapshot does");
        }
        if read(word(16)) & 0b11 != ONE_SNAPSHOT {
            return Err("it holds more than one snapshot");
        }
        let from = read(word(48));
        Ok(Self {
            to: read(word(40)),
            from: (from != 0).then_some(from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u64, from: u64, order: fn(u64) -> [u8; 8]) -> [u8; LENGTH] {
        let mut record = [0; LENGTH];
        for (at, value) in [
            (8, MAGIC),
            (16, kind),
            (24, 1_795_258_221),
            (32, 2),
            (40, 77),
            (48, from),
        ] {
            record[at..at + 8].copy_from_slice(&order(value));
        }
        record
    }

    #[test]
    fn either_order_of_bytes_is_read() {
        let full = Begin { to: 77, from: None };
        let increment = Begin {
            to: 77,
            from: Some(5),
        };
        for order in [u64::to_le_bytes, u64::to_be_bytes] {
            assert_eq!(Begin::parse(&record(1, 0, order)), Ok(full));
            assert_eq!(Begin::parse(&record(1 | 4 << 2, 5, order)), Ok(increment));
        }
    }

    #[test]
    fn a_stream_of_several_snapshots_is_refused() {
        Begin::parse(&record(2, 0, u64::to_le_bytes)).unwrap_err();
        Begin::parse(&[0; LENGTH]).unwrap_err();
        let mut other = record(1, 0, u64::to_le_bytes);
        other[0] = 6;
        Begin::parse(&other).unwrap_err();
    }
}
