//! The steps that promises about runtimes are tried out with.

use std::time::Duration;

use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::DefinitionKey;
use tokio::io::AsyncReadExt;

use super::Program;
use super::RuntimeHarness;
use crate::conformance::eventually;
use crate::runtime::ContainerSpec;
use crate::runtime::LogRequest;

/// How long a container of these promises may take to end.
pub(super) const GRACE: Duration = Duration::from_millis(500);

pub(super) fn name() -> ApplicationName {
    "mongodb".parse().unwrap()
}

pub(super) fn spec(harness: &dyn RuntimeHarness, program: &Program) -> ContainerSpec {
    spec_of(harness, harness.application(program))
}

pub(super) fn spec_of(harness: &dyn RuntimeHarness, application: Application) -> ContainerSpec {
    ContainerSpec {
        name: name(),
        definition: application.definition_hash(&DefinitionKey::new([7; 32])),
        application,
        volume: None,
        node_address: harness.node_address(),
    }
}

pub(super) async fn seen(harness: &dyn RuntimeHarness) -> Option<ContainerState> {
    harness.runtime().list().await.unwrap().remove(&name())
}

pub(super) async fn status(harness: &dyn RuntimeHarness) -> ContainerStatus {
    seen(harness).await.unwrap().status
}

/// Returns the container once it has ended for good.
pub(super) async fn ended(harness: &dyn RuntimeHarness) -> ContainerState {
    eventually("the container has ended", || async {
        let state = seen(harness).await?;
        matches!(state.status, ContainerStatus::Exited { .. }).then_some(state)
    })
    .await
}

/// Returns what the application wrote.
pub(super) async fn output(harness: &dyn RuntimeHarness, tail: Option<u32>) -> String {
    let request = LogRequest { tail, follow: false };
    let mut stream = harness.runtime().logs(&name(), request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Waits until the application has written this line.
pub(super) async fn wait_for_line(harness: &dyn RuntimeHarness, line: &str) {
    eventually("the line is in the output", || async {
        let text = output(harness, None).await;
        text.lines().any(|found| found == line).then_some(())
    })
    .await;
}
