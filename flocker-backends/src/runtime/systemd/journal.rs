//! What an application says: the journal has it, of every container that it ever had.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::io::ReadBuf;
use tokio::process::Child;
use tokio::process::ChildStdout;
use tokio::task::JoinSet;

use crate::process::ProcessError;
use crate::process::Program;
use crate::process::Stream;
use crate::volume::ByteStream;

/// How long the journal may take to say whether it has anything.
const ANSWER: Duration = Duration::from_secs(30);

/// For how long the journal has to have nothing more, after an application has ended, before that is all.
const QUIET: Duration = Duration::from_secs(1);

/// How much of what an application says waits for whoever follows it.
const AHEAD: usize = 64 * 1024;

/// The program that reads the journal.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    program: PathBuf,
}

impl Journal {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Opens what a unit's application has said, oldest first.
    pub(super) fn open(&self, unit: &str, name: &str, tail: Option<u32>) -> Result<ByteStream, ProcessError> {
        let (output, reader) = self.start(self.reader(unit, name, tail))?;
        Ok(Box::pin(Reading {
            output,
            _reader: reader,
        }))
    }

    /// Opens what a unit's application has said and says, until it has ended. Dropped, nobody waits for that end any more.
    pub(super) fn follow(
        &self,
        unit: &str,
        name: &str,
        tail: Option<u32>,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<ByteStream, ProcessError> {
        let mut program = self.reader(unit, name, tail).argument("--follow");
        if tail.is_none() {
            program = program.argument("--no-tail");
        }
        let (output, reader) = self.start(program)?;
        let (into, followed) = tokio::io::duplex(AHEAD);
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            if let Err(error) = pass_on(output, into, end).await {
                tracing::debug!(%error, "the journal is not followed any more");
            }
            drop(reader);
        });
        Ok(Box::pin(Reading {
            output: followed,
            _reader: passing,
        }))
    }

    /// Says whether a unit's application has ever said anything.
    pub(super) async fn has_any(&self, unit: &str, name: &str) -> Result<bool, ProcessError> {
        let program = self.reader(unit, name, Some(1));
        let said = program.run(b"", 1 << 20, ANSWER).await?.success()?;
        Ok(!said.is_empty())
    }

    fn start(&self, program: Program) -> Result<(ChildStdout, Child), ProcessError> {
        let mut reader = program.stdout(Stream::Piped).spawn()?;
        let output = reader.stdout.take().ok_or_else(|| ProcessError::Talk {
            program: self.program.clone(),
            source: io::ErrorKind::BrokenPipe.into(),
        })?;
        Ok((output, reader))
    }

    /// Only what came from the application: not what systemd says of the unit, nor who stops it.
    fn reader(&self, unit: &str, name: &str, tail: Option<u32>) -> Program {
        let lines = tail.map(|lines| format!("--lines={lines}"));
        Program::new(&self.program)
            .argument("--quiet")
            .argument("--no-pager")
            .argument("--output=cat")
            .argument("--all")
            .arguments(lines)
            .argument(format!("_SYSTEMD_UNIT={unit}"))
            .argument(format!("SYSLOG_IDENTIFIER={name}"))
    }
}

/// Passes on what comes, and after the end whatever of it the journal has not shown yet.
async fn pass_on(
    mut output: impl AsyncRead + Unpin,
    mut into: impl AsyncWrite + Unpin,
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    tokio::pin!(end);
    let mut has_ended = false;
    let mut bytes = vec![0; 8 * 1024];
    loop {
        tokio::select! {
            read = output.read(&mut bytes) => match read? {
                0 => return Ok(()),
                n_bytes => into.write_all(&bytes[..n_bytes]).await?,
            },
            () = &mut end, if !has_ended => has_ended = true,
            () = tokio::time::sleep(QUIET), if has_ended => return Ok(()),
        }
    }
}

/// What a program or a task gives, for as long as somebody reads it: dropped, both end.
struct Reading<O, R> {
    output: O,
    _reader: R,
}

impl<O: AsyncRead + Unpin, R: Unpin> AsyncRead for Reading<O, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_the_journal_shows_late_comes_before_the_end() {
        let (mut journal, output) = tokio::io::duplex(64);
        let (into, mut followed) = tokio::io::duplex(64);
        let (end, ended) = oneshot::channel::<()>();
        let passing = tokio::spawn(pass_on(output, into, async { drop(ended.await) }));
        journal.write_all(b"one ").await.unwrap();
        let mut text = vec![0; 4];
        followed.read_exact(&mut text).await.unwrap();
        end.send(()).unwrap();
        for late in ["two ", "three"] {
            tokio::time::sleep(QUIET / 20).await;
            journal.write_all(late.as_bytes()).await.unwrap();
        }
        followed.read_to_end(&mut text).await.unwrap();
        assert_eq!(text, b"one two three");
        passing.await.unwrap().unwrap();
    }
}
