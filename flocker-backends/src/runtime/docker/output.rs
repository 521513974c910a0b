//! What applications say: the engine has it while the container is there, and we keep the last of it.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use bollard::query_parameters::LogsOptionsBuilder;
use flocker_model::ApplicationName;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use tokio_util::io::StreamReader;

use super::engine::Engine;
use super::engine::failed;
use super::engine::said;
use super::labels::Manner;
use super::seen::Seen;
use crate::runtime::LogRequest;
use crate::runtime::RuntimeError;
use crate::runtime::process::log::LogReader;
use crate::runtime::process::log::LogWriter;
use crate::volume::ByteStream;

impl Engine {
    /// Keeps the output of a container that is about to be removed, instead of what was kept before.
    ///
    /// Dropped half way: what was kept before, or nothing; the container still has it all.
    pub(super) async fn keep_output(&self, seen: &Seen) -> Result<(), RuntimeError> {
        match self.naming.manner {
            Manner::Engine => {}
            // The journal has it.
            Manner::Unit => return Ok(()),
        }
        if !seen.has_run {
            return Ok(());
        }
        let application = &seen.labels.application;
        let container = self.container(application);
        let what = || format!("keep the output of `{application}`");
        let failed_here = |source| RuntimeError::Io { what: what(), source };
        let new = self.output_directory("new", &container);
        let kept = self.output_directory("kept", &container);
        remove(&new)
            .and_then(|()| std::fs::create_dir_all(&new))
            .map_err(failed_here)?;
        let mut writer = LogWriter::open(&new, self.options.log_limit.0).map_err(failed_here)?;
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let mut output = self.client.logs(&seen.id, Some(options));
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(failed(what))?;
            writer.write(piece.as_ref()).map_err(failed_here)?;
        }
        let replace = || {
            remove(&kept)?;
            std::fs::create_dir_all(kept.parent().unwrap_or(&kept))?;
            std::fs::rename(&new, &kept)
        };
        replace().map_err(failed_here)
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

fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
