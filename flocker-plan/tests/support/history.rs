//! A random history of a cluster: deployments, silences, crashes, writes and half-done plans, with the truth known.

use std::collections::{BTreeMap, BTreeSet};

use flocker_model::{
    ClusterState, ContainerStatus, DatasetId, Deployment, Generation, Member, NodeName, Observed, Role,
    SnapshotGuid,
};
use flocker_plan::reclaim;
use flocker_plan::{Action, NotConverging, Plan, Policy, Refusal, Step, StopAll, check, plan};

use crate::dice::{Dice, any_deployment};
use crate::walk::{Witness, settle, walk};
use crate::world::{amiss, application, application_name, node, node_name, silent};

const N_NODES: usize = 3;
const N_APPLICATIONS: usize = 3;
const N_TURNS: usize = 12;
const N_MOVES: usize = 30;

/// What a history is mostly made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plot {
    /// Whatever can be wanted, of several applications.
    Anything,
    /// One application moves to and fro: long chains of ownerships.
    Moves,
}

/// What nobody in the cluster knows: how often each dataset was written, and which snapshot holds how much of it.
#[derive(Default)]
struct Truth {
    written: BTreeMap<DatasetId, u64>,
    held: BTreeMap<(DatasetId, SnapshotGuid), u64>,
    deleted: BTreeSet<DatasetId>,
}

impl Truth {
    fn see(&mut self, step: &Step, state: &ClusterState) -> Result<(), String> {
        let newest = |dataset: &DatasetId| {
            let copy = state
                .known(&step.actor)
                .and_then(|seen| seen.datasets.get(dataset));
            copy.and_then(|copy| copy.snapshots.last().map(|snapshot| snapshot.guid))
        };
        match &step.action {
            Action::Create { dataset, .. } => {
                if self.written.contains_key(&dataset.id) && !self.deleted.contains(&dataset.id) {
                    return Err(format!("{} hides what was written before", step.id()));
                }
                self.deleted.remove(&dataset.id);
                self.written.entry(dataset.id).or_default();
            }
            Action::Take { dataset, .. } | Action::Release { dataset, .. } => {
                let written = self.written.get(dataset).copied().unwrap_or_default();
                if let Some(guid) = newest(dataset) {
                    self.held.entry((*dataset, guid)).or_insert(written);
                }
            }
            Action::Acquire { dataset, .. } => {
                if self.deleted.contains(dataset) {
                    // It was to be destroyed, and an older copy was out of reach: it is the newest there is.
                    return Ok(());
                }
                let held = newest(dataset).and_then(|guid| self.held.get(&(*dataset, guid)));
                if held != self.written.get(dataset) {
                    return Err(format!(
                        "{} goes on from {held:?} of {:?} writes",
                        step.id(),
                        self.written.get(dataset)
                    ));
                }
            }
            Action::Resize { .. }
            | Action::Push { .. }
            | Action::Renounce { .. }
            | Action::Destroy { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. }
            | Action::Prepare { .. }
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::Route { .. } => {}
        }
        Ok(())
    }

    /// Every application that runs with data of its own may write.
    fn write(&mut self, dice: &mut Dice, state: &mut ClusterState) {
        dice.write_somewhere(state);
        for (_, seen) in state.all_known() {
            for (dataset, copy) in &seen.datasets {
                let runs = |dataset| {
                    let mut containers = seen.containers.values();
                    containers.any(|container| container.is_alive() && container.dataset == Some(dataset))
                };
                let writes = copy.unsent.0 > 0 && runs(*dataset);
                if writes && matches!(copy.role, Role::Primary { .. }) {
                    *self.written.entry(*dataset).or_default() += 1;
                }
            }
        }
    }
}

/// Lives through a history, and at the end brings about what was wanted last, with all nodes seen.
pub(crate) fn live(mut dice: Dice, plot: Plot, turns: usize) -> Result<(), String> {
    let policy = Policy {
        stop_all: StopAll::Allow,
        not_converging: NotConverging::Accept,
        grace: std::time::Duration::ZERO,
        ..Policy::default()
    };
    let mut truth = Truth::default();
    let mut state = ClusterState::default();
    for number in 0..N_NODES {
        state
            .nodes
            .insert(node_name(number), Observed::Known(node(number)));
    }
    let mut generation = 2;
    let mut desired = deployment(&mut dice, plot, generation);
    let n_turns = match plot {
        Plot::Anything => N_TURNS,
        Plot::Moves => N_MOVES,
    };
    for _ in 0..n_turns {
        if dice.once_in(3) {
            generation += 1;
            desired = deployment(&mut dice, plot, generation);
        }
        truth.deleted.extend(desired.deleted());
        let hidden = hide(&mut dice, &mut state);
        let made = if plot == Plot::Anything && dice.once_in(5) {
            reclaim(&desired, &state, &policy)
        } else {
            plan(&desired, &state, &policy)
        };
        let whole = dice.once_in(2);
        half_do(&mut dice, &made, &desired, &mut state, &mut truth, whole)?;
        state.nodes.extend(hidden);
        check::state(&state).map_err(|violation| violation.to_string())?;
        crash(&mut dice, &mut state);
        truth.write(&mut dice, &mut state);
        pass_an_hour(&mut state);
    }
    // The last word is said with every node there.
    let desired = desired.at(Generation(generation + 1));
    let (last, _) = settle(&desired, &policy, &mut state, turns)?;
    let excused = last.refused().iter().any(|refusal| match refusal {
        // What was deleted by name is not brought back by wanting it again: it is in the trash,
        // or on a node that was silent then.
        Refusal::InTrash { dataset, .. } | Refusal::NoOwner { dataset, .. } => {
            truth.deleted.contains(dataset)
        }
        Refusal::SplitOwnership { .. }
        | Refusal::Unreadable { .. }
        | Refusal::LastSnapshot { .. }
        | Refusal::NoRoom { .. }
        | Refusal::LargerThanLimit { .. }
        | Refusal::PortTaken { .. }
        | Refusal::StopAll { .. }
        | Refusal::Returned { .. }
        | Refusal::Outdated { .. }
        | Refusal::Circle { .. }
        | Refusal::NotPromoted { .. }
        | Refusal::NotRestored { .. } => false,
    });
    if excused {
        return Ok(());
    }
    if !last.is_settled() {
        return Err(format!("in the end: {:?} {:?}", last.waiting(), last.refused()));
    }
    match amiss(&desired, &state) {
        Some(amiss) => Err(format!("in the end: {amiss}")),
        None => Ok(()),
    }
}

fn deployment(dice: &mut Dice, plot: Plot, generation: u64) -> Deployment {
    if plot == Plot::Moves {
        let name = application_name(0);
        let mut builder = Deployment::builder().application(name.clone(), application(0, 0, true));
        for number in 0..N_NODES {
            builder = builder.node(node_name(number), Member::empty());
        }
        let builder = builder.place(&name, &node_name(dice.roll(N_NODES)));
        return builder.build().unwrap().at(Generation(generation));
    }
    loop {
        let desired = any_deployment(dice, N_NODES, N_APPLICATIONS, generation);
        let listed = desired.members().len() == N_NODES;
        let limited = desired.applications().values().any(|application| {
            let volume = application.volume.as_ref();
            volume.is_some_and(|volume| volume.maximum_size.is_some())
        });
        // Files that list every node and refuse nothing: what comes of others is another law.
        if listed && !limited {
            return desired;
        }
    }
}

/// Makes some nodes silent, and returns what they are in truth.
fn hide(dice: &mut Dice, state: &mut ClusterState) -> BTreeMap<NodeName, Observed<flocker_model::NodeState>> {
    let mut hidden = BTreeMap::new();
    for number in 0..N_NODES {
        if dice.once_in(4) {
            let name = node_name(number);
            if let Some(seen) = state.nodes.insert(name.clone(), silent()) {
                hidden.insert(name, seen);
            }
        }
    }
    hidden
}

fn half_do(
    dice: &mut Dice,
    made: &Plan,
    desired: &Deployment,
    state: &mut ClusterState,
    truth: &mut Truth,
    whole: bool,
) -> Result<(), String> {
    let n_steps = if whole {
        made.steps().len()
    } else {
        dice.roll(made.steps().len() + 1)
    };
    let dice = std::cell::RefCell::new(dice);
    let mut witness = Witness {
        choose: &mut |n_ready| dice.borrow_mut().roll(n_ready),
        see: &mut |step, state| {
            truth.see(step, state)?;
            truth.write(&mut dice.borrow_mut(), state);
            Ok(())
        },
    };
    walk(made, desired, state, n_steps, &mut witness)
}

fn pass_an_hour(state: &mut ClusterState) {
    let hour = std::time::Duration::from_secs(3600);
    for seen in state.nodes.values_mut() {
        let Observed::Known(seen) = seen else { continue };
        let copies = seen.datasets.values_mut().map(|copy| &mut copy.age);
        for age in copies.chain(seen.trash.iter_mut().map(|trash| &mut trash.age)) {
            *age += hour;
        }
    }
}

/// Lets a container end by itself, now and then.
fn crash(dice: &mut Dice, state: &mut ClusterState) {
    for seen in state.nodes.values_mut() {
        let Observed::Known(seen) = seen else { continue };
        for container in seen.containers.values_mut() {
            if container.is_alive() && dice.once_in(8) {
                container.status = ContainerStatus::Exited { code: Some(1) };
            }
        }
    }
}
