//! What settles, what becomes ready by it, and what is skipped because of what.

use std::time::Duration;

use flocker_plan::{Action, Because, Fact, Frontier, Need, Outcome, Plan, Standing, Step};

use crate::world::{application_name, node_name};
use crate::{plan_of, step};

/// Stops the application of a number once those of other numbers are stopped.
fn stop(number: usize, after: &[usize]) -> Step {
    let needs = after.iter().map(|&other| Need {
        fact: Fact::Stopped {
            application: application_name(other),
            on: node_name(0),
        },
        because: Because::OneCopy,
    });
    let application = application_name(number);
    let grace = Duration::ZERO;
    step(0, Action::Stop { application, grace }, needs.collect())
}

/// One step, two that need it, and one that needs both of these; and one by itself.
fn diamond() -> Plan {
    plan_of(vec![
        stop(0, &[]),
        stop(1, &[0]),
        stop(2, &[0]),
        stop(3, &[1, 2]),
        stop(4, &[]),
    ])
}

fn ready(frontier: &Frontier) -> Vec<usize> {
    frontier.ready().collect()
}

#[test]
fn a_step_is_ready_once_all_that_it_needs_is_done_and_not_before() {
    let mut frontier = Frontier::new(&diamond());
    assert_eq!(ready(&frontier), [0, 4]);
    assert!(!frontier.start(1));
    assert!(frontier.start(0));
    assert!(!frontier.start(0));
    assert_eq!(frontier.settle(0, Outcome::Done), [1, 2]);
    assert!(frontier.start(1) && frontier.start(2));
    assert_eq!(frontier.settle(1, Outcome::Done), [0_usize; 0]);
    assert_eq!(frontier.standing(3), Standing::Blocked);
    assert_eq!(frontier.settle(2, Outcome::Done), [3]);
    assert!(!frontier.is_finished());
    for position in [3, 4] {
        assert!(frontier.start(position));
        assert!(!frontier.is_finished());
        assert!(frontier.settle(position, Outcome::Done).is_empty());
    }
    assert!(frontier.is_finished());
    assert_eq!(frontier.standings(), [Standing::Done; 5]);
}

#[test]
fn what_needed_a_failed_step_is_skipped_because_of_it_and_the_rest_goes_on() {
    let mut frontier = Frontier::new(&diamond());
    assert!(frontier.start(0) && frontier.start(4));
    assert!(frontier.settle(0, Outcome::Failed).is_empty());
    let skipped = Standing::Skipped { because: 0 };
    let expected = [Standing::Failed, skipped, skipped, skipped, Standing::Running];
    assert_eq!(frontier.standings(), expected);
    assert!(!frontier.is_finished());
    assert!(frontier.settle(4, Outcome::Done).is_empty());
    assert!(frontier.is_finished());
}

#[test]
fn what_is_skipped_never_becomes_ready() {
    let mut frontier = Frontier::new(&diamond());
    assert!(frontier.start(0));
    assert_eq!(frontier.settle(0, Outcome::Done), [1, 2]);
    assert!(frontier.start(1) && frontier.start(2));
    assert!(frontier.settle(1, Outcome::Failed).is_empty());
    assert!(frontier.settle(2, Outcome::Done).is_empty());
    assert_eq!(frontier.standing(3), Standing::Skipped { because: 1 });
}

#[test]
fn only_what_was_started_settles_and_only_once() {
    let mut frontier = Frontier::new(&plan_of(vec![stop(0, &[]), stop(1, &[0])]));
    assert!(frontier.settle(0, Outcome::Done).is_empty());
    assert_eq!(frontier.standing(0), Standing::Ready);
    assert!(frontier.start(0));
    assert_eq!(frontier.settle(0, Outcome::Done), [1]);
    assert!(frontier.settle(0, Outcome::Failed).is_empty());
    assert_eq!(frontier.standings(), [Standing::Done, Standing::Ready]);
    assert!(!frontier.is_finished());
}

#[test]
fn an_empty_plan_is_finished_from_the_start() {
    assert!(Frontier::new(&plan_of(Vec::new())).is_finished());
}
