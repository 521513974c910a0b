//! `flocker node-stdio`: the node's end of an SSH pipe. The transport starts it.

use std::path::PathBuf;

use clap::Args;

use crate::error::Ending;
use crate::error::Failure;
use crate::real;

/// Pass bytes between this input and output and the node of this machine
#[derive(Debug, Args)]
pub(crate) struct NodeStdio {
    /// The directory of the node
    #[arg(long)]
    directory: PathBuf,
    /// What SSH says of the connection: the client's address and port, then our own
    #[arg(long)]
    connection: String,
}

impl NodeStdio {
    pub(crate) fn run(self) -> Result<Ending, Failure> {
        real::relay(&self.directory, &self.connection)
    }
}
