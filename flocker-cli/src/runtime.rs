//! The asynchronous runtime, for commands that talk to nodes. The others never start one.

use crate::error::Failure;

/// Runs one future to its end. One thread is enough: bulk data goes from node to node, not through here.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Failure::failed("could not get ready to talk to nodes").because(&error))?;
    runtime.block_on(future)
}
