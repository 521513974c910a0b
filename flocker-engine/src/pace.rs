//! How fast bytes may go.

use std::time::Duration;

use flocker_model::ByteSize;
use tokio::time::Instant;

use crate::clock;

/// So many bytes a second, from a beginning on, or as fast as they go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    rate: Option<ByteSize>,
    began: Instant,
}

impl Pace {
    /// Begins now.
    pub(crate) fn new(rate: Option<ByteSize>) -> Self {
        Self {
            rate,
            began: clock::now(),
        }
    }

    /// Returns how many bytes may go in one piece: what is slow goes in small ones, so that it never seems to stand still.
    pub(crate) fn most_at_once(&self) -> usize {
        let second = self.rate.map_or(u64::MAX, |rate| rate.0.max(1024));
        usize::try_from(second).unwrap_or(usize::MAX)
    }

    /// Waits until so many bytes in all may have been on the way.
    pub(crate) async fn after(&self, n_bytes: u64) {
        let Some(rate) = self.rate else {
            return;
        };
        let millis = u128::from(n_bytes) * 1000 / u128::from(rate.0.max(1));
        let due = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        // A moment too far away to be written down is waited for a day at a time.
        let due = due.min(self.began.elapsed() + Duration::from_secs(24 * 60 * 60));
        tokio::time::sleep_until(self.began + due).await;
    }
}
