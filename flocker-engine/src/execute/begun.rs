//! What a polite stop carries to its end: cut-overs that have begun.
//!
//! An application that was stopped for its move serves nobody until it runs at
//! its new home and the routes lead there. To stop between would leave it away
//! until somebody deploys again.

use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_plan::Action;
use flocker_plan::Frontier;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Standing;
use flocker_plan::Step;

/// The cut-overs of a plan that have begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Whose they are.
    pub(super) applications: BTreeSet<ApplicationName>,
    /// By position: whether the step belongs to one of them, or is needed by one.
    pub(super) is_theirs: Vec<bool>,
}

impl Begun {
    pub(super) fn of(plan: &Plan, frontier: &Frontier) -> Self {
        let steps = plan.steps();
        let is_open = |position: usize| match frontier.standing(position) {
            Standing::Blocked | Standing::Ready | Standing::Running => true,
            Standing::Done | Standing::Failed | Standing::Skipped { .. } => false,
        };
        // Together by reason: on another node the same application may restart later, and is not away there yet.
        let mut starting: BTreeSet<&Reason> = BTreeSet::new();
        let mut serving: BTreeSet<&Reason> = BTreeSet::new();
        for (position, step) in steps.iter().enumerate() {
            if stopped_for(&step.reason).is_none() {
                continue;
            }
            let standing = frontier.standing(position);
            if let Action::Start { .. } = step.action {
                starting.insert(&step.reason);
            } else if let Action::Stop { .. } = step.action
                && !matches!(standing, Standing::Running | Standing::Done)
            {
                // It still runs. Where there is no stop, it was stopped before this plan.
                serving.insert(&step.reason);
            }
        }
        let away: BTreeSet<&Reason> = starting.difference(&serving).copied().collect();
        let names: BTreeSet<&ApplicationName> = away.iter().filter_map(|why| stopped_for(why)).collect();
        let of_whom = |step: &'_ Step| {
            if let Action::Route { change } = &step.action {
                change
                    .applications()
                    .find(|application| names.contains(application))
                    .cloned()
            } else {
                stopped_for(&step.reason)
                    .filter(|_| away.contains(&*step.reason))
                    .cloned()
            }
        };
        let open = steps.iter().enumerate();
        let open: Vec<_> = open
            .map(|(position, step)| of_whom(step).filter(|_| is_open(position)))
            .collect();
        Self {
            is_theirs: plan
                .edges()
                .and_makers(open.iter().map(Option::is_some).collect()),
            applications: open.into_iter().flatten().collect(),
        }
    }
}

/// Returns the application that is stopped and started again for this reason.
fn stopped_for(reason: &Reason) -> Option<&ApplicationName> {
    match reason {
        Reason::Moves { application, .. } | Reason::Restarts { application, .. } => Some(application),
        Reason::Starts { .. }
        | Reason::Stops { .. }
        | Reason::Resizes { .. }
        | Reason::Routes { .. }
        | Reason::Deletes { .. }
        | Reason::Tidies { .. } => None,
    }
}
