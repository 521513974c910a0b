//! `flocker demo-program`: the program that `flocker demo` moves, and a server to try things out with.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::demo;
use crate::error::Ending;
use crate::error::Failure;
use crate::runtime::block_on;

/// Number records and keep them in a file, each on disk before it is acknowledged
#[derive(Debug, Args)]
pub(crate) struct DemoProgram {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where the records are
    #[arg(long)]
    volume: PathBuf,
    /// How many records of a kilobyte to begin with, where there are none
    #[arg(long, default_value_t = 0)]
    fill: u64,
}

impl DemoProgram {
    pub(crate) fn run(self) -> Result<Ending, Failure> {
        block_on(demo::run_program(self.listen, &self.volume, self.fill))?;
        Ok(Ending::Done)
    }
}
