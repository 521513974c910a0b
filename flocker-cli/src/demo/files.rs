//! The configuration files of the demonstration.

use std::fmt::Write as _;
use std::path::Path;

use flocker_model::Deployment;
use flocker_model::config::Source;

use super::stranger::Stranger;
use crate::error::Failure;
use crate::files;

/// What the program is called.
pub(super) const LEDGER: &str = "ledger";

/// The port of the program, inside and outside.
pub(super) const LEDGER_PORT: u16 = 7000;

/// How many records of a kilobyte the program begins with.
pub(super) const FILLING: u64 = 30_000;

/// Where everything is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) ledger: &'static str,
    pub(super) stranger: Option<(Stranger, &'static str)>,
}

/// Both files, as they would be written by hand.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) deployment: String,
    pub(super) application: String,
}

impl Files {
    pub(super) fn new(program: &Path, nodes: &[&str], placement: Placement) -> Self {
        let Placement { ledger, stranger } = placement;
        let mut deployment = "version: 1\nnodes:\n".to_owned();
        for node in nodes {
            let mut here = Vec::new();
            if *node == ledger {
                here.push(LEDGER);
            }
            if let Some((stranger, home)) = stranger
                && *node == home
            {
                here.push(stranger.name());
            }
            writeln!(deployment, "  {node}: [{}]", here.join(", ")).unwrap_or_default();
        }
        let program = quoted(&program.display().to_string());
        let mut application = format!(
            "version: 1
applications:
  {LEDGER}:
    image: {program}
    command_line: [demo-program, --listen, \"{{address}}:{{port}}\", --volume, \"{{volume}}\", --fill, \"{FILLING}\"]
    ports: [{{internal: {LEDGER_PORT}, external: {LEDGER_PORT}}}]
    volume: {{mountpoint: /data}}
    health_check: {{tcp: {LEDGER_PORT}, interval: 50ms, timeout: 1s, retries: 200}}
    restart_policy: {{name: always}}
"
        );
        if let Some((stranger, _)) = stranger {
            application.push_str(&stranger.application());
        }
        Self {
            deployment,
            application,
        }
    }

    /// Reads them as `flocker deploy` does.
    pub(super) fn read(&self) -> Result<Deployment, Failure> {
        let sources = [
            Source::new("deployment.yml", self.deployment.as_str()),
            Source::new("application.yml", self.application.as_str()),
        ];
        files::load(sources)?.resolve()
    }
}

/// Writes a text in quotes, as the files understand them.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
