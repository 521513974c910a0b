//! Pipes through whoever ordered a push: each is handed to the push that it was opened for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_backends::Channel;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::sync::Notify;
use tokio::sync::oneshot;

use super::LocalNode;
use crate::clock;
use crate::node::Pass;
use crate::wire;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::Incoming;
use crate::wire::Pickup;
use crate::wire::WireError;

/// Both directions of a connection to a receiver.
pub(super) struct Way {
    pub(super) reader: FrameReader<ReadHalf<Channel>>,
    pub(super) writer: FrameWriter<WriteHalf<Channel>>,
}

/// The pushes that wait for a pipe.
#[derive(Default)]
pub(super) struct Relays {
    awaited: Mutex<BTreeMap<Pass, oneshot::Sender<Way>>>,
    changed: Notify,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays")
            .field("n_awaited", &self.lock().len())
            .finish_non_exhaustive()
    }
}

impl Relays {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Pass, oneshot::Sender<Way>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the pipe of a transfer; nothing where none is opened in time.
    pub(super) async fn fetch(&self, pass: Pass, limit: Duration) -> Option<Way> {
        let (hand_over, way) = oneshot::channel();
        {
            let mut awaited = self.lock();
            // A push that was dropped waits no longer.
            awaited.retain(|_, other| !other.is_closed());
            awaited.insert(pass, hand_over);
        }
        self.changed.notify_waiters();
        let fetched = clock::timeout(limit, way).await;
        fetched.ok()?.ok()
    }

    /// Hands a pipe over as soon as its push waits for it. Where none does in time, the pipe is closed.
    async fn bring(&self, pass: Pass, way: Way, limit: Duration) -> Result<(), WireError> {
        let hand_over = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(hand_over) = self.lock().remove(&pass) {
                    break hand_over;
                }
                changed.await;
            }
        };
        let hand_over = clock::timeout(limit, hand_over)
            .await
            .map_err(|_| WireError::Unexpected {
                what: "a pipe for a transfer that is not under way",
            })?;
        // The push may have ended at this very moment; the pipe ends with it.
        drop(hand_over.send(way));
        Ok(())
    }
}

impl LocalNode {
    /// Takes a pipe through whoever opened it, and hands it to the push that it is for.
    pub(crate) async fn take_pipe(
        &self,
        mut reader: FrameReader<ReadHalf<Channel>>,
        writer: FrameWriter<WriteHalf<Channel>>,
    ) -> Result<(), WireError> {
        let limit = self.parts.deadlines.answer;
        let first = clock::timeout(limit, reader.next())
            .await
            .map_err(|_| WireError::Silent(limit))??;
        let pickup: Pickup = match first {
            Some(Incoming::Message(text)) => wire::read("what a pipe is for", &text)?,
            Some(_) => return Err(WireError::Unexpected { what: "a frame" }),
            None => return Err(WireError::Closed),
        };
        let pass = pickup.pass()?;
        self.relays.bring(pass, Way { reader, writer }, limit).await
    }
}
