//! A client that writes numbered rows through one node, and knows which were acknowledged.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::support::Operator;
use crate::support::until;

/// What the client knows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    longest_wait: std::sync::Mutex<Duration>,
}

impl Ledger {
    /// Writes rows through a node until it is told to stop, while `work` is done; returns what `work` returns.
    pub(crate) fn while_writing<T>(
        operator: &Operator,
        through: usize,
        port: u16,
        work: impl FnOnce(&Arc<Self>) -> T,
    ) -> (Arc<Self>, T) {
        let ledger = Arc::new(Self::default());
        let first: usize = operator
            .sql(through, port, "select coalesce(max(i), 0) from ledger")
            .ok()
            .trim()
            .parse()
            .unwrap();
        ledger.acknowledged.store(first, Ordering::SeqCst);
        let worked = std::thread::scope(|scope| {
            scope.spawn(|| ledger.write(operator, through, port));
            let guard = StopOnDrop(&ledger);
            until("the client writes", || ledger.n_acknowledged() > first);
            let worked = work(&ledger);
            let before = ledger.n_acknowledged();
            until("the client goes on", || ledger.n_acknowledged() > before);
            drop(guard);
            worked
        });
        (ledger, worked)
    }

    fn write(&self, operator: &Operator, through: usize, port: u16) {
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.n_acknowledged() + 1;
            // A row whose answer was lost may be there already; it is written once all the same.
            let text = format!("insert into ledger values ({number}) on conflict do nothing");
            let began = Instant::now();
            while !operator.sql(through, port, &text).ok {
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
            }
            let mut longest = self.longest_wait.lock().unwrap();
            *longest = longest.max(began.elapsed());
            self.acknowledged.store(number, Ordering::SeqCst);
        }
    }

    pub(crate) fn n_acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Returns the rows that were acknowledged by now and are not there; the client may go on writing.
    pub(crate) fn lost(&self, operator: &Operator, through: usize, port: u16) -> Vec<usize> {
        let n_acknowledged = self.n_acknowledged();
        let text = format!(
            "select n from generate_series(1, {n_acknowledged}) n where n not in (select i from ledger)"
        );
        let said = operator.sql(through, port, &text).ok();
        said.lines()
            .map(|number| number.trim().parse().unwrap())
            .collect()
    }

    /// Checks that every row that was acknowledged is there, once, and that nobody else wrote.
    #[track_caller]
    pub(crate) fn check(&self, operator: &Operator, through: usize, port: u16) {
        let text = "select count(*), count(distinct i), coalesce(min(i), 0), coalesce(max(i), 0) from ledger";
        let said = operator.sql(through, port, text).ok();
        let numbers: Vec<usize> = said.trim().split('|').map(|n| n.parse().unwrap()).collect();
        let n_acknowledged = self.n_acknowledged();
        println!(
            "ledger: {n_acknowledged} acknowledged, {} present, longest wait of the client {:?}",
            numbers[0],
            self.longest_wait.lock().unwrap()
        );
        assert!(
            numbers[0] >= n_acknowledged,
            "rows are lost: {said} of {n_acknowledged}"
        );
        // One more may be there, whose answer was lost.
        assert!(
            numbers[0] <= n_acknowledged + 1,
            "rows that nobody wrote: {said} of {n_acknowledged}"
        );
        assert_eq!(numbers[0], numbers[1]);
        assert_eq!((numbers[2], numbers[3]), (1, numbers[0]), "there are gaps");
    }
}

struct StopOnDrop<'a>(&'a Ledger);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}
