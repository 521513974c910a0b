//! What a polite stop carries to its end: cut-overs that have begun.
//!
//! An application that was stopped for its move serves nobody until it runs at
//! its new home and the routes lead there. To stop between would leave it away
//! until somebody deploys again. Whom the plan finds stopped, and copies for the
//! first time, was away before, be it for ever: a long copy is not waited for.
//! Where that is wrong, who looks at the whole cluster knows it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_model::NodeName;
use flocker_plan::Action;
use flocker_plan::Fact;
use flocker_plan::Frontier;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Standing;
use flocker_plan::Step;

/// An application and where it is stopped.
pub(crate) type Stopped<'a> = (&'a ApplicationName, &'a NodeName);

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
        let all_stops = all_stops(steps);
        let starts = stops_before(steps);
        let is_open = |position: usize| match frontier.standing(position) {
            Standing::Blocked | Standing::Ready | Standing::Running => true,
            Standing::Done | Standing::Failed | Standing::Skipped { .. } => false,
        };
        let has_begun = |stop| matches!(frontier.standing(stop), Standing::Running | Standing::Done);
        let is_away = |start: usize, stopped: &BTreeSet<Stopped<'_>>| {
            let mut planned = stopped.iter().filter_map(|one| all_stops.get(one)).peekable();
            if planned.peek().is_some() {
                planned.any(|&stop| has_begun(stop))
            } else {
                let reason = &steps[start].reason;
                let mut own = (0..steps.len()).filter(|&position| steps[position].reason == *reason);
                let copies_all = own.any(|position| is_open(position) && copies_all(&steps[position]));
                was_stopped_before(reason) && !copies_all
            }
        };
        // By start and not by application: on another node the same one may restart later, and is not away there yet.
        let mut theirs: BTreeSet<usize> = starts
            .iter()
            .filter(|(start, stopped)| is_away(**start, stopped))
            .map(|(start, _)| *start)
            .collect();
        loop {
            let reasons: BTreeSet<&Reason> = theirs.iter().map(|&start| &*steps[start].reason).collect();
            let names: BTreeSet<&ApplicationName> = theirs
                .iter()
                .filter_map(|&start| steps[start].action.application())
                .collect();
            let of_whom = |step: &'_ Step| {
                if let Action::Route { change } = &step.action {
                    let mut led_to = change.applications();
                    led_to.find(|application| names.contains(application)).cloned()
                } else {
                    let is_own = reasons.contains(&*step.reason);
                    is_own.then(|| started_for(&step.reason).cloned()).flatten()
                }
            };
            let open = steps.iter().enumerate();
            let open: Vec<_> = open
                .map(|(position, step)| of_whom(step).filter(|_| is_open(position)))
                .collect();
            let is_theirs = plan
                .edges()
                .and_makers(open.iter().map(Option::is_some).collect());
            // Who has to stop for one of them is away by that as well.
            let is_to_stop = |one| all_stops.get(one).is_some_and(|&stop: &usize| is_theirs[stop]);
            let n_before = theirs.len();
            let stopping = starts
                .iter()
                .filter(|(_, stopped)| stopped.iter().any(is_to_stop));
            theirs.extend(stopping.map(|(start, _)| *start));
            if theirs.len() == n_before {
                return Self {
                    is_theirs,
                    applications: open.into_iter().flatten().collect(),
                };
            }
        }
    }
}

/// Returns the position of each stop.
pub(crate) fn all_stops<'a>(steps: impl IntoIterator<Item = &'a Step>) -> BTreeMap<Stopped<'a>, usize> {
    let mut all_stops = BTreeMap::new();
    for (position, step) in steps.into_iter().enumerate() {
        if let Action::Stop { application, .. } = &step.action {
            all_stops.insert((application, &step.actor), position);
        }
    }
    all_stops
}

/// Returns, for the position of each start, who has to be stopped for it and where.
///
/// That is what it waits for by itself or by its hand-off, whatever reason the stop itself has: the data may have been
/// another's. What stops for that which it uses is not among it.
pub(crate) fn stops_before<'a>(
    steps: impl IntoIterator<Item = &'a Step>,
) -> BTreeMap<usize, BTreeSet<Stopped<'a>>> {
    let mut by_reason: BTreeMap<&Reason, BTreeSet<Stopped<'_>>> = BTreeMap::new();
    let mut starts = Vec::new();
    for (position, step) in steps.into_iter().enumerate() {
        for need in &step.needs {
            if let Fact::Stopped { application, on } = &need.fact {
                by_reason
                    .entry(&step.reason)
                    .or_default()
                    .insert((application, on));
            }
        }
        if let Action::Start { .. } = step.action {
            starts.push((position, &*step.reason));
        }
    }
    let starts = starts.into_iter();
    starts
        .map(|(position, reason)| (position, by_reason.get(reason).cloned().unwrap_or_default()))
        .collect()
}

/// Says whether what is started for this reason ran before, so that a plan without its stop was made after that.
pub(crate) fn was_stopped_before(reason: &Reason) -> bool {
    match reason {
        Reason::Moves { .. } | Reason::Restarts { .. } => true,
        Reason::Starts { .. }
        | Reason::Stops { .. }
        | Reason::Resizes { .. }
        | Reason::Routes { .. }
        | Reason::Deletes { .. }
        | Reason::Tidies { .. } => false,
    }
}

/// Says whether a step copies all data to where nothing of it is yet, as a move mostly does only of what does not run.
pub(crate) fn copies_all(step: &Step) -> bool {
    matches!(step.action, Action::Push { base: None, .. })
}

/// Returns the application that is started for this reason.
fn started_for(reason: &Reason) -> Option<&ApplicationName> {
    match reason {
        Reason::Moves { application, .. }
        | Reason::Restarts { application, .. }
        | Reason::Starts { application, .. } => Some(application),
        Reason::Stops { .. }
        | Reason::Resizes { .. }
        | Reason::Routes { .. }
        | Reason::Deletes { .. }
        | Reason::Tidies { .. } => None,
    }
}
