//! What a node says: lines in a file of bounded size.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use tracing::Event;
use tracing::Level;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::span;

/// After how many bytes a new file is begun; the one before it is kept.
const LIMIT: u64 = 1024 * 1024;

/// Opens a log for what is said outside of it, such as the words of a process that breaks down.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// Writes what is worth a line and is no detail.
#[derive(Debug)]
pub(crate) struct NodeLog {
    path: PathBuf,
    file: Mutex<Option<(File, u64)>>,
    limit: u64,
}

impl NodeLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: PathBuf, limit: u64) -> Self {
        Self {
            path,
            file: Mutex::default(),
            limit,
        }
    }

    /// Writes one line. That a log cannot be written is no reason for a node to end.
    pub(super) fn line(&self, line: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if self.write(&mut file, line).is_err() {
            *file = None;
        }
    }

    fn write(&self, file: &mut Option<(File, u64)>, line: &str) -> io::Result<()> {
        if file.as_ref().is_some_and(|(_, length)| *length >= self.limit) {
            *file = None;
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        if file.is_none() {
            let opened = open(&self.path)?;
            let length = opened.metadata()?.len();
            *file = Some((opened, length));
        }
        let Some((file, length)) = file else { return Ok(()) };
        let line = format!("{} {line}\n", time_of_day());
        file.write_all(line.as_bytes())?;
        *length += line.len() as u64;
        Ok(())
    }
}

impl Subscriber for NodeLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        // Spans are not shown, so all may be the same.
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{:>5}", event.metadata().level().as_str()));
        event.record(&mut line);
        self.line(&line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}").replace('\n', " ");
        match field.name() {
            "message" => write!(self.0, " {value}"),
            name => write!(self.0, " {name}={value}"),
        }
        // Writing to a string cannot fail.
        .unwrap_or_default();
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let text = flocker_engine::one_line(value);
        self.record_debug(field, &format_args!("{text}"));
    }
}

/// Returns the time of day in the form of RFC 3339.
fn time_of_day() -> String {
    rfc3339(flocker_engine::clock::time_of_day())
}

fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, in eras of 400 years: the leap day comes last in a year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_everybody_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn a_log_keeps_two_files_of_bounded_size() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("node.log");
        let log = NodeLog::with_limit(path.clone(), 1000);
        for number in 0..200 {
            log.line(&format!("line {number}"));
        }
        let old = std::fs::metadata(place.path().join("node.log.1")).unwrap().len();
        let new = std::fs::metadata(&path).unwrap().len();
        assert!((1000..1100).contains(&old) && new < 1100, "{old} {new}");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("line 199\n"));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_event_is_one_line_with_its_fields() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("node.log");
        tracing::subscriber::with_default(NodeLog::new(path.clone()), || {
            tracing::debug!("a detail");
            tracing::warn!(port = 80, "two\nlines");
        });
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with("Z  WARN two lines port=80\n"), "{text}");
    }
}
