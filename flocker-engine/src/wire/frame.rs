//! Frames: a length of four bytes, a kind of one byte, and what it carries.

use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;

use super::WireError;

/// How long a frame may be that carries part of a message.
pub const MAX_FRAME: usize = 1 << 20;

/// How many bytes of a snapshot or a log one frame may carry.
pub const MAX_CHUNK: usize = 256 << 10;

/// How long a message may be in all its frames.
pub const MAX_MESSAGE: usize = 64 << 20;

/// The bytes before what a frame carries: its length, which counts its kind too, and its kind.
pub(crate) const HEADER: usize = 5;

const HELLO: u8 = 1;
const PART: u8 = 2;
const LAST: u8 = 3;
const CHUNK: u8 = 4;
const OUTPUT: u8 = 5;
const PACKED: u8 = 6;

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A program's first words; the same in every version of the protocol.
    Hello(Bytes),
    /// A part of a message; more follows at once.
    Part(Bytes),
    /// The last part of a message, or all of it.
    Last(Bytes),
    /// Bytes of a snapshot.
    Chunk(Bytes),
    /// Bytes of a snapshot, packed. From version 2.
    Packed(Bytes),
    /// Bytes of the output that was asked for by the request of this id.
    Output {
        /// The request.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
}

impl Frame {
    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, id, bytes) = match self {
            Self::Hello(bytes) => (HELLO, None, bytes),
            Self::Part(bytes) => (PART, None, bytes),
            Self::Last(bytes) => (LAST, None, bytes),
            Self::Chunk(bytes) => (CHUNK, None, bytes),
            Self::Packed(bytes) => (PACKED, None, bytes),
            Self::Output { id, bytes } => (OUTPUT, Some(*id), bytes),
        };
        let mut written = Vec::with_capacity(HEADER + 8 + bytes.len());
        written.extend(header(kind, bytes.len() + id.map_or(0, |_| 8)));
        if let Some(id) = id {
            written.extend(id.to_be_bytes());
        }
        written.extend_from_slice(bytes);
        written
    }
}

fn header(kind: u8, n_bytes: usize) -> [u8; HEADER] {
    // No caller has more than fits: every kind has its limit.
    let length = u32::try_from(n_bytes + 1).unwrap_or(u32::MAX).to_be_bytes();
    [length[0], length[1], length[2], length[3], kind]
}

/// Returns the first bytes of a frame with so many bytes of a snapshot.
pub(crate) fn chunk_header(n_bytes: usize) -> [u8; HEADER] {
    header(CHUNK, n_bytes)
}

/// Returns the first bytes of a frame with so many packed bytes of a snapshot.
pub(crate) fn packed_header(n_bytes: usize) -> [u8; HEADER] {
    header(PACKED, n_bytes)
}

/// Returns the first bytes of a frame with so many bytes of a message.
pub(crate) fn message_header(n_bytes: usize, is_last: bool) -> [u8; HEADER] {
    header(if is_last { LAST } else { PART }, n_bytes)
}

/// Cuts frames out of bytes as they arrive, in pieces of any length.
#[derive(Debug, Default)]
pub struct Decoder {
    pub(crate) arrived: BytesMut,
}

impl Decoder {
    /// Takes bytes that have arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.arrived.extend_from_slice(bytes);
    }

    /// Says whether the bytes so far end with a whole frame.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.arrived.is_empty()
    }

    /// Returns the next frame, or nothing until more bytes have arrived.
    ///
    /// A frame that is too long is refused by its first five bytes. After an
    /// error nothing more can be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let &[a, b, c, d, kind, ..] = &self.arrived[..] else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let limit = match kind {
            HELLO | PART | LAST => MAX_FRAME,
            CHUNK | PACKED => MAX_CHUNK + 1,
            OUTPUT => MAX_CHUNK + 9,
            other => return Err(WireError::UnknownKind(other)),
        };
        if length > limit {
            return Err(WireError::TooLong { length, limit });
        }
        if length == 0 || (kind == OUTPUT && length < 9) {
            return Err(WireError::TooShort);
        }
        if self.arrived.len() < 4 + length {
            return Ok(None);
        }
        let mut bytes = self.arrived.split_to(4 + length).freeze();
        bytes.advance(HEADER);
        Ok(Some(match kind {
            HELLO => Frame::Hello(bytes),
            PART => Frame::Part(bytes),
            LAST => Frame::Last(bytes),
            CHUNK => Frame::Chunk(bytes),
            PACKED => Frame::Packed(bytes),
            _ => Frame::Output {
                id: bytes.get_u64(),
                bytes,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let frame = prop_oneof![
            bytes().prop_map(Frame::Hello),
            bytes().prop_map(Frame::Part),
            bytes().prop_map(Frame::Last),
            bytes().prop_map(Frame::Chunk),
            bytes().prop_map(Frame::Packed),
            (any::<u64>(), bytes()).prop_map(|(id, bytes)| Frame::Output { id, bytes }),
        ];
        proptest::collection::vec(frame, 0..8)
    }

    proptest! {
        #[test]
        fn frames_arrive_as_they_were_written_in_pieces_of_any_length(frames in frames(), piece in 1_usize..64) {
            let written: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
            let mut decoder = Decoder::default();
            let mut arrived = Vec::new();
            for piece in written.chunks(piece) {
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    arrived.push(frame);
                }
            }
            prop_assert!(decoder.is_at_end());
            prop_assert_eq!(arrived, frames);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_has_arrived() {
        for (kind, limit) in [(LAST, MAX_FRAME), (CHUNK, MAX_CHUNK + 1), (PACKED, MAX_CHUNK + 1)] {
            let mut decoder = Decoder::default();
            let length = u32::try_from(limit + 1).unwrap().to_be_bytes();
            decoder.feed(&length);
            decoder.feed(&[kind]);
            assert!(matches!(decoder.next_frame(), Err(WireError::TooLong { .. })));
        }
        let mut decoder = Decoder::default();
        decoder.feed(&[0, 0, 0, 1, 99]);
        assert!(matches!(decoder.next_frame(), Err(WireError::UnknownKind(99))));
    }
}
