//! How a container that has ended is started again as it was made, by who does not know its definition.

use std::path::Path;

use flocker_model::ContainerStatus;
use flocker_model::RestartPolicy;

use super::Program;
use super::RuntimeHarness;
use super::steps::{GRACE, ended, name, seen, spec, spec_of, status};
use crate::conformance::already_so;
use crate::conformance::made;
use crate::runtime::RuntimeError;

/// Nothing of the application can be started again.
async fn is_not_resumed(harness: &dyn RuntimeHarness) {
    assert_eq!(harness.runtime().resumable().await.unwrap().get(&name()), None);
    let refusal = harness.runtime().resume(&name(), None).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NotHere { .. }), "{refusal}");
}

/// What has ended is told with its restart policy, and starts again as it was made, also after a restart of our process.
pub async fn what_has_ended_is_resumed_as_it_was_made(harness: &dyn RuntimeHarness) {
    let spec = spec(harness, &Program::Exits(3));
    // Ended before it was healthy, or a moment later: its own time decides.
    drop(harness.runtime().start(&spec).await);
    let before = ended(harness).await;
    harness.reopen().await;
    let resumable = harness.runtime().resumable().await.unwrap();
    assert_eq!(resumable.get(&name()), Some(&RestartPolicy::Never));
    made(harness.runtime().resume(&name(), None).await);
    let after = ended(harness).await;
    assert_eq!(after.definition, spec.definition);
    assert_eq!(after.status, before.status);
    assert_eq!(after.address, before.address);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// What runs is left alone.
pub async fn what_runs_is_not_resumed(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::RunsForEver))
            .await,
    );
    let running = seen(harness).await;
    assert_eq!(harness.runtime().resumable().await.unwrap().len(), 0);
    already_so(harness.runtime().resume(&name(), None).await);
    assert_eq!(seen(harness).await, running);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// What was prepared and never ran is somebody's who has its definition.
pub async fn what_was_only_prepared_is_not_resumed(harness: &dyn RuntimeHarness) {
    made(
        harness
            .runtime()
            .prepare(&spec(harness, &Program::RunsForEver))
            .await,
    );
    is_not_resumed(harness).await;
    assert_eq!(status(harness).await, ContainerStatus::Prepared);
    made(harness.runtime().stop(&name(), GRACE).await);
}

/// What was stopped, or never was, is not started by who does not know its definition.
pub async fn what_was_stopped_is_not_resumed(harness: &dyn RuntimeHarness) {
    is_not_resumed(harness).await;
    made(
        harness
            .runtime()
            .start(&spec(harness, &Program::RunsForEver))
            .await,
    );
    made(harness.runtime().stop(&name(), GRACE).await);
    is_not_resumed(harness).await;
    assert_eq!(seen(harness).await, None);
}

/// What has data starts on that data or not at all.
pub async fn what_has_data_is_not_resumed_without_it(harness: &dyn RuntimeHarness) {
    let (volume, path) = harness.volume().await;
    let mut application = harness.application(&Program::Exits(3));
    application.volume = Some(volume);
    let mut spec = spec_of(harness, application);
    spec.volume = Some(path.clone());
    drop(harness.runtime().start(&spec).await);
    let before = ended(harness).await;
    for wrong in [None, Some(Path::new("/nowhere/at/all"))] {
        let refusal = harness.runtime().resume(&name(), wrong).await.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Io { .. }), "{refusal}");
        assert_eq!(seen(harness).await.unwrap().status, before.status);
    }
    made(harness.runtime().resume(&name(), Some(&path)).await);
    assert_eq!(
        ended(harness).await.dataset,
        spec.application.volume.map(|volume| volume.dataset)
    );
    made(harness.runtime().stop(&name(), GRACE).await);
}
