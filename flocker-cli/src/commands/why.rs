//! `flocker why`: what something waits for, and what to type next.

mod answer;
mod told;

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::cli::Global;
use crate::cli::OptionalFiles;
use crate::cluster;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::ui::Ui;
use answer::View;

/// Say what a step, an application, a dataset or a node waits for, and what to type next
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// A step as `flocker plan --json` or a report names it, an application, a dataset or a node
    thing: String,
    #[command(flatten)]
    files: OptionalFiles,
    /// Look into what `flocker report-state --json` printed, instead of asking nodes; may be given several times
    #[arg(long, value_name = "FILE")]
    state: Vec<PathBuf>,
}

impl Why {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let sight = cluster::sight(self.files.paths(), &self.state, global)?;
        let policy = files::last_policy(&global.state_dir(), self.files.paths());
        let failures = files::last_failures(&global.state_dir());
        let mut view = View::new(&sight, &policy, self.deploy(global), failures);
        if self.state.is_empty() {
            view.note(&global.state_dir());
        }
        let Some(answer) = view.answer(&self.thing) else {
            return Err(view.unknown(&self.thing));
        };
        if ui.is_json() {
            ui.document(&answer)?;
        } else {
            ui.data(&answer.to_text());
            for unknown in &sight.unknown {
                ui.warn(unknown);
            }
        }
        Ok(Ending::Done)
    }

    /// Returns the deploy that these files belong to, as it is typed.
    fn deploy(&self, global: &Global) -> String {
        let given = self.files.paths().map(|paths| paths.map(Path::to_path_buf));
        let paths: Option<[PathBuf; 2]> =
            given.or_else(|| files::last_used(&global.state_dir()).ok().flatten());
        match paths {
            Some([one, other]) => format!("flocker deploy {} {}", one.display(), other.display()),
            None => "flocker deploy DEPLOYMENT APPLICATION".into(),
        }
    }
}
