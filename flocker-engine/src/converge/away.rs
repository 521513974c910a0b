//! Who was stopped to be started again and does not serve yet: what a push that is asked to stop does not leave as it is.
//!
//! One plan carries that to its end as far as its steps succeed. Where one has
//! failed, it takes another look and another plan, of which nothing else is done.

use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::Deployment;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_plan::Plan;
use flocker_plan::Step;
use flocker_plan::Waiting;

use super::course::serves;
use super::scope::Scope;
use crate::execute::all_stops;
use crate::execute::copies_all;
use crate::execute::stops_before;
use crate::execute::was_stopped_before;
use crate::report::Ending;
use crate::report::Report;
use crate::report::StepReport;

/// The applications that were stopped in a push, or found stopped for a move that it went on with.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// Each with where it ran, or where it is to run if it was not this push that stopped it.
    stopped: BTreeSet<(ApplicationName, NodeName)>,
}

impl Away {
    pub(super) fn by(reports: &[Report], actual: &ClusterState) -> Self {
        let mut away = Self::default();
        for report in reports {
            away.follow(report, actual);
        }
        away
    }

    fn follow(&mut self, report: &Report, actual: &ClusterState) {
        let steps = || report.steps.iter().map(|step| &step.step);
        let all_stops = all_stops(steps());
        let has_begun = |position: usize| report.steps[position].began.is_some();
        for (&(application, on), &stop) in &all_stops {
            if has_begun(stop) {
                self.stopped.insert((application.clone(), on.clone()));
            }
        }
        for (start, stopped) in stops_before(steps()) {
            let start = &report.steps[start].step;
            let Some(application) = start.action.application() else {
                continue;
            };
            let planned: Vec<_> = stopped
                .iter()
                .filter_map(|one| Some((one.1, *all_stops.get(one)?)))
                .collect();
            let begun = planned.iter().filter(|(_, stop)| has_begun(*stop));
            self.stopped
                .extend(begun.map(|&(on, _)| (application.clone(), on.clone())));
            if planned.is_empty() && was_stopped_before(&start.reason) && is_missed(start, report, actual) {
                self.stopped.insert((application.clone(), start.actor.clone()));
            }
        }
    }

    /// Says whether nobody was.
    pub(super) fn is_empty(&self) -> bool {
        self.stopped.is_empty()
    }

    /// Returns who of them is still away, or is not led to before this plan.
    pub(super) fn finishing(
        &self,
        rest: &Plan,
        desired: &Deployment,
        actual: &ClusterState,
    ) -> Vec<ApplicationName> {
        let mut finishing = self.names(desired, actual);
        for (application, _) in &self.stopped {
            if rest.steps().iter().any(|step| step.action.leads_to(application)) {
                finishing.insert(application.clone());
            }
        }
        finishing.into_iter().collect()
    }

    fn names(&self, desired: &Deployment, actual: &ClusterState) -> BTreeSet<ApplicationName> {
        let stopped = self.stopped.iter();
        let away = stopped.filter(|(application, from)| is_away(application, from, desired, actual));
        away.map(|(application, _)| application.clone()).collect()
    }

    /// Returns the part of a plan that brings them back, with the routes to those who are.
    pub(super) fn rest_of(&self, plan: &Plan, desired: &Deployment, actual: &ClusterState) -> Plan {
        let away = self.names(desired, actual);
        let steps = plan.steps();
        let starts = stops_before(steps);
        let started = |start: usize| steps[start].action.application();
        let mut theirs: BTreeSet<usize> = starts.keys().copied().collect();
        theirs.retain(|&start| {
            let is_theirs = started(start).is_some_and(|application| away.contains(application));
            is_theirs && !lives(started(start), &steps[start].actor, actual)
        });
        // Of these only their routes may be left.
        let mut back: BTreeSet<&ApplicationName> = self.stopped.iter().map(|(name, _)| name).collect();
        for application in starts.keys().filter_map(|&start| started(start)) {
            back.remove(application);
        }
        loop {
            let names = theirs.iter().filter_map(|&start| started(start));
            let led_to = names.chain(back.iter().copied()).chain(&away);
            // On another home, the same application may restart later.
            let at_one_home = away
                .iter()
                .filter(|application| desired.homes(application).count() == 1);
            let mut scope = Scope::rest(
                theirs.iter().map(|&start| steps[start].id()).collect(),
                at_one_home.cloned().collect(),
                led_to.cloned().collect(),
            );
            let (part, _) = scope.part_of(plan);
            let stopping = all_stops(part.steps());
            let n_before = theirs.len();
            // Who has to stop for one of them is away by that as well.
            let also = starts
                .iter()
                .filter(|(_, stopped)| stopped.iter().any(|one| stopping.contains_key(one)));
            theirs.extend(also.map(|(start, _)| *start));
            if theirs.len() > n_before {
                continue;
            }
            let waiting = plan.waiting().iter().filter(|waiting| {
                let application = waiting.application();
                application.is_some_and(|application| away.contains(application))
            });
            return Plan::new(
                part.generation(),
                part.steps().to_vec(),
                waiting.cloned().collect(),
                Vec::new(),
                Vec::new(),
            );
        }
    }
}

/// Returns the cut-overs that follow the copies of a plan.
pub(super) fn cut_overs(plan: &Plan) -> Vec<Waiting> {
    let waiting = plan.waiting().iter();
    waiting
        .filter(|waiting| waiting.is_for_a_copy())
        .cloned()
        .collect()
}

/// Says whether a move has begun of an application that this push did not stop, and that somebody misses.
///
/// Of what is copied for the first time that is not known: it may never have run. What an earlier push has copied while it
/// ran shows that it did.
fn is_missed(start: &Step, report: &Report, actual: &ClusterState) -> bool {
    let own = report
        .steps
        .iter()
        .filter(|step| step.step.reason == start.reason);
    let has_begun = own.clone().any(|step| step.began.is_some());
    let is_open = |step: &&StepReport| !matches!(step.ending, Ending::Done(_)) && copies_all(&step.step);
    let ran_before = |copy: &StepReport| {
        let source = actual.known(&copy.step.actor);
        let dataset = copy.step.action.dataset();
        let source = source.zip(dataset).and_then(|(node, id)| node.datasets.get(&id));
        source.is_some_and(was_copied_while_it_ran)
    };
    has_begun && own.clone().find(is_open).is_none_or(ran_before)
}

/// Says whether a copy was made of it for a move away from its newest ownership, which is only done of what runs.
fn was_copied_while_it_ran(source: &Manifestation) -> bool {
    let next = match &source.role {
        Role::Primary { epoch } => epoch.next(),
        Role::Released { epoch, .. } => *epoch,
        Role::Replica => return true,
    };
    let names = source.snapshots.iter().map(|snapshot| &snapshot.name);
    let mut warm = names.filter_map(|name| name.epoch().filter(|epoch| name.warm_round(*epoch).is_some()));
    warm.any(|epoch| epoch >= next)
}

/// Says whether an application that was stopped on a node serves neither there nor where it is to be.
fn is_away(
    application: &ApplicationName,
    from: &NodeName,
    desired: &Deployment,
    actual: &ClusterState,
) -> bool {
    let serves = |home: &NodeName| container(Some(application), home, actual).is_some_and(serves);
    let is_home = desired.homes(application).any(|home| home == from);
    !lives(Some(application), from, actual) && (is_home || !desired.homes(application).any(serves))
}

fn lives(application: Option<&ApplicationName>, on: &NodeName, actual: &ClusterState) -> bool {
    container(application, on, actual).is_some_and(ContainerState::is_alive)
}

fn container<'a>(
    application: Option<&ApplicationName>,
    on: &NodeName,
    actual: &'a ClusterState,
) -> Option<&'a ContainerState> {
    actual.known(on)?.containers.get(application?)
}
