//! Plans carried out on values, in any order that the frontier allows, with every state on the way checked.

use flocker_model::{ClusterState, Deployment};
use flocker_plan::{Frontier, Outcome, Plan, Step, check, holds, plan, predict};

/// What happens besides a plan, and who looks at it.
pub(crate) struct Witness<'a> {
    /// Says which of so many ready steps comes next.
    pub(crate) choose: &'a mut dyn FnMut(usize) -> usize,
    /// Is shown the state after each step; may refuse it.
    pub(crate) see: &'a mut dyn FnMut(&Step, &mut ClusterState) -> Result<(), String>,
}

/// Carries out at most `n_steps` of a plan.
///
/// Every step is checked when it comes: what it needs is so, what it makes is
/// so afterwards, it destroys nothing that is needed, and a state that was
/// sound stays so.
pub(crate) fn walk(
    plan: &Plan,
    desired: &Deployment,
    state: &mut ClusterState,
    n_steps: usize,
    witness: &mut Witness<'_>,
) -> Result<(), String> {
    let was_sound = check::state(state).is_ok();
    let mut frontier = Frontier::new(plan);
    for _ in 0..n_steps {
        let ready: Vec<usize> = frontier.ready().collect();
        if ready.is_empty() {
            break;
        }
        let position = ready[(witness.choose)(ready.len()) % ready.len()];
        let step = &plan.steps()[position];
        if !frontier.start(position) {
            return Err(format!("{} is ready and cannot start", step.id()));
        }
        check::destroys_nothing_last(step, desired, state).map_err(|violation| violation.to_string())?;
        for need in &step.needs {
            if holds(&need.fact, state) != Some(true) {
                return Err(format!("{} comes though not: {}", step.id(), need.fact));
            }
        }
        predict(state, step, desired).map_err(|refused| format!("{}: {refused}", step.id()))?;
        flocker_plan::predict::obey(state, &step.actor, plan.generation());
        for fact in step.makes() {
            if holds(&fact, state) != Some(true) {
                return Err(format!("{} does not make: {fact}", step.id()));
            }
        }
        if was_sound {
            check::state(state).map_err(|violation| format!("after {}: {violation}", step.id()))?;
        }
        (witness.see)(step, state)?;
        frontier.settle(position, Outcome::Done);
    }
    Ok(())
}

/// Carries out a whole plan in its own order.
pub(crate) fn walk_in_order(
    plan: &Plan,
    desired: &Deployment,
    state: &mut ClusterState,
) -> Result<(), String> {
    let mut witness = Witness {
        choose: &mut |_| 0,
        see: &mut |_, _| Ok(()),
    };
    walk(plan, desired, state, plan.steps().len(), &mut witness)
}

/// Plans and carries out until no step is left, and returns the last plan and after how many turns it came.
pub(crate) fn settle(
    desired: &Deployment,
    policy: &flocker_plan::Policy,
    state: &mut ClusterState,
    turns: usize,
) -> Result<(Plan, usize), String> {
    for turn in 0..=turns {
        let made = plan(desired, state, policy);
        check::plan(&made, desired, state).map_err(|violation| format!("turn {turn}: {violation}"))?;
        if made.steps().is_empty() {
            return Ok((made, turn));
        }
        walk_in_order(&made, desired, state).map_err(|error| format!("turn {turn}: {error}"))?;
    }
    let left = plan(desired, state, policy);
    let left: Vec<String> = left.steps().iter().map(|step| step.id().to_string()).collect();
    Err(format!("still busy after {turns} turns: {left:?}"))
}
