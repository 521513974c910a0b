//! What is expected of every plan and of every answer, by who trusts neither the planner nor the nodes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_plan::Action;
use flocker_plan::Frontier;
use flocker_plan::Outcome;
use flocker_plan::Plan;
use flocker_plan::StepId;

use super::cluster::Cluster;
use super::cluster::Reach;
use super::dice::Dice;
use crate::event::Event;
use crate::node::LockToken;
use crate::node::Order;
use crate::record::RecordStore as _;

/// Follows the plan that a command carries out.
#[derive(Debug)]
pub(super) struct Following {
    positions: BTreeMap<StepId, usize>,
    frontier: Frontier,
}

impl Following {
    pub(super) fn of(plan: &Plan) -> Self {
        let steps = plan.steps().iter().enumerate();
        Self {
            positions: steps.map(|(position, step)| (step.id(), position)).collect(),
            frontier: Frontier::new(plan),
        }
    }

    /// Says what is wrong with a step that is started or has ended.
    pub(super) fn follow(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::StepStarted { step, .. } => {
                let position = self.positions.get(step);
                if position.is_some_and(|position| self.frontier.start(*position)) {
                    Ok(())
                } else {
                    Err(format!("I7: `{step}` was started and may not be"))
                }
            }
            Event::StepDone { step, .. } => {
                self.settle(step, Outcome::Done);
                Ok(())
            }
            Event::StepFailed { step, .. } => {
                self.settle(step, Outcome::Failed);
                Ok(())
            }
            Event::Observed { .. }
            | Event::Awaited { .. }
            | Event::LockTaken { .. }
            | Event::LockAwaited { .. }
            | Event::PlanMade { .. }
            | Event::StepProgress { .. }
            | Event::StepCarried { .. }
            | Event::StepSkipped { .. }
            | Event::ImageBrought { .. }
            | Event::BackingOff { .. }
            | Event::RolledBack { .. }
            | Event::Stopping { .. } => Ok(()),
        }
    }

    fn settle(&mut self, step: &StepId, outcome: Outcome) {
        if let Some(position) = self.positions.get(step) {
            self.frontier.settle(*position, outcome);
        }
    }
}

/// Checks a plan in its own order, and in another one that its needs allow.
pub(super) fn check_plan(
    plan: &Plan,
    desired: &Deployment,
    actual: &ClusterState,
    dice: &mut Dice,
) -> Result<(), String> {
    if plan.steps().is_empty() {
        return Ok(());
    }
    flocker_plan::check::plan(plan, desired, actual).map_err(|violation| format!("plan: {violation}"))?;
    let was_sound = flocker_plan::check::state(actual).is_ok();
    let mut walked = actual.clone();
    let mut frontier = Frontier::new(plan);
    let mut ready: Vec<usize> = frontier.ready().collect();
    let mut to_start = starts(plan);
    while !ready.is_empty() {
        let position = ready.swap_remove(dice.below(ready.len()));
        let step = &plan.steps()[position];
        frontier.start(position);
        let wrong = |what: &str| format!("plan, in another order: `{}`: {what}", step.id());
        flocker_plan::check::destroys_nothing_last(step, desired, &walked)
            .map_err(|violation| wrong(&violation.to_string()))?;
        flocker_plan::predict(&mut walked, step, desired).map_err(|refused| wrong(&refused.to_string()))?;
        flocker_plan::predict::obey(&mut walked, &step.actor, plan.generation());
        if was_sound {
            flocker_plan::check::state(&walked).map_err(|violation| wrong(&violation.to_string()))?;
        }
        if let Action::Start { application, .. } = &step.action {
            to_start.remove(&(application.clone(), step.actor.clone()));
        }
        if let Some(home) = leads_nowhere(&step.action, &to_start) {
            return Err(wrong(&format!("I10: a route leads to {home} before it serves")));
        }
        ready.extend(frontier.settle(position, Outcome::Done));
    }
    Ok(())
}

/// Returns what a plan starts, and where.
fn starts(plan: &Plan) -> BTreeSet<(ApplicationName, NodeName)> {
    let steps = plan.steps().iter().filter_map(|step| {
        let Action::Start { application, .. } = &step.action else {
            return None;
        };
        Some((application.clone(), step.actor.clone()))
    });
    steps.collect()
}

/// Returns the only home of a route that is set while it is still to be started there.
fn leads_nowhere(action: &Action, to_start: &BTreeSet<(ApplicationName, NodeName)>) -> Option<NodeName> {
    let Action::Route { change } = action else {
        return None;
    };
    let mut targets = change.set.values();
    targets.find_map(|target| {
        let home = target.homes.first().filter(|_| target.homes.len() == 1)?;
        let is_to_start = to_start.contains(&(target.application.clone(), home.node.clone()));
        is_to_start.then(|| home.node.clone())
    })
}

impl Cluster {
    /// Checks that a plan is of a newer configuration than any that the nodes it sees obey, or of the same command's.
    pub(super) fn check_generation(
        &self,
        plan: &Plan,
        actual: &ClusterState,
        is_first: bool,
    ) -> Result<(), String> {
        // An order of a command that was killed may still be on its way through a connection.
        let is_sure = self.layout.reach == Reach::Calls && self.notes().n_deaths == 0;
        if self.looks().has_misled || !is_sure {
            return Ok(());
        }
        for (name, _) in actual.all_known() {
            let Some(machine) = self.machines.get(name) else {
                continue;
            };
            let carried = self.notes().carried.get(name).copied().unwrap_or_default();
            let obeyed = machine.record.generation().max(carried);
            let is_newer = if is_first {
                plan.generation() > obeyed
            } else {
                plan.generation() >= obeyed
            };
            if !is_newer && !plan.steps().is_empty() {
                return Err(format!(
                    "I4: a plan of generation {} was made while {name} obeys {}",
                    plan.generation().0,
                    obeyed.0
                ));
            }
        }
        Ok(())
    }

    /// I4: what a node says that it obeys only grows, whatever happens to it, and nobody remembers more of it.
    pub(super) fn check_answer(&self, name: &NodeName, state: &NodeState) {
        for (other, peer) in &state.peers {
            let machine = self.machines.get(other);
            let Some(record) = machine.and_then(|machine| machine.record.load().ok().flatten()) else {
                continue;
            };
            if peer.id == Some(record.id) && peer.generation > record.generation {
                self.break_by(format!(
                    "I4: {name} remembers that {other} obeyed generation {}, and {other} has written down {}",
                    peer.generation, record.generation
                ));
            }
        }
        let obeyed = state.generation;
        let before = {
            let mut notes = self.notes();
            let answered = notes.answered.entry(name.clone()).or_default();
            let before = *answered;
            *answered = before.max(obeyed);
            before
        };
        if obeyed < before {
            self.break_by(format!(
                "I4: {name} obeyed generation {} and says now that it obeys {}",
                before.0, obeyed.0
            ));
        }
    }

    /// L26: a lock that one command holds is given to no other.
    pub(super) fn note_lock(&self, name: &NodeName, token: LockToken) {
        let other = self.holders().insert(name.clone(), token);
        if other.is_some_and(|other| other != token) {
            self.break_by(format!("L26: two commands hold the deploy lock of {name}"));
        }
    }

    /// What a node answers to be done is so at that moment, and was done for who holds its lock.
    pub(super) fn check_receipt(&self, name: &NodeName, order: &Order) {
        if let Err(wrong) = self.look_for_receipt(name, order) {
            self.break_by(wrong);
        }
    }

    fn look_for_receipt(&self, name: &NodeName, order: &Order) -> Result<(), String> {
        let Some(node) = self.node(name) else {
            return Ok(());
        };
        let holder = self.holders().get(name).copied();
        if order.lock.is_some() && order.lock != holder {
            return Err(format!(
                "L26: {name} did `{} {}` for a command that does not hold its lock",
                order.action.verb(),
                order.action
            ));
        }
        self.notes().carried.insert(name.clone(), order.generation);
        let (volumes, runtime) = (node.volumes(), node.runtime());
        let has = |node: &NodeName, dataset, snapshot: &_| {
            let receiver = self.node(node);
            receiver.is_some_and(|receiver| receiver.volumes().has_snapshot(dataset, snapshot))
        };
        let is_so = match &order.action {
            Action::Create { dataset, epoch } => self.observer.owns(dataset.id, name) == Some(*epoch),
            Action::Acquire { dataset, epoch, .. } => self.observer.owns(*dataset, name) == Some(*epoch),
            Action::Release { dataset, .. } => self.observer.owns(*dataset, name).is_none(),
            Action::Take { dataset, snapshot } => has(name, *dataset, snapshot),
            Action::Push {
                dataset,
                snapshot,
                to,
                ..
            } => has(to, dataset.id, snapshot),
            Action::Start { application, .. } => runtime.is_running(application),
            Action::Stop { application, .. } => !runtime.is_running(application),
            Action::Destroy { dataset } => !volumes.is_here(*dataset),
            Action::Route { change } => return self.check_routes(name, change),
            Action::Resize { .. }
            | Action::Renounce { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. }
            | Action::Prepare { .. } => true,
        };
        if is_so {
            return Ok(());
        }
        let (verb, action) = (order.action.verb(), &order.action);
        Err(format!(
            "{name} says that `{verb} {action}` is done, and it is not"
        ))
    }

    /// I10: while nothing has gone wrong, a route leads to where its application runs.
    fn check_routes(&self, name: &NodeName, change: &flocker_model::RouteChange) -> Result<(), String> {
        if self.notes().n_struck > 0 {
            return Ok(());
        }
        for (port, target) in &change.set {
            let serves = |home: &flocker_model::Home| {
                let node = self.node(&home.node);
                node.is_none_or(|node| node.runtime().is_running(&target.application))
            };
            if !target.homes.iter().any(serves) {
                let application = &target.application;
                return Err(format!(
                    "I10: {name} sends port {port} to where {application} does not run"
                ));
            }
        }
        Ok(())
    }
}
