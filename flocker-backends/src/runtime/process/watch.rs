//! How a supervisor sees what becomes of its program, and writes it down.

use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_model::HealthCheck;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::launch::Launch;
use super::log::LogWriter;
use super::place::Container;
use super::place::Probing;
use super::place::Status;
use super::probe;
use super::reaper::Reaper;
use super::stage::Stage;

/// How soon an application that has never served yet is probed again, at first.
const FIRST_PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// Watches over a started program: whether it took over, and then whether it serves.
pub(super) async fn watch(
    launch: &Launch,
    reaper: &Reaper,
    book: &mut Book,
    socket: std::os::unix::net::UnixStream,
    log: &Mutex<LogWriter>,
) -> Infallible {
    let reason = match hand_over(launch, socket).await {
        Ok(reason) => reason,
        Err(error) => error.to_string(),
    };
    if !reason.is_empty() {
        append(log, format!("flocker: {reason}\n").as_bytes());
        book.update(|status| status.last_end = Some(reason));
        return std::future::pending().await;
    }
    match &launch.health_check {
        None => {
            tokio::time::sleep(launch.settle).await;
            book.update(|status| status.probing = Probing::Settled);
            std::future::pending().await
        }
        Some(check) => watch_health(check, launch, reaper, book).await,
    }
}

/// Tells the new process what to become. Returns nothing once it has, or why it could not.
async fn hand_over(launch: &Launch, socket: std::os::unix::net::UnixStream) -> io::Result<String> {
    socket.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(socket)?;
    socket
        .write_all(&serde_json::to_vec(&Stage::new(launch))?)
        .await?;
    socket.shutdown().await?;
    let mut reason = String::new();
    socket.take(4096).read_to_string(&mut reason).await?;
    Ok(reason)
}

/// Probes for ever: in quick succession until it serves for the first time, then at its interval.
async fn watch_health(check: &HealthCheck, launch: &Launch, reaper: &Reaper, book: &mut Book) -> Infallible {
    let began = Instant::now();
    let patience = check.interval.saturating_mul(check.retries.get());
    let mut pause = FIRST_PROBE_INTERVAL;
    let mut n_failed = 0_u32;
    let mut has_served = false;
    loop {
        match probe::probe(&check.probe, check.timeout, launch, reaper).await {
            Ok(()) => {
                n_failed = 0;
                has_served = true;
                book.update(|status| status.probing = Probing::Passed);
            }
            Err(reason) => {
                n_failed = n_failed.saturating_add(1);
                // Quick probes at the start must not use up the tries that the interval allows it.
                let is_too_long = has_served || began.elapsed() >= patience;
                if n_failed >= check.retries.get() && is_too_long {
                    book.update(|status| status.probing = Probing::Failed { reason });
                }
            }
        }
        if has_served {
            tokio::time::sleep(check.interval).await;
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(check.interval.max(FIRST_PROBE_INTERVAL));
        }
    }
}

/// Writes to the log. On a full disk the output is lost: the program is worth more than what it says.
pub(super) fn append(log: &Mutex<LogWriter>, bytes: &[u8]) {
    let written = log.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
    if let Err(error) = written {
        tracing::warn!(%error, "output was lost");
    }
}

/// What is known, in memory and on disk.
pub(super) struct Book {
    pub(super) container: Container,
    pub(super) status: Status,
}

impl Book {
    /// Changes what is known. Where it cannot be written, readers go on with what they knew.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Status)) {
        let before = self.status.clone();
        change(&mut self.status);
        if self.status != before
            && let Err(error) = self.container.set_status(&self.status)
        {
            tracing::warn!(%error, "the status could not be written");
        }
    }
}
