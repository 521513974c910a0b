//! Invariants of any state and of any plan, checked without trusting who made them.

use std::collections::BTreeMap;

use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::Role;
use thiserror::Error;

use crate::action::Action;
use crate::fact::holds;
use crate::plan::Plan;
use crate::predict::Refused;
use crate::predict::obey;
use crate::predict::predict;
use crate::step::Step;
use crate::step::StepId;

/// What must never be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// I1: two nodes may write one dataset.
    #[error("dataset `{dataset}` may be written on both `{first}` and `{second}`")]
    TwoWriters {
        /// The dataset.
        dataset: DatasetId,
        /// One node.
        first: NodeName,
        /// The other.
        second: NodeName,
    },
    /// I1: an application runs on data that its node does not own.
    #[error("an application runs on `{node}` with dataset `{dataset}`, which that node does not own")]
    WritesUnowned {
        /// The dataset.
        dataset: DatasetId,
        /// The node.
        node: NodeName,
    },
    /// I2: the last owner's copy is destroyed though nobody asked for it.
    #[error("`{step}` destroys the owner's copy")]
    DestroysOwner {
        /// The step.
        step: StepId,
    },
    /// I5 or I6: a dataset is created though it may exist.
    #[error("`{step}` creates a dataset that exists or may exist on a silent node")]
    CreatesOver {
        /// The step.
        step: StepId,
    },
    /// A step comes before what it needs, or needs what nobody makes.
    #[error("`{step}` needs what is not so when it comes: {fact}")]
    Unmet {
        /// The step.
        step: StepId,
        /// The fact.
        fact: String,
    },
    /// A step would be refused by its node.
    #[error("`{step}` would be refused")]
    Refused {
        /// The step.
        step: StepId,
        /// Why.
        source: Refused,
    },
    /// What a step says it makes is not so after it.
    #[error("`{step}` does not make what it says: {fact}")]
    Unmade {
        /// The step.
        step: StepId,
        /// The fact.
        fact: String,
    },
    /// Two steps have one name.
    #[error("two steps are called `{step}`")]
    SameName {
        /// The name.
        step: StepId,
    },
}

/// Checks a state: one writer for each dataset.
pub fn state(state: &ClusterState) -> Result<(), Violation> {
    let mut owners: BTreeMap<DatasetId, &NodeName> = BTreeMap::new();
    for (node, seen) in state.all_known() {
        for (dataset, copy) in &seen.datasets {
            if matches!(copy.role, Role::Primary { .. })
                && let Some(first) = owners.insert(*dataset, node)
            {
                let (first, second) = (first.clone(), node.clone());
                return Err(Violation::TwoWriters {
                    dataset: *dataset,
                    first,
                    second,
                });
            }
        }
        for container in seen.containers.values().filter(|container| container.is_alive()) {
            let Some(dataset) = container.dataset else {
                continue;
            };
            let owns = seen
                .datasets
                .get(&dataset)
                .is_some_and(|copy| matches!(copy.role, Role::Primary { .. }));
            if !owns && !seen.unreadable.contains_key(&dataset) {
                return Err(Violation::WritesUnowned {
                    dataset,
                    node: node.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Checks a plan by walking it in its own order from what was seen.
///
/// A state that was already broken is no fault of the plan: only what a step
/// breaks is reported.
pub fn plan(plan: &Plan, desired: &Deployment, actual: &ClusterState) -> Result<(), Violation> {
    if plan.steps().is_empty() {
        return Ok(());
    }
    names(plan)?;
    let was_sound = state(actual).is_ok();
    let mut walked = actual.clone();
    for step in plan.steps() {
        destroys_nothing_last(step, desired, &walked)?;
        if let Some(need) = step
            .needs
            .iter()
            .find(|need| holds(&need.fact, &walked) != Some(true))
        {
            return Err(Violation::Unmet {
                step: step.id(),
                fact: need.fact.to_string(),
            });
        }
        predict(&mut walked, step, desired).map_err(|source| Violation::Refused {
            step: step.id(),
            source,
        })?;
        obey(&mut walked, &step.actor, plan.generation());
        if let Some(fact) = step
            .makes()
            .iter()
            .find(|fact| holds(fact, &walked) != Some(true))
        {
            return Err(Violation::Unmade {
                step: step.id(),
                fact: fact.to_string(),
            });
        }
        if was_sound {
            state(&walked)?;
        }
    }
    Ok(())
}

/// Checks that no two steps have one name.
fn names(plan: &Plan) -> Result<(), Violation> {
    fn beginning(step: &Step) -> (&NodeName, &'static str) {
        (&step.actor, step.action.verb())
    }
    let mut steps: Vec<&Step> = plan.steps().iter().collect();
    steps.sort_by_key(|step| beginning(step));
    // A name begins with who does what: only where that is the same need the rest be written and compared.
    for alike in steps.chunk_by(|one, next| beginning(one) == beginning(next)) {
        if alike.len() < 2 {
            continue;
        }
        let mut names: Vec<StepId> = alike.iter().map(|step| step.id()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Violation::SameName {
                step: pair[0].clone(),
            });
        }
    }
    Ok(())
}

/// I2, I5 and I6 of one step in the state in which it comes.
pub fn destroys_nothing_last(
    step: &Step,
    desired: &Deployment,
    actual: &ClusterState,
) -> Result<(), Violation> {
    let copies = |dataset: &DatasetId| {
        let dataset = *dataset;
        actual
            .all_known()
            .filter_map(move |(node, seen)| seen.datasets.get(&dataset).map(|copy| (node.clone(), copy)))
            .collect::<Vec<_>>()
    };
    match &step.action {
        Action::Create { dataset, .. } => {
            let hidden = actual
                .nodes
                .iter()
                .any(|(node, seen)| seen.known().is_none() && !actual.is_forgotten(node));
            let unread = actual.all_unreadable().any(|(_, id, _)| id == dataset.id);
            if hidden || unread || !copies(&dataset.id).is_empty() {
                return Err(Violation::CreatesOver { step: step.id() });
            }
        }
        Action::Destroy { dataset } if !desired.deleted().contains(dataset) => {
            let owned_elsewhere = copies(dataset).iter().any(|(node, copy)| {
                *node != step.actor && matches!(copy.role, Role::Primary { .. } | Role::Released { .. })
            });
            if !owned_elsewhere {
                return Err(Violation::DestroysOwner { step: step.id() });
            }
        }
        Action::Destroy { .. }
        | Action::Resize { .. }
        | Action::Take { .. }
        | Action::Push { .. }
        | Action::Release { .. }
        | Action::Acquire { .. }
        | Action::Renounce { .. }
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
