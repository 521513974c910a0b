//! Laws of every cluster that is drawn, for property tests and for fuzzing. What does not hold is the error.

use flocker_model::{ClusterState, Deployment};
use flocker_plan::{Plan, Policy, Waiting, plan};

use crate::dice::{Dice, any_cluster, any_deployment, any_policy};
use crate::walk::{Witness, settle, walk, walk_in_order};
use crate::world::{amiss, in_one_order};

/// How many turns bring about what can be: warm rounds, the cut-over, what follows it, and tidying up.
pub(crate) const TURNS: usize = 14;

/// A cluster, what is wanted of it, and how.
pub(crate) type Case = (Deployment, ClusterState, Policy);

/// Draws a case.
pub(crate) fn case(dice: &mut Dice) -> Case {
    let n_nodes = 1 + dice.roll(4);
    let n_applications = 1 + dice.roll(5);
    let desired = any_deployment(dice, n_nodes, n_applications, 2);
    let actual = any_cluster(dice, n_nodes, n_applications, &desired);
    let policy = any_policy(dice);
    (desired, actual, policy)
}

/// Says whether a plan leaves nothing undone by its own account.
pub(crate) fn is_unhindered(plan: &Plan) -> bool {
    plan.waiting().is_empty() && plan.refused().is_empty()
}

/// A plan can be carried out in its own order and in any other that its needs allow, and both end the same.
pub(crate) fn every_order_ends_the_same(
    made: &Plan,
    (desired, actual, _): &Case,
    dice: &mut Dice,
) -> Result<(), String> {
    let mut in_order = actual.clone();
    walk_in_order(made, desired, &mut in_order)?;
    let mut shuffled = actual.clone();
    let mut witness = Witness {
        choose: &mut |n_ready| dice.roll(n_ready),
        see: &mut |_, _| Ok(()),
    };
    walk(made, desired, &mut shuffled, usize::MAX, &mut witness)?;
    let (in_order, shuffled) = (in_one_order(in_order), in_one_order(shuffled));
    if in_order == shuffled {
        Ok(())
    } else {
        Err(format!("two orders end as\n{in_order:#?}\nand\n{shuffled:#?}"))
    }
}

/// After plans that were stopped anywhere, with writes in between, planning again comes to rest, and all is done or said.
pub(crate) fn stopped_anywhere_it_converges(
    (desired, mut state, policy): Case,
    mut dice: Dice,
) -> Result<(), String> {
    for _ in 0..2 {
        let made = plan(&desired, &state, &policy);
        let n_steps = dice.roll(made.steps().len() + 1);
        let mut order = dice.fork();
        let mut witness = Witness {
            choose: &mut |n_ready| order.roll(n_ready),
            see: &mut |_, state| {
                dice.write_somewhere(state);
                Ok(())
            },
        };
        walk(&made, &desired, &mut state, n_steps, &mut witness)?;
    }
    let (last, _) = settle(&desired, &policy, &mut state, TURNS)?;
    if last.waiting().iter().any(Waiting::is_for_a_copy) {
        return Err("it waits for a copy that nobody makes".into());
    }
    let is_all_wanted = || {
        let mut kept = last.kept().iter();
        kept.all(|kept| !desired.deleted().contains(&kept.dataset))
    };
    if is_unhindered(&last)
        && is_all_wanted()
        && let Some(amiss) = amiss(&desired, &state)
    {
        return Err(format!("left undone without a word: {amiss}"));
    }
    if plan(&desired, &state, &policy).steps().is_empty() {
        Ok(())
    } else {
        Err("what rests does not go on resting, whoever looks again".into())
    }
}
