//! How the tool `zfs` is run, and what its failures mean.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::process::ChildStdin;

use super::able::Able;
use super::able::Blocks;
use super::listing;
use super::listing::Listing;
use super::listing::Malformed;
use super::partial;
use super::partial::PoolToken;
use super::partial::Rest;
use crate::process::Output;
use crate::process::ProcessError;
use crate::process::Program;
use crate::process::Stream;
use crate::volume::VolumeError;

/// The longest list that is read. A pool with a million snapshots needs about so much.
const LONGEST: usize = 1 << 30;

/// How long a question or a small change may take. A pool that is busy deleting can be slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long something may stay busy: an unmount by way of FUSE takes effect a little later.
const BUSY: Duration = Duration::from_secs(5);

/// How often something busy is tried again.
const BUSY_STEP: Duration = Duration::from_millis(50);

/// How much of what a program says of its errors is kept.
const KEPT_ERRORS: u64 = 64 * 1024;

/// How much of a stream may wait between the tool and us; what every user may ask the system for.
const WIDE: usize = 1 << 20;

/// The tool, and what it can do.
#[derive(Debug)]
pub(super) struct Tool {
    program: PathBuf,
    pub(super) able: Able,
}

impl Tool {
    /// Finds out what the tool can do with a pool.
    pub(super) async fn ask(program: PathBuf, pool: &str) -> Result<Self, ProcessError> {
        let mut tool = Self {
            program,
            able: Able::default(),
        };
        // Without arguments it says how it is used, and fails.
        let mut usages = Vec::new();
        for command in ["send", "receive"] {
            let output = tool.program([command]).run(&[], LONGEST, PATIENCE).await?;
            usages.push(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        tool.able = Able::from_usage(&usages[0], &usages[1]);
        tool.able.tells_written = tool
            .tell(["get", "-Hp", "-o", "value", "written", pool])
            .await
            .is_ok();
        // Whoever cannot say what a pool has switched on is older than all of it.
        let arguments = ["get", "-H", "-o", "property,value", "all", pool];
        let asked = Program::new(tool.program.with_file_name("zpool"))
            .variable("LC_ALL", "C")
            .arguments(arguments);
        let output = asked.run(&[], LONGEST, PATIENCE).await;
        if let Ok(properties) = output.and_then(Output::success) {
            tool.able.limit_to_pool(&String::from_utf8_lossy(&properties));
        } else {
            tool.able.keeps_partial = false;
        }
        Ok(tool)
    }

    pub(super) fn program<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Program {
        // Its words are compared, so they must be these and no translation.
        Program::new(&self.program)
            .variable("LC_ALL", "C")
            .arguments(arguments)
    }

    /// Runs it to its end, which is waited for also where it is stuck: nobody is to change anything beside it.
    pub(super) async fn run<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<u8>, ProcessError> {
        let program = self.program(arguments).until_gone();
        program.run(&[], LONGEST, PATIENCE).await?.success()
    }

    /// Runs it to its end where it only tells something: where it is stuck, it is left to itself.
    pub(super) async fn tell<'a>(
        &self,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<u8>, ProcessError> {
        let output = self.program(arguments).run(&[], LONGEST, PATIENCE).await?;
        output.success()
    }

    /// Runs it again while what it is about is busy.
    pub(super) async fn insist(&self, arguments: &[&str]) -> Result<(), ProcessError> {
        let is_busy = |error: &ProcessError| says(error, "busy");
        let run = || async { self.run(arguments.iter().copied()).await.map(drop) };
        while_busy(BUSY, is_busy, run).await
    }

    /// Sets one property.
    pub(super) async fn set(&self, property: &str, value: &str, of: &str) -> Result<(), ProcessError> {
        let pair = format!("{property}={value}");
        self.run(["set", &pair, of]).await.map(drop)
    }

    /// Lists a filesystem and everything below it.
    pub(super) async fn list(&self, below: &str) -> Result<Listing, VolumeError> {
        let properties = listing::properties(&self.able);
        let arguments = [
            "get",
            "-rHp",
            "-o",
            "name,property,value,source",
            &properties,
            below,
        ];
        let output = self.tell(arguments).await.to(|| format!("list `{below}`"))?;
        Listing::parse(&output)
            .map_err(|Malformed(reason)| broken(format!("read the list of `{below}`"), reason))
    }

    /// Lists a filesystem and those right below it, with the snapshots of only the one of this name among them. Nothing where
    /// the tool refuses, as where there is no such one.
    pub(super) async fn list_near(&self, below: &str, name: &str) -> Result<Option<Listing>, VolumeError> {
        let what = || format!("list `{below}`");
        let properties = listing::properties(&self.able);
        let arguments = [
            "get",
            "-Hp",
            "-d",
            "1",
            "-o",
            "name,property,value,source",
            &properties,
            below,
            name,
        ];
        let output = match self.tell(arguments).await {
            Err(ProcessError::Failed { .. }) => return Ok(None),
            other => other.to(what)?,
        };
        let listing = Listing::parse(&listing::once(&output));
        let listing = listing.map_err(|Malformed(reason)| broken(what(), reason))?;
        Ok(Some(listing))
    }

    /// Reads what is remembered, on the parent, of datasets for good.
    pub(super) async fn fences(&self, parent: &str) -> Result<BTreeMap<DatasetId, Epoch>, VolumeError> {
        let what = || format!("read the fences of `{parent}`");
        let arguments = ["get", "-Hp", "-o", "property,value,source", "all", parent];
        let output = self.tell(arguments).await.to(what)?;
        let own = listing::parse_own(&output, listing::FENCE);
        let own = own.map_err(|Malformed(reason)| broken(what(), reason))?;
        own.iter()
            .map(|(dataset, epoch)| Some((dataset.parse().ok()?, Epoch(epoch.parse().ok()?))))
            .collect::<Option<_>>()
            .ok_or_else(|| broken(what(), "they are not as we write them"))
    }

    /// Makes sure that what was written so far is counted: until the pool has
    /// closed a transaction, it tells the sizes of the one before.
    pub(super) async fn settle(&self, parent: &str) -> Result<(), VolumeError> {
        // To take away a property that is not there waits for a transaction and changes nothing.
        let arguments = ["inherit", "flocker:settled", parent];
        self.run(arguments)
            .await
            .map(drop)
            .to(|| format!("settle `{parent}`"))
    }

    /// Starts sending, with these blocks as they lie on the disk.
    pub(super) fn send(
        &self,
        snapshot: &str,
        base: Option<&str>,
        blocks: Blocks,
    ) -> Result<Child, ProcessError> {
        let option = blocks.option();
        let mut arguments = vec!["send"];
        arguments.extend(option.as_deref());
        if let Some(base) = base {
            arguments.extend(["-i", base]);
        }
        arguments.push(snapshot);
        self.start_sending(&arguments)
    }

    /// Returns how much [`send`](Self::send) would send, where the tool says that. It has to be one that
    /// [estimates](Able::estimates).
    pub(super) async fn size_to_send(
        &self,
        snapshot: &str,
        base: Option<&str>,
        blocks: Blocks,
    ) -> Result<Option<u64>, ProcessError> {
        let option = blocks.option();
        let mut arguments = vec!["send", "-nvP"];
        arguments.extend(option.as_deref());
        if let Some(base) = base {
            arguments.extend(["-i", base]);
        }
        arguments.push(snapshot);
        let said = self.tell(arguments).await?;
        Ok(partial::size(&String::from_utf8_lossy(&said)))
    }

    /// Starts sending the rest of a stream. The token has been found to be of what may be sent.
    pub(super) fn send_rest(&self, token: &PoolToken) -> Result<Child, ProcessError> {
        self.start_sending(&["send", "-t", token.as_str()])
    }

    /// Asks what a token is of. Nothing where the tool does not say, or says more than we understand.
    pub(super) async fn rest_of(&self, token: &PoolToken) -> Result<Option<Rest>, ProcessError> {
        if !self.able.sends_rests {
            return Ok(None);
        }
        Ok(Rest::parse(&self.said_of(token).await?))
    }

    /// Returns what the tool says of a token: nothing where it does not understand it, and an error where it was killed.
    ///
    /// It says what it is of too where it could not send that, because nothing of it is here.
    pub(super) async fn said_of(&self, token: &PoolToken) -> Result<String, ProcessError> {
        let asked = self.program(["send", "-nvP", "-t", token.as_str()]);
        let output = asked.run(&[], LONGEST, PATIENCE).await?;
        let said = if output.status.code().is_some() {
            output.stdout
        } else {
            output.success()?
        };
        Ok(String::from_utf8(said).unwrap_or_default())
    }

    /// Has the pool drop what it keeps of a stream that has stopped, if it still does. Nothing that is complete goes this way.
    pub(super) async fn abort(&self, filesystem: &str) -> Result<(), ProcessError> {
        match self.insist(&["receive", "-A", filesystem]).await {
            // Somebody else was faster.
            Err(error) if says(&error, "does not have any resumable receive state") => Ok(()),
            other => other,
        }
    }

    fn start_sending(&self, arguments: &[&str]) -> Result<Child, ProcessError> {
        let child = self
            .program(arguments.iter().copied())
            .stdout(Stream::Piped)
            .stderr(Stream::Piped)
            .spawn()?;
        if let Some(stdout) = &child.stdout {
            widen(stdout);
        }
        Ok(child)
    }

    /// Starts receiving. Dropped, the receiver is killed.
    pub(super) fn receive(&self, arguments: &[&str]) -> Result<(Child, ChildStdin), ProcessError> {
        let mut child = self
            .program(arguments.iter().copied())
            .stdin(Stream::Piped)
            .stderr(Stream::Piped)
            .spawn()?;
        let stdin = child.stdin.take().ok_or_else(|| ProcessError::Talk {
            program: self.program.clone(),
            source: io::ErrorKind::BrokenPipe.into(),
        })?;
        widen(&stdin);
        Ok((child, stdin))
    }

    /// Waits for the end of a program whose output has been read, and returns its own words where it failed.
    pub(super) async fn finish(&self, mut child: Child) -> Result<(), ProcessError> {
        let talk = |source| ProcessError::Talk {
            program: self.program.clone(),
            source,
        };
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            stderr
                .take(KEPT_ERRORS)
                .read_to_end(&mut said)
                .await
                .map_err(talk)?;
        }
        let status = child.wait().await.map_err(talk)?;
        if status.success() {
            return Ok(());
        }
        Err(ProcessError::Failed {
            program: self.program.clone(),
            status: crate::process::describe(status),
            said: String::from_utf8_lossy(&said).trim().to_owned(),
        })
    }
}

/// Tries again while something is busy, for so long.
pub(super) async fn while_busy<E, F: Future<Output = Result<(), E>>>(
    patience: Duration,
    is_busy: impl Fn(&E) -> bool,
    attempt: impl Fn() -> F,
) -> Result<(), E> {
    let deadline = crate::deadline::after(patience);
    loop {
        match attempt().await {
            Err(error) if is_busy(&error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(BUSY_STEP).await;
            }
            other => return other,
        }
    }
}

/// Lets more wait in a pipe through which a lot goes, so that its two ends wake each other less often.
fn widen(pipe: impl AsFd) {
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(pipe, WIDE) {
        tracing::debug!(%error, "a pipe stays as narrow as it is");
    }
}

/// Says whether a program failed with these words.
pub(super) fn says(error: &ProcessError, words: &str) -> bool {
    matches!(error, ProcessError::Failed { said, .. } if said.contains(words))
}

/// Says whether a tool has given its own reason, which may come again each time: it was not killed, and nothing was busy.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    let said = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(ended @ ProcessError::Failed { status, .. }) = said else {
        return false;
    };
    // So it puts it where an earlier receiver is still at what a rest goes on from.
    let is_busy =
        error.kind() == io::ErrorKind::ResourceBusy || says(ended, "contains partially-complete state");
    !is_busy && !status.starts_with("signal")
}

/// Adds to an error what was to be done.
pub(super) trait Context<T> {
    /// Says what was to be done, as it goes on after "could not".
    fn to(self, what: impl FnOnce() -> String) -> Result<T, VolumeError>;
}

impl<T> Context<T> for io::Result<T> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T, VolumeError> {
        self.map_err(|source| VolumeError::Io { what: what(), source })
    }
}

impl<T> Context<T> for Result<T, ProcessError> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T, VolumeError> {
        self.map_err(|error| {
            let kind = if says(&error, "out of space") {
                io::ErrorKind::StorageFull
            } else if says(&error, "quota exceeded") {
                io::ErrorKind::QuotaExceeded
            } else if says(&error, "busy") {
                io::ErrorKind::ResourceBusy
            } else if says(&error, "unsupported") {
                // An older ZFS is told to take in what only a newer one knows.
                io::ErrorKind::Unsupported
            } else {
                io::ErrorKind::Other
            };
            VolumeError::Io {
                what: what(),
                source: io::Error::new(kind, error),
            }
        })
    }
}

/// An error for something that is there and cannot be right.
pub(super) fn broken(what: String, reason: impl Into<String>) -> VolumeError {
    VolumeError::Io {
        what,
        source: io::Error::new(io::ErrorKind::InvalidData, reason.into()),
    }
}

/// Turns "the pool is full" into numbers.
pub(super) fn or_no_space(
    error: VolumeError,
    dataset: DatasetId,
    needed: u64,
    available: u64,
) -> VolumeError {
    if let VolumeError::Io { source, .. } = &error
        && matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    {
        return VolumeError::NoSpace {
            dataset,
            needed: ByteSize(needed),
            available: ByteSize(available),
        };
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_tool_says_itself_is_a_refusal() {
        let failed = |status: &str, said: &str| {
            let error = ProcessError::Failed {
                program: "zfs".into(),
                status: status.into(),
                said: said.into(),
            };
            match Err::<(), _>(error).to(|| "receive".into()) {
                Err(VolumeError::Io { source, .. }) => is_refusal(&source),
                other => panic!("{other:?}"),
            }
        };
        assert!(failed(
            "status 1",
            "cannot receive resume stream: checksum mismatch"
        ));
        assert!(!failed("status 1", "cannot receive: dataset is busy"));
        let others = "cannot receive resume stream: destination p/a contains partially-complete state from \"zfs receive -s\".";
        assert!(!failed("status 1", others));
        assert!(!failed("signal 9", ""));
        assert!(!is_refusal(&io::ErrorKind::InvalidData.into()));
        assert!(!is_refusal(&io::Error::other("it did not finish")));
    }
}
