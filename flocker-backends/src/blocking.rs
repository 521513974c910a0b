//! What waits for the system, on a thread where it keeps nobody else waiting.

use std::io;

/// Does such work. Dropped half way: the work is done all the same.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)
        .flatten()
}
