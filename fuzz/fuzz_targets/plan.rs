//! Plans for arbitrary clusters, sound, broken and strange, and holds every plan to the laws of all plans.
//!
//! The first byte chooses a law, the rest is the cluster. The laws are those
//! of `flocker-plan/tests/laws.rs`, here with a search that follows what is
//! reached, and with nodes that say what no node of ours would say.

#![no_main]

#[path = "../../flocker-plan/tests/support/dice.rs"]
mod dice;
#[path = "../../flocker-plan/tests/support/history.rs"]
mod history;
#[path = "../../flocker-plan/tests/support/law.rs"]
mod law;
#[path = "support/strange.rs"]
mod strange;
#[path = "../../flocker-plan/tests/support/walk.rs"]
mod walk;
#[path = "../../flocker-plan/tests/support/world.rs"]
mod world;

use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_plan::Frontier;
use flocker_plan::Outcome;
use flocker_plan::Plan;
use flocker_plan::Policy;
use flocker_plan::Step;
use flocker_plan::Undo;
use flocker_plan::check;
use flocker_plan::estimate;
use flocker_plan::plan;
use flocker_plan::predict;
use flocker_plan::promote;
use flocker_plan::reclaim;
use flocker_plan::render;
use flocker_plan::undo;
use libfuzzer_sys::fuzz_target;

use dice::Dice;
use history::Plot;
use law::TURNS;
use law::case;
use law::every_order_ends_the_same;
use law::stopped_anywhere_it_converges;
use strange::make_strange;
use world::application_name;
use world::dataset_id;
use world::node_name;

/// The longest input: what is drawn beyond is the first choice for ever.
const LONGEST: usize = 1500;

fuzz_target!(|data: &[u8]| {
    let Some((law, rest)) = data.split_first().filter(|_| data.len() <= LONGEST) else {
        return;
    };
    let mut dice = Dice::new(rest.to_vec());
    match law % 6 {
        0 => one_plan(dice),
        1 | 2 => strange_plan(dice),
        3 => {
            let drawn = case(&mut dice);
            stopped_anywhere_it_converges(drawn, dice).expect("it comes to rest, and nothing is left undone");
        }
        4 => history::live(dice, Plot::Anything, TURNS).expect("a history goes well"),
        _ => history::live(dice, Plot::Moves, TURNS).expect("a history of moves goes well"),
    }
});

/// One look at a cluster, and everything that can be asked for in it.
fn one_plan(mut dice: Dice) {
    let (desired, actual, policy) = case(&mut dice);
    let made = plan(&desired, &actual, &policy);
    require_sound(&made, &desired, &actual, &policy);
    assert_eq!(plan(&desired, &actual, &policy), made, "planned twice");
    let case = (desired, actual, policy);
    every_order_ends_the_same(&made, &case, &mut dice).expect("a plan can be carried out in every order");
    let (desired, actual, policy) = case;

    let (application, home) = (application_name(dice.roll(5)), node_name(dice.roll(5)));
    let on = dice.once_in(2).then_some(&home);
    require_sound(&reclaim(&desired, &actual, &policy), &desired, &actual, &policy);
    let promoted = promote(&desired, &actual, &policy, dataset_id(dice.roll(5)), &home);
    require_told_to_who_is_seen(&promoted, &actual);
    require_sayable(&promoted, &desired, &actual, &policy);
    follow(&mut dice, &promoted, &desired, &actual, |_, _| Ok(()));
    match undo(&desired, &actual, &policy, &application, on) {
        Undo::Restore { plan, left } => {
            require_sound(&plan, &desired, &actual, &policy);
            assert!(left.iter().all(|node| actual.known(node).is_some()));
        }
        Undo::MoveBack { to, from } => assert_ne!(to, from),
        Undo::Nothing => {}
    }
}

/// No invariant is broken, and everything else that holds of any plan.
fn require_sound(made: &Plan, desired: &Deployment, actual: &ClusterState, policy: &Policy) {
    if let Err(violation) = check::plan(made, desired, actual) {
        panic!("{violation}: {violation:?}\n{made:#?}\n{actual:#?}");
    }
    require_told_to_who_is_seen(made, actual);
    require_sayable(made, desired, actual, policy);
}

fn require_told_to_who_is_seen(made: &Plan, actual: &ClusterState) {
    for step in made.steps() {
        let is_seen = actual.known(&step.actor).is_some() && !actual.is_forgotten(&step.actor);
        assert!(is_seen, "{} is told to a node that is not seen", step.id());
    }
}

/// It is written and read, and people can be told of it.
fn require_sayable(made: &Plan, desired: &Deployment, actual: &ClusterState, policy: &Policy) {
    let written = serde_json::to_string(made).expect("a plan can be written");
    let read: Plan = serde_json::from_str(&written).expect("what is written can be read");
    assert_eq!(read, *made, "written and read");
    let estimate = estimate(made, actual, policy);
    drop(render::text(made, desired, &estimate));
}

/// A plan from what no node of ours would say of itself.
///
/// Its node may refuse an order then, and whatever needed it is not done. What
/// is done all the same leaves no two writers and destroys nothing that is the last.
fn strange_plan(mut dice: Dice) {
    let (desired, mut actual, policy) = case(&mut dice);
    make_strange(&mut dice, &mut actual);
    let made = plan(&desired, &actual, &policy);
    assert_eq!(plan(&desired, &actual, &policy), made, "planned twice");
    let promoted = promote(
        &desired,
        &actual,
        &policy,
        dataset_id(dice.roll(5)),
        &node_name(dice.roll(5)),
    );
    let reclaimed = reclaim(&desired, &actual, &policy);
    let application = application_name(dice.roll(5));
    let undone = match undo(&desired, &actual, &policy, &application, None) {
        Undo::Restore { plan, left: _ } => Some(plan),
        Undo::MoveBack { .. } | Undo::Nothing => None,
    };
    for made in [made, reclaimed].into_iter().chain(undone) {
        require_told_to_who_is_seen(&made, &actual);
        require_sayable(&made, &desired, &actual, &policy);
        follow(&mut dice, &made, &desired, &actual, |step, state| {
            check::destroys_nothing_last(step, &desired, state).map_err(|violation| violation.to_string())
        });
    }
    // Who is promoted over all who claim to be the owner was chosen by a person: the others go to the trash.
    require_told_to_who_is_seen(&promoted, &actual);
    require_sayable(&promoted, &desired, &actual, &policy);
    follow(&mut dice, &promoted, &desired, &actual, |_, _| Ok(()));
}

/// Carries a plan out in some order, as far as its nodes do not refuse.
fn follow(
    dice: &mut Dice,
    made: &Plan,
    desired: &Deployment,
    actual: &ClusterState,
    may: impl Fn(&Step, &ClusterState) -> Result<(), String>,
) {
    let was_sound = check::state(actual).is_ok();
    let mut state = actual.clone();
    let mut frontier = Frontier::new(made);
    loop {
        let ready: Vec<usize> = frontier.ready().collect();
        let Some(&position) = ready.get(dice.roll(ready.len())) else {
            break;
        };
        frontier.start(position);
        let step = &made.steps()[position];
        if let Err(violation) = may(step, &state) {
            panic!("{violation}\n{made:#?}\n{state:#?}");
        }
        let done = predict(&mut state, step, desired);
        if let Err(violation) = check::state(&state)
            && was_sound
        {
            panic!("after {}: {violation}\n{made:#?}\n{actual:#?}", step.id());
        }
        let outcome = if done.is_ok() {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        frontier.settle(position, outcome);
    }
    assert!(frontier.is_finished(), "every step is done or skipped");
}
