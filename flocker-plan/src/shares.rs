//! Work in shares, each done by a thread of its own where there is much of it.
//!
//! What comes of it never depends on how many threads there are: shares
//! follow each other, and what they give is put together in their order. On
//! a machine that has no threads, or no more of them, one does everything.
//! This is the only file of the planner that knows of threads.

use std::num::NonZero;
use std::ops::Range;
use std::sync::OnceLock;
use std::thread::Builder;
use std::thread::ScopedJoinHandle;
use std::thread::available_parallelism;
use std::thread::scope;

/// How many threads may make a plan. The plan is the same, however many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    most: usize,
    smallest_share: usize,
}

impl Workers {
    /// The thread that asks for the plan, and no other.
    pub const ALONE: Self = Self {
        most: 1,
        smallest_share: usize::MAX,
    };

    /// To begin a thread takes as long as to look at a few hundred applications; a share is much more than that.
    const SMALLEST_SHARE: usize = 8192;

    /// More than this many wait for the memory, and for each other.
    const MOST: usize = 8;

    /// Returns as many as this machine had processors for when it was first asked, for work that is worth it.
    #[must_use]
    pub fn of_this_machine() -> Self {
        // To ask reads files; a small plan is made in less time.
        static KNOWN: OnceLock<usize> = OnceLock::new();
        let most = *KNOWN.get_or_init(|| available_parallelism().map_or(1, NonZero::get).min(Self::MOST));
        Self {
            most,
            smallest_share: Self::SMALLEST_SHARE,
        }
    }

    /// Returns so many at most, each with a share of at least so many applications, copies or steps.
    #[must_use]
    pub fn new(most: NonZero<usize>, smallest_share: NonZero<usize>) -> Self {
        Self {
            most: most.get(),
            smallest_share: smallest_share.get(),
        }
    }

    /// Cuts `n_items`, which are so much work together, into shares that follow each other; at least one.
    pub(crate) fn shares(self, n_items: usize, work: usize) -> Vec<Range<usize>> {
        let n_shares = (work / self.smallest_share).min(self.most).min(n_items).max(1);
        let bound = |share: usize| n_items / n_shares * share + n_items % n_shares * share / n_shares;
        (0..n_shares)
            .map(|share| bound(share)..bound(share + 1))
            .collect()
    }
}

/// Does `work` on each share, and returns what it gives in their order.
pub(crate) fn each<T: Send>(shares: &[Range<usize>], work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let Some((first, others)) = shares.split_first() else {
        return Vec::new();
    };
    let (first, others) = beside(|| work(first.clone()), others, &work);
    std::iter::once(first).chain(others).collect()
}

/// Does `first` on this thread, and `work` on each share beside it; returns what they give, in order.
pub(crate) fn beside<A, T: Send>(
    first: impl FnOnce() -> A,
    shares: &[Range<usize>],
    work: impl Fn(Range<usize>) -> T + Sync,
) -> (A, Vec<T>) {
    if shares.is_empty() {
        return (first(), Vec::new());
    }
    let work = &work;
    scope(|scope| {
        let begin = |share: &Range<usize>| {
            let share = share.clone();
            Builder::new().spawn_scoped(scope, move || work(share)).ok()
        };
        let threads: Vec<Option<ScopedJoinHandle<'_, T>>> = shares.iter().map(begin).collect();
        let first = first();
        let done = shares.iter().zip(threads).map(|(share, thread)| match thread {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // No thread could be had for it.
            None => work(share.clone()),
        });
        (first, done.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_each_other_and_leave_nothing_out() {
        for (most, smallest, n) in [
            (1, 1, 10),
            (2, 3, 10),
            (3, 1, 10),
            (3, 1, 2),
            (3, 1, 0),
            (4, 5, 9),
        ] {
            let workers = Workers {
                most,
                smallest_share: smallest,
            };
            let shares = workers.shares(n, n);
            assert!(shares.len() <= most, "{shares:?}");
            assert!(
                shares.len() == 1 || shares.iter().all(|share| share.len() >= smallest),
                "{shares:?}"
            );
            let doubled = each(&shares, |share| share.map(|item| item * 2).collect::<Vec<_>>());
            let all: Vec<usize> = (0..n).map(|item| item * 2).collect();
            assert_eq!(doubled.concat(), all);
        }
        assert_eq!(Workers::ALONE.shares(1 << 20, 1 << 20).len(), 1);
    }
}
