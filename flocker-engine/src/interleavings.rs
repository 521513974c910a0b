//! Who may come between whom: turns, gate, deploy lock, tickets and the executor under every order of events that `shuttle` tries.
//!
//! What runs here is the program's own code, with the locks and waits of
//! `sync` exchanged. A wait with a limit may reach it at any moment; a wait
//! that nobody would ever end is found as a deadlock.

/// How many schedules are tried of each kind.
const SCHEDULES: usize = 1500;

/// Tries a scenario under schedules drawn at random, and under those that need few changes of who runs.
pub(crate) fn try_out(scenario: fn()) {
    shuttle::check_random(scenario, SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, 3);
}

/// Waits for several tasks; one that has panicked has ended the schedule before.
pub(crate) fn all(tasks: Vec<shuttle::future::JoinHandle<()>>) {
    shuttle::future::block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Counts who is inside, and panics where somebody is who must not be.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    alone: std::sync::atomic::AtomicUsize,
    shared: std::sync::atomic::AtomicUsize,
}

impl Inside {
    pub(crate) async fn alone(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        assert_eq!(self.alone.fetch_add(1, SeqCst), 0, "two are there alone");
        assert_eq!(self.shared.load(SeqCst), 0, "one is there alone, and another too");
        shuttle::future::yield_now().await;
        self.alone.fetch_sub(1, SeqCst);
    }

    pub(crate) async fn shared(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        self.shared.fetch_add(1, SeqCst);
        assert_eq!(self.alone.load(SeqCst), 0, "one is there alone, and another too");
        shuttle::future::yield_now().await;
        self.shared.fetch_sub(1, SeqCst);
    }
}
