//! How containers are prepared, started, stopped and listed.

use std::num::NonZeroU32;
use std::time::Duration;

use flocker_model::ContainerStatus;
use flocker_model::Health;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::RestartPolicy;

use super::Program;
use super::RuntimeHarness;
use super::steps::{GRACE, ended, name, seen, spec, spec_of, status};
use crate::conformance::already_so;
use crate::conformance::drop_after;
use crate::conformance::eventually;
use crate::conformance::made;
use crate::runtime::RuntimeError;

/// A new node has no containers of ours.
pub async fn nothing_is_listed_where_nothing_is(harness: &dyn RuntimeHarness) {
    assert_eq!(harness.runtime().list().await.unwrap().len(), 0);
}

/// What runs is not started again.
pub async fn starting_twice_is_starting_once(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::RunsForEver);
    made(harness.runtime().start(&spec).await);
    let running = seen(harness).await.unwrap();
    assert_eq!(running.status, ContainerStatus::Running);
    assert_eq!(running.health, Health::NotChecked);
    already_so(harness.runtime().start(&spec).await);
    harness.reopen().await;
    already_so(harness.runtime().start(&spec).await);
    assert_eq!(seen(harness).await.unwrap(), running);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// A container that is alive is never replaced in passing.
pub async fn another_definition_is_refused_while_one_is_alive(harness: &dyn RuntimeHarness) {
    let first = spec(harness, &Program::RunsForEver);
    let other = spec(harness, &Program::Prints("other".into()));
    assert_ne!(first.definition, other.definition);
    made(harness.runtime().start(&first).await);
    let refusal = harness.runtime().start(&other).await.unwrap_err();
    assert!(
        matches!(refusal, RuntimeError::OtherDefinition { .. }),
        "{refusal}"
    );
    let running = seen(harness).await.unwrap();
    assert_eq!(
        (running.status, running.definition),
        (ContainerStatus::Running, first.definition)
    );
    made(harness.runtime().stop(&name(), GRACE).await);
    made(harness.runtime().start(&other).await);
    assert_eq!(seen(harness).await.unwrap().definition, other.definition);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// What is to replace a running container is checked while that one runs on: nothing is stopped for what cannot start.
pub async fn another_definition_is_prepared_beside_one_that_is_alive(harness: &dyn RuntimeHarness) {
    let first = spec(harness, &Program::RunsForEver);
    let other = spec(harness, &Program::Prints("other".into()));
    let missing = spec(harness, &Program::IsMissing);
    made(harness.runtime().start(&first).await);
    let running = seen(harness).await;
    already_so(harness.runtime().prepare(&other).await);
    let refusal = harness.runtime().prepare(&missing).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NoImage { .. }), "{refusal}");
    assert_eq!(seen(harness).await, running);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// A container that has ended by itself stands in nobody's way.
pub async fn another_definition_is_started_after_the_end(harness: &dyn RuntimeHarness) {
    // Ended before it was healthy, or a moment later: its own time decides.
    drop(harness.runtime().start(&spec(harness, &Program::Exits(3))).await);
    ended(harness).await;
    let other = spec(harness, &Program::RunsForEver);
    made(harness.runtime().start(&other).await);
    let running = seen(harness).await.unwrap();
    assert_eq!(
        (running.status, running.definition),
        (ContainerStatus::Running, other.definition)
    );
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// What is prepared can be seen, and starts when it is told to.
pub async fn a_prepared_container_is_listed_and_does_not_run(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::RunsForEver);
    made(harness.runtime().prepare(&spec).await);
    let prepared = seen(harness).await.unwrap();
    assert_eq!(prepared.status, ContainerStatus::Prepared);
    assert_eq!(prepared.definition, spec.definition);
    assert!(!prepared.is_alive());
    already_so(harness.runtime().prepare(&spec).await);
    made(harness.runtime().start(&spec).await);
    assert_eq!(status(harness).await, ContainerStatus::Running);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// A container that runs is as prepared as it can be.
pub async fn preparing_what_runs_changes_nothing(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::RunsForEver);
    made(harness.runtime().start(&spec).await);
    already_so(harness.runtime().prepare(&spec).await);
    assert_eq!(status(harness).await, ContainerStatus::Running);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// What cannot be started here is found out while it still runs elsewhere.
pub async fn what_is_missing_is_told_before_anything_is_stopped(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::IsMissing);
    let refusal = harness.runtime().prepare(&spec).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NoImage { .. }), "{refusal}");
    assert_eq!(seen(harness).await, None);
}

/// What is missing does not run.
pub async fn what_is_missing_is_not_started(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::IsMissing);
    harness.runtime().start(&spec).await.unwrap_err();
    assert!(seen(harness).await.is_none_or(|state| !state.is_alive()));
}

/// What is stopped is not there any more.
pub async fn a_stopped_container_is_gone(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::RunsForEver))
            .await,
    );
    made(harness.runtime().stop(&name(), GRACE).await);
    assert_eq!(seen(harness).await, None);
    harness.reopen().await;
    assert_eq!(seen(harness).await, None);
}

/// What is not there is stopped.
pub async fn stopping_twice_is_stopping_once(harness: &dyn RuntimeHarness) {
    already_so(harness.runtime().stop(&name(), GRACE).await);
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::RunsForEver))
            .await,
    );
    made(harness.runtime().stop(&name(), GRACE).await);
    already_so(harness.runtime().stop(&name(), GRACE).await);
}

/// What was only prepared is removed too.
pub async fn a_prepared_container_is_stopped(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .prepare(&spec(harness, &Program::RunsForEver))
            .await,
    );
    made(harness.runtime().stop(&name(), GRACE).await);
    assert_eq!(seen(harness).await, None);
}

/// Whoever does not end in time is made to.
pub async fn who_ignores_termination_is_gone_all_the_same(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::IgnoresTermination))
            .await,
    );
    made(harness.runtime().stop(&name(), Duration::from_millis(100)).await);
    assert_eq!(seen(harness).await, None);
}

/// How a container ended is seen afterwards.
pub async fn an_exit_status_is_seen(harness: &dyn RuntimeHarness) {
    for code in [0, 3] {
        drop(
            harness
                .runtime()
                .start(&spec(harness, &Program::Exits(code)))
                .await,
        );
        let state = ended(harness).await;
        assert_eq!(
            state.status,
            ContainerStatus::Exited {
                code: Some(code.into())
            }
        );
        made(harness.runtime().stop(&name(), GRACE).await);
        assert_eq!(seen(harness).await, None);
    }
}

/// A container that has ended does not count as one that runs.
pub async fn what_has_ended_is_started_again(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::Exits(0));
    for _ in 0..2 {
        let answer = harness.runtime().start(&spec).await;
        match answer {
            Ok(change) => made::<RuntimeError>(Ok(change)),
            Err(failure) => assert!(matches!(failure, RuntimeError::Ended { .. }), "{failure}"),
        }
        ended(harness).await;
    }
}

/// What is restarted for ever counts as alive, and a stop is the end of it.
pub async fn what_always_restarts_is_alive_until_it_is_stopped(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::Exits(1));
    application.restart_policy = RestartPolicy::Always;
    let spec = spec_of(harness, application);
    drop(harness.runtime().start(&spec).await);
    eventually("it was restarted", || async {
        let state = seen(harness).await?;
        (state.restarts > 0 && state.is_alive()).then_some(())
    })
    .await;
    made(harness.runtime().stop(&name(), GRACE).await);
    for _ in 0..10 {
        assert_eq!(seen(harness).await, None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What fails every time is restarted as often as its policy says, and then stays as it is.
pub async fn what_restarts_on_failure_gives_up(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::Exits(1));
    application.restart_policy = RestartPolicy::OnFailure {
        maximum_retry_count: NonZeroU32::new(2),
    };
    drop(harness.runtime().start(&spec_of(harness, application)).await);
    let state = eventually("it gave up", || async {
        let state = seen(harness).await?;
        (state.restarts == 2 && !state.is_alive()).then_some(state)
    })
    .await;
    assert_eq!(state.status, ContainerStatus::Exited { code: Some(1) });
}

/// What ended well did not fail.
pub async fn what_ended_well_is_not_restarted_on_failure(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::Exits(0));
    application.restart_policy = RestartPolicy::OnFailure {
        maximum_retry_count: None,
    };
    drop(harness.runtime().start(&spec_of(harness, application)).await);
    let state = ended(harness).await;
    assert_eq!(state.status, ContainerStatus::Exited { code: Some(0) });
    assert_eq!(state.restarts, 0);
}

/// What a container was started with is read from the container, not from a memory of ours.
pub async fn the_definition_travels_with_the_container(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::RunsForEver);
    application.stop_grace = Duration::from_secs(23);
    let spec = spec_of(harness, application);
    made(harness.runtime().start(&spec).await);
    for _ in 0..2 {
        let state = seen(harness).await.unwrap();
        assert_eq!(state.definition, spec.definition);
        assert_eq!(state.stop_grace, Duration::from_secs(23));
        assert_eq!(state.dataset, None);
        harness.reopen().await;
    }
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// Containers outlive the process that started them.
pub async fn what_runs_is_listed_after_a_restart(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::RunsForEver);
    made(harness.runtime().start(&spec).await);
    let before = seen(harness).await;
    harness.reopen().await;
    assert_eq!(seen(harness).await, before);
    assert_eq!(status(harness).await, ContainerStatus::Running);
    made(harness.runtime().stop(&name(), GRACE).await);
    assert_eq!(seen(harness).await, None);
}

/// So do containers that do not run.
pub async fn what_is_prepared_or_ended_is_listed_after_a_restart(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .prepare(&spec(harness, &Program::RunsForEver))
            .await,
    );
    harness.reopen().await;
    assert_eq!(status(harness).await, ContainerStatus::Prepared);
    made(harness.runtime().stop(&name(), GRACE).await);
    drop(harness.runtime().start(&spec(harness, &Program::Exits(3))).await);
    ended(harness).await;
    harness.reopen().await;
    assert_eq!(status(harness).await, ContainerStatus::Exited { code: Some(3) });
}

/// Which dataset a container has mounted is told, so that nobody takes it away under it.
pub async fn the_dataset_of_a_container_is_told(harness: &dyn RuntimeHarness) {
    let (volume, path) = harness.volume().await;
    let dataset = volume.dataset;
    let mut application = harness.application(&Program::RunsForEver);
    application.volume = Some(volume);
    let mut spec = spec_of(harness, application);
    spec.volume = Some(path);
    made(harness.runtime().start(&spec).await);
    for _ in 0..2 {
        assert_eq!(seen(harness).await.unwrap().dataset, Some(dataset));
        harness.reopen().await;
    }
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// One application's container is not another's.
pub async fn applications_do_not_touch_each_other(harness: &dyn RuntimeHarness) {
    let first = spec(harness, &Program::RunsForEver);
    let mut second = spec(harness, &Program::Prints("second".into()));
    // The name of the one is the beginning of the other's.
    second.name = "mongodb-2".parse().unwrap();
    made(harness.runtime().start(&first).await);
    made(harness.runtime().start(&second).await);
    made(harness.runtime().stop(&first.name, GRACE).await);
    let left = harness.runtime().list().await.unwrap();
    assert_eq!(left.keys().collect::<Vec<_>>(), [&second.name]);
    assert_eq!(left[&second.name].status, ContainerStatus::Running);
    made(harness.runtime().stop(&second.name, GRACE).await);
}

fn check_of(probe: HealthProbe) -> HealthCheck {
    HealthCheck {
        probe,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        retries: NonZeroU32::new(3).unwrap(),
    }
}

/// A start returns when the application serves; where it does not, it is left to be looked at.
pub async fn who_does_not_serve_is_unhealthy_and_left_as_it_is(harness: &dyn RuntimeHarness) {
    let mut application = harness.application(&Program::RunsForEver);
    let port = harness.free_port();
    application.health_check = Some(Box::new(check_of(HealthProbe::Tcp { port })));
    let spec = spec_of(harness, application);
    let failure = harness.runtime().start(&spec).await.unwrap_err();
    assert!(matches!(failure, RuntimeError::Unhealthy { .. }), "{failure}");
    let state = seen(harness).await.unwrap();
    assert_eq!(
        (state.status, state.health),
        (ContainerStatus::Running, Health::Unhealthy)
    );
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// A start returns when the application serves.
pub async fn who_serves_is_healthy(harness: &dyn RuntimeHarness) {
    let port = harness.free_port();
    let mut application = harness.application(&Program::Listens(port));
    application.health_check = Some(Box::new(check_of(HealthProbe::Tcp { port })));
    let spec = spec_of(harness, application);
    made(harness.runtime().start(&spec).await);
    let state = seen(harness).await.unwrap();
    assert_eq!(
        (state.status, state.health),
        (ContainerStatus::Running, Health::Healthy)
    );
    already_so(harness.runtime().start(&spec).await);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// However far a start has come when it is dropped, it can be told and completed.
pub async fn a_dropped_start_is_told_by_the_list(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::RunsForEver);
    for n_steps in 0..6 {
        drop(drop_after(n_steps, harness.runtime().start(&spec)).await);
        harness.runtime().start(&spec).await.unwrap();
        assert_eq!(status(harness).await, ContainerStatus::Running);
        already_so(harness.runtime().start(&spec).await);
        made(harness.runtime().stop(&name(), GRACE).await);
        assert_eq!(seen(harness).await, None);
    }
}
