//! Host programs as applications, without root, without images.
//!
//! An image names a program of the machine. Each application runs under a
//! small supervisor process of ours, which outlives the node that started it;
//! see [`ProcessRuntime`] for what an application is given.
//!
//! A node finds its applications again by what is written in its state
//! directory and by which supervisors hold their locks. Process ids are never
//! trusted.

mod address;
mod host;
mod kin;
mod launch;
pub(super) mod log;
mod orders;
mod place;
pub(super) mod probe;
mod reaper;
mod stage;
mod steps;
mod supervisor;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use flocker_model::ByteSize;
use serde::Deserialize;
use serde::Serialize;

pub use self::address::application_address;
pub use self::host::ProcessRuntime;

/// The name of the stage that supervises.
const SUPERVISE: &str = "supervise";

/// The name of the stage that becomes the program.
const ENTER: &str = "enter";

/// Does the work of the process that a [`ProcessRuntime`] starts as its supervisor.
///
/// `arguments` are those that follow [`ProcessOptions::supervisor`] on the
/// command line. Call it first in `main`, before any thread or runtime is
/// started and before anything is printed: standard output is the lock.
/// Returns when the application has ended for good and none of its processes
/// is left.
#[must_use]
pub fn supervise(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let stage = arguments.next().unwrap_or_default();
    match (stage.to_str(), arguments.next()) {
        (Some(SUPERVISE), Some(directory)) => supervisor::supervise(Path::new(&directory)),
        (Some(ENTER), None) => stage::enter(),
        _ => ExitCode::from(2),
    }
}

/// How a program that ended is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartTiming {
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// After running so long, pauses and counts begin anew.
    pub reset_after: Duration,
}

impl Default for RestartTiming {
    /// 100 milliseconds to 30 seconds; anew after 10 seconds.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            reset_after: Duration::from_secs(10),
        }
    }
}

/// What a [`ProcessRuntime`] works with.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// Where it keeps what it knows. No two nodes share one.
    pub state_directory: PathBuf,
    /// The address of the node.
    pub node_address: IpAddr,
    /// Our own program, which calls [`supervise`].
    pub supervisor: PathBuf,
    /// The arguments with which it does so; [`supervise`] gets those that follow them.
    pub supervisor_arguments: Vec<String>,
    /// What every application finds in its environment, such as `PATH`, `HOME`, `LANG` and `TZ`.
    pub environment: BTreeMap<String, String>,
    /// How programs are started again.
    pub restart_timing: RestartTiming,
    /// How long a program without health check has to survive to count as started.
    pub settle: Duration,
    /// How long a supervisor may take for its own work, beyond what its application may take, before it counts as hung.
    pub supervisor_margin: Duration,
    /// After how much output a new file is begun; two are kept.
    pub log_limit: ByteSize,
}

impl ProcessOptions {
    /// Returns the usual options.
    #[must_use]
    pub fn new(state_directory: PathBuf, node_address: IpAddr, supervisor: PathBuf) -> Self {
        Self {
            state_directory,
            node_address,
            supervisor,
            supervisor_arguments: Vec::new(),
            environment: BTreeMap::new(),
            restart_timing: RestartTiming::default(),
            settle: Duration::from_millis(50),
            supervisor_margin: Duration::from_secs(10),
            log_limit: ByteSize(8 * 1024 * 1024),
        }
    }
}
