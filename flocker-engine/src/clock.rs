//! The one place that asks what time it is.
//!
//! Everything in this crate that measures or waits goes by the runtime's
//! clock, so that a simulation can stop it. The time of day is for people:
//! no decision reads it.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// Returns the present moment of the clock that waits go by.
#[must_use]
pub fn now() -> Instant {
    #[cfg(not(feature = "shuttle"))]
    return Instant::now();
    #[cfg(feature = "shuttle")]
    crate::sync::now()
}

/// The limit came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Waits for something, with a limit. The clock is asked only where there is something to wait for.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    let mut alarm = pin!(None);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        if alarm.is_none() {
            // Work that always finds more to do would else keep it from being looked at.
            alarm.set(Some(tokio::task::unconstrained(tokio::time::sleep(limit))));
        }
        let rung = alarm.as_mut().as_pin_mut().map(|alarm| alarm.poll(context));
        match rung {
            Some(Poll::Ready(())) => Poll::Ready(Err(Elapsed)),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    })
    .await
}

/// Returns the seconds since 1970 in the time of day, or 0 where the machine's clock is before that.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one function that asks the time of day"
)]
pub fn time_of_day() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// How long to wait for what; every wait of this crate has a subject and one of these limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For an answer that needs no work: a report, an admission, a lock.
    pub answer: Duration,
    /// For an action that says nothing while it works.
    pub work: Duration,
    /// For the next sign of progress of a transfer.
    pub stall: Duration,
    /// From one sign of life to the next on a connection that has nothing else to say.
    pub keep_alive: Duration,
    /// Without a sign of life until a connection counts as dead.
    pub dead: Duration,
    /// For a ticket to be used.
    pub ticket: Duration,
    /// For the orders of a connection that has closed to be finished, before they are dropped.
    pub closing: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            work: Duration::from_secs(15 * 60),
            stall: Duration::from_secs(60),
            keep_alive: Duration::from_secs(5),
            dead: Duration::from_secs(30),
            ticket: Duration::from_secs(2 * 60),
            closing: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_there_at_once_needs_no_clock() {
        let without_clock = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(without_clock.block_on(timeout(LIMIT, async { 1 })), Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_time_is_waited_for_and_what_comes_later_is_not() {
        let begin = Instant::now();
        assert_eq!(timeout(LIMIT, tokio::time::sleep(LIMIT / 2)).await, Ok(()));
        assert_eq!(begin.elapsed(), LIMIT / 2);
        assert_eq!(timeout(LIMIT, tokio::time::sleep(LIMIT * 2)).await, Err(Elapsed));
        assert_eq!(begin.elapsed(), LIMIT / 2 + LIMIT);
    }
}
