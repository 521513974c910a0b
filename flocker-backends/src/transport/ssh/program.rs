//! The way by the program `ssh`: everything that the operator's configuration says is honoured.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::process::Child;
use tokio::process::ChildStderr;
use tokio::process::ChildStdin;
use tokio::process::ChildStdout;
use tokio::task::JoinSet;

use super::SshOptions;
use super::Target;
use super::arguments;
use crate::process::ProcessError;
use crate::process::Program;
use crate::process::Stream;

/// How much of what `ssh` says is kept.
const KEPT: usize = 16 * 1024;

/// How long an `ssh` whose output has ended may take to end itself.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The status with which `ssh` itself fails; any other is that of the command.
const SSH_FAILED: i32 = 255;

/// The input and output of a command on a host, by an `ssh` that ends with this value.
pub(super) struct Pipe {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    said: Arc<Mutex<Vec<u8>>>,
    listening: JoinSet<()>,
}

/// How an `ssh` ended.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Whether `ssh` itself failed, and not what it had started.
    pub(super) is_of_ssh: bool,
    /// What was said of it.
    pub(super) said: String,
}

/// Starts a command on a host.
pub(super) fn start(options: &SshOptions, target: &Target, command: &str) -> Result<Pipe, ProcessError> {
    let mut child = Program::new("ssh")
        .arguments(arguments::session(options, target, command))
        .variables(options.environment.clone())
        .stdin(Stream::Piped)
        .stdout(Stream::Piped)
        .stderr(Stream::Piped)
        // What the operator types at the terminal is for us, not for it.
        .own_group()
        .spawn()?;
    let lost = || ProcessError::Talk {
        program: "ssh".into(),
        source: io::ErrorKind::BrokenPipe.into(),
    };
    let stdin = child.stdin.take();
    let stdout = child.stdout.take().ok_or_else(lost)?;
    let stderr = child.stderr.take().ok_or_else(lost)?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut listening = JoinSet::new();
    listening.spawn(listen(stderr, Arc::clone(&said)));
    Ok(Pipe {
        child,
        stdin,
        stdout,
        said,
        listening,
    })
}

async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    loop {
        match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n_read) => {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                let room = KEPT.saturating_sub(said.len()).min(n_read);
                said.extend_from_slice(&buffer[..room]);
            }
        }
    }
}

impl Pipe {
    /// Waits for the end of an `ssh` that failed, and returns what it said.
    pub(super) async fn end(mut self) -> End {
        drop(self.stdin.take());
        let status = tokio::time::timeout(LAST_WORDS, self.child.wait()).await;
        // A shared connection that stays in the background may keep the stream open.
        drop(tokio::time::timeout(Duration::from_millis(200), self.listening.join_next()).await);
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        End {
            is_of_ssh: matches!(status, Ok(Ok(status)) if status.code() == Some(SSH_FAILED)),
            said: String::from_utf8_lossy(&said).into_owned(),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stdin) = &mut self.stdin else {
            return Poll::Ready(Ok(()));
        };
        let shut = Pin::new(stdin).poll_shutdown(context);
        if shut.is_ready() {
            self.stdin = None;
        }
        shut
    }
}
