//! What datasets held when they were last counted, and how long that took.
//!
//! To count is to look at every entry of a dataset. It is done for whoever looks
//! at all of them, and remembered for who asks for one: sizes of a moment ago
//! serve him, and he is mostly about to move it, with its application away.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use flocker_model::DatasetId;

/// What was counted of one dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// How much it holds.
    pub(super) used: u64,
    /// How much of that is not in its newest snapshot.
    pub(super) unsent: u64,
    /// What of a copy that nobody writes is not as its snapshot says.
    pub(super) altered: Option<Box<str>>,
    /// How long it took to look at every entry.
    pub(super) took: Duration,
}

impl Count {
    /// How many times as long as a count this end of a round takes, whatever has changed.
    ///
    /// The sender looks at every entry twice and reads and spells the list of
    /// them; the receiver looks more often until it owns them. With a hundred
    /// thousand files a round took five and a half times as long as a count of
    /// both ends, three of it at the sender and eight at the receiver.
    const TIMES: u32 = 5;

    /// What is too short to be told from how fast the machine just was.
    const LEAST: Duration = Duration::from_millis(50);

    /// Returns how long this end of a round takes at least.
    pub(super) fn round(&self) -> Duration {
        if self.took < Self::LEAST {
            return Duration::ZERO;
        }
        self.took.saturating_mul(Self::TIMES)
    }
}

/// The last count of each dataset.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<BTreeMap<DatasetId, Count>>);

impl Counted {
    /// Returns the last count of a dataset, if it was counted since we began.
    pub(super) fn of(&self, dataset: DatasetId) -> Option<Count> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&dataset).cloned()
    }

    /// Remembers a count.
    pub(super) fn set(&self, dataset: DatasetId, count: Count) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert(dataset, count);
    }

    /// Forgets what is no longer here.
    pub(super) fn retain(&self, is_here: impl Fn(&DatasetId) -> bool) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|dataset, _| is_here(dataset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_as_long_as_several_counts_and_few_files_next_to_nothing() {
        let round = |millis| {
            let took = Duration::from_millis(millis);
            Count {
                took,
                ..Count::default()
            }
            .round()
        };
        assert_eq!(round(400), Duration::from_secs(2));
        assert_eq!(round(49), Duration::ZERO);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let counted = Counted::default();
        let dataset = DatasetId(uuid::Uuid::nil());
        counted.set(dataset, Count::default());
        counted.retain(|_| true);
        assert_eq!(counted.of(dataset), Some(Count::default()));
        counted.retain(|_| false);
        assert_eq!(counted.of(dataset), None);
    }
}
