//! A machine with nodes, for one test.

mod machine;
mod processes;
mod terminal;
mod writer;

use std::time::Duration;
use std::time::Instant;

pub(crate) use machine::Machine;
pub(crate) use machine::Running;
pub(crate) use processes::processes_about;
pub(crate) use writer::Writer;
pub(crate) use writer::append;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until something is there.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
