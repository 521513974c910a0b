//! Pushes that are asked to stop: where they do, and what they say is left.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flocker_backends::memory::Attempt;
use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_engine::End;
use flocker_engine::Event;
use flocker_engine::Go;
use flocker_engine::NodeHandle as _;
use flocker_engine::Outcome;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::converge::push;
use flocker_engine::stopper;
use flocker_model::Application;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use flocker_plan::Policy;
use flocker_plan::StepId;
use flocker_plan::Waiting;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::member;
use crate::cluster::mongodb;
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

/// Goes on as a push does, and asks to stop at the first event of which `is_it` says so.
async fn stopped_when(
    cluster: &Cluster,
    desired: &Deployment,
    is_it: impl Fn(&Event) -> bool + Send + Sync + 'static,
) -> Outcome {
    let (stopper, stop) = stopper();
    let recorder = Recorder::default();
    let told = recorder.listener();
    let listener = move |event: &Event| {
        told.on(event);
        if is_it(event) {
            stopper.stop();
        }
    };
    let options = PushOptions::new("ann@laptop", 0, stop);
    let outcome = push(
        desired,
        &cluster.handles(),
        &Policy::default(),
        &options,
        &Go,
        Arc::new(listener),
    )
    .await
    .unwrap();
    assert!(matches!(outcome.end, End::Interrupted { .. }), "{outcome:#?}");
    let is_told = |event: &Event| matches!(event, Event::Stopping { finishing } if !finishing.is_empty());
    assert!(recorder.events().iter().any(is_told), "{outcome:#?}");
    outcome
}

/// Lets the first `n_failures` tries of an effect fail on a node.
fn fail(
    cluster: &Cluster,
    node: &str,
    mut n_failures: u32,
    is_it: impl Fn(&Effect) -> bool + Send + 'static,
) {
    let faults = cluster.machine(node).memory.faults().clone();
    faults.decide(move |attempt| {
        let fails = n_failures > 0 && is_it(&attempt.effect);
        n_failures -= u32::from(fails);
        fails.then_some(Fault::Fail)
    });
}

#[tokio::test(start_paused = true)]
async fn a_cut_over_of_which_a_step_has_failed_is_tried_again_although_it_was_asked_to_stop() {
    let at: [fn(&Event) -> bool; 2] = [
        |event| matches!(event, Event::StepFailed { .. }),
        |event| matches!(event, Event::BackingOff { .. } | Event::Observed { .. }),
    ];
    let is_it: [fn(&Effect) -> bool; 3] = [
        |effect| matches!(effect, Effect::Acquire(_)),
        |effect| matches!(effect, Effect::Start(_)),
        |effect| matches!(effect, Effect::Route),
    ];
    for (at, is_it) in at.into_iter().flat_map(|at| is_it.map(|is_it| (at, is_it))) {
        let cluster = Cluster::new(["alpha", "beta", "gamma"]);
        push_to(&cluster, "alpha").await;
        fail(&cluster, "beta", 2, is_it);
        let has_failed = AtomicBool::new(false);
        let desired = cluster.deployment("beta");
        let outcome = stopped_when(&cluster, &desired, move |event| {
            let failed = matches!(event, Event::StepFailed { .. });
            (has_failed.fetch_or(failed, Ordering::Relaxed) || failed) && at(event)
        });
        let outcome = outcome.await;
        assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"), "{outcome:#?}");
        assert_eq!(n_led_to(&cluster, "beta").await, 3, "{outcome:#?}");
        assert!(outcome.moves[0].downtime.is_some(), "{outcome:#?}");
        cluster.assert_nothing_bad();
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_over_that_cannot_end_goes_back_although_it_was_asked_to_stop() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    fail(&cluster, "beta", u32::MAX, |effect| {
        matches!(effect, Effect::Acquire(_))
    });
    let desired = cluster.deployment("beta");
    let outcome = stopped_when(&cluster, &desired, |event| {
        matches!(event, Event::StepFailed { .. })
    })
    .await;
    assert_eq!(outcome.rolled_back.len(), 1, "{outcome:#?}");
    assert!(runs(&cluster, "alpha") && !runs(&cluster, "beta"), "{outcome:#?}");
    assert_eq!(n_led_to(&cluster, "alpha").await, 3, "{outcome:#?}");
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn who_was_stopped_for_a_new_definition_is_started_although_it_was_asked_to_stop() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    fail(&cluster, "alpha", 2, |effect| matches!(effect, Effect::Start(_)));
    let mut changed = mongodb();
    changed.image = "mongo:8".parse().unwrap();
    let desired = deployment_of(&cluster, [("mongodb", changed, "alpha")]);
    let outcome = stopped_when(&cluster, &desired, |event| {
        matches!(event, Event::StepFailed { .. })
    })
    .await;
    assert!(runs(&cluster, "alpha"), "{outcome:#?}");
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn whoever_was_stopped_for_the_data_of_another_is_carried_to_its_end_with_it() {
    for node in ["alpha", "beta"] {
        let cluster = Cluster::new(["alpha", "beta"]);
        push_to(&cluster, "alpha").await;
        // The data under another name: who has it now stops, and for that reason alone.
        let desired = deployment_of(&cluster, [("docdb", mongodb(), node)]);
        let outcome = stopped_when(&cluster, &desired, |event| match event {
            Event::StepDone { step, .. } => step.0.contains("/stop/mongodb"),
            _ => false,
        })
        .await;
        let runtime = cluster.machine(node).memory.runtime();
        assert!(runtime.is_running(&app("docdb")), "{node}: {outcome:#?}");
        cluster.assert_nothing_bad();
    }
}

#[tokio::test(start_paused = true)]
async fn who_exchange_their_data_are_both_started_although_it_was_asked_to_stop() {
    let cluster = Cluster::new(["alpha", "beta"]);
    let with_data_of = |name: &str, port: &str| {
        let mut application = mongodb();
        let volume = application.volume.as_mut().unwrap();
        volume.dataset = DatasetId::derived(&app(name));
        application.ports = [Port {
            internal: PortNumber::new(27017).unwrap(),
            external: port.parse().unwrap(),
        }]
        .into();
        application
    };
    let both = |one: &str, other: &str| {
        let one = ("mongodb", with_data_of(one, "27017"), "alpha");
        deployment_of(&cluster, [one, ("docdb", with_data_of(other, "27018"), "alpha")])
    };
    let handles = cluster.handles();
    let options = PushOptions::new("ann@laptop", 0, Stop::never());
    let policy = Policy::default();
    let first = both("mongodb", "docdb");
    let outcome = push(
        &first,
        &handles,
        &policy,
        &options,
        &Go,
        Recorder::default().listener(),
    )
    .await;
    assert_eq!(outcome.unwrap().end, End::Settled);
    let outcome = stopped_when(&cluster, &both("docdb", "mongodb"), |event| match event {
        Event::StepDone { step, .. } => step.0.contains("/stop/"),
        _ => false,
    })
    .await;
    let runtime = cluster.machine("alpha").memory.runtime();
    for name in ["mongodb", "docdb"] {
        assert!(runtime.is_running(&app(name)), "{name}: {outcome:#?}");
    }
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_does_not_wait_for_ever_for_who_is_away() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    let network = cluster.network.clone();
    let faults = cluster.machine("beta").memory.faults().clone();
    faults.decide(move |attempt| {
        let is_it = matches!(attempt.effect, Effect::Acquire(_));
        if is_it {
            network.part(OPERATOR, directory("beta"));
        }
        is_it.then_some(Fault::Fail)
    });
    let began = tokio::time::Instant::now();
    let desired = cluster.deployment("beta");
    let outcome = stopped_when(&cluster, &desired, |event| {
        matches!(event, Event::StepFailed { .. })
    })
    .await;
    assert!(
        began.elapsed() < Duration::from_secs(600),
        "{:?}",
        began.elapsed()
    );
    assert!(
        !runs(&cluster, "alpha") && !runs(&cluster, "beta"),
        "{outcome:#?}"
    );
    cluster.network.join(OPERATOR, directory("beta"));
    cluster.machine("beta").memory.faults().decide(|_| None);
    assert_eq!(push_to(&cluster, "beta").await.end, End::Settled);
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

/// Returns a deployment of all nodes with these applications, each on a node.
fn deployment_of<const N: usize>(
    cluster: &Cluster,
    applications: [(&str, Application, &str); N],
) -> Deployment {
    let mut builder = Deployment::builder();
    for node in cluster.machines.keys() {
        builder = builder.node(node.clone(), member(node.as_str()));
    }
    for (application, definition, home) in applications {
        builder = builder.application(app(application), definition);
        builder = builder.place(&app(application), &name(home));
    }
    builder.build().unwrap()
}

/// Lets `mongodb` be away, with data on alpha and nothing on beta, and asks to stop at the first copy of the move.
async fn stopped_at_the_first_copy(cluster: &Cluster) -> (Outcome, Duration) {
    let (stopper, stop) = stopper();
    let faults = cluster.machine("beta").memory.faults().clone();
    let asked = Arc::new(Mutex::new(None));
    let at = Arc::clone(&asked);
    faults.decide(move |attempt| {
        matches!(attempt.effect, Effect::Receive(_)).then(|| {
            stopper.stop();
            at.lock().unwrap().get_or_insert_with(tokio::time::Instant::now);
            Fault::Hang
        })
    });
    let minute = Duration::from_secs(60);
    let let_go = async {
        // As a long copy ends at last.
        while asked.lock().unwrap().is_none_or(|at| at.elapsed() < minute) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        faults.let_go();
        faults.decide(|_| None);
    };
    let desired = cluster.deployment("beta");
    let handles = cluster.handles();
    let options = PushOptions::new("ann@laptop", 0, stop);
    let policy = Policy::default();
    let pushed = async {
        let outcome = push(
            &desired,
            &handles,
            &policy,
            &options,
            &Go,
            Recorder::default().listener(),
        );
        let outcome = outcome.await.unwrap();
        let at = asked.lock().unwrap().unwrap();
        (outcome, at.elapsed())
    };
    let (pushed, ()) = tokio::join!(pushed, let_go);
    pushed
}

/// Stops `mongodb` on alpha as a push does, after these steps.
async fn stop_by_hand<const N: usize>(cluster: &Cluster, before: [Action; N]) {
    let generation = cluster.machine("alpha").node.observe().await.unwrap().generation;
    let stop = Action::Stop {
        application: app("mongodb"),
        grace: Duration::from_secs(1),
    };
    let actions = before.into_iter().chain([stop]);
    cluster.perform("alpha", generation.0, actions).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_copy_of_what_does_not_run_is_not_waited_for() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    cluster.write("alpha", "journal", &vec![1; 100_000]);
    // As where it was removed: nobody misses it.
    stop_by_hand(&cluster, []).await;
    assert!(!runs(&cluster, "alpha"));
    let (outcome, took) = stopped_at_the_first_copy(&cluster).await;
    assert!(matches!(outcome.end, End::Interrupted { .. }), "{outcome:#?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(!runs(&cluster, "beta"), "{outcome:#?}");
    assert_eq!(push_to(&cluster, "beta").await.end, End::Settled);
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn the_first_copy_of_whom_an_earlier_push_has_stopped_is_waited_for() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    cluster.write("alpha", "journal", &vec![1; 100_000]);
    // What a push leaves behind that was killed after the stop, and a target that has lost its copy since.
    let warm = Action::Take {
        dataset: dataset().id,
        snapshot: SnapshotName::warm(Epoch::FIRST.next(), 1),
    };
    stop_by_hand(&cluster, [warm]).await;
    let (outcome, took) = stopped_at_the_first_copy(&cluster).await;
    assert!(took > Duration::from_secs(30), "{took:?}");
    assert!(runs(&cluster, "beta"), "{outcome:#?}");
    cluster.assert_nothing_bad();
}
