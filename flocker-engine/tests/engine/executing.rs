//! How a plan is carried out: so many at once on a node, and what follows from a failure.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::Channel;
use flocker_backends::Purpose;
use flocker_backends::Transport;
use flocker_backends::TransportError;
use flocker_engine::Elsewhere;
use flocker_engine::Ending;
use flocker_engine::Event;
use flocker_engine::Execution;
use flocker_engine::Handles;
use flocker_engine::NodeHandle as _;
use flocker_engine::Report;
use flocker_engine::execute;
use flocker_engine::one_line;
use flocker_engine::stopper;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeAddress;
use flocker_model::Observed;
use flocker_plan::Action;
use flocker_plan::Because;
use flocker_plan::Fact;
use flocker_plan::Need;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Step;

use crate::cluster::Cluster;
use crate::cluster::Recorder;
use crate::cluster::address;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::deadlines;
use crate::cluster::execution;
use crate::cluster::name;

/// Stops an application, once another is stopped if one is given.
fn stop(application: &str, after: Option<&str>) -> Step {
    let needs = after.map(|after| Need {
        fact: Fact::Stopped {
            application: app(after),
            on: name("alpha"),
        },
        because: Because::OneCopy,
    });
    Step {
        actor: name("alpha"),
        action: Action::Stop {
            application: app(application),
            grace: Duration::ZERO,
        },
        reason: Reason::Tidies { dataset: None }.into(),
        needs: needs.into_iter().collect(),
    }
}

/// Carries out steps of a node that nobody can reach, so that every step that is tried fails.
async fn fail(steps: Vec<Step>, per_node: usize) -> (Report, Vec<Event>) {
    let cluster = Cluster::new(["alpha"]);
    carry_out(steps, per_node, &cluster.handles()).await
}

async fn carry_out(steps: Vec<Step>, per_node: usize, handles: &Handles) -> (Report, Vec<Event>) {
    let plan = Plan::new(Generation(1), steps, Vec::new(), Vec::new(), Vec::new());
    let desired = Deployment::builder().build().unwrap();
    let recorder = Recorder::default();
    let (_stopper, stop) = stopper();
    let execution = Execution {
        per_node,
        ..execution(&recorder, stop)
    };
    let report = execute(&plan, &desired, handles, &execution).await;
    (report, recorder.events())
}

#[tokio::test(start_paused = true)]
async fn a_node_does_so_many_steps_at_once_and_then_the_others() {
    let steps = ["a", "b", "c", "d", "e"].map(|name| stop(name, None));
    let (report, events) = fail(steps.into(), 2).await;
    let (mut running, mut most, mut tried) = (0, 0, 0);
    for event in &events {
        match event {
            Event::StepStarted { .. } => (running, tried) = (running + 1, tried + 1),
            Event::StepDone { .. } | Event::StepFailed { .. } => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    assert_eq!((tried, most, running), (5, 2, 0));
    assert_eq!(report.failures().count(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_failure_keeps_from_being_tried_is_told_once_and_nothing_else() {
    let steps = vec![stop("a", None), stop("b", Some("a")), stop("c", None)];
    let (report, events) = fail(steps, 4).await;
    let skipped: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            Event::StepSkipped { step, because } => Some(format!("{step} because of {because}")),
            _ => None,
        })
        .collect();
    assert_eq!(skipped, ["alpha/stop/b because of alpha/stop/a"]);
    let endings: Vec<bool> = report
        .steps
        .iter()
        .map(|step| matches!(step.ending, Ending::Skipped { .. }))
        .collect();
    assert_eq!(endings, [false, true, false]);
}

/// A way to the nodes that has a bug.
#[derive(Debug)]
struct Broken;

#[async_trait]
impl Transport for Broken {
    async fn open(&self, _node: &NodeAddress, _purpose: Purpose) -> Result<Channel, TransportError> {
        panic!("a bug on the way to a node")
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_breaks_down_has_failed_and_what_needs_it_is_left() {
    let handles = Handles::new(Arc::new(Elsewhere {
        transport: Arc::new(Broken),
        deadlines: deadlines(),
    }));
    drop(handles.reach(&name("alpha"), Some(&address("alpha"))));
    let steps = vec![stop("a", None), stop("b", Some("a")), stop("c", None)];
    let (report, _) = carry_out(steps, 4, &handles).await;
    let endings: Vec<String> = report
        .steps
        .iter()
        .map(|step| match &step.ending {
            Ending::Failed(error) => one_line(error),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(endings, ["the step broke down", "Left", "the step broke down"]);
    assert!(!report.was_interrupted);
}

#[tokio::test(start_paused = true)]
async fn an_application_is_at_home_where_its_container_was_seen() {
    let cluster = Cluster::new(["alpha", "beta"]);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    let start = cluster.start("beta").await;
    cluster.perform("beta", 1, [create, start]).await;
    let mut actual = ClusterState::default();
    for (node, machine) in &cluster.machines {
        let state = machine.node.observe().await.unwrap();
        actual.nodes.insert(node.clone(), Observed::Known(state));
    }
    let homes = Execution::homes_in(&actual);
    assert_eq!(homes, [(app("mongodb"), [name("beta")].into())].into());
}
