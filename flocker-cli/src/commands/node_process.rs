//! `flocker node-process`: the process that is the node of a real machine. `flocker node-stdio` starts it.

use std::path::PathBuf;

use clap::Args;

use crate::error::Ending;
use crate::error::Failure;
use crate::real;
use crate::runtime::block_on;

/// Be the node of this machine, for as long as it is used
#[derive(Debug, Args)]
pub(crate) struct NodeProcess {
    /// The directory of the node
    #[arg(long)]
    directory: PathBuf,
}

impl NodeProcess {
    pub(crate) fn run(self) -> Result<Ending, Failure> {
        block_on(real::serve(&self.directory))?;
        Ok(Ending::Done)
    }
}
