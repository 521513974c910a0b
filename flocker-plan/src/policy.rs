//! How a plan may be made: what the operator allows, and what is known of speeds.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::SnapshotName;
use serde::Deserialize;
use serde::Serialize;

/// What the operator allows, and what is known of speeds. Planning reads nothing else beside desired and actual state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long an application may be away while it moves.
    pub max_downtime: Duration,
    /// How many copies are made while the application still runs, at most.
    pub max_rounds: u32,
    /// Whether to cut over once the copies are close enough.
    pub cut_over: CutOver,
    /// What to do when copying does not catch up with writing.
    pub not_converging: NotConverging,
    /// Whether more than half of what runs may be stopped at once.
    pub stop_all: StopAll,
    /// How long a spare copy is kept after a move, and trash after a removal.
    pub grace: Duration,
    /// How long things take.
    pub rates: Rates,
    /// The earlier snapshots that were tried to be sent before anything newer, and cannot be: copies go on without them.
    // Left out where there are none: an older program would refuse the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub passed_over: BTreeMap<DatasetId, BTreeSet<SnapshotName>>,
}

impl Policy {
    /// Says whether an earlier snapshot is not tried again.
    pub(crate) fn passes_over(&self, dataset: DatasetId, snapshot: &SnapshotName) -> bool {
        let of_dataset = self.passed_over.get(&dataset);
        of_dataset.is_some_and(|passed_over| passed_over.contains(snapshot))
    }
}

/// Whether to cut over once the copies are close enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutOver {
    /// As soon as the forecast downtime is within the budget.
    WhenReady,
    /// Not until the operator says so.
    Hold,
}

/// What to do when copying does not catch up with writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotConverging {
    /// Wait, and say so.
    Ask,
    /// Cut over all the same, with the longer pause.
    Accept,
}

/// Whether more than half of what runs may be stopped at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopAll {
    /// No: it looks like a mistake in the files.
    Refuse,
    /// Yes.
    Allow,
}

/// How long things take: measured where they were seen, assumed where they were not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// How much is copied in a second.
    pub bytes_per_second: ByteSize,
    /// How long an application takes to stop.
    pub stop: Duration,
    /// How long a hand-off takes beside the copying.
    pub hand_off: Duration,
    /// How long an application takes to start.
    pub start: Duration,
    /// How long a change of routes takes.
    pub route: Duration,
}

impl Rates {
    /// Returns how long it takes to copy so much.
    #[must_use]
    pub fn copying(&self, bytes: ByteSize) -> Duration {
        let rate = u128::from(self.bytes_per_second.0.max(1));
        let millis = u128::from(bytes.0) * 1000 / rate;
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Returns how long an application is away when so much is left to copy after its stop.
    ///
    /// A `round` takes so long whatever is copied.
    #[must_use]
    pub fn downtime(&self, last_round: ByteSize, round: Duration) -> Duration {
        [self.stop, self.hand_off, self.start, self.route, round]
            .iter()
            .fold(self.copying(last_round), |sum, part| sum.saturating_add(*part))
    }
}

impl Default for Rates {
    /// What was measured on one small machine, for a first forecast.
    fn default() -> Self {
        Self {
            bytes_per_second: ByteSize(100 << 20),
            stop: Duration::from_millis(100),
            hand_off: Duration::from_millis(100),
            start: Duration::from_millis(250),
            route: Duration::from_millis(50),
        }
    }
}

impl Default for Policy {
    /// At most two seconds of downtime, no surprise, a week of grace.
    fn default() -> Self {
        Self {
            max_downtime: Duration::from_secs(2),
            max_rounds: 8,
            cut_over: CutOver::WhenReady,
            not_converging: NotConverging::Ask,
            stop_all: StopAll::Refuse,
            grace: Duration::from_secs(7 * 24 * 60 * 60),
            rates: Rates::default(),
            passed_over: BTreeMap::new(),
        }
    }
}
