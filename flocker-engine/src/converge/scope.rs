//! How far an agreement goes that was given for one plan and nothing else.
//!
//! The turns after the first go on with what that plan began: the same
//! applications, data and routes, and what these need. What else there is to
//! do by then nobody has agreed to.

use std::collections::BTreeSet;
use std::sync::Arc;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_plan::Action;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Step;
use flocker_plan::StepId;

/// What the plan is about that was agreed to.
#[derive(Debug)]
pub(super) struct Scope {
    steps: BTreeSet<StepId>,
    applications: BTreeSet<ApplicationName>,
    datasets: BTreeSet<DatasetId>,
    ports: BTreeSet<ExternalPort>,
    /// These applications, and those that were taken along because they are used: where one moves, its routes follow.
    led_to: BTreeSet<ApplicationName>,
}

impl Scope {
    pub(super) fn of(plan: &Plan) -> Self {
        let steps = plan.steps();
        let changes = steps.iter().filter_map(|step| route_change(&step.action));
        let applications: BTreeSet<_> = steps.iter().filter_map(application).cloned().collect();
        Self {
            steps: steps.iter().map(Step::id).collect(),
            led_to: applications.clone(),
            applications,
            datasets: steps.iter().filter_map(|step| step.action.dataset()).collect(),
            // That an application's route is agreed to says nothing of the application itself.
            ports: changes
                .flat_map(|change| change.set.keys().chain(&change.drop))
                .copied()
                .collect(),
        }
    }

    /// Returns one of a few steps, of whatever is about some applications, and of the routes to others.
    pub(super) fn rest(
        steps: BTreeSet<StepId>,
        applications: BTreeSet<ApplicationName>,
        led_to: BTreeSet<ApplicationName>,
    ) -> Self {
        Self {
            steps,
            applications,
            datasets: BTreeSet::new(),
            ports: BTreeSet::new(),
            led_to,
        }
    }

    /// Returns the part of a plan that was agreed to, with what it needs, and the steps that were not.
    pub(super) fn part_of(&mut self, plan: &Plan) -> (Plan, Vec<StepId>) {
        loop {
            let (part, beyond) = self.own_part_of(plan);
            let n_before = self.led_to.len();
            self.led_to
                .extend(part.steps().iter().filter_map(application).cloned());
            if self.led_to.len() == n_before {
                return (part, beyond);
            }
        }
    }

    fn own_part_of(&self, plan: &Plan) -> (Plan, Vec<StepId>) {
        let steps = plan.steps().iter().flat_map(|step| self.parted(step)).collect();
        let parted = Plan::new(plan.generation(), steps, Vec::new(), Vec::new(), Vec::new());
        let own = parted.steps().iter().map(|step| self.has(step)).collect();
        let is_part = parted.edges().and_makers(own);
        let (mut part, mut beyond) = (Vec::new(), Vec::new());
        for (step, is_part) in parted.steps().iter().zip(is_part) {
            if is_part {
                part.push(step.clone());
            } else {
                beyond.push(step.id());
            }
        }
        let part = Plan::new(
            plan.generation(),
            part,
            plan.waiting().to_vec(),
            plan.refused().to_vec(),
            plan.kept().to_vec(),
        );
        (part, beyond)
    }

    fn has(&self, step: &Step) -> bool {
        let about = application(step);
        let dataset = step.action.dataset();
        let routes = route_change(&step.action);
        about.is_some_and(|application| self.applications.contains(application))
            || dataset.is_some_and(|dataset| self.datasets.contains(&dataset))
            || routes.is_some_and(|change| self.split(change).1.is_empty())
            || self.steps.contains(&step.id())
    }

    /// Makes two steps of one that changes routes which were agreed to and others.
    fn parted(&self, step: &Step) -> Vec<Step> {
        let Some(change) = route_change(&step.action) else {
            return vec![step.clone()];
        };
        let (own, others) = self.split(change);
        if own.is_empty() || others.is_empty() {
            return vec![step.clone()];
        }
        let with = |change| Step {
            action: Action::Route {
                change: Arc::new(change),
            },
            ..step.clone()
        };
        vec![with(own), with(others)]
    }

    /// Splits a change into the routes that were agreed to, and the others.
    fn split(&self, change: &RouteChange) -> (RouteChange, RouteChange) {
        let (mut own, mut others) = (RouteChange::default(), RouteChange::default());
        for (port, target) in &change.set {
            let is_own = self.ports.contains(port) || self.led_to.contains(&target.application);
            let part = if is_own { &mut own } else { &mut others };
            part.set.insert(*port, target.clone());
        }
        for port in &change.drop {
            let part = if self.ports.contains(port) {
                &mut own
            } else {
                &mut others
            };
            part.drop.insert(*port);
        }
        (own, others)
    }
}

fn application(step: &Step) -> Option<&ApplicationName> {
    match &*step.reason {
        Reason::Starts { application, .. }
        | Reason::Restarts { application, .. }
        | Reason::Moves { application, .. }
        | Reason::Stops { application, .. }
        | Reason::Resizes { application, .. } => Some(application),
        Reason::Routes { .. } | Reason::Deletes { .. } | Reason::Tidies { .. } => step.action.application(),
    }
}

fn route_change(action: &Action) -> Option<&RouteChange> {
    if let Action::Route { change } = action {
        Some(change)
    } else {
        None
    }
}
