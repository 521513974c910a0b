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

/// Goes on from what a pool has kept; from where on follows the record.
const RESUMING: u64 = 1 << (2 + 20);

/// Leaves out what somebody is not to see, or is encrypted by a key that is not here.
const NOT_ALL: u64 = 1 << (2 + 21) | 1 << (2 + 24);

/// The most that may follow the record: two numbers with their names.
const LONGEST_PLACE: u64 = 1024;

/// What the first record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) to: u64,
    /// Nothing for a full stream.
    pub(super) from: Option<u64>,
    /// Whether it is the rest of a stream of which a pool has kept the beginning.
    pub(super) is_rest: bool,
}

impl Begin {
    /// Reads the record; the reason where it is not one of the one kind that is taken.
    pub(super) fn parse(record: &[u8; LENGTH]) -> Result<Self, &'static str> {
        let word = |at: usize| -> [u8; 8] {
            let mut word = [0; 8];
            word.copy_from_slice(&record[at..at + 8]);
            word
        };
        let is_little = u64::from_le_bytes(word(8)) == MAGIC;
        if !is_little && u64::from_be_bytes(word(8)) != MAGIC {
            return Err("it is not a stream of ZFS");
        }
        let read = if is_little {
            u64::from_le_bytes
        } else {
            u64::from_be_bytes
        };
        let kind = read(word(16));
        if kind & 0b11 != ONE_SNAPSHOT {
            return Err("it holds more than one snapshot");
        }
        if kind & NOT_ALL != 0 {
            return Err("it is encrypted, or something is left out of it");
        }
        let is_rest = kind & RESUMING != 0;
        // Two numbers of half the length: the record's own kind, 0, and how much follows it. Only a rest says there from where on.
        let both = read(word(0));
        let (high, low) = (both >> 32, both & u64::from(u32::MAX));
        let (own_kind, follows) = if is_little { (low, high) } else { (high, low) };
        if own_kind != 0 || (follows != 0) != is_rest || follows > LONGEST_PLACE {
            return Err("it does not begin as the stream of one snapshot does");
        }
        let from = read(word(48));
        Ok(Self {
            to: read(word(40)),
            from: (from != 0).then_some(from),
            is_rest,
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
        let full = Begin {
            to: 77,
            from: None,
            is_rest: false,
        };
        let increment = Begin {
            from: Some(5),
            ..full
        };
        for order in [u64::to_le_bytes, u64::to_be_bytes] {
            assert_eq!(Begin::parse(&record(1, 0, order)), Ok(full));
            assert_eq!(Begin::parse(&record(1 | 4 << 2, 5, order)), Ok(increment));
        }
    }

    #[test]
    fn only_a_rest_says_from_where_on_it_goes() {
        for (order, half) in [
            (
                u64::to_le_bytes as fn(u64) -> [u8; 8],
                u32::to_le_bytes as fn(u32) -> [u8; 4],
            ),
            (u64::to_be_bytes, u32::to_be_bytes),
        ] {
            let with = |kind: u64, follows: u32| {
                let mut record = record(kind, 5, order);
                record[4..8].copy_from_slice(&half(follows));
                Begin::parse(&record)
            };
            let rest = with(1 | RESUMING, 96).unwrap();
            assert!(rest.is_rest);
            with(1, 96).unwrap_err();
            with(1 | RESUMING, 0).unwrap_err();
            with(1 | RESUMING, 1 << 20).unwrap_err();
            with(1 | RESUMING | NOT_ALL, 96).unwrap_err();
            with(1 | NOT_ALL, 0).unwrap_err();
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
