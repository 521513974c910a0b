//! The way to a node on a real machine: SSH, and nothing installed there before.
//!
//! Our own program is copied to the node, proved to be whole, and started;
//! see [`NodeProgram`]. What then comes and goes are the bytes of that
//! program, which is told to talk on its input and output.
//!
//! Host keys are checked as strictly as can be, and nothing here can weaken
//! that: a host whose key is not known yet, or not the known one, is refused.

mod arguments;
mod bootstrap;
#[cfg(feature = "ssh2")]
mod choice;
pub mod effective;
#[cfg(feature = "ssh2")]
mod known;
#[cfg(feature = "ssh2")]
mod lane;
#[cfg(feature = "ssh2")]
mod library;
mod payload;
mod program;
mod refusal;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use flocker_model::NodeAddress;
use flocker_model::PortNumber;
use nix::unistd::Uid;
use tokio::sync::OnceCell;

use self::bootstrap::Setback;
pub use self::effective::Effective;
pub use self::payload::NodeProgram;
use self::program::End;
use crate::process::Output;
use crate::process::Program;
use crate::transport::Channel;
use crate::transport::Purpose;
use crate::transport::Transport;
use crate::transport::TransportError;

/// How long `ssh` may take to read its own configuration.
const READING: Duration = Duration::from_secs(10);

/// How much it may say of it.
const LONGEST_ANSWER: usize = 256 * 1024;

/// How nodes are reached by SSH.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SshOptions {
    /// The configuration that is read in place of the operator's and the machine's own.
    pub configuration: Option<PathBuf>,
    /// The environment of `ssh`: what it needs to find its configuration, keys and agent.
    pub environment: Vec<(OsString, OsString)>,
    /// Where the sockets of shared connections are, a directory for us alone; nothing to share none.
    pub control_directory: Option<PathBuf>,
    /// How long a host may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a host may take to answer after that.
    pub answer_timeout: Duration,
    /// How long a shared connection is kept that nobody uses.
    pub keep_connection: Duration,
}

impl SshOptions {
    /// 10 seconds to connect, 15 to answer; connections are not shared until a directory for that is named.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "an environment is to be thought of")]
    pub fn new() -> Self {
        Self {
            configuration: None,
            environment: Vec::new(),
            control_directory: None,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(15),
            keep_connection: Duration::from_secs(60),
        }
    }
}

/// A host, as the files name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    host: String,
    user: Option<String>,
    port: Option<PortNumber>,
}

/// Reaches nodes by SSH.
#[derive(Debug)]
pub struct SshTransport {
    options: SshOptions,
    program: NodeProgram,
    /// What `ssh` does without any configuration, which is the same for each host.
    default: OnceCell<String>,
    #[cfg(feature = "ssh2")]
    hosts: choice::Hosts,
}

impl SshTransport {
    /// Takes what is copied to nodes and how they are reached. Nothing is opened or started yet.
    #[must_use]
    pub fn new(options: SshOptions, program: NodeProgram) -> Self {
        Self {
            options,
            program,
            default: OnceCell::new(),
            #[cfg(feature = "ssh2")]
            hosts: choice::Hosts::default(),
        }
    }

    /// Returns the options of one connection: shared only where their sockets are nobody else's business.
    fn options(&self) -> Cow<'_, SshOptions> {
        match &self.options.control_directory {
            Some(directory) => match make_private(directory) {
                Ok(()) => Cow::Borrowed(&self.options),
                Err(error) => {
                    tracing::warn!(%error, "connections are not shared");
                    let mut options = self.options.clone();
                    options.control_directory = None;
                    Cow::Owned(options)
                }
            },
            None => Cow::Borrowed(&self.options),
        }
    }

    /// Returns what is copied to nodes.
    #[must_use]
    pub fn program(&self) -> &NodeProgram {
        &self.program
    }

    /// Returns what `ssh` would do for a node.
    pub async fn effective(&self, node: &NodeAddress) -> Result<Effective, TransportError> {
        self.ask(target(node)?).await
    }

    async fn ask(&self, target: Target) -> Result<Effective, TransportError> {
        let answer = self.answer(arguments::question(&self.options, &target)).await?;
        let default = self.default.get_or_try_init(|| self.default()).await?;
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        let understood = answer
            .success()
            .ok()
            .and_then(|answer| Effective::parse(&String::from_utf8_lossy(&answer), default));
        understood.ok_or_else(|| TransportError::Refused {
            host: target.host,
            said: refusal::repeat(&said),
        })
    }

    /// Asks what `ssh` does without any configuration. Where it does not say, nothing counts as being so.
    async fn default(&self) -> Result<String, TransportError> {
        let answer = self.answer(arguments::question_without_configuration()).await?;
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    async fn answer(&self, arguments: Vec<OsString>) -> Result<Output, TransportError> {
        let asked = Program::new("ssh")
            .arguments(arguments)
            .variables(self.options.environment.clone())
            .run(b"", LONGEST_ANSWER, READING)
            .await;
        asked.map_err(|source| TransportError::Program { source })
    }

    async fn by_program(&self, target: &Target) -> Result<Channel, TransportError> {
        let unreadable = |source| TransportError::OwnProgram { source };
        let command = bootstrap::command(self.program.content().await.map_err(unreadable)?);
        let mut pipe = program::start(&self.options(), target, &command)
            .map_err(|source| TransportError::Program { source })?;
        let limit = self.options.connect_timeout + self.options.answer_timeout;
        let Err(setback) = bootstrap::bring(&mut pipe, &self.program, limit).await else {
            return Ok(Box::new(pipe));
        };
        let is_over = matches!(setback, Setback::Ended | Setback::Damaged);
        let end = if is_over { pipe.end().await } else { End::default() };
        Err(match (setback, end.is_of_ssh) {
            (Setback::Ended, true) => refusal::read(&target.host, &end.said),
            (setback, _) => setback.explain(&target.host, &end.said),
        })
    }
}

/// Makes a directory that only we may enter, or sees that it is one.
fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let found = std::fs::symlink_metadata(directory)?;
    let of_others = found.mode() & 0o077;
    if found.is_dir() && found.uid() == Uid::effective().as_raw() && of_others == 0 {
        return Ok(());
    }
    let what = format!("others may enter `{}`", directory.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

fn target(node: &NodeAddress) -> Result<Target, TransportError> {
    match node {
        NodeAddress::Ssh { host, user, port } => Ok(Target {
            host: host.clone(),
            user: user.clone(),
            port: *port,
        }),
        NodeAddress::Local { directory } => Err(TransportError::Unsupported {
            address: format!("`{}`", directory.display()),
        }),
    }
}

#[async_trait]
impl Transport for SshTransport {
    /// Opens a byte pipe to our program on a host, which is copied there where it is missing.
    ///
    /// Each pipe is one of its own; they share a connection where the options
    /// say so. Dropped half way, no copy remains that is not whole.
    async fn open(&self, node: &NodeAddress, _purpose: Purpose) -> Result<Channel, TransportError> {
        let target = target(node)?;
        #[cfg(feature = "ssh2")]
        if let Some(opened) = self.by_library(&target).await {
            return opened;
        }
        self.by_program(&target).await
    }
}
