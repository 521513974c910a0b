//! `flocker validate`: are the files right?

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::cli::Files;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::ui::Ui;

/// Check both files, and show every problem at its place
///
/// Reads nothing but the two files: no node is contacted, and no secret is fetched.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    files: Files,
}

#[derive(Serialize)]
struct Body<'a> {
    valid: bool,
    applications: usize,
    nodes: usize,
    secrets: usize,
    warnings: &'a [flocker_model::config::Diagnostic],
}

impl Validate {
    pub(crate) fn run(self, ui: &Ui) -> Result<Ending, Failure> {
        let configuration = files::read(self.files.paths())?;
        let deployment = configuration.without_secrets()?;
        let n_applications = deployment.applications().len();
        let n_nodes = deployment.members().len();
        if ui.is_json() {
            ui.document(&Body {
                valid: true,
                applications: n_applications,
                nodes: n_nodes,
                secrets: configuration.n_secrets(),
                warnings: configuration.warnings(),
            })?;
            return Ok(Ending::Done);
        }
        ui.diagnostics(configuration.warnings(), configuration.sources());
        let mut said = format!(
            "valid: {} on {}",
            counted(n_applications, "application"),
            counted(n_nodes, "node")
        );
        if configuration.n_secrets() > 0 {
            let n_secrets = counted(configuration.n_secrets(), "secret");
            write!(said, "; {n_secrets} to be fetched when it is deployed").unwrap_or_default();
        }
        ui.data(&(said + "\n"));
        Ok(Ending::Done)
    }
}

/// Writes a number with its noun: `1 node`, `3 nodes`.
pub(crate) fn counted(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
