//! Pushes that may do one plan and nothing else.

use std::sync::Mutex;

use async_trait::async_trait;
use flocker_backends::memory::Effect;
use flocker_engine::Answer;
use flocker_engine::Confirm;
use flocker_engine::End;
use flocker_engine::Go;
use flocker_engine::NodeHandle as _;
use flocker_engine::Outcome;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::converge::push;
use flocker_model::Application;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Volume;
use flocker_plan::Plan;
use flocker_plan::Policy;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::directory;
use crate::cluster::member;
use crate::cluster::mongodb;
use crate::cluster::name;
use crate::converge::runs;

/// Agrees to the first plan, and to nothing else.
#[derive(Default)]
struct OnlyThis(Mutex<Vec<String>>);

#[async_trait]
impl Confirm for OnlyThis {
    async fn confirm(&self, plan: &Plan, _: &ClusterState) -> Answer {
        let steps = plan.steps().iter().map(|step| step.id().to_string());
        self.0.lock().unwrap().extend(steps);
        Answer::GoNoFurther
    }
}

/// Another application, that nothing restarts but a deploy.
fn note() -> Application {
    let mut application = Application::new("note:1".parse().unwrap());
    application.ports = [Port {
        internal: PortNumber::new(80).unwrap(),
        external: "8080".parse().unwrap(),
    }]
    .into();
    application
}

/// Returns a deployment of `mongodb` on one node, and of `note` on gamma.
fn both(cluster: &Cluster, home: &str) -> Deployment {
    let mut builder = Deployment::builder()
        .application(app("mongodb"), mongodb())
        .application(app("note"), note());
    for node in cluster.machines.keys() {
        builder = builder.node(node.clone(), member(node.as_str()));
    }
    let builder = builder.place(&app("mongodb"), &name(home));
    builder.place(&app("note"), &name("gamma")).build().unwrap()
}

async fn push_both(cluster: &Cluster, home: &str, confirm: &dyn Confirm) -> Outcome {
    push(
        &both(cluster, home),
        &cluster.handles(),
        &Policy::default(),
        &PushOptions::new("ann@laptop", 0, Stop::never()),
        confirm,
        Recorder::default().listener(),
    )
    .await
    .unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_ends_meanwhile_is_not_started_under_a_plan_that_does_not_name_it() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    assert_eq!(push_both(&cluster, "alpha", &Go).await.end, End::Settled);
    cluster.write("alpha", "journal", &vec![1; 100_000]);
    let other = cluster.machine("gamma").memory.runtime();
    cluster.machine("beta").memory.faults().decide({
        let other = other.clone();
        move |attempt| {
            if matches!(attempt.effect, Effect::Receive(_)) {
                other.end(&app("note"), 1);
            }
            None
        }
    });
    let only_this = OnlyThis::default();
    let outcome = push_both(&cluster, "beta", &only_this).await;
    let named = only_this.0.into_inner().unwrap();
    assert!(!named.iter().any(|step| step.contains("note")), "{named:?}");
    // The move is made whole, and what else there is to do is told and left.
    assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
    assert!(!other.is_running(&app("note")));
    let reports = outcome.reports.iter().flat_map(|report| &report.steps);
    let done: Vec<String> = reports.map(|report| report.step.id().to_string()).collect();
    assert!(done.iter().any(|step| step == "beta/start/mongodb"), "{done:?}");
    assert!(!done.iter().any(|step| step.contains("note")), "{done:?}");
    let beyond: Vec<&str> = outcome.beyond.iter().map(|step| step.0.as_str()).collect();
    assert!(beyond.contains(&"gamma/start/note"), "{beyond:?}");
    assert!(matches!(outcome.end, End::Partly { .. }), "{outcome:#?}");
    let rest = push_both(&cluster, "beta", &Go).await;
    assert_eq!(rest.end, End::Settled);
    assert!(other.is_running(&app("note")));
    cluster.assert_nothing_bad();
}

/// Returns what has data and a port of its own, and is used by `mongodb`.
fn ledger() -> Application {
    let mut application = note();
    application.volume = Some(Volume {
        dataset: DatasetId::derived(&app("ledger")),
        mountpoint: "/ledger".into(),
        maximum_size: None,
    });
    application
}

/// Returns a deployment of `mongodb` on one node, and of the `ledger` that it uses on another.
fn with_ledger(cluster: &Cluster, home: &str, ledger_home: &str) -> Deployment {
    let mut user = mongodb();
    user.depends_on = [app("ledger")].into();
    let mut builder = Deployment::builder()
        .application(app("mongodb"), user)
        .application(app("ledger"), ledger());
    for node in cluster.machines.keys() {
        builder = builder.node(node.clone(), member(node.as_str()));
    }
    let builder = builder.place(&app("mongodb"), &name(home));
    builder.place(&app("ledger"), &name(ledger_home)).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_along_for_who_uses_it_is_led_to() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let handles = cluster.handles();
    let policy = Policy::default();
    let options = PushOptions::new("ann@laptop", 0, Stop::never());
    let listener = Recorder::default().listener();
    let first = with_ledger(&cluster, "alpha", "gamma");
    let outcome = push(&first, &handles, &policy, &options, &Go, listener.clone()).await;
    assert_eq!(outcome.unwrap().end, End::Settled);
    cluster.write("alpha", "journal", &vec![1; 100_000]);
    // Where nothing runs, all of the hand-off is one plan; the plan that is agreed to does not see it.
    let runtime = cluster.machine("gamma").memory.runtime();
    runtime.end(&app("ledger"), 0);
    cluster.network.part(OPERATOR, directory("gamma"));
    let network = cluster.network.clone();
    cluster.machine("beta").memory.faults().decide(move |attempt| {
        if matches!(attempt.effect, Effect::Receive(_)) {
            network.join(OPERATOR, directory("gamma"));
        }
        None
    });
    let only_this = OnlyThis::default();
    let second = with_ledger(&cluster, "beta", "beta");
    let outcome = push(&second, &handles, &policy, &options, &only_this, listener.clone()).await;
    let outcome = outcome.unwrap();
    let named = only_this.0.into_inner().unwrap();
    assert!(!named.iter().any(|step| step.contains("ledger")), "{named:?}");
    let home = cluster.machine("beta").memory.runtime();
    assert!(
        runs(&cluster, "beta") && home.is_running(&app("ledger")),
        "{outcome:#?}"
    );
    for machine in cluster.machines.values() {
        let routes = machine.node.observe().await.unwrap().routes;
        let target = routes.get("8080".parse().unwrap()).unwrap();
        assert_eq!(target.homes[0].node, name("beta"), "{outcome:#?}");
    }
    cluster.assert_nothing_bad();
}
