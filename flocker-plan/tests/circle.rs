//! Steps that wait for each other: no rule makes them, and where one did, it would be said.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::sync::Arc;

use flocker_model::{ApplicationName, Generation, NodeName};
use flocker_plan::{Action, Because, Fact, Need, Plan, Reason, Refusal, Step, StepId};

fn stopped(application: &str) -> Fact {
    Fact::Stopped {
        application: application.parse().unwrap(),
        on: alpha(),
    }
}

fn alpha() -> NodeName {
    "alpha".parse().unwrap()
}

/// A step that stops an application after others have stopped.
fn stop(application: &str, after: &[&str]) -> Step {
    let name: ApplicationName = application.parse().unwrap();
    let need = |other: &&str| Need {
        fact: stopped(other),
        because: Because::OneWriter,
    };
    Step {
        actor: alpha(),
        action: Action::Stop {
            application: name.clone(),
            grace: std::time::Duration::ZERO,
        },
        reason: Arc::new(Reason::Stops {
            application: name,
            on: alpha(),
        }),
        needs: after.iter().map(need).collect(),
    }
}

fn plan(steps: Vec<Step>) -> Plan {
    Plan::new(Generation(1), steps, Vec::new(), Vec::new(), Vec::new())
}

#[test]
fn steps_in_a_circle_are_refused_by_name_and_the_others_are_done() {
    let before = plan(vec![
        stop("web", &["queue"]),
        stop("queue", &["cache"]),
        stop("cache", &["queue"]),
        stop("ledger", &["mail"]),
        stop("mail", &[]),
    ]);
    let ids: Vec<StepId> = before.steps().iter().map(Step::id).collect();
    assert_eq!(ids, [stop("mail", &[]).id(), stop("ledger", &[]).id()]);
    let in_circle: Vec<StepId> = ["web", "queue", "cache"].map(|name| stop(name, &[]).id()).into();
    let [Refusal::Circle { steps }] = before.refused() else {
        panic!("{:?}", before.refused());
    };
    assert_eq!(*steps, in_circle);
    assert!(!before.is_settled());
    let sentence = before.refused()[0].to_string();
    assert!(in_circle.iter().all(|id| sentence.contains(&id.0)), "{sentence}");

    // Written down and read back, it is the same plan and says it once.
    let written = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&written).unwrap(), before);
}

#[test]
fn a_plan_without_a_circle_refuses_nothing() {
    let sorted = plan(vec![stop("ledger", &["mail"]), stop("mail", &[])]);
    assert_eq!(sorted.steps().len(), 2);
    assert!(sorted.refused().is_empty());
}
