//! Decisions: desired state against actual state, turned into an ordered, explained plan.
//!
//! Nothing here does anything, waits for anything or asks anybody: the same
//! inputs give the same plan, byte for byte. Read [`fact`], [`action`] and
//! [`step`] for what a plan is made of, [`fn@plan`] for where it comes from, and
//! [`rules`] for why.

pub mod action;
pub mod blocked;
pub mod boot;
mod by_dataset;
pub mod check;
pub mod estimate;
pub mod fact;
pub mod frontier;
pub mod link;
mod made;
pub mod needs;
pub mod obstacle;
pub mod plan;
pub mod policy;
pub mod predict;
pub mod render;
pub mod replicate;
pub mod rules;
pub mod saved;
mod shares;
pub mod step;
mod view;
mod waiting;

pub use action::Action;
pub use blocked::{Kept, Refusal, Waiting};
pub use estimate::{ApplicationEstimate, Estimate, estimate};
pub use fact::{Fact, holds};
pub use frontier::{Frontier, Outcome, Standing};
pub use needs::Needs;
pub use obstacle::{NotPromoted, NotRestored};
pub use plan::Plan;
pub use policy::{CutOver, NotConverging, Policy, Rates, StopAll};
pub use predict::predict;
pub use rules::promote::promote;
pub use rules::reclaim::reclaim;
pub use rules::undo::{Undo, undo};
pub use saved::{Difference, SavedPlan, SavedPlanError};
pub use shares::Workers;
pub use step::{Because, Need, Reason, Step, StepId};

use flocker_model::ClusterState;
use flocker_model::Deployment;

/// Compares what is to be with what is, and returns what to do about it.
pub fn plan(desired: &Deployment, actual: &ClusterState, policy: &Policy) -> Plan {
    plan_by(Workers::of_this_machine(), desired, actual, policy)
}

/// Makes the same plan as [`fn@plan`], by no more than these workers.
pub fn plan_by(workers: Workers, desired: &Deployment, actual: &ClusterState, policy: &Policy) -> Plan {
    rules::plan(desired, actual, policy, workers)
}
