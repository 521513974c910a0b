//! What holds for every cluster: random ones, with everything that can be wrong, and random histories.
//!
//! A case is a string of bytes from which every choice is drawn; when it is
//! used up every choice is the first, so that a shorter string is a simpler
//! case. `PROPTEST_CASES` asks for more of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/history.rs"]
mod history;
#[path = "support/law.rs"]
mod law;
#[path = "support/walk.rs"]
mod walk;
#[path = "support/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::num::NonZero;

use flocker_model::{ApplicationName, ClusterState, Deployment, NodeName, RouteTarget};
use flocker_plan::{Action, Frontier, Outcome, Plan, Policy, Standing, Workers, check, plan, plan_by};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use dice::{Dice, any_deployment};
use history::Plot;
use law::{TURNS, is_unhindered};
use walk::settle;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..240)
}

/// A random cluster with what is wanted of it.
fn case(bytes: Vec<u8>) -> (Dice, Deployment, ClusterState, Policy) {
    let mut dice = Dice::new(bytes);
    let (desired, actual, policy) = law::case(&mut dice);
    (dice, desired, actual, policy)
}

fn config() -> ProptestConfig {
    let seeds = "proptest-regressions/laws.txt";
    let asked_for = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if asked_for { default.cases } else { 2000 },
        max_shrink_iters: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn plan_always_answers_with_the_same_bytes(bytes in bytes()) {
        let (_, desired, actual, policy) = case(bytes.clone());
        let first = plan(&desired, &actual, &policy);
        let again = plan(&desired.clone(), &actual.clone(), &policy.clone());
        let written = serde_json::to_string(&first).unwrap();
        prop_assert_eq!(&written, &serde_json::to_string(&again).unwrap());
        let read: Plan = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(read, first);
    }

    #[test]
    fn a_plan_is_the_same_however_many_make_it(bytes in bytes()) {
        let (_, desired, actual, policy) = case(bytes.clone());
        let alone = plan_by(Workers::ALONE, &desired, &actual, &policy);
        for (most, smallest_share) in [(2, 1), (3, 1), (3, 2)] {
            let [most, smallest_share] = [most, smallest_share].map(|number| NonZero::new(number).unwrap());
            let together = plan_by(Workers::new(most, smallest_share), &desired, &actual, &policy);
            prop_assert_eq!(&together, &alone);
        }
    }

    #[test]
    fn no_plan_breaks_an_invariant(bytes in bytes()) {
        let (_, desired, actual, policy) = case(bytes.clone());
        let made = plan(&desired, &actual, &policy);
        if let Err(violation) = check::plan(&made, &desired, &actual) {
            return Err(TestCaseError::fail(violation.to_string()));
        }
    }

    #[test]
    fn any_order_of_ready_steps_is_safe_and_ends_the_same(bytes in bytes()) {
        let (mut dice, desired, actual, policy) = case(bytes.clone());
        let made = plan(&desired, &actual, &policy);
        law::every_order_ends_the_same(&made, &(desired, actual, policy), &mut dice).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn stopped_anywhere_planning_again_converges(bytes in bytes()) {
        let (dice, desired, state, policy) = case(bytes.clone());
        law::stopped_anywhere_it_converges((desired, state, policy), dice).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_then_b_ends_as_b(bytes in bytes()) {
        let (mut dice, first, actual, mut policy) = case(bytes.clone());
        policy.not_converging = flocker_plan::NotConverging::Accept;
        policy.cut_over = flocker_plan::CutOver::WhenReady;
        policy.stop_all = flocker_plan::StopAll::Allow;
        let (n_nodes, n_applications) = (actual.nodes.len(), first.applications().len());
        let second = any_deployment(&mut dice, n_nodes, n_applications, 3);
        let mut detour = actual.clone();
        let _first = settle(&first, &policy, &mut detour, TURNS).map_err(TestCaseError::fail)?;
        let (by_detour, _) = settle(&second, &policy, &mut detour, TURNS).map_err(TestCaseError::fail)?;
        let mut straight = actual;
        let (by_itself, _) = settle(&second, &policy, &mut straight, TURNS).map_err(TestCaseError::fail)?;
        // What the first put on a node that the second does not list is none of the second's business.
        let lists_all = second.members().len() == n_nodes;
        if lists_all && is_unhindered(&by_detour) && is_unhindered(&by_itself) {
            prop_assert_eq!(running(&second, &detour), running(&second, &straight));
        }
    }

    #[test]
    fn nothing_is_told_to_a_node_that_is_silent_or_lost(bytes in bytes()) {
        let (_, desired, actual, policy) = case(bytes.clone());
        let obeys = |node: &NodeName| actual.known(node).is_some() && !actual.is_forgotten(node);
        for step in plan(&desired, &actual, &policy).steps() {
            prop_assert!(obeys(&step.actor), "{}", step.id());
            if let Action::Push { to, .. } = &step.action {
                prop_assert!(obeys(to), "{}", step.id());
            }
        }
    }

    #[test]
    fn a_failed_step_skips_its_dependants_and_nothing_else(bytes in bytes()) {
        let (mut dice, desired, actual, policy) = case(bytes.clone());
        let made = plan(&desired, &actual, &policy);
        if made.steps().is_empty() {
            return Ok(());
        }
        let failing = dice.roll(made.steps().len());
        let mut lost: BTreeSet<usize> = BTreeSet::from([failing]);
        for (position, step) in made.steps().iter().enumerate() {
            let makers = |fact| made.steps().iter().position(|maker| maker.makes().contains(fact));
            if step.needs.iter().filter_map(|need| makers(&need.fact)).any(|maker| lost.contains(&maker)) {
                lost.insert(position);
            }
        }
        let mut frontier = Frontier::new(&made);
        let mut state = actual;
        loop {
            let next = frontier.ready().next();
            let Some(position) = next else { break };
            frontier.start(position);
            let step = &made.steps()[position];
            if position == failing {
                frontier.settle(position, Outcome::Failed);
            } else {
                prop_assert!(flocker_plan::predict(&mut state, step, &desired).is_ok(), "{}", step.id());
                frontier.settle(position, Outcome::Done);
            }
        }
        prop_assert!(frontier.is_finished());
        for (position, standing) in frontier.standings().iter().enumerate() {
            let expected = match (position == failing, lost.contains(&position)) {
                (true, _) => Standing::Failed,
                (false, true) => Standing::Skipped { because: failing },
                (false, false) => Standing::Done,
            };
            prop_assert_eq!(*standing, expected, "{}", made.steps()[position].id());
        }
    }

    #[test]
    fn in_any_history_one_node_writes_and_nothing_written_is_lost(
        bytes in proptest::collection::vec(any::<u8>(), 0..1000)
    ) {
        history::live(Dice::new(bytes), Plot::Anything, TURNS).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn however_often_data_moves_an_old_owner_never_comes_back(
        bytes in proptest::collection::vec(any::<u8>(), 200..1500)
    ) {
        history::live(Dice::new(bytes), Plot::Moves, TURNS).map_err(TestCaseError::fail)?;
    }
}

/// What runs and what is routed on the nodes that a deployment lists.
type Running = Vec<(NodeName, Vec<ApplicationName>, Vec<RouteTarget>)>;

fn running(desired: &Deployment, state: &ClusterState) -> Running {
    let listed = state
        .all_known()
        .filter(|(node, _)| desired.members().contains_key(*node));
    let each = listed.map(|(node, seen)| {
        let containers = seen.containers.keys().cloned().collect();
        let routes = seen.routes.entries().values().cloned().collect();
        (node.clone(), containers, routes)
    });
    each.collect()
}
