//! `flocker demo`: the whole of it, in ten seconds.

use clap::Args;

use crate::demo;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime::block_on;
use crate::ui::Ui;

/// Show a move: three nodes on this machine, a program with data, and a client that never stops writing
///
/// Needs no root, no containers and no network, and removes everything that it makes. Ends with a
/// proof that nothing was lost, and with status 1 where something was.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave the directory where it is, with all data and logs
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) fn run(self, ui: &Ui) -> Result<Ending, Failure> {
        block_on(demo::tell(ui, self.keep))
    }
}
