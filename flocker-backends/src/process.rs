//! Programs of this machine: the one place where any is started.
//!
//! A [`Program`] is a path and a list of arguments; no shell ever reads them.
//! Its environment is empty but for what is given, so that nothing of ours
//! leaks into it by accident. The log names the program and counts its
//! arguments; it never shows a value of the environment.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the file in which programs are spawned"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::AccessFlags;
use nix::unistd::Pid;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::process::ChildStdin;

use crate::class::Classify;
use crate::class::ErrorClass;

/// Where programs are looked for when their environment has no `PATH`.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of what a program says of its errors is kept.
const KEPT_ERRORS: usize = 64 * 1024;

/// What a standard stream of a program is connected to.
#[derive(Debug)]
pub enum Stream {
    /// Nothing.
    Null,
    /// A pipe to us.
    Piped,
    /// This open file, pipe or socket.
    Descriptor(OwnedFd),
}

impl From<Stream> for Stdio {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Null => Self::null(),
            Stream::Piped => Self::piped(),
            Stream::Descriptor(descriptor) => Self::from(descriptor),
        }
    }
}

/// A program that is about to be started.
///
/// All its streams are [`Stream::Null`] and its environment is empty unless said otherwise.
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: Option<PathBuf>,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    own_group: bool,
    until_gone: bool,
}

impl fmt::Debug for Program {
    /// Shows what the log may show: never an argument, never a value of the environment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("path", &self.path)
            .field("n_arguments", &self.arguments.len())
            .finish_non_exhaustive()
    }
}

impl Program {
    /// Names a program: by its path, or, without any `/`, by its name in the `PATH` that it is given.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            path: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
            stdin: Stream::Null,
            stdout: Stream::Null,
            stderr: Stream::Null,
            own_group: false,
            until_gone: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment, which is empty otherwise.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Adds variables to the environment.
    #[must_use]
    pub fn variables<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        self.environment.extend(variables);
        self
    }

    /// Sets the working directory; ours otherwise.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Connects its input.
    #[must_use]
    pub fn stdin(mut self, stream: Stream) -> Self {
        self.stdin = stream;
        self
    }

    /// Connects its output.
    #[must_use]
    pub fn stdout(mut self, stream: Stream) -> Self {
        self.stdout = stream;
        self
    }

    /// Connects what it says of its errors.
    #[must_use]
    pub fn stderr(mut self, stream: Stream) -> Self {
        self.stderr = stream;
        self
    }

    /// Puts it at the head of a process group of its own, so that it and its children can be signalled together.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Has [`run`](Self::run) return no sooner than it is gone, even when it was killed because it took too long.
    ///
    /// For what changes something: the kernel ends whom it is working for only when that is over, so until then what was
    /// killed may still happen.
    #[must_use]
    pub fn until_gone(mut self) -> Self {
        self.until_gone = true;
        self
    }

    /// Runs it to its end and returns what it wrote.
    ///
    /// `input` is written to its standard input, which is then closed. It is
    /// killed (with its group, where it has its own) when `deadline` passes or
    /// when this call is dropped. More output than `limit` is an error and
    /// never a cut text, because a list that lacks its end reads as absence.
    pub async fn run(
        mut self,
        input: &[u8],
        limit: usize,
        deadline: Duration,
    ) -> Result<Output, ProcessError> {
        self.stdin = if input.is_empty() {
            Stream::Null
        } else {
            Stream::Piped
        };
        self.stdout = Stream::Piped;
        self.stderr = Stream::Piped;
        let own_group = self.own_group;
        let until_gone = self.until_gone;
        let name = self.path.clone();
        let mut child = self.spawn()?;
        let mut group = GroupGuard(child.id().filter(|_| own_group));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let work = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A program may end without reading all of its input.
                    match stdin.write_all(input).await {
                        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                        Ok(()) | Err(_) => {}
                    }
                }
                Ok(())
            };
            let (written, stdout, stderr) =
                tokio::join!(write, read_some(stdout, limit), read_some(stderr, KEPT_ERRORS));
            written?;
            let status = child.wait().await?;
            Ok::<_, io::Error>((status, stdout?, stderr?))
        };
        let done = tokio::time::timeout(deadline, work).await;
        let (status, (stdout, too_much), (stderr, _)) = match done {
            Err(_) => {
                if until_gone {
                    drop(child.kill().await);
                }
                return Err(ProcessError::Deadline {
                    program: name,
                    deadline,
                });
            }
            Ok(Err(source)) => {
                return Err(ProcessError::Talk {
                    program: name,
                    source,
                });
            }
            Ok(Ok(done)) => done,
        };
        group.0 = None;
        if too_much {
            return Err(ProcessError::TooMuch { program: name, limit });
        }
        Ok(Output {
            program: name,
            status,
            stdout,
            stderr,
        })
    }

    /// Starts it as a child that is killed when the returned handle is dropped.
    ///
    /// Call it inside a tokio runtime.
    pub fn spawn(self) -> Result<Child, ProcessError> {
        self.spawn_and(true)
    }

    /// Starts it as a child that runs on when the returned handle is dropped, and when we end.
    ///
    /// For what is worse off killed half way than left alone. It is not to
    /// have a pipe to us, which would break. Call it inside a tokio runtime.
    pub fn spawn_lasting(self) -> Result<Child, ProcessError> {
        self.spawn_and(false)
    }

    /// Starts it as a background process that outlives us.
    ///
    /// While we live, the tokio runtime collects its exit status. It shares
    /// our session until it calls `setsid` for itself, as ours do.
    pub fn spawn_detached(self) -> Result<Detached, ProcessError> {
        let mut child = self.spawn_lasting()?;
        Ok(Detached {
            id: child.id(),
            stdin: child.stdin.take(),
        })
    }

    fn spawn_and(self, kill_on_drop: bool) -> Result<Child, ProcessError> {
        let (name, command) = self.command()?;
        tokio::process::Command::from(command)
            .kill_on_drop(kill_on_drop)
            .spawn()
            .map_err(|source| ProcessError::Start {
                program: name,
                source,
            })
    }

    /// Starts it as a child whose exit status the caller collects, with that of all its other children.
    pub(crate) fn spawn_unwatched(self) -> Result<Pid, ProcessError> {
        let (name, mut command) = self.command()?;
        let child = command.spawn().map_err(|source| ProcessError::Start {
            program: name.clone(),
            source,
        })?;
        let id = i32::try_from(child.id()).map_err(|_| ProcessError::Start {
            program: name,
            source: io::ErrorKind::InvalidData.into(),
        })?;
        Ok(Pid::from_raw(id))
    }

    /// Becomes it. Returns only where that fails.
    #[must_use]
    pub fn exec(self) -> ProcessError {
        match self.command() {
            Ok((program, mut command)) => ProcessError::Start {
                program,
                source: command.exec(),
            },
            Err(error) => error,
        }
    }

    fn command(self) -> Result<(PathBuf, std::process::Command), ProcessError> {
        let path = match self.environment.get(OsStr::new("PATH")) {
            Some(path) => path.as_os_str(),
            None => OsStr::new(DEFAULT_PATH),
        };
        let program = find_program(&self.path, path).ok_or_else(|| ProcessError::NotFound {
            program: self.path.clone(),
        })?;
        tracing::debug!(program = %program.display(), n_arguments = self.arguments.len(), "starting a program");
        let mut command = std::process::Command::new(&program);
        command
            .args(self.arguments)
            .env_clear()
            .envs(self.environment)
            .stdin(self.stdin)
            .stdout(self.stdout)
            .stderr(self.stderr);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        if self.own_group {
            command.process_group(0);
        }
        Ok((program, command))
    }
}

/// Finds a program: a path as it is, a bare name in the directories of `search`.
///
/// Nothing where no file there may be executed by us. Relative directories of `search` are passed over.
#[must_use]
pub fn find_program(program: &Path, search: &OsStr) -> Option<PathBuf> {
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        return is_program(program).then(|| program.to_owned());
    }
    if program.as_os_str().is_empty() {
        return None;
    }
    std::env::split_paths(search)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|candidate| is_program(candidate))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, AccessFlags::X_OK).is_ok()
}

/// Reads to the end, keeps at most `limit` bytes and says whether there were more.
async fn read_some(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return Ok((kept, false));
    };
    let mut buffer = vec![0; 16 * 1024];
    let mut too_much = false;
    loop {
        let n_read = stream.read(&mut buffer).await?;
        if n_read == 0 {
            return Ok((kept, too_much));
        }
        let room = limit - kept.len();
        too_much |= n_read > room;
        kept.extend_from_slice(&buffer[..n_read.min(room)]);
    }
}

/// Kills a process group when it is dropped, unless it was disarmed.
struct GroupGuard(Option<u32>);

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // It may have ended by itself.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// A background process.
#[derive(Debug)]
pub struct Detached {
    /// Its process id, unless it has ended already.
    pub id: Option<u32>,
    /// Its input, where that is piped.
    pub stdin: Option<ChildStdin>,
}

/// What a program left when it ended.
#[derive(Debug)]
pub struct Output {
    program: PathBuf,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything that it wrote.
    pub stdout: Vec<u8>,
    /// The beginning of what it said of its errors.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Returns what it wrote, or its own words where it failed.
    pub fn success(self) -> Result<Vec<u8>, ProcessError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(ProcessError::Failed {
            program: self.program,
            status: describe(self.status),
            said: String::from_utf8_lossy(&self.stderr).trim().to_owned(),
        })
    }
}

/// Says how a program ended: `status 3`, `signal 9`.
#[must_use]
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Why a program could not be started or did not do its work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// There is no such program.
    #[error("program `{}` was not found, or may not be executed", program.display())]
    NotFound {
        /// The program.
        program: PathBuf,
    },
    /// The operating system refused to start it.
    #[error("could not start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its streams broke.
    #[error("could not talk to `{}`", program.display())]
    Talk {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("`{}` did not end within {deadline:?}", program.display())]
    Deadline {
        /// The program.
        program: PathBuf,
        /// How long it had.
        deadline: Duration,
    },
    /// It wrote more than was expected.
    #[error("`{}` wrote more than {limit} bytes", program.display())]
    TooMuch {
        /// The program.
        program: PathBuf,
        /// How much it was allowed to write.
        limit: usize,
    },
    /// It ended with a failure.
    #[error("`{}` ended with {status}: {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// What it said of it.
        said: String,
    },
}

impl Classify for ProcessError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } | Self::TooMuch { .. } => ErrorClass::Permanent,
            Self::Start { .. } | Self::Talk { .. } | Self::Deadline { .. } | Self::Failed { .. } => {
                ErrorClass::Transient
            }
        }
    }
}
