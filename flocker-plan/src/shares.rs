//! Work in shares, each done by a thread of its own where there is much of it.
//!
//! What comes of it never depends on how many threads there are: shares
//! follow each other, and what they give is put together in their order. On
//! a machine that has no threads, or no more of them, one does everything.
//! This is the only file of the planner that knows of threads.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread::Builder;
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

    /// How many pieces a thread does where what they give is put together meanwhile: the last one alone is waited for.
    const PIECES: usize = 16;

    /// Returns how many threads there are at most.
    pub(crate) fn most(self) -> usize {
        self.most
    }

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
        cut(n_items, self.n_shares(n_items, work))
    }

    /// Cuts `n_items`, which are so much work together, into pieces for [`in_turn`]: where there are many, several for each thread.
    pub(crate) fn pieces(self, n_items: usize, work: usize) -> Vec<Range<usize>> {
        let n_threads = self.n_shares(n_items, work);
        let most = if n_threads == 1 {
            1
        } else {
            n_threads * Self::PIECES
        };
        cut(n_items, (n_items / self.smallest_share).min(most).max(n_threads))
    }

    fn n_shares(self, n_items: usize, work: usize) -> usize {
        (work / self.smallest_share).min(self.most).min(n_items).max(1)
    }
}

fn cut(n_items: usize, n_shares: usize) -> Vec<Range<usize>> {
    let bound = |share: usize| n_items / n_shares * share + n_items % n_shares * share / n_shares;
    (0..n_shares)
        .map(|share| bound(share)..bound(share + 1))
        .collect()
}

/// Does `work` on each share, and returns what it gives in their order.
pub(crate) fn each<I: Clone + Send, T: Send>(shares: &[I], work: impl Fn(I) -> T + Sync) -> Vec<T> {
    each_of(shares.to_vec(), work)
}

/// Does `work` with each share, and returns what it gives in their order.
pub(crate) fn each_of<I: Send, T: Send>(shares: Vec<I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    let mut all = Vec::with_capacity(shares.len());
    in_turn(shares.len(), shares, work, |done| all.push(done));
    all
}

/// Does `work` with each piece, by so many threads of which this is one, and takes what it gives in their order.
///
/// Each thread begins the next piece as soon as it is done with one. What is given is taken while the others go on.
pub(crate) fn in_turn<I: Send, T: Send>(
    n_threads: usize,
    pieces: Vec<I>,
    work: impl Fn(I) -> T + Sync,
    mut take: impl FnMut(T),
) {
    let n_pieces = pieces.len();
    let pieces = Mutex::new(pieces.into_iter().enumerate());
    let next = || pieces.lock().ok()?.next();
    let (sender, given) = channel();
    scope(|scope| {
        for _ in 1..n_threads.min(n_pieces) {
            let sender = sender.clone();
            let (next, work) = (&next, &work);
            let thread = Builder::new().spawn_scoped(scope, move || {
                while let Some((place, piece)) = next() {
                    if sender.send((place, work(piece))).is_err() {
                        break;
                    }
                }
            });
            // Where no thread can be had, those that there are do more.
            drop(thread);
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for place in 0..n_pieces {
            let done = loop {
                if let Some(done) = early.remove(&place) {
                    break done;
                }
                let first = given.try_recv().ok();
                let own = || next().map(|(place, piece)| (place, work(piece)));
                let Some((place, done)) = first.or_else(own).or_else(|| given.recv().ok()) else {
                    // A thread has panicked, and so will the end of this scope.
                    return;
                };
                early.insert(place, done);
            };
            take(done);
        }
    });
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
        assert_eq!(Workers::ALONE.pieces(1 << 20, 1 << 20).len(), 1);
    }

    #[test]
    fn pieces_are_taken_in_their_order_by_any_number_of_threads() {
        for n_threads in [1, 2, 3, 50] {
            let mut taken = Vec::new();
            in_turn(
                n_threads,
                (0..40).collect(),
                |piece| piece * 2,
                |done| taken.push(done),
            );
            assert_eq!(taken, (0..40).map(|piece| piece * 2).collect::<Vec<_>>());
        }
    }
}
