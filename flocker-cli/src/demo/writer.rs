//! A client that goes on writing whatever happens to the program.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::talk::Line;
use crate::error::Failure;

/// How long to wait after an acknowledgement before the next record.
const PACE: Duration = Duration::from_millis(2);

/// How long to wait before a connection that broke is tried again.
const AGAIN: Duration = Duration::from_millis(5);

/// What was acknowledged to a client.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) client: &'static str,
    /// The sequence of each of its records.
    pub(super) acknowledged: BTreeMap<u64, u64>,
    /// The longest time between two acknowledgements.
    pub(super) pause: Duration,
    /// How often a record had to be sent again because its acknowledgement did not come.
    pub(super) n_retries: u64,
}

/// A client at work. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    progress: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    work: JoinSet<Written>,
}

impl Writer {
    /// Starts to write through an address, from record 1 on.
    pub(super) fn start(client: &'static str, address: Ipv4Addr, port: u16) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (told, progress) = watch::channel(0);
        let mut work = JoinSet::new();
        work.spawn(write(client, address, port, stopped, told));
        Self { progress, stop, work }
    }

    /// Returns when so many more records were acknowledged than until now.
    pub(super) async fn writes(&mut self, more: u64) -> Result<(), Failure> {
        let wanted = *self.progress.borrow() + more;
        let reached = self.progress.wait_for(|acknowledged| *acknowledged >= wanted);
        match tokio::time::timeout(Duration::from_secs(30), reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Failure::failed("the client cannot write any more")),
        }
    }

    /// Has it finish the record that it is at, and returns what it has seen.
    pub(super) async fn finish(mut self) -> Result<Written, Failure> {
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(30), self.work.join_next()).await;
        match ended {
            Ok(Some(Ok(written))) => Ok(written),
            Ok(Some(Err(_)) | None) | Err(_) => Err(Failure::failed("the client did not finish")),
        }
    }
}

async fn write(
    client: &'static str,
    address: Ipv4Addr,
    port: u16,
    stopped: watch::Receiver<bool>,
    told: watch::Sender<u64>,
) -> Written {
    let mut written = Written {
        client,
        acknowledged: BTreeMap::new(),
        pause: Duration::ZERO,
        n_retries: 0,
    };
    let mut line = None;
    let mut last: Option<Instant> = None;
    let mut number = 1;
    while !*stopped.borrow() {
        let appended = async {
            let open = match &mut line {
                Some(open) => open,
                None => line.insert(Line::connect(address, port).await?),
            };
            open.append(client, number).await
        };
        if let Ok(sequence) = appended.await {
            let now = Instant::now();
            let since = last.map_or(Duration::ZERO, |last| now.duration_since(last));
            written.pause = written.pause.max(since);
            last = Some(now);
            written.acknowledged.insert(number, sequence);
            told.send_replace(number);
            number += 1;
            tokio::time::sleep(PACE).await;
        } else {
            // Whether it was written is not known. The same number again cannot make two of it.
            line = None;
            written.n_retries += 1;
            tokio::time::sleep(AGAIN).await;
        }
    }
    written
}
