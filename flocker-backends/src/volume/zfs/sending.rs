//! Sending a snapshot: what the tool writes, in our frame.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use bytes::Buf as _;
use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;
use flocker_model::ByteSize;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::ReadBuf;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::sync::mpsc;

use super::able::Blocks;
use super::begin;
use super::begin::Begin;
use super::frame::Begun;
use super::frame::CHUNK;
use super::frame::DIGEST;
use super::frame::Header;
use super::frame::LENGTH;
use super::frame::Pooling;
use super::frame::Token;
use super::partial::PoolToken;
use super::partial::Rest;
use super::roles::no_snapshot;
use super::seen::diverged;
use super::seen::guid_of;
use super::seen::wrong_role;
use super::shared::Shared;
use super::tool::Context as _;
use super::tool::Tool;
use crate::process::ProcessError;
use crate::volume::ByteStream;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

/// How long the way to where an earlier stream stopped may take: the receiver waits, and not much longer.
const SKIP: Duration = Duration::from_secs(40);

/// Opens the stream of a snapshot. The tool runs while it is read, and is killed when it is dropped.
pub(super) async fn open(shared: &Arc<Shared>, request: &SendRequest) -> Result<ByteStream, VolumeError> {
    let (sending, begun) = prepare(shared, request).await?;
    let (outlet, written) = mpsc::channel(1);
    Ok(Box::pin(Driven {
        work: Some(Box::pin(sending.run(begun, outlet))),
        written,
        current: Bytes::new(),
    }))
}

/// Asks the tool how much [`open`] would bring, where it says that beforehand.
pub(super) async fn size(
    shared: &Arc<Shared>,
    request: &SendRequest,
) -> Result<Option<ByteSize>, VolumeError> {
    if !shared.tool.able.estimates {
        return Ok(None);
    }
    let (sending, begun) = prepare(shared, request).await?;
    let size = sending.size(begun).await;
    let size = size.to(|| format!("ask how much `{}` is", sending.snapshot))?;
    Ok(size.map(ByteSize))
}

/// Finds what is to be sent, and what of it is said to have arrived.
async fn prepare(
    shared: &Arc<Shared>,
    request: &SendRequest,
) -> Result<(Sending, Option<Begun>), VolumeError> {
    let dataset = request.dataset;
    let seen = shared.look_for(dataset).await?;
    let ours = seen.require(dataset)?;
    match ours.standing.role {
        Role::Primary { .. } | Role::Released { .. } => {}
        Role::Replica => return Err(wrong_role(ours, "send")),
    }
    let taken = ours.snapshot(&request.snapshot);
    let taken = taken.ok_or_else(|| no_snapshot(dataset, &request.snapshot))?;
    let base = match request.base {
        None => None,
        Some(guid) => {
            let older = ours.filesystem.snapshots.iter();
            let mut older = older.filter(|other| other.transaction < taken.transaction);
            let found = older.find(|other| guid_of(other) == guid);
            let reason = || format!("{guid} is no snapshot from before {}", request.snapshot);
            Some(found.ok_or_else(|| diverged(dataset, reason()))?)
        }
    };
    let told = request.resume.as_deref().and_then(Token::parse);
    let known_there = told.as_ref().map_or(Blocks::default(), |token| token.takes);
    let header = Header {
        dataset,
        snapshot: request.snapshot.clone(),
        guid: guid_of(taken),
        base: request.base,
        first: 0,
        // What the receiver does not say that it takes, everybody takes in no other form than the plain one.
        blocks: shared.tool.able.sends.and(known_there),
        pooling: if shared.tool.able.sends_rests {
            Pooling::Possible
        } else {
            Pooling::Impossible
        },
    };
    let begun = told.and_then(|token| token.begun);
    let begun = begun.filter(|begun| {
        header.blocks == known_there
            && match begun {
                Begun::Beside(kept) => (kept.guid, kept.base) == (header.guid, header.base) && kept.kept > 0,
                // Whose it is the tool has to say.
                Begun::InPool(_) => true,
            }
    });
    let sending = Sending {
        shared: Arc::clone(shared),
        snapshot: ours.full_name(&taken.name),
        base: base.map(|base| ours.full_name(&base.name)),
        header,
    };
    Ok((sending, begun))
}

/// A snapshot that is being sent.
struct Sending {
    shared: Arc<Shared>,
    snapshot: String,
    base: Option<String>,
    header: Header,
}

impl Sending {
    async fn run(mut self, begun: Option<Begun>, outlet: mpsc::Sender<Bytes>) -> io::Result<()> {
        if let Some(begun) = begun {
            // What a pool has kept is much more, and may be reached the next time.
            let is_pooled = matches!(begun, Begun::InPool(_));
            match tokio::time::timeout(SKIP, self.go_on(begun)).await {
                Ok(Ok(Some(source))) => {
                    return source.deliver(&self.header, &self.shared.tool, outlet).await;
                }
                Ok(Err(error)) if is_pooled => return Err(error),
                Err(late) if is_pooled => return Err(late.into()),
                // What the receiver has is not the beginning of this, or is not reached soon enough: it begins anew.
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => {
                    let snapshot = &self.snapshot;
                    tracing::warn!(snapshot, %error, "a copy that was cut begins anew");
                }
            }
        }
        let source = self.start()?;
        source.deliver(&self.header, &self.shared.tool, outlet).await
    }

    /// Starts where the receiver has got to, if what it has is the beginning of this.
    async fn go_on(&mut self, begun: Begun) -> io::Result<Option<Source>> {
        match begun {
            Begun::Beside(kept) => {
                let mut source = self.start()?;
                let is_this = source.skip(kept.kept).await? == Some(kept.digest);
                if is_this {
                    self.header.first = kept.kept;
                }
                Ok(is_this.then_some(source))
            }
            Begun::InPool(token) => {
                let rest = self.usable(&token).await.map_err(io::Error::other)?;
                let Some(rest) = rest else {
                    return Ok(None);
                };
                let mut source = Source::of(self.shared.tool.send_rest(&token))?;
                // The tool has said what it would send, and this is what it does.
                if source.begin().await? != Some(self.rest_begins()) {
                    return Ok(None);
                }
                self.header.first = rest.arrived;
                self.header.pooling = Pooling::Rest(token.digest());
                Ok(Some(source))
            }
        }
    }

    /// Asks the tool what a token is of. Nothing where that is anything else than what is to be sent.
    async fn usable(&self, token: &PoolToken) -> Result<Option<Rest>, ProcessError> {
        let rest = self.shared.tool.rest_of(token).await?;
        let Header {
            guid, base, blocks, ..
        } = &self.header;
        Ok(rest.filter(|rest| {
            (rest.to, rest.from) == (*guid, *base)
                && rest.name == self.snapshot
                && blocks.cover(rest.blocks)
                && rest.is_here
        }))
    }

    /// What the rest of this has to begin with.
    fn rest_begins(&self) -> Begin {
        let word = |guid: SnapshotGuid| u64::try_from(guid.0).unwrap_or_default();
        Begin {
            to: word(self.header.guid),
            from: self.header.base.map(word),
            is_rest: true,
        }
    }

    /// Asks the tool how much there is to send.
    async fn size(&self, begun: Option<Begun>) -> Result<Option<u64>, ProcessError> {
        let arrived = match begun {
            None => 0,
            Some(Begun::Beside(kept)) => kept.kept,
            Some(Begun::InPool(token)) => match self.usable(&token).await? {
                Some(rest) => return Ok(rest.size),
                None => 0,
            },
        };
        let (tool, base) = (&self.shared.tool, self.base.as_deref());
        let all = tool
            .size_to_send(&self.snapshot, base, self.header.blocks)
            .await?;
        Ok(all.map(|all| all.saturating_sub(arrived)))
    }

    fn start(&self) -> io::Result<Source> {
        let (tool, base) = (&self.shared.tool, self.base.as_deref());
        Source::of(tool.send(&self.snapshot, base, self.header.blocks))
    }
}

/// What the tool writes, and the digest of what was read of it.
struct Source {
    child: Child,
    stdout: ChildStdout,
    hasher: blake3::Hasher,
    /// What was read of it and is not in the digest yet.
    ahead: Vec<u8>,
}

impl Source {
    fn of(started: Result<Child, ProcessError>) -> io::Result<Self> {
        let mut child = started.map_err(io::Error::other)?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            child,
            stdout,
            hasher: blake3::Hasher::new(),
            ahead: Vec::new(),
        })
    }

    /// Reads what it begins with, ahead of its being sent; nothing where that is not what a stream begins with.
    async fn begin(&mut self) -> io::Result<Option<Begin>> {
        let mut record = [0; begin::LENGTH];
        match self.stdout.read_exact(&mut record).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => drop(other?),
        }
        self.ahead = record.to_vec();
        Ok(Begin::parse(&record).ok())
    }

    /// Passes over so many bytes and returns their digest; nothing where there are fewer.
    async fn skip(&mut self, n_bytes: u64) -> io::Result<Option<blake3::Hash>> {
        let mut left = n_bytes;
        let mut buffer = vec![0; CHUNK];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let n_read = self.stdout.read(&mut buffer[..most]).await?;
            if n_read == 0 {
                return Ok(None);
            }
            self.hasher.update(&buffer[..n_read]);
            left -= n_read as u64;
        }
        Ok(Some(self.hasher.finalize()))
    }

    /// Writes the rest in our frame. Only a tool that ended well gets a trailer.
    async fn deliver(mut self, header: &Header, tool: &Tool, outlet: mpsc::Sender<Bytes>) -> io::Result<()> {
        let write = async |bytes: Bytes| outlet.send(bytes).await.map_err(|_| io::ErrorKind::BrokenPipe);
        write(header.encode().into()).await?;
        let mut chunk = BytesMut::new();
        loop {
            chunk.reserve(LENGTH + CHUNK + DIGEST);
            // What the tool wrote is read to where it is sent from.
            chunk.put_u32(0);
            let n_read = if self.ahead.is_empty() {
                (&mut self.stdout).take(CHUNK as u64).read_buf(&mut chunk).await?
            } else {
                let ahead = mem::take(&mut self.ahead);
                chunk.extend_from_slice(&ahead);
                ahead.len()
            };
            if n_read == 0 {
                break;
            }
            let length = u32::try_from(n_read).map_err(io::Error::other)?;
            chunk[..LENGTH].copy_from_slice(&length.to_be_bytes());
            self.hasher.update(&chunk[LENGTH..]);
            chunk.extend_from_slice(self.hasher.finalize().as_bytes());
            write(chunk.split().freeze()).await?;
        }
        tool.finish(self.child).await.map_err(io::Error::other)?;
        // The length that was left open is the 0 of the end.
        chunk.extend_from_slice(self.hasher.finalize().as_bytes());
        Ok(write(chunk.freeze()).await?)
    }
}

/// A stream whose writer runs only while somebody reads.
struct Driven<W> {
    work: Option<Pin<Box<W>>>,
    written: mpsc::Receiver<Bytes>,
    /// What of it was not read yet.
    current: Bytes,
}

impl<W: Future<Output = io::Result<()>>> AsyncRead for Driven<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            if let Some(work) = &mut self.work
                && let Poll::Ready(done) = work.as_mut().poll(context)
            {
                self.work = None;
                done?;
            }
            match ready!(self.written.poll_recv(context)) {
                Some(bytes) => self.current = bytes,
                None => return Poll::Ready(Ok(())),
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

    async fn written(chunks: Vec<Vec<u8>>, then: io::Result<()>) -> (Vec<u8>, io::Result<usize>) {
        let (outlet, written) = mpsc::channel(1);
        let work = async move {
            for chunk in chunks {
                outlet
                    .send(chunk.into())
                    .await
                    .map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
            then
        };
        let mut stream = Driven {
            work: Some(Box::pin(work)),
            written,
            current: Bytes::new(),
        };
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).await;
        (bytes, read)
    }

    #[tokio::test]
    async fn a_stream_is_written_while_it_is_read() {
        for n_chunks in [0, 1, 2, 3, 100] {
            let chunks: Vec<Vec<u8>> = (0..n_chunks).map(|n| vec![n; usize::from(n) * 100]).collect();
            let all = chunks.concat();
            let (bytes, read) = written(chunks, Ok(())).await;
            assert_eq!(read.unwrap(), all.len());
            assert_eq!(bytes, all);
        }
    }

    #[tokio::test]
    async fn a_writer_that_fails_fails_the_stream() {
        let chunks = vec![vec![7; 100]; 3];
        let (_, read) = written(chunks, Err(io::ErrorKind::BrokenPipe.into())).await;
        read.unwrap_err();
    }
}
