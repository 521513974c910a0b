//! `flocker completions`: what shells need to complete what is typed.

use clap::Args;
use clap_complete::Shell;

use crate::cli;
use crate::ui::Ui;

/// Print completions for a shell
///
/// For bash, for example: flocker completions bash > ~/.local/share/bash-completion/completions/flocker
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, ui: &Ui) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli::command(), "flocker", &mut script);
        ui.data(&String::from_utf8_lossy(&script));
    }
}
