//! Packing what goes over a slow way, for as long as that is faster than not to.
//!
//! Every chunk is packed by itself, so that one that does not shrink goes as it
//! is, and nothing has to be kept between two. Whether to pack is settled anew
//! for each stretch, by its first bytes: they have to shrink, and packing has
//! to be faster than the transfer so far. A way that is faster than a processor
//! packs is better off without.

use std::io;
use std::time::Duration;

use flocker_backends::ErrorClass;
use tokio::time::Instant;
use zstd::bulk::Compressor;

use crate::clock;
use crate::fault::Fault;
use crate::node_error::NodeError;
use crate::wire::packed_header;

/// The quickest level that is any good.
const LEVEL: i32 = 1;

/// How many bytes are tried at the beginning of a stretch.
const TRIAL: usize = 1 << 20;

/// How many bytes a decision holds for.
const STRETCH: usize = 64 << 20;

/// Packs the chunks of one transfer.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    frame: Vec<u8>,
    began: Instant,
    n_done: usize,
    stretch: Stretch,
}

/// A part of the transfer, of which it is tried at the beginning whether packing pays.
#[derive(Default)]
struct Stretch {
    n_bytes: usize,
    n_tried: usize,
    n_packed: usize,
    took: Duration,
    is_packed: bool,
}

impl Packer {
    /// Returns what packs the bytes of a transfer that begins now, if they leave this machine.
    pub(crate) fn of_what_leaves(leaves: bool) -> Result<Option<Self>, NodeError> {
        leaves
            .then(Self::new)
            .transpose()
            .map_err(|error| NodeError::Backend(Fault::with_class(&error, ErrorClass::Transient)))
    }

    /// Begins to pack a transfer that begins now.
    fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: Compressor::new(LEVEL)?,
            frame: Vec::new(),
            began: clock::now(),
            n_done: 0,
            stretch: Stretch::default(),
        })
    }

    /// Returns the whole frame of some bytes, packed; nothing where they had better go as they are.
    pub(crate) fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if self.stretch.n_bytes >= STRETCH {
            self.stretch = Stretch::default();
        }
        let is_trial = self.stretch.n_tried < TRIAL;
        self.stretch.n_bytes += bytes.len();
        self.n_done += bytes.len();
        if !is_trial && !self.stretch.is_packed {
            return None;
        }
        let began = clock::now();
        let n_packed = self.packed(bytes);
        if is_trial {
            self.stretch.n_tried += bytes.len();
            self.stretch.n_packed += n_packed.unwrap_or(bytes.len());
            self.stretch.took += began.elapsed();
            if self.stretch.n_tried >= TRIAL {
                self.stretch.is_packed = self.stretch.pays(self.n_done, self.began.elapsed());
            }
        }
        let n_packed = n_packed?;
        let header = packed_header(n_packed);
        self.frame[..header.len()].copy_from_slice(&header);
        Some(&self.frame[..header.len() + n_packed])
    }

    /// Packs behind the room for a header, and returns how many bytes it came to, if they are a tenth fewer.
    fn packed(&mut self, bytes: &[u8]) -> Option<usize> {
        let n_header = packed_header(0).len();
        let most = bytes.len() - bytes.len() / 10;
        self.frame.resize(n_header + most, 0);
        // What does not fit has not shrunk.
        self.compressor
            .compress_to_buffer(bytes, &mut self.frame[n_header..])
            .ok()
    }
}

impl Stretch {
    /// Says whether it shrank enough, and was packed faster than the transfer was so far.
    fn pays(&self, n_done: usize, elapsed: Duration) -> bool {
        let shrank = self.n_packed <= self.n_tried / 10 * 9;
        // One fifth faster: else it is packing itself that the transfer waits for.
        let packing = self.took.as_nanos() * n_done as u128 * 6;
        let sending = elapsed.as_nanos() * self.n_tried as u128 * 5;
        shrank && packing <= sending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Decoder;
    use crate::wire::Frame;
    use crate::wire::MAX_CHUNK;
    use crate::wire::unpack;

    fn text(n_bytes: usize) -> Vec<u8> {
        let words = (0_u32..).flat_map(|number| format!("line {number} of a log\n").into_bytes());
        words.take(n_bytes).collect()
    }

    /// Bytes of which none tells anything of the next.
    fn noise(n_bytes: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(next).flatten().take(n_bytes).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_packed_is_unpacked_to_the_same() {
        let mut packer = Packer::new().unwrap();
        let bytes = text(MAX_CHUNK);
        let frame = packer.pack(&bytes).unwrap();
        assert!(frame.len() < bytes.len() / 2, "{}", frame.len());
        let mut decoder = Decoder::default();
        decoder.feed(frame);
        let Some(Frame::Packed(shrunk)) = decoder.next_frame().unwrap() else {
            panic!("it is another frame");
        };
        assert!(decoder.is_at_end());
        assert_eq!(unpack(&shrunk).unwrap(), bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_shrink_goes_as_it_is_and_is_not_tried_for_long() {
        let mut packer = Packer::new().unwrap();
        let (noise, text) = (noise(MAX_CHUNK), text(MAX_CHUNK));
        for _ in 0..TRIAL / MAX_CHUNK {
            assert!(packer.pack(&noise).is_none());
        }
        assert!(packer.pack(&text).is_none(), "not in this stretch");
        for _ in TRIAL / MAX_CHUNK + 1..STRETCH / MAX_CHUNK {
            packer.pack(&noise);
        }
        assert!(packer.pack(&text).is_some(), "in the next it is tried again");
    }

    #[test]
    fn packing_pays_where_the_way_is_slower_than_a_processor() {
        let stretch = |took| Stretch {
            n_bytes: TRIAL,
            n_tried: TRIAL,
            n_packed: TRIAL / 3,
            took,
            is_packed: false,
        };
        let (quick, slow) = (Duration::from_millis(3), Duration::from_millis(30));
        assert!(stretch(quick).pays(TRIAL, slow));
        assert!(!stretch(slow).pays(TRIAL, slow), "it waits for the packing");
        assert!(!stretch(slow).pays(TRIAL, quick));
        let hardly = Stretch {
            n_packed: TRIAL / 100 * 95,
            ..stretch(quick)
        };
        assert!(!hardly.pays(TRIAL, slow));
    }
}
