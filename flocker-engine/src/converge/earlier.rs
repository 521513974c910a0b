//! Earlier snapshots that were to be sent before anything newer, and cannot be.

use std::collections::BTreeMap;

use flocker_backends::Classify as _;
use flocker_backends::ErrorClass;
use flocker_model::DatasetId;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Waiting;

use crate::node_error::NodeError;
use crate::report::Ending;
use crate::report::Report;

/// How often one is tried. What it saves a third node later is not worth more.
const MAX_TRIES: u32 = 3;

/// How often each of them has failed, one try after the other.
#[derive(Debug, Default)]
pub(super) struct Tries(BTreeMap<(DatasetId, SnapshotName), u32>);

impl Tries {
    /// Takes note of one turn, and has the policy pass over what was refused for good or has failed too often; says whether
    /// that is anything.
    pub(super) fn follow(&mut self, plan: &Plan, report: &Report, policy: &mut Policy) -> bool {
        let earlier = plan.waiting().iter().filter_map(|waiting| match waiting {
            Waiting::Earlier { to, snapshot, .. } => Some((waiting.application(), to, snapshot)),
            Waiting::ForSight { .. }
            | Waiting::ForHealth { .. }
            | Waiting::PreCopy { .. }
            | Waiting::Held { .. }
            | Waiting::NotConverging { .. }
            | Waiting::TooManyFiles { .. } => None,
        });
        let earlier: Vec<_> = earlier.collect();
        if earlier.is_empty() {
            return false;
        }
        let mut any = false;
        for step in &report.steps {
            let Action::Push {
                dataset,
                snapshot,
                to,
                ..
            } = &step.step.action
            else {
                continue;
            };
            if !earlier.contains(&(Some(&dataset.owner), to, snapshot)) {
                continue;
            }
            let key = (dataset.id, snapshot.clone());
            match &step.ending {
                Ending::Failed(error) if says_something(error) => {
                    let n_tries = self.0.entry(key).or_default();
                    *n_tries += 1;
                    if *n_tries >= MAX_TRIES || error.class() == ErrorClass::Permanent {
                        let passed_over = policy.passed_over.entry(dataset.id).or_default();
                        any |= passed_over.insert(snapshot.clone());
                    }
                }
                Ending::Done(_) => drop(self.0.remove(&key)),
                Ending::Failed(_) | Ending::Skipped { .. } | Ending::Interrupted | Ending::Left => {}
            }
        }
        any
    }
}

/// Says whether a failure is one of the copy, and not of the way to its node or of who may order it.
fn says_something(error: &NodeError) -> bool {
    let is_way = matches!(error, NodeError::Unreachable { .. } | NodeError::Lost { .. });
    !is_way && !error.is_stale() && *error != NodeError::LockLost
}
