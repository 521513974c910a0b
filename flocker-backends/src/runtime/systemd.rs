//! Containers of the Docker engine that units of systemd run.
//!
//! The container is made by the engine, as for [`docker`](super::docker); a
//! unit starts it, starts it again after its end, and starts it at boot where
//! its volume is there by then. The unit holds nothing but names and paths:
//! what is secret is in the container, which only the engine shows.

mod host;
mod installing;
mod journal;
mod systemctl;
mod unit;

use std::path::PathBuf;

pub use self::host::SystemdRuntime;
pub use self::unit::quoted;
use super::docker::DockerOptions;

/// What a [`SystemdRuntime`] works with.
#[derive(Clone, Debug)]
pub struct SystemdOptions {
    /// How containers are made.
    pub docker: DockerOptions,
    /// Where units are, and survive a reboot.
    pub unit_directory: PathBuf,
    /// Where programs are looked for, as `PATH` has it.
    pub path: String,
}

impl SystemdOptions {
    /// Returns the usual options.
    #[must_use]
    pub fn new(docker: DockerOptions) -> Self {
        Self {
            docker,
            unit_directory: "/etc/systemd/system".into(),
            path: crate::process::DEFAULT_PATH.into(),
        }
    }
}
