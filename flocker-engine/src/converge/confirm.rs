//! Who agrees to a plan.

use async_trait::async_trait;
use flocker_model::ClusterState;
use flocker_plan::Plan;

/// Who is asked before the first plan is carried out.
#[async_trait]
pub trait Confirm: Send + Sync {
    /// Is shown the first plan that has steps, and what it was made from.
    async fn confirm(&self, plan: &Plan, actual: &ClusterState) -> Answer;

    /// Is shown every plan of every turn before any of it is carried out, and asked nothing.
    fn sees(&self, _plan: &Plan, _actual: &ClusterState) {}
}

/// The answer to a plan that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Carry it out, and those after it.
    Go,
    /// Carry it out, and of those after it only what goes on with the same applications, data and routes.
    GoNoFurther,
    /// Leave everything as it is.
    Decline,
}

/// The answer of who need not be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Go;

#[async_trait]
impl Confirm for Go {
    async fn confirm(&self, _: &Plan, _: &ClusterState) -> Answer {
        Answer::Go
    }
}
