//! Orders to a supervisor, which come through its directory or as a signal.

use std::fs::File;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use super::place::Container;

/// How often a supervisor looks for what nobody tells it.
const ORDER_INTERVAL: Duration = Duration::from_secs(1);

/// Where the order to stop comes from.
pub(super) struct Orders {
    container: Container,
    lock: File,
    control: pipe::Receiver,
    terminate: tokio::signal::unix::Signal,
    own_grace: Duration,
    was_told_to_end: bool,
    seen: Option<Duration>,
}

impl Orders {
    /// Listens before it looks, so that no order falls in between.
    pub(super) fn open(container: Container, lock: File, own_grace: Duration) -> io::Result<Self> {
        // Open for writing as well, so that it never ends.
        let control = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(container.control())?;
        Ok(Self {
            control,
            terminate: signal(SignalKind::terminate())?,
            container,
            lock,
            own_grace,
            was_told_to_end: false,
            seen: None,
        })
    }

    /// Returns the grace of an order to stop, if there is one.
    ///
    /// Where somebody has removed the container, it is to end as well: nobody
    /// could find it any more, and the next node would start a second one.
    pub(super) fn stop(&mut self) -> io::Result<Option<Duration>> {
        if !self.container.is_locked_by(&self.lock)? {
            return Ok(Some(self.own_grace));
        }
        let order = self.container.stop_order()?;
        let order = order.map(|order| order.grace.unwrap_or(self.own_grace));
        Ok(order.or(self.was_told_to_end.then_some(self.own_grace)))
    }

    /// Waits for an order that was not seen yet. Safe to drop.
    pub(super) async fn wait(&mut self) -> io::Result<Duration> {
        let mut buffer = [0; 64];
        loop {
            let order = self.stop()?;
            if let Some(grace) = order.filter(|_| order != self.seen) {
                self.seen = order;
                return Ok(grace);
            }
            tokio::select! {
                read = self.control.read(&mut buffer) => drop(read?),
                _ = self.terminate.recv() => self.was_told_to_end = true,
                () = tokio::time::sleep(ORDER_INTERVAL) => {}
            }
        }
    }

    pub(super) async fn stop_within(&mut self, time: Duration) -> io::Result<Option<Duration>> {
        match tokio::time::timeout(time, self.wait()).await {
            Ok(grace) => grace.map(Some),
            Err(_) => Ok(None),
        }
    }
}
