//! Whole pushes with the real planner: they settle, wait, roll back, give up, stop.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_engine::Answer;
use flocker_engine::Claim;
use flocker_engine::Confirm;
use flocker_engine::End;
use flocker_engine::Event;
use flocker_engine::Go;
use flocker_engine::Handles;
use flocker_engine::IfHeld;
use flocker_engine::LockToken;
use flocker_engine::NodeHandle;
use flocker_engine::Outcome;
use flocker_engine::PushError;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::agent_turn;
use flocker_engine::converge::push;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_plan::Plan;
use flocker_plan::Policy;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::execution;
use crate::cluster::name;
use crate::cluster::port;

fn options() -> PushOptions {
    PushOptions::new("ann@laptop", 0, Stop::never())
}

pub(crate) async fn push_to(cluster: &Cluster, home: &str) -> Outcome {
    push_with(cluster, home, &options(), &Recorder::default())
        .await
        .unwrap()
}

async fn push_with(
    cluster: &Cluster,
    home: &str,
    options: &PushOptions,
    recorder: &Recorder,
) -> Result<Outcome, PushError> {
    push(
        &cluster.deployment(home),
        &cluster.handles(),
        &Policy::default(),
        options,
        &Go,
        recorder.listener(),
    )
    .await
}

pub(crate) fn runs(cluster: &Cluster, node: &str) -> bool {
    cluster.machine(node).memory.runtime().is_running(&app("mongodb"))
}

#[tokio::test(start_paused = true)]
async fn i7_a_push_settles_and_the_next_has_nothing_to_do() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let outcome = push_to(&cluster, "alpha").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster, "alpha"));
    for machine in cluster.machines.values() {
        assert!(machine.memory.router().ends_at(port()).is_some());
    }
    let again = push_to(&cluster, "alpha").await;
    assert_eq!(again.end, End::Settled);
    assert!(again.reports.is_empty(), "{again:#?}");
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn i3_a_move_takes_the_data_along() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    for number in 0..40 {
        cluster.write("alpha", &format!("part-{number}"), &vec![number; 100_000]);
    }
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
    let [moved] = &outcome.moves[..] else {
        panic!("one move was made, and {:?} is told", outcome.moves);
    };
    assert_eq!((&moved.from, &moved.to), (&name("alpha"), &name("beta")));
    let rounds: u64 = moved.rounds.iter().map(|bytes| bytes.0).sum();
    assert!(rounds >= 4_000_000, "{moved:?}");
    assert!(moved.last_round.unwrap() < ByteSize(100_000), "{moved:?}");
    assert!(moved.forecast.is_some() && moved.downtime.is_some(), "{moved:?}");
    for number in 0..40 {
        let volumes = cluster.machine("beta").memory.volumes();
        let part = volumes.read(dataset().id, &format!("part-{number}")).unwrap();
        assert_eq!(part, vec![number; 100_000]);
    }
    cluster.assert_nothing_bad();
    let again = push_to(&cluster, "beta").await;
    assert!(again.reports.is_empty(), "{again:#?}");
    assert!(again.generation >= outcome.generation);
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_told_with_how_long_it_was_away() {
    // Its start goes well, fails the first time, or its answer is lost the first time.
    for fault in [None, Some(Fault::Fail), Some(Fault::LoseReply)] {
        let cluster = Cluster::new(["alpha", "beta"]);
        push_to(&cluster, "alpha").await;
        let before = cluster.deployment("alpha");
        let mut definition = before.application(&app("mongodb")).unwrap().clone();
        definition.limits.cpu_shares = Some(7);
        let mut changed = Deployment::builder().application(app("mongodb"), definition);
        for (node, member) in before.members() {
            changed = changed.node(node.clone(), member.clone());
        }
        let mut first = fault;
        cluster.machine("alpha").memory.faults().decide(move |attempt| {
            let is_start = matches!(attempt.effect, Effect::Start(_));
            is_start.then(|| first.take()).flatten()
        });
        let outcome = push(
            &changed.build().unwrap(),
            &cluster.handles(),
            &Policy::default(),
            &options(),
            &Go,
            Recorder::default().listener(),
        )
        .await
        .unwrap();
        assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
        assert!(outcome.moves.is_empty(), "{:?}", outcome.moves);
        let [restart] = &outcome.restarts[..] else {
            panic!("it was restarted once, and {:?} is told", outcome.restarts);
        };
        assert_eq!(
            (&restart.application, &restart.on),
            (&app("mongodb"), &name("alpha"))
        );
        let times = (restart.forecast, restart.downtime);
        assert!(matches!(times, (Some(_), Some(_))), "{fault:?}: {restart:?}");
        cluster.assert_nothing_bad();
    }
}

#[tokio::test(start_paused = true)]
async fn how_long_it_was_away_is_known_although_the_answer_to_its_start_was_lost() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    cluster.write("alpha", "journal", b"first");
    let mut n_lost = 0;
    cluster.machine("beta").memory.faults().decide(move |attempt| {
        let is_first = matches!(attempt.effect, Effect::Start(_)) && n_lost == 0;
        n_lost += u32::from(is_first);
        is_first.then_some(Fault::LoseReply)
    });
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    let [moved] = &outcome.moves[..] else {
        panic!("one move was made, and {:?} is told", outcome.moves);
    };
    assert!(moved.downtime.is_some(), "{moved:?}");
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    cluster.write("alpha", "journal", b"first");
    let mut n_failures = 2;
    cluster.machine("beta").memory.faults().decide(move |attempt| {
        if matches!(attempt.effect, Effect::Acquire(_)) && n_failures > 0 {
            n_failures -= 1;
            return Some(Fault::Fail);
        }
        None
    });
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(outcome.rolled_back.is_empty());
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_move_that_cannot_end_goes_back() {
    for effect in ["acquire", "start", "receive"] {
        let cluster = Cluster::new(["alpha", "beta", "gamma"]);
        push_to(&cluster, "alpha").await;
        cluster.write("alpha", "journal", b"first");
        let source = cluster.machine("alpha").memory.runtime();
        cluster.machine("beta").memory.faults().decide(move |attempt| {
            let is_it = match &attempt.effect {
                Effect::Acquire(_) => effect == "acquire",
                Effect::Start(_) => effect == "start",
                // The copies that are made ahead arrive; the last, on which the pause hangs, does not.
                Effect::Receive(_) => effect == "receive" && !source.is_running(&app("mongodb")),
                _ => false,
            };
            is_it.then_some(Fault::Fail)
        });
        let recorder = Recorder::default();
        let outcome = push_with(&cluster, "beta", &options(), &recorder).await.unwrap();
        let [back] = &outcome.rolled_back[..] else {
            panic!("{effect}: {outcome:#?}");
        };
        assert_eq!(back.to, name("alpha"));
        assert_eq!(outcome.end, End::Settled, "{effect}: {outcome:#?}");
        assert!(runs(&cluster, "alpha") && !runs(&cluster, "beta"), "{effect}");
        let volumes = cluster.machine("alpha").memory.volumes();
        assert_eq!(volumes.read(dataset().id, "journal").unwrap(), b"first");
        assert!(
            recorder
                .events()
                .iter()
                .any(|event| matches!(event, Event::RolledBack { .. }))
        );
        cluster.assert_nothing_bad();
    }
}

#[tokio::test(start_paused = true)]
async fn i5_with_the_owner_out_of_sight_nothing_is_taken_over() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    cluster.network.part(OPERATOR, directory("alpha"));
    let outcome = push_to(&cluster, "beta").await;
    let End::Partly { waiting, .. } = &outcome.end else {
        panic!("{outcome:#?}");
    };
    assert!(!waiting.is_empty());
    assert!(!runs(&cluster, "beta"));
    assert!(runs(&cluster, "alpha"));

    cluster.network.join(OPERATOR, directory("alpha"));
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_held_lock_names_its_holder_is_waited_for_or_broken() {
    let cluster = Cluster::new(["alpha", "beta"]);
    let bob = cluster.remote("beta");
    let claim = Claim {
        token: LockToken::random(),
        holder: "bob@desk".into(),
        since: 5,
        peers: [].into(),
    };
    bob.lock(&claim).await.unwrap();
    let refused = push_with(&cluster, "alpha", &options(), &Recorder::default()).await;
    assert_eq!(
        refused.unwrap_err(),
        PushError::Held {
            node: name("beta"),
            holder: "bob@desk".into(),
            since: 5
        }
    );
    let free = Claim {
        token: LockToken::random(),
        holder: "carl".into(),
        since: 6,
        peers: [].into(),
    };
    let alpha = cluster.remote("alpha");
    alpha.lock(&free).await.unwrap();
    alpha.unlock(free.token).await.unwrap();

    let mut waiting = options();
    waiting.lock_wait = Some(Duration::from_secs(60));
    let recorder = Recorder::default();
    let give_back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        bob.unlock(claim.token).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(push_with(&cluster, "alpha", &waiting, &recorder), give_back);
    assert_eq!(outcome.unwrap().end, End::Settled);
    assert!(
        recorder
            .events()
            .iter()
            .any(|event| matches!(event, Event::LockAwaited { holder, .. } if holder == "bob@desk"))
    );

    bob.lock(&claim).await.unwrap();
    let mut breaking = options();
    breaking.if_held = IfHeld::Break;
    let outcome = push_with(&cluster, "beta", &breaking, &Recorder::default()).await;
    assert_eq!(outcome.unwrap().end, End::Settled);
}

struct Never;

#[async_trait]
impl Confirm for Never {
    async fn confirm(&self, plan: &Plan, _: &ClusterState) -> Answer {
        assert!(!plan.steps().is_empty());
        Answer::Decline
    }
}

#[tokio::test(start_paused = true)]
async fn a_declined_plan_changes_nothing() {
    let cluster = Cluster::new(["alpha"]);
    let outcome = push(
        &cluster.deployment("alpha"),
        &cluster.handles(),
        &Policy::default(),
        &options(),
        &Never,
        Recorder::default().listener(),
    )
    .await
    .unwrap();
    assert_eq!(outcome.end, End::Declined);
    assert!(cluster.observer.history().is_empty());
    let state = cluster.remote("alpha").observe().await.unwrap();
    assert_eq!(state.generation, Generation(0));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_not_tried_for_ever() {
    let cluster = Cluster::new(["alpha"]);
    let runtime = cluster.machine("alpha").memory.runtime();
    runtime.install(
        "mongo:7".parse().unwrap(),
        flocker_backends::memory::MemoryProgram::IsMissing,
    );
    let began = tokio::time::Instant::now();
    let outcome = push_to(&cluster, "alpha").await;
    let End::Partly { failed, .. } = &outcome.end else {
        panic!("{outcome:#?}");
    };
    assert!(!failed.is_empty());
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_out_of_sight_for_a_moment_is_waited_for() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    let network = cluster.network.clone();
    cluster.machine("alpha").memory.faults().decide(move |attempt| {
        if matches!(attempt.effect, Effect::Release(..)) {
            network.part(OPERATOR, directory("alpha"));
            let network = network.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                network.join(OPERATOR, directory("alpha"));
            });
        }
        None
    });
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_push_survives_connections_that_break_under_it() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    for number in 0..20 {
        cluster.write("alpha", &format!("part-{number}"), &vec![number; 100_000]);
    }
    let network = cluster.network.clone();
    cluster.machine("beta").memory.faults().decide(move |attempt| {
        if attempt.number % 4 == 0 {
            network.cut(OPERATOR, directory("beta"));
        }
        None
    });
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn two_pushes_at_once_do_not_cross() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    let mut patient = options();
    patient.lock_wait = Some(Duration::from_secs(600));
    let (one_recorder, other_recorder) = (Recorder::default(), Recorder::default());
    let (one, other) = tokio::join!(
        push_with(&cluster, "beta", &patient, &one_recorder),
        push_with(&cluster, "alpha", &patient, &other_recorder),
    );
    assert_eq!(one.unwrap().end, End::Settled);
    assert_eq!(other.unwrap().end, End::Settled);
    assert!(runs(&cluster, "alpha") != runs(&cluster, "beta"));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_push_whose_lock_is_broken_does_nothing_more() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    let faults = cluster.machine("alpha").memory.faults().clone();
    faults.decide(|attempt| matches!(attempt.effect, Effect::Stop(_)).then_some(Fault::Hang));
    let bob = cluster.remote("alpha");
    let claim = Claim {
        token: LockToken::random(),
        holder: "bob@desk".into(),
        since: 5,
        peers: [].into(),
    };
    let breaking = async {
        while faults.n_hanging() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (broken, ()) = tokio::join!(bob.break_lock(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            faults.let_go();
        });
        broken.unwrap();
        bob.lock(&claim).await.unwrap();
    };
    let recorder = Recorder::default();
    let ann = options();
    let (pushed, ()) = tokio::join!(push_with(&cluster, "beta", &ann, &recorder), breaking);
    assert!(
        matches!(&pushed, Err(PushError::Held { holder, .. }) if holder == "bob@desk"),
        "{pushed:#?}"
    );
    let state = cluster.remote("alpha").observe().await.unwrap();
    let role = &state.datasets[&dataset().id].role;
    assert!(
        matches!(role, Role::Primary { .. }),
        "nothing was released: {role:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn agents_meet_in_facts() {
    let cluster = Cluster::new(["alpha", "beta"]);
    push_to(&cluster, "alpha").await;
    cluster.write("alpha", "journal", b"first");
    let generation = cluster.remote("alpha").observe().await.unwrap().generation;
    let desired = cluster.deployment("beta").at(generation.next());
    let handles = cluster.handles();
    for _ in 0..20 {
        for me in ["alpha", "beta"] {
            let others = look(&desired, &handles).await;
            let execution = execution(&Recorder::default(), Stop::never());
            agent_turn(
                &name(me),
                &desired,
                &others,
                &handles,
                &Policy::default(),
                &execution,
            )
            .await
            .unwrap();
        }
    }
    assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
    let state = look(&desired, &handles).await;
    let plan = flocker_plan::plan(&desired, &state, &Policy::default());
    assert!(plan.is_settled(), "{plan:?}");
    cluster.assert_nothing_bad();
}

/// What a control service would tell an agent of the others.
async fn look(desired: &Deployment, handles: &Handles) -> ClusterState {
    let mut state = ClusterState::default();
    for (node, member) in desired.members() {
        let handle: Arc<dyn NodeHandle> = handles.reach(node, member.address.as_ref());
        let seen = handle.observe().await.unwrap();
        state.nodes.insert(node.clone(), Observed::Known(seen));
    }
    state
}
