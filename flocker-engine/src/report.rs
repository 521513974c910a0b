//! How the steps of one plan ended.

use std::collections::BTreeMap;

use flocker_backends::Change;
use flocker_model::ByteSize;
use flocker_plan::Step;
use flocker_plan::StepId;
use tokio::time::Instant;

use crate::node_error::NodeError;
use crate::passage::Carrier;

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was done, or was so already.
    Done(Change),
    /// It failed.
    Failed(NodeError),
    /// It was not tried, because this one failed.
    Skipped {
        /// The step that failed.
        because: StepId,
    },
    /// It was begun, and dropped because everything was asked to stop.
    Interrupted,
    /// It was not begun, because everything was asked to stop.
    Left,
}

/// How one step ended, and how long it took.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// The step.
    pub step: Step,
    /// How it ended.
    pub ending: Ending,
    /// When it began, if it did.
    pub began: Option<Instant>,
    /// When it ended, if it began.
    pub ended: Option<Instant>,
    /// How much it sent, if it sends.
    pub sent: ByteSize,
    /// By what it was carried, if it was sent to another machine.
    pub carrier: Option<Carrier>,
}

impl StepReport {
    /// Returns how long it took.
    #[must_use]
    pub fn took(&self) -> std::time::Duration {
        match (self.began, self.ended) {
            (Some(began), Some(ended)) => ended.duration_since(began),
            (None | Some(_), _) => std::time::Duration::ZERO,
        }
    }
}

/// How every step of one plan ended, in order of the plan.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The steps.
    pub steps: Vec<StepReport>,
    /// Whether it was asked to stop.
    pub was_interrupted: bool,
}

impl Report {
    /// Says whether anything was changed.
    #[must_use]
    pub fn changed_something(&self) -> bool {
        self.steps
            .iter()
            .any(|step| step.ending == Ending::Done(Change::Made))
    }

    /// Returns the steps that failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&Step, &NodeError)> {
        self.steps.iter().filter_map(|report| match &report.ending {
            Ending::Failed(error) => Some((&report.step, error)),
            Ending::Done(_) | Ending::Skipped { .. } | Ending::Interrupted | Ending::Left => None,
        })
    }

    /// Returns the same by name, for who keeps it longer.
    pub(crate) fn failed(&self) -> BTreeMap<StepId, NodeError> {
        let failures = self.failures();
        failures.map(|(step, error)| (step.id(), error.clone())).collect()
    }

    /// Returns the steps that were not begun, or not finished, because everything was asked to stop.
    pub fn left(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter_map(|report| match &report.ending {
            Ending::Interrupted | Ending::Left => Some(&report.step),
            Ending::Done(_) | Ending::Skipped { .. } | Ending::Failed(_) => None,
        })
    }

    /// Returns how much was copied in a second, by the largest transfer that is large enough to tell.
    pub(crate) fn measured_rate(&self) -> Option<ByteSize> {
        const ENOUGH: ByteSize = ByteSize(1 << 20);
        let copies = self.steps.iter();
        let largest = copies
            .filter(|step| step.sent >= ENOUGH && matches!(step.ending, Ending::Done(_)))
            .max_by_key(|step| step.sent)?;
        let millis = largest.took().as_millis().max(1);
        let rate = u128::from(largest.sent.0) * 1000 / millis;
        Some(ByteSize(u64::try_from(rate).unwrap_or(u64::MAX)))
    }
}
