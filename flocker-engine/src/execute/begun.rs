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
            match &step.action {
                Action::Start { .. } => {
                    starting.insert(&step.reason);
                }
                // It still runs. Where there is no stop, it was stopped before this plan.
                Action::Stop { .. } => {
                    let standing = frontier.standing(position);
                    if !matches!(standing, Standing::Running | Standing::Done) {
                        serving.insert(&step.reason);
                    }
                }
                Action::Create { .. }
                | Action::Resize { .. }
                | Action::Take { .. }
                | Action::Push { .. }
                | Action::Release { .. }
                | Action::Acquire { .. }
                | Action::Renounce { .. }
                | Action::Destroy { .. }
                | Action::Trim { .. }
                | Action::DropPartial { .. }
                | Action::Restore { .. }
                | Action::EmptyTrash { .. }
                | Action::Prepare { .. }
                | Action::Route { .. } => {}
            }
        }
        let away: BTreeSet<&Reason> = starting.difference(&serving).copied().collect();
        let names: BTreeSet<&ApplicationName> = away.iter().filter_map(|why| stopped_for(why)).collect();
        let mut begun = Self {
            applications: BTreeSet::new(),
            is_theirs: vec![false; steps.len()],
        };
        // From the last to the first: what a step needs comes before it.
        for (position, step) in steps.iter().enumerate().rev() {
            let led_to = if let Action::Route { change } = &step.action {
                let mut targets = change.set.values().map(|target| &target.application);
                targets.find(|application| names.contains(application))
            } else {
                stopped_for(&step.reason).filter(|_| away.contains(&*step.reason))
            };
            if let Some(application) = led_to.filter(|_| is_open(position)) {
                begun.applications.insert(application.clone());
                begun.is_theirs[position] = true;
            }
            if begun.is_theirs[position] {
                for maker in plan.edges().makers(position) {
                    begun.is_theirs[maker] = true;
                }
            }
        }
        begun
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
