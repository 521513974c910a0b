//! Plans made by hand, carried out: order, failure, concurrency, stopping.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_engine::Ending;
use flocker_engine::Handles;
use flocker_engine::Report;
use flocker_engine::Stop;
use flocker_engine::execute;
use flocker_engine::stopper;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::Home;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use flocker_plan::Because;
use flocker_plan::Fact;
use flocker_plan::Frontier;
use flocker_plan::Need;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Step;

use crate::cluster::Cluster;
use crate::cluster::Recorder;
use crate::cluster::SlowConnect;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::execution;
use crate::cluster::name;
use crate::cluster::port;

fn step(actor: &str, action: Action, needs: &[&Fact], makes: &[&Fact]) -> Step {
    let need = |fact: &&Fact| Need {
        fact: (*fact).clone(),
        because: Because::OneWriter,
    };
    let reason = Reason::Moves {
        application: app("mongodb"),
        from: name("alpha"),
        to: name("beta"),
    };
    let step = Step {
        actor: name(actor),
        action,
        reason: reason.into(),
        needs: needs.iter().map(need).collect(),
    };
    assert!(makes.iter().all(|fact| step.is_maker_of(fact)));
    step
}

/// A whole hand-off from alpha to beta, with the routes of both, and something on gamma that has nothing to do with it.
async fn hand_off(cluster: &Cluster) -> Plan {
    let id = dataset().id;
    let epoch = Epoch(2);
    let last = SnapshotName::handoff(epoch);
    let snapshot = |on: &str| Fact::Snapshot {
        dataset: id,
        on: name(on),
        name: last.clone(),
    };
    let stopped = Fact::Stopped {
        application: app("mongodb"),
        on: name("alpha"),
    };
    let released = Fact::Released {
        dataset: id,
        by: name("alpha"),
        epoch,
    };
    let primary = Fact::Primary {
        dataset: id,
        on: name("beta"),
        epoch,
    };
    let healthy = Fact::Healthy {
        application: app("mongodb"),
        on: name("beta"),
    };
    let stop = Action::Stop {
        application: app("mongodb"),
        grace: Duration::from_secs(10),
    };
    let release = Action::Release {
        dataset: id,
        epoch,
        to: name("beta"),
        last: last.clone(),
    };
    let push = Action::Push {
        dataset: dataset(),
        snapshot: last.clone(),
        base: None,
        to: name("beta"),
    };
    let acquire = Action::Acquire {
        dataset: id,
        epoch,
        from: last.clone(),
        guid: None,
    };
    let target = RouteTarget {
        application: app("mongodb"),
        internal: port().number,
        homes: vec![Home {
            node: name("beta"),
            address: cluster.machine("beta").memory.address(),
        }],
    };
    let route = Action::Route {
        change: Arc::new(RouteChange {
            set: BTreeMap::from([(port(), target)]),
            drop: [].into(),
        }),
    };
    let other = flocker_model::Dataset {
        id: flocker_model::DatasetId::derived(&app("other")),
        owner: app("other"),
        maximum_size: None,
    };
    let unrelated = Action::Create {
        dataset: other,
        epoch: Epoch::FIRST,
    };
    let (here, there) = (snapshot("alpha"), snapshot("beta"));
    let start = cluster.start("beta").await;
    let steps = vec![
        step("alpha", stop, &[], &[&stopped]),
        step("alpha", release, &[&stopped], &[&released, &here]),
        step("alpha", push, &[&released], &[&there]),
        step("beta", acquire, &[&released, &there], &[&primary]),
        step("beta", start, &[&primary], &[&healthy]),
        step("alpha", route.clone(), &[&healthy], &[]),
        step("beta", route, &[&healthy], &[]),
        Step {
            reason: Reason::Tidies { dataset: None }.into(),
            ..step("gamma", unrelated, &[], &[])
        },
    ];
    Plan::new(Generation(2), steps, Vec::new(), Vec::new(), Vec::new())
}

/// A cluster on whose alpha `mongodb` runs and has written.
async fn running() -> Cluster {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    let start = cluster.start("alpha").await;
    cluster.perform("alpha", 1, [create, start]).await;
    cluster.write("alpha", "journal", b"written before the move");
    cluster
}

/// Makes the handles of all nodes, which looking makes otherwise.
fn reach_all(handles: &Handles) {
    for node in ["alpha", "beta", "gamma"] {
        drop(handles.reach(&name(node), Some(&crate::cluster::address(node))));
    }
}

async fn run(cluster: &Cluster, plan: &Plan, recorder: &Recorder, stop: Stop) -> Report {
    let handles = cluster.handles();
    reach_all(&handles);
    let desired = cluster.deployment("beta");
    execute(plan, &desired, &handles, &execution(recorder, stop)).await
}

fn endings(report: &Report) -> Vec<(String, &'static str)> {
    let ending = |ending: &Ending| match ending {
        Ending::Done(_) => "done",
        Ending::Failed(_) => "failed",
        Ending::Skipped { .. } => "skipped",
        Ending::Interrupted => "interrupted",
        Ending::Left => "left",
    };
    report
        .steps
        .iter()
        .map(|report| {
            let step = &report.step;
            (
                format!("{} {}", step.actor, step.action.verb()),
                ending(&report.ending),
            )
        })
        .collect()
}

fn position(steps: &[String], what: &str) -> usize {
    steps
        .iter()
        .position(|step| step.starts_with(what))
        .unwrap_or_else(|| panic!("{what} is not among {steps:?}"))
}

#[tokio::test(start_paused = true)]
async fn a_hand_off_is_carried_out_in_its_order() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let recorder = Recorder::default();
    let report = run(&cluster, &plan, &recorder, Stop::never()).await;
    assert!(
        report
            .steps
            .iter()
            .all(|step| matches!(step.ending, Ending::Done(_))),
        "{report:#?}"
    );
    let steps = recorder.steps();
    for (first, then) in [
        ("-alpha/stop", "+alpha/release"),
        ("-alpha/release", "+alpha/push"),
        ("-alpha/push", "+beta/acquire"),
        ("-beta/acquire", "+beta/start"),
        ("-beta/start", "+alpha/route"),
        ("-beta/start", "+beta/route"),
    ] {
        assert!(position(&steps, first) < position(&steps, then), "{steps:?}");
    }
    assert!(
        position(&steps, "+gamma/create") < position(&steps, "-alpha/stop"),
        "what is unrelated does not wait: {steps:?}"
    );
    let beta = &cluster.machine("beta").memory;
    assert!(beta.runtime().is_running(&app("mongodb")));
    assert_eq!(
        beta.volumes().read(dataset().id, "journal").unwrap(),
        b"written before the move"
    );
    assert!(beta.router().ends_at(port()).is_some());
    cluster.assert_nothing_bad();

    let again = run(&cluster, &plan, &Recorder::default(), Stop::never()).await;
    assert!(
        !again.failures().any(|(step, _)| step.actor == name("beta")),
        "what was done is so already: {again:#?}"
    );
    cluster.assert_nothing_bad();
}

/// Whatever is ready is started, nothing else is, and nothing ready is held back: what is begun when is the plan's alone.
#[tokio::test(start_paused = true)]
async fn an_executor_never_chooses() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let recorder = Recorder::default();
    run(&cluster, &plan, &recorder, Stop::never()).await;
    let mut frontier = Frontier::new(&plan);
    for said in recorder.steps() {
        let (sign, id) = said.split_at(1);
        let position = plan.steps().iter().position(|step| step.id().0 == id).unwrap();
        if sign == "+" {
            assert!(frontier.start(position), "{id} was started and was not ready");
        } else {
            let held_back: Vec<usize> = frontier.ready().collect();
            assert_eq!(
                held_back,
                Vec::<usize>::new(),
                "ready, and not started when {id} ended"
            );
            frontier.settle(position, flocker_plan::Outcome::Done);
        }
    }
    assert!(frontier.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_failure_takes_its_takers_with_it_and_nothing_else() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let faults = cluster.machine("beta").memory.faults();
    faults.decide(|attempt| matches!(attempt.effect, Effect::Acquire(_)).then_some(Fault::Fail));
    let report = run(&cluster, &plan, &Recorder::default(), Stop::never()).await;
    assert_eq!(
        endings(&report),
        [
            ("alpha stop".into(), "done"),
            ("alpha release".into(), "done"),
            ("alpha push".into(), "done"),
            ("beta acquire".into(), "failed"),
            ("beta start".into(), "skipped"),
            ("alpha route".into(), "skipped"),
            ("beta route".into(), "skipped"),
            ("gamma create".into(), "done"),
        ]
    );
    let acquire = &report.steps[3].step.id();
    assert!(report.steps[4..7].iter().all(|step| step.ending
        == Ending::Skipped {
            because: acquire.clone()
        }));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_holds_up_only_what_needs_it() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let slow = BTreeMap::from([(name("gamma"), Duration::from_secs(60))]);
    let handles = Handles::new(Arc::new(SlowConnect {
        elsewhere: cluster.elsewhere(),
        slow,
    }));
    reach_all(&handles);
    let recorder = Recorder::default();
    let desired = cluster.deployment("beta");
    let report = execute(&plan, &desired, &handles, &execution(&recorder, Stop::never())).await;
    let began = report.steps[0].began.unwrap();
    for step in &report.steps {
        let ended = step.ended.unwrap().duration_since(began);
        if step.step.actor == name("gamma") {
            assert!(ended >= Duration::from_secs(60));
        } else {
            assert!(
                ended < Duration::from_secs(1),
                "{:?} took {ended:?}",
                step.step.id()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_ends_the_cut_over_that_has_begun() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let (stopper, stop) = stopper();
    let faults = cluster.machine("alpha").memory.faults().clone();
    faults.decide({
        let faults = faults.clone();
        move |attempt| {
            matches!(attempt.effect, Effect::Release(_)).then(|| {
                stopper.stop();
                drop(faults.clone());
                Fault::Slow { turns: 3 }
            })
        }
    });
    let report = run(&cluster, &plan, &Recorder::default(), stop).await;
    assert!(report.was_interrupted);
    let not_done = |(_, ending): &(String, &str)| *ending != "done";
    assert!(!endings(&report).iter().any(not_done), "{:?}", endings(&report));
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_it_begins_no_cut_over_and_says_what_is_left() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let (stopper, stop) = stopper();
    stopper.stop();
    let report = run(&cluster, &plan, &Recorder::default(), stop).await;
    assert!(report.was_interrupted);
    let left = |(_, ending): &(String, &str)| *ending == "left";
    assert!(endings(&report).iter().all(left), "{:?}", endings(&report));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_end_in_time_is_dropped() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    let (stopper, stop) = stopper();
    let faults = cluster.machine("gamma").memory.faults().clone();
    faults.decide(move |attempt| {
        matches!(attempt.effect, Effect::Create(_)).then(|| {
            stopper.stop();
            Fault::Hang
        })
    });
    let report = run(&cluster, &plan, &Recorder::default(), stop).await;
    let not_done: Vec<_> = endings(&report)
        .into_iter()
        .filter(|(_, ending)| *ending != "done")
        .collect();
    assert_eq!(not_done, [("gamma create".into(), "interrupted")]);
    // The node is told, and drops it too.
    for _ in 0..1000 {
        if faults.n_hanging() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the order hangs still");
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_breaks_fails_only_its_own_steps() {
    let cluster = running().await;
    let plan = hand_off(&cluster).await;
    cluster.network.part(directory("alpha"), directory("beta"));
    let report = run(&cluster, &plan, &Recorder::default(), Stop::never()).await;
    let endings = endings(&report);
    assert_eq!(endings[2], ("alpha push".into(), "failed"));
    assert_eq!(endings[3], ("beta acquire".into(), "skipped"));
    assert_eq!(endings[7], ("gamma create".into(), "done"));
}
