//! What is waited and locked with, in one place: the program's own, or `shuttle`'s, which tries out every order of events.
//!
//! With the feature `shuttle` the very code of the modules that use this runs
//! under a scheduler that decides at each lock and each wait who goes on; see
//! `interleavings`. The locks of `tokio::sync` need no runtime and are the
//! same in both.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(feature = "shuttle"))]
pub(crate) use tokio::sync::Notify;
#[cfg(not(feature = "shuttle"))]
pub(crate) use tokio::task::{JoinError, JoinSet};
#[cfg(not(feature = "shuttle"))]
pub(crate) use {crate::clock::timeout, tokio::time::timeout_at};

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use self::tried_out::advance;
#[cfg(feature = "shuttle")]
pub(crate) use self::tried_out::{JoinSet, Notify, now, timeout, timeout_at};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle::future::JoinError;
#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};

#[cfg(feature = "shuttle")]
mod tried_out {
    use std::future::poll_fn;
    use std::sync::OnceLock;
    use std::task::Poll;
    use std::time::Duration;

    use shuttle::future::JoinError;
    use shuttle::future::JoinHandle;
    use shuttle::sync::atomic::AtomicU64;
    use shuttle::sync::atomic::Ordering;
    use tokio::time::Instant;

    shuttle::lazy_static! {
        /// How many milliseconds have passed since the beginning.
        static ref PASSED: AtomicU64 = AtomicU64::new(0);
    }

    /// Returns the present moment of a clock that only moves where it is told to.
    pub(crate) fn now() -> Instant {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        let beginning = *BEGINNING.get_or_init(Instant::now);
        beginning + Duration::from_millis(PASSED.load(Ordering::SeqCst))
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(crate) fn advance(by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        PASSED.fetch_add(millis, Ordering::SeqCst);
    }

    /// The same as it is elsewhere, with a moment before each call at which another task may come first.
    #[derive(Debug, Default)]
    pub(crate) struct Notify {
        notify: tokio::sync::Notify,
        n_calls: AtomicU64,
    }

    impl Notify {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
            self.n_calls.fetch_add(1, Ordering::SeqCst);
            self.notify.notified()
        }

        pub(crate) fn notify_waiters(&self) {
            self.n_calls.fetch_add(1, Ordering::SeqCst);
            self.notify.notify_waiters();
        }
    }

    /// The limit came first.
    #[derive(Debug)]
    pub(crate) struct Elapsed;

    /// Waits with a limit that is reached whenever the scheduler likes; never, where it is endless.
    pub(crate) async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut future = std::pin::pin!(future);
        if limit == Duration::MAX {
            return Ok(future.await);
        }
        let mut alarm = shuttle::future::spawn(shuttle::future::yield_now());
        let answer = poll_fn(|context| {
            if let Poll::Ready(answer) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(answer));
            }
            std::pin::Pin::new(&mut alarm).poll(context).map(|_| Err(Elapsed))
        });
        answer.await
    }

    /// Waits until a moment, which comes whenever the scheduler likes.
    pub(crate) async fn timeout_at<T>(_: Instant, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout(Duration::ZERO, future).await
    }

    /// Tasks that belong together; those that are left end with it.
    #[derive(Debug)]
    pub(crate) struct JoinSet<T>(Vec<JoinHandle<T>>);

    impl<T: Send + 'static> JoinSet<T> {
        pub(crate) fn new() -> Self {
            Self(Vec::new())
        }

        pub(crate) fn spawn(&mut self, task: impl Future<Output = T> + Send + 'static) {
            self.0.push(shuttle::future::spawn(task));
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        /// Returns how any of them ended, or nothing where there is none.
        pub(crate) async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
            if self.0.is_empty() {
                return None;
            }
            let first = poll_fn(|context| {
                for (position, task) in self.0.iter_mut().enumerate() {
                    if let Poll::Ready(ended) = std::pin::Pin::new(task).poll(context) {
                        return Poll::Ready((position, ended));
                    }
                }
                Poll::Pending
            });
            let (position, ended) = first.await;
            drop(self.0.swap_remove(position));
            Some(ended)
        }

        /// Ends all of them, and returns once they have.
        pub(crate) async fn shutdown(&mut self) {
            for task in &self.0 {
                task.abort();
            }
            while self.join_next().await.is_some() {}
        }
    }

    impl<T> Drop for JoinSet<T> {
        fn drop(&mut self) {
            for task in &self.0 {
                task.abort();
            }
        }
    }
}
