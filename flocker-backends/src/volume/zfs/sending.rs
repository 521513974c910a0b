//! Sending a snapshot: what the tool writes, in our frame.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::task::Poll;

use flocker_model::Role;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::DuplexStream;
use tokio::io::ReadBuf;
use tokio::process::Child;
use tokio::process::ChildStdout;

use super::able::Blocks;
use super::frame::Begun;
use super::frame::CHUNK;
use super::frame::Header;
use super::frame::Token;
use super::roles::no_snapshot;
use super::seen::diverged;
use super::seen::guid_of;
use super::seen::wrong_role;
use super::shared::Shared;
use super::tool::Tool;
use crate::volume::ByteStream;
use crate::volume::SendRequest;
use crate::volume::VolumeError;

/// Opens the stream of a snapshot. The tool runs while it is read, and is killed when it is dropped.
pub(super) async fn open(shared: &Arc<Shared>, request: &SendRequest) -> Result<ByteStream, VolumeError> {
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
    };
    let begun = told.and_then(|token| token.begun);
    let begun = begun.filter(|begun| begun.guid == header.guid && begun.base == header.base);
    let sending = Sending {
        shared: Arc::clone(shared),
        snapshot: ours.full_name(&taken.name),
        base: base.map(|base| ours.full_name(&base.name)),
        header,
    };
    let (outlet, inlet) = tokio::io::duplex(2 * CHUNK);
    Ok(Box::pin(Driven {
        work: Some(Box::pin(sending.run(begun, outlet))),
        inlet,
    }))
}

/// A snapshot that is being sent.
struct Sending {
    shared: Arc<Shared>,
    snapshot: String,
    base: Option<String>,
    header: Header,
}

impl Sending {
    async fn run(mut self, begun: Option<Begun>, outlet: DuplexStream) -> io::Result<()> {
        if let Some(begun) = begun.filter(|begun| begun.kept > 0) {
            let mut source = self.start()?;
            if source.skip(begun.kept).await? == Some(begun.digest) {
                self.header.first = begun.kept;
                return source.deliver(&self.header, &self.shared.tool, outlet).await;
            }
            // What the receiver has is not the beginning of this: it begins anew.
        }
        let source = self.start()?;
        source.deliver(&self.header, &self.shared.tool, outlet).await
    }

    fn start(&self) -> io::Result<Source> {
        let (tool, base) = (&self.shared.tool, self.base.as_deref());
        let started = tool.send(&self.snapshot, base, self.header.blocks);
        let mut child = started.map_err(io::Error::other)?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        crate::process::widen(&stdout);
        Ok(Source {
            child,
            stdout,
            hasher: blake3::Hasher::new(),
        })
    }
}

/// What the tool writes, and the digest of what was read of it.
struct Source {
    child: Child,
    stdout: ChildStdout,
    hasher: blake3::Hasher,
}

impl Source {
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
    async fn deliver(mut self, header: &Header, tool: &Tool, mut outlet: DuplexStream) -> io::Result<()> {
        outlet.write_all(&header.encode()).await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let n_read = self.stdout.read(&mut buffer).await?;
            if n_read == 0 {
                break;
            }
            self.hasher.update(&buffer[..n_read]);
            outlet.write_all(&length(n_read)?).await?;
            outlet.write_all(&buffer[..n_read]).await?;
            outlet.write_all(self.hasher.finalize().as_bytes()).await?;
        }
        tool.finish(self.child).await.map_err(io::Error::other)?;
        outlet.write_all(&length(0)?).await?;
        outlet.write_all(self.hasher.finalize().as_bytes()).await
    }
}

fn length(n_bytes: usize) -> io::Result<[u8; 4]> {
    let length = u32::try_from(n_bytes).map_err(io::Error::other)?;
    Ok(length.to_be_bytes())
}

/// A stream whose writer runs only while somebody reads.
struct Driven<W> {
    work: Option<Pin<Box<W>>>,
    inlet: DuplexStream,
}

impl<W: Future<Output = io::Result<()>>> AsyncRead for Driven<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(done) = work.as_mut().poll(context)
        {
            self.work = None;
            done?;
        }
        Pin::new(&mut self.inlet).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(n_bytes: usize, then: io::Result<()>) -> (Vec<u8>, io::Result<usize>) {
        let (mut outlet, inlet) = tokio::io::duplex(16);
        let work = async move {
            outlet.write_all(&vec![7; n_bytes]).await?;
            then
        };
        let mut stream = Driven {
            work: Some(Box::pin(work)),
            inlet,
        };
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).await;
        (bytes, read)
    }

    #[tokio::test]
    async fn a_stream_is_written_while_it_is_read() {
        for n_bytes in [0, 1, 16, 17, 1000] {
            let (bytes, read) = written(n_bytes, Ok(())).await;
            assert_eq!(read.unwrap(), n_bytes);
            assert_eq!(bytes, vec![7; n_bytes]);
        }
    }

    #[tokio::test]
    async fn a_writer_that_fails_fails_the_stream() {
        let (_, read) = written(100, Err(io::ErrorKind::BrokenPipe.into())).await;
        read.unwrap_err();
    }
}
