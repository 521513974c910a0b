//! `flocker node-serve`: the process of a local node. `flocker local up` starts it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use flocker_model::NodeName;

use crate::error::Ending;
use crate::error::Failure;
use crate::local;
use crate::local::Serving;
use crate::runtime::block_on;

/// Be a node of this machine, until asked to end
#[derive(Debug, Args)]
pub(crate) struct NodeServe {
    /// Its state directory
    #[arg(long)]
    directory: PathBuf,
    /// Its name
    #[arg(long)]
    name: NodeName,
    /// The loopback address that is its own
    #[arg(long)]
    address: Ipv4Addr,
}

impl NodeServe {
    pub(crate) fn run(self) -> Result<Ending, Failure> {
        let Self {
            directory,
            name,
            address,
        } = self;
        block_on(local::serve(Serving {
            name,
            address,
            directory,
        }))?;
        Ok(Ending::Done)
    }
}
