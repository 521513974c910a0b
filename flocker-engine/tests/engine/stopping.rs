//! Pushes that are asked to stop: where they do, and what they say is left.

use flocker_backends::memory::Attempt;
use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_engine::End;
use flocker_engine::Event;
use flocker_engine::Go;
use flocker_engine::NodeHandle as _;
use flocker_engine::Outcome;
use flocker_engine::PushOptions;
use flocker_engine::converge::push;
use flocker_engine::stopper;
use flocker_plan::Policy;
use flocker_plan::StepId;
use flocker_plan::Waiting;

use crate::cluster::Cluster;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::name;
use crate::cluster::port;
use crate::converge::push_to;
use crate::converge::runs;

/// Moves `mongodb` from alpha to beta, and asks to stop when a node begins something.
async fn stopped_at(
    cluster: &Cluster,
    node: &str,
    is_it: impl Fn(&Attempt) -> bool + Send + 'static,
) -> (Outcome, Vec<Event>) {
    push_to(cluster, "alpha").await;
    cluster.write("alpha", "journal", &vec![1; 100_000]);
    let (stopper, stop) = stopper();
    let faults = cluster.machine(node).memory.faults().clone();
    faults.decide(move |attempt| {
        if is_it(attempt) {
            stopper.stop();
        }
        None
    });
    let recorder = Recorder::default();
    let outcome = push(
        &cluster.deployment("beta"),
        &cluster.handles(),
        &Policy::default(),
        &PushOptions::new("ann@laptop", 0, stop),
        &Go,
        recorder.listener(),
    )
    .await
    .unwrap();
    faults.decide(|_| None);
    assert!(matches!(outcome.end, End::Interrupted { .. }), "{outcome:#?}");
    (outcome, recorder.events())
}

/// Returns how many nodes send connections for `mongodb` to a node.
async fn n_led_to(cluster: &Cluster, home: &str) -> usize {
    let mut n_led = 0;
    for machine in cluster.machines.values() {
        let routes = machine.node.observe().await.unwrap().routes;
        let target = routes.get(port()).unwrap();
        n_led += usize::from(target.homes[0].node == name(home));
    }
    n_led
}

#[tokio::test(start_paused = true)]
async fn a_cut_over_that_has_begun_is_carried_to_its_end() {
    let is_it: [fn(&Effect) -> bool; 4] = [
        |effect| matches!(effect, Effect::Stop(_)),
        |effect| matches!(effect, Effect::Release(_)),
        |effect| matches!(effect, Effect::Acquire(_)),
        |effect| matches!(effect, Effect::Start(_)),
    ];
    for (is_it, node) in is_it.into_iter().zip(["alpha", "alpha", "beta", "beta"]) {
        let cluster = Cluster::new(["alpha", "beta", "gamma"]);
        let (outcome, events) = stopped_at(&cluster, node, move |attempt| is_it(&attempt.effect)).await;
        assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
        assert_eq!(n_led_to(&cluster, "beta").await, 3, "{outcome:#?}");
        assert!(outcome.moves[0].downtime.is_some(), "{outcome:#?}");
        let finishing = vec![app("mongodb")];
        assert!(events.contains(&Event::Stopping { finishing }), "{events:#?}");
        assert_eq!(push_to(&cluster, "beta").await.end, End::Settled);
        cluster.assert_nothing_bad();
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_that_is_stopped_while_it_copies_is_finished_by_the_next() {
    let cluster = Cluster::new(["alpha", "beta"]);
    let is_copy = |attempt: &Attempt| matches!(attempt.effect, Effect::Receive(_));
    let (outcome, _) = stopped_at(&cluster, "beta", is_copy).await;
    assert!(runs(&cluster, "alpha") && !runs(&cluster, "beta"));
    assert_eq!(outcome.moves[0].downtime, None);
    let End::Interrupted { left, cut_overs } = &outcome.end else {
        panic!("{outcome:#?}");
    };
    let said: Vec<_> = cut_overs.iter().filter_map(Waiting::application).collect();
    let is_stop = |step: &StepId| step.0.starts_with("alpha/stop/mongodb");
    assert!(
        said == [&app("mongodb")] || left.iter().any(is_stop),
        "{outcome:#?}"
    );
    assert_eq!(push_to(&cluster, "beta").await.end, End::Settled);
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn whom_no_route_leads_to_is_not_said_to_be_back() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    let faults = cluster.machine("gamma").memory.faults().clone();
    faults.decide(|attempt| matches!(attempt.effect, Effect::Route).then_some(Fault::Fail));
    let outcome = push_to(&cluster, "beta").await;
    assert!(matches!(outcome.end, End::Partly { .. }), "{outcome:#?}");
    assert!(runs(&cluster, "beta"));
    assert_eq!(outcome.moves[0].downtime, None);
}
