//! Plans carried out on values, in any order that the frontier allows, with every state on the way checked.

use flocker_model::{ClusterState, Deployment};
use flocker_plan::{Frontier, Outcome, Plan, check, holds, predict};

/// Carries out at most `n_steps` of a plan; `choose` says which of so many ready steps comes next.
///
/// Every step is checked when it comes: what it needs is so, what it makes is
/// so afterwards, it destroys nothing that is needed, and a state that was
/// sound stays so.
pub(crate) fn walk(
    plan: &Plan,
    desired: &Deployment,
    state: &mut ClusterState,
    n_steps: usize,
    choose: &mut dyn FnMut(usize) -> usize,
) -> Result<(), String> {
    let was_sound = check::state(state).is_ok();
    let mut frontier = Frontier::new(plan);
    for _ in 0..n_steps {
        let ready: Vec<usize> = frontier.ready().collect();
        if ready.is_empty() {
            break;
        }
        let position = ready[choose(ready.len()) % ready.len()];
        let step = &plan.steps()[position];
        assert!(frontier.start(position));
        check::destroys_nothing_last(step, desired, state).map_err(|violation| violation.to_string())?;
        for need in &step.needs {
            if holds(&need.fact, state) != Some(true) {
                return Err(format!("{} comes though not: {}", step.id(), need.fact));
            }
        }
        predict(state, step, desired).map_err(|refused| refused.to_string())?;
        flocker_plan::predict::obey(state, &step.actor, plan.generation());
        for fact in &step.makes {
            if holds(fact, state) != Some(true) {
                return Err(format!("{} does not make: {fact}", step.id()));
            }
        }
        if was_sound {
            check::state(state).map_err(|violation| format!("after {}: {violation}", step.id()))?;
        }
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
    walk(plan, desired, state, plan.steps().len(), &mut |_| 0)
}
