//! What applications say: the engine has it while the container is there, and we keep the last of it.

use std::error::Error;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bollard::query_parameters::LogsOptionsBuilder;
use flocker_model::ApplicationName;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use tokio::time::Instant;
use tokio_util::io::StreamReader;

use super::engine::Engine;
use super::engine::said;
use super::labels::Manner;
use super::seen::Seen;
use crate::deadline;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::runtime::process::log::LogReader;
use crate::runtime::process::log::LogWriter;
use crate::volume::ByteStream;

/// How long keeping the output of a container may take: its application is away meanwhile.
const KEEPING: Duration = Duration::from_secs(1);

/// How many bytes a line has, about: as many lines are asked for as are kept, and not what was said in years.
const LINE: u64 = 128;

impl Engine {
    /// Keeps the output of a container that is about to be removed, instead of what was kept before.
    ///
    /// As much of it as can be read and kept in a moment: neither a damaged log nor a full disk keeps an
    /// application from being stopped or started. Dropped half way: what was kept before, or nothing; the container
    /// still has it all.
    pub(super) async fn keep_output(&self, seen: &Seen) {
        match self.naming.manner {
            Manner::Engine => {}
            // The journal has it.
            Manner::Unit => return,
        }
        if !seen.has_run {
            return;
        }
        let application = &seen.labels.application;
        let container = self.container(application);
        let new = self.output_directory("new", &container);
        let kept = self.output_directory("kept", &container);
        if let Err(error) = self.copy_output(seen, &new, &kept).await {
            let error: &dyn Error = &error;
            tracing::warn!(%application, error, "its output could not be kept");
            // On a full disk others need the room.
            if let Err(error) = remove(&new) {
                tracing::debug!(%application, %error, "what was begun of it is still there");
            }
        }
    }

    async fn copy_output(&self, seen: &Seen, new: &Path, kept: &Path) -> io::Result<()> {
        let deadline = deadline::after(KEEPING.min(self.options.margin));
        remove(new)?;
        std::fs::create_dir_all(new)?;
        let limit = self.options.log_limit.0;
        let mut writer = LogWriter::open(new, limit)?;
        let n_lines = (limit.saturating_mul(2) / LINE).max(1);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true);
        let options = options.tail(&n_lines.to_string()).build();
        let mut output = self.client.logs(&seen.id, Some(options));
        let mut has_any = false;
        let broken = loop {
            if Instant::now() >= deadline {
                break io::Error::new(io::ErrorKind::TimedOut, "it takes too long");
            }
            match tokio::time::timeout_at(deadline, output.next()).await {
                Ok(Some(Ok(piece))) => {
                    writer.write(piece.as_ref())?;
                    has_any = true;
                }
                Ok(Some(Err(error))) => break io::Error::other(said(&error)),
                Ok(None) => return replace(new, kept),
                Err(_) => {}
            }
        };
        if !has_any {
            return Err(broken);
        }
        let application = &seen.labels.application;
        tracing::warn!(%application, error = %broken, "only the beginning of its output is kept");
        replace(new, kept)
    }

    /// Opens the output of an application.
    pub(super) async fn output(
        &self,
        application: &ApplicationName,
        request: LogRequest,
    ) -> Result<ByteStream, RuntimeError> {
        let seen = self.look_at_ours(application).await?;
        let is_here = seen.is_some();
        if let Some(seen) = seen.filter(|seen| seen.has_run) {
            let tail = request
                .tail
                .map_or_else(|| "all".to_owned(), |lines| lines.to_string());
            let options = LogsOptionsBuilder::new().stdout(true).stderr(true);
            let options = options.follow(request.follow).tail(&tail).build();
            let pieces = self.client.logs(&seen.id, Some(options));
            let bytes = pieces
                .map_ok(bollard::container::LogOutput::into_bytes)
                .map_err(|error| io::Error::other(said(&error)));
            return Ok(Box::pin(StreamReader::new(Box::pin(bytes))));
        }
        let kept = self.output_directory("kept", &self.container(application));
        if !kept.is_dir() {
            return if is_here {
                Ok(Box::pin(tokio::io::empty()))
            } else {
                Err(RuntimeError::NotHere {
                    application: application.clone(),
                })
            };
        }
        let reader = LogReader::open(&kept, request.tail, None::<fn() -> bool>);
        let reader = reader.map_err(|source| RuntimeError::Io {
            what: format!("read the logs in `{}`", kept.display()),
            source,
        })?;
        Ok(Box::pin(reader))
    }

    fn output_directory(&self, stage: &str, container: &str) -> PathBuf {
        self.options
            .state_directory
            .join("output")
            .join(stage)
            .join(container)
    }
}

fn replace(new: &Path, kept: &Path) -> io::Result<()> {
    remove(kept)?;
    std::fs::create_dir_all(kept.parent().unwrap_or(kept))?;
    std::fs::rename(new, kept)
}

fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
