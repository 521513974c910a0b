//! Frames over a byte pipe.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::ReadBuf;
use tokio::sync::mpsc;

use super::WireError;
use super::frame;
use super::frame::Decoder;
use super::frame::Frame;
use super::frame::MAX_CHUNK;
use super::frame::MAX_FRAME;
use super::frame::MAX_MESSAGE;

/// How many bytes are read at once, at most.
const READ: usize = 64 << 10;

/// Something that came in whole.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A program's first words.
    Hello(Bytes),
    /// A message, put together from its parts.
    Message(Bytes),
    /// Bytes of a snapshot.
    Chunk(Bytes),
    /// Bytes of a snapshot, packed.
    Packed(Bytes),
    /// Bytes of an output.
    Output { id: u64, bytes: Bytes },
}

/// Reads from a pipe. Its methods may be dropped at any time; nothing is lost.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    pipe: R,
    decoder: Decoder,
    parts: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(pipe: R) -> Self {
        Self {
            pipe,
            decoder: Decoder::default(),
            parts: BytesMut::new(),
        }
    }

    /// Returns the pipe, from which nothing was read that [`FrameReader::next`] has not returned.
    pub(crate) fn into_pipe(self) -> Result<R, WireError> {
        if self.decoder.is_at_end() && self.parts.is_empty() {
            Ok(self.pipe)
        } else {
            Err(WireError::Unexpected { what: "a frame" })
        }
    }

    /// Returns what comes next, or nothing where the other side has closed the pipe properly.
    pub(crate) async fn next(&mut self) -> Result<Option<Incoming>, WireError> {
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                let is_mid_message = !self.parts.is_empty();
                match frame {
                    Frame::Part(bytes) => self.add(&bytes)?,
                    Frame::Last(bytes) if is_mid_message => {
                        self.add(&bytes)?;
                        return Ok(Some(Incoming::Message(self.parts.split().freeze())));
                    }
                    Frame::Last(bytes) => return Ok(Some(Incoming::Message(bytes))),
                    Frame::Hello(_) | Frame::Chunk(_) | Frame::Packed(_) | Frame::Output { .. }
                        if is_mid_message =>
                    {
                        return Err(WireError::Unexpected {
                            what: "another frame in the middle of a message",
                        });
                    }
                    Frame::Hello(bytes) => return Ok(Some(Incoming::Hello(bytes))),
                    Frame::Chunk(bytes) => return Ok(Some(Incoming::Chunk(bytes))),
                    Frame::Packed(bytes) => return Ok(Some(Incoming::Packed(bytes))),
                    Frame::Output { id, bytes } => return Ok(Some(Incoming::Output { id, bytes })),
                }
            }
            // Room is made for what one read may bring, never for what a length says is to come.
            self.decoder.arrived.reserve(READ);
            let n_read = self
                .pipe
                .read_buf(&mut self.decoder.arrived)
                .await
                .map_err(WireError::Io)?;
            if n_read == 0 {
                return if self.decoder.is_at_end() && self.parts.is_empty() {
                    Ok(None)
                } else {
                    Err(WireError::Cut)
                };
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let length = self.parts.len() + bytes.len();
        if length > MAX_MESSAGE {
            return Err(WireError::TooLong {
                length,
                limit: MAX_MESSAGE,
            });
        }
        self.parts.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes to a pipe. A write that is dropped half way leaves the pipe unusable.
#[derive(Debug)]
pub(crate) struct FrameWriter<W>(W);

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(crate) fn new(pipe: W) -> Self {
        Self(pipe)
    }

    pub(crate) fn into_pipe(self) -> W {
        self.0
    }

    pub(crate) async fn frame(&mut self, frame: &Frame) -> Result<(), WireError> {
        self.0.write_all(&frame.encode()).await.map_err(WireError::Io)
    }

    /// Writes a message, in as many frames as it needs.
    pub(crate) async fn message(&mut self, text: &[u8]) -> Result<(), WireError> {
        if text.len() > MAX_MESSAGE {
            return Err(WireError::TooLong {
                length: text.len(),
                limit: MAX_MESSAGE,
            });
        }
        let mut rest = text;
        loop {
            let (part, after) = rest.split_at(rest.len().min(MAX_FRAME - 1));
            // Header and text in one write: what is written apart may travel apart.
            let header = frame::message_header(part.len(), after.is_empty());
            let frame = [&header, part].concat();
            self.0.write_all(&frame).await.map_err(WireError::Io)?;
            if after.is_empty() {
                return Ok(());
            }
            rest = after;
        }
    }

    /// Writes bytes that [`read_chunk`] has read.
    pub(crate) async fn chunk(&mut self, chunk: &[u8]) -> Result<(), WireError> {
        self.0.write_all(chunk).await.map_err(WireError::Io)
    }

    pub(crate) async fn flush(&mut self) -> Result<(), WireError> {
        self.0.flush().await.map_err(WireError::Io)
    }

    pub(crate) async fn close(&mut self) -> Result<(), WireError> {
        self.0.shutdown().await.map_err(WireError::Io)
    }
}

/// Reads at most `most` bytes of a snapshot into `frame`, behind the header of their frame, and returns how many there were.
///
/// They are read where they are sent from, so that bulk data is copied once.
pub(crate) async fn read_chunk(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    most: usize,
    frame: &mut BytesMut,
) -> io::Result<usize> {
    frame.clear();
    frame.reserve(frame::HEADER + MAX_CHUNK);
    frame.extend_from_slice(&frame::chunk_header(0));
    let limit = frame::HEADER + most.clamp(1, MAX_CHUNK);
    let mut n_bytes = 0;
    // A stream that trickles is sent as it comes, one that flows in full frames.
    while frame.len() < limit {
        let room = (limit - frame.len()) as u64;
        let read = (&mut *stream).take(room).read_buf(frame).await?;
        n_bytes += read;
        if read == 0 || read < READ / 8 {
            break;
        }
    }
    frame[..frame::HEADER].copy_from_slice(&frame::chunk_header(n_bytes));
    Ok(n_bytes)
}

/// Returns the bytes of a snapshot in a frame that [`read_chunk`] has read.
pub(crate) fn chunk_bytes(frame: &[u8]) -> &[u8] {
    frame.get(frame::HEADER..).unwrap_or_default()
}

/// Unpacks the bytes of one frame. What would be more than a frame may carry unpacked is refused.
pub(crate) fn unpack(packed: &[u8]) -> Result<Bytes, WireError> {
    zstd::bulk::decompress(packed, MAX_CHUNK)
        .map(Bytes::from)
        .map_err(|_| WireError::Invalid {
            what: "a packed chunk",
        })
}

/// One piece of a byte stream that is handed over.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some of its bytes.
    Bytes(Bytes),
    /// That was all.
    End,
    /// The rest never comes.
    Broken(io::Error),
}

/// Makes a byte stream of pieces that are handed over one by one, at most `depth` ahead.
pub(crate) fn chunk_pipe(depth: usize) -> (mpsc::Sender<Piece>, ChunkReader) {
    let (sender, pieces) = mpsc::channel(depth);
    let reader = ChunkReader {
        pieces,
        current: Bytes::new(),
        has_ended: false,
    };
    (sender, reader)
}

/// The reading end of a [`chunk_pipe`]. Where the other end is dropped before it said that this was all, reading fails.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    has_ended: bool,
}

impl AsyncRead for ChunkReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() && !self.has_ended {
            match ready!(self.pieces.poll_recv(context)) {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.has_ended = true,
                Some(Piece::Broken(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let n_bytes = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..n_bytes]);
        self.current.advance(n_bytes);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_was_not_ended_is_not_taken_for_whole() {
        let (sender, mut reader) = chunk_pipe(4);
        sender.send(Piece::Bytes("abc".into())).await.unwrap();
        sender.send(Piece::Bytes(Bytes::new())).await.unwrap();
        drop(sender);
        let mut text = String::new();
        assert!(reader.read_to_string(&mut text).await.is_err());

        let (sender, mut reader) = chunk_pipe(4);
        sender.send(Piece::Bytes("abc".into())).await.unwrap();
        sender.send(Piece::End).await.unwrap();
        let mut text = String::new();
        assert_eq!(reader.read_to_string(&mut text).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_long_message_is_put_together_and_an_endless_one_is_refused() {
        let (ours, theirs) = tokio::io::duplex(4096);
        let text = vec![b'x'; 3 * MAX_FRAME];
        let mut writer = FrameWriter::new(ours);
        let mut reader = FrameReader::new(theirs);
        let (written, read) = tokio::join!(writer.message(&text), reader.next());
        written.unwrap();
        assert!(matches!(read, Ok(Some(Incoming::Message(message))) if message == text));

        let part = Frame::Part(vec![b'x'; MAX_FRAME - 1].into());
        let endless = async { while writer.frame(&part).await.is_ok() {} };
        let read = async {
            let read = reader.next().await;
            drop(reader);
            read
        };
        let ((), read) = tokio::join!(endless, read);
        assert!(matches!(read, Err(WireError::TooLong { .. })));
    }
}
