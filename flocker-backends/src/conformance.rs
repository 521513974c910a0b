//! What every backend promises, one test body per promise.
//!
//! A backend's test file implements a harness and names it:
//!
//! ```text
//! struct Pool { /* … */ }
//!
//! #[async_trait::async_trait]
//! impl VolumeHarness for Pool { /* … */ }
//!
//! flocker_backends::volume_conformance!(Pool::new());
//! ```
//!
//! Each promise becomes a test of its own, and each test evaluates the harness
//! expression once, inside a runtime: it starts on a node on which nothing is.
//! A promise that is broken is a panic. What a trait's documentation leaves
//! open is left open here.
//!
//! The twins in [`memory`](crate::memory) keep the same promises: these bodies
//! are the only definition of how a twin behaves.

#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test body panics where a promise is broken; that is its one purpose"
)]

pub mod router;
pub mod runtime;
pub mod transport;
pub mod volume;

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use crate::change::Change;

pub use router::RouterHarness;
pub use runtime::{Program, RuntimeHarness};
pub use transport::TransportHarness;
pub use volume::VolumeHarness;

/// Runs a test body to its end, in a runtime of its own.
pub fn run(body: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(body);
}

/// Runs a test body where it is: what surrounds a promise that needs nothing around it.
#[doc(hidden)]
pub fn as_it_is(body: impl FnOnce()) {
    body();
}

/// Declares one test per promise.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    (within $surroundings:path, $module:path, $harness:expr, $($name:ident)*) => {$(
        #[test]
        fn $name() {
            use $module as promises;
            $surroundings(|| $crate::conformance::run(async {
                let harness = $harness;
                promises::$name(&harness).await;
            }));
        }
    )*};
    ($module:path, $harness:expr, $($name:ident)*) => {
        $crate::conformance_tests! {
            within $crate::conformance::as_it_is, $module, $harness, $($name)*
        }
    };
}

/// Asks again until an answer comes, or panics after half a minute.
///
/// For what happens on its own time where the backend is real: an end, a restart.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let waiting = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    in_time.unwrap_or_else(|_| panic!("after 30 s it was not so that {what}"))
}

/// Lets a call go on for a while and drops it, unless it ended before.
///
/// The steps are turns of the runtime, so that a call which does its work in
/// a few polls is dropped between two of them.
async fn drop_after<T>(n_steps: usize, call: impl Future<Output = T>) -> Option<T> {
    let steps = async {
        for _ in 0..n_steps {
            tokio::task::yield_now().await;
        }
    };
    let (mut call, mut steps) = (pin!(call), pin!(steps));
    std::future::poll_fn(|context| {
        use std::task::Poll;
        match call.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => steps.as_mut().poll(context).map(|()| None),
        }
    })
    .await
}

/// Panics unless the call has made a change.
#[track_caller]
fn made<E: Debug>(answer: Result<Change, E>) {
    assert_eq!(answer.unwrap(), Change::Made);
}

/// Panics unless the call found it so already.
#[track_caller]
fn already_so<E: Debug>(answer: Result<Change, E>) {
    assert_eq!(answer.unwrap(), Change::AlreadySo);
}
