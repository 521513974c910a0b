//! `flocker node-boot`: what a node does after its machine has started anew. A unit of systemd runs it.

use std::path::PathBuf;

use clap::Args;

use crate::error::Ending;
use crate::error::Failure;
use crate::real;
use crate::runtime::block_on;
use crate::ui::Ui;

/// Start again what ran on the node of this machine, where its data is
#[derive(Debug, Args)]
pub(crate) struct NodeBoot {
    /// The directory of the node
    #[arg(long)]
    directory: PathBuf,
}

impl NodeBoot {
    pub(crate) fn run(self, ui: &Ui) -> Result<Ending, Failure> {
        block_on(real::wake(&self.directory, |line| ui.say(line)))?;
        Ok(Ending::Done)
    }
}
