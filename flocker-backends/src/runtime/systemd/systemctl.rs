//! What systemd is asked, and what it says of a unit.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::Output;
use crate::process::ProcessError;
use crate::process::Program;

/// How much systemd may say.
const LIMIT: usize = 1 << 20;

/// What systemd says of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnitState {
    pub(super) activity: Activity,
    /// How often it was started again by its restart setting.
    pub(super) restarts: u32,
}

/// Whether a unit does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It runs its program, or is about to end it.
    Active,
    /// It is being started, or waits to be started again.
    Starting,
    /// It does nothing, and will not by itself.
    Inactive,
    /// It was to start, and one of its conditions did not hold; it does nothing, and will not by itself.
    PassedOver,
}

/// The program that talks to systemd.
#[derive(Clone, Debug)]
pub(super) struct Systemctl {
    program: PathBuf,
}

impl Systemctl {
    pub(super) fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Asks for something and waits until it is done.
    pub(super) async fn run(&self, arguments: &[&str], deadline: Duration) -> Result<Vec<u8>, ProcessError> {
        self.output(arguments, deadline).await?.success()
    }

    /// Asks for what is no error to be without, such as the end of what has ended.
    pub(super) async fn try_run(&self, arguments: &[&str], deadline: Duration) -> Result<(), ProcessError> {
        let output = self.output(arguments, deadline).await?;
        if let Err(error) = output.success() {
            tracing::debug!(%error, "systemctl had nothing to do");
        }
        Ok(())
    }

    async fn output(&self, arguments: &[&str], deadline: Duration) -> Result<Output, ProcessError> {
        let program = Program::new(&self.program).arguments(arguments.iter().copied());
        program.run(b"", LIMIT, deadline).await
    }

    /// Returns what systemd says of a unit.
    pub(super) async fn show(&self, unit: &str, deadline: Duration) -> Result<UnitState, ShowError> {
        const PROPERTIES: &str =
            "--property=ActiveState,NRestarts,Job,ConditionResult,ConditionTimestampMonotonic";
        let arguments = ["show", PROPERTIES, "--", unit];
        let said = self.run(&arguments, deadline).await?;
        parse(&String::from_utf8_lossy(&said)).ok_or_else(|| ShowError::Unreadable {
            unit: unit.to_owned(),
        })
    }
}

/// Why it is not known what a unit does.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShowError {
    /// `systemctl` failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It said something else.
    #[error("what systemd says of `{unit}` cannot be read")]
    Unreadable { unit: String },
}

fn parse(text: &str) -> Option<UnitState> {
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    // Conditions that nobody has ever looked at do not hold either.
    let has_looked = value("ConditionTimestampMonotonic").is_some_and(|when| when != "0");
    let is_passed_over = has_looked && value("ConditionResult") == Some("no");
    let activity = match value("ActiveState")? {
        "active" | "reloading" | "refreshing" | "deactivating" => Activity::Active,
        "activating" => Activity::Starting,
        // On its way from one run to the next it is dead for a moment, with the next start ordered.
        "inactive" | "failed" if value("Job").is_some_and(|job| !job.is_empty()) => Activity::Starting,
        "inactive" | "failed" if is_passed_over => Activity::PassedOver,
        "inactive" | "failed" | "maintenance" => Activity::Inactive,
        _ => return None,
    };
    // A unit that is not loaded has no such number.
    let restarts = value("NRestarts").map_or(Some(0), |number| number.parse().ok())?;
    Some(UnitState { activity, restarts })
}

/// Says whether a directory is where a file system is mounted.
pub(super) fn is_mount_point(directory: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let Some(parent) = directory.parent() else {
        return Ok(true);
    };
    Ok(std::fs::metadata(directory)?.dev() != std::fs::metadata(parent)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_is_read_strictly() {
        let state = |activity, restarts| Some(UnitState { activity, restarts });
        for (text, expected) in [
            ("NRestarts=2\nActiveState=active\n", state(Activity::Active, 2)),
            (
                "ActiveState=activating\nNRestarts=1\n",
                state(Activity::Starting, 1),
            ),
            ("ActiveState=failed\nNRestarts=3\n", state(Activity::Inactive, 3)),
            ("ActiveState=inactive\n", state(Activity::Inactive, 0)),
            ("Job=\nActiveState=inactive\n", state(Activity::Inactive, 0)),
            (
                "Job=2011\nNRestarts=1\nActiveState=inactive\n",
                state(Activity::Starting, 1),
            ),
            (
                "ActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=0\n",
                state(Activity::Inactive, 0),
            ),
            (
                "ActiveState=inactive\nConditionResult=yes\nConditionTimestampMonotonic=7\n",
                state(Activity::Inactive, 0),
            ),
            (
                "ActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=7\n",
                state(Activity::PassedOver, 0),
            ),
            (
                "ActiveState=active\nConditionResult=no\nConditionTimestampMonotonic=7\n",
                state(Activity::Active, 0),
            ),
            (
                "Job=2011\nActiveState=inactive\nConditionResult=no\nConditionTimestampMonotonic=7\n",
                state(Activity::Starting, 0),
            ),
            ("ActiveState=\nNRestarts=0\n", None),
            ("ActiveState=active\nNRestarts=many\n", None),
            ("NRestarts=0\n", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_mount_point_is_told_from_a_directory() {
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(is_mount_point(Path::new("/")).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        assert!(!is_mount_point(&inner).unwrap());
        assert!(is_mount_point(&inner.join("missing")).is_err());
    }
}
