//! What an application says: the journal has it, of every container that it ever had.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::ReadBuf;
use tokio::process::Child;
use tokio::process::ChildStdout;

use crate::process::ProcessError;
use crate::process::Program;
use crate::process::Stream;
use crate::runtime::LogRequest;
use crate::volume::ByteStream;

/// How long the journal may take to say whether it has anything.
const ANSWER: Duration = Duration::from_secs(30);

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
    pub(super) fn open(
        &self,
        unit: &str,
        name: &str,
        request: LogRequest,
    ) -> Result<ByteStream, ProcessError> {
        let mut program = self.reader(unit, name);
        if let Some(lines) = request.tail {
            program = program.argument(format!("--lines={lines}"));
        }
        if request.follow {
            program = program.argument("--follow");
            if request.tail.is_none() {
                program = program.argument("--no-tail");
            }
        }
        let mut reader = program.stdout(Stream::Piped).spawn()?;
        let Some(output) = reader.stdout.take() else {
            return Ok(Box::pin(tokio::io::empty()));
        };
        Ok(Box::pin(Reading {
            output,
            _reader: reader,
        }))
    }

    /// Says whether a unit's application has ever said anything.
    pub(super) async fn has_any(&self, unit: &str, name: &str) -> Result<bool, ProcessError> {
        let program = self.reader(unit, name).argument("--lines=1");
        let said = program.run(b"", 1 << 20, ANSWER).await?.success()?;
        Ok(!said.is_empty())
    }

    /// Only what came from the application: not what systemd says of the unit, nor who stops it.
    fn reader(&self, unit: &str, name: &str) -> Program {
        Program::new(&self.program)
            .argument("--quiet")
            .argument("--no-pager")
            .argument("--output=cat")
            .argument("--all")
            .argument(format!("_SYSTEMD_UNIT={unit}"))
            .argument(format!("SYSLOG_IDENTIFIER={name}"))
    }
}

/// The output of a program that is killed when nobody reads it any more.
struct Reading {
    output: ChildStdout,
    _reader: Child,
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}
