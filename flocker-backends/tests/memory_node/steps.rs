//! What tests of nodes do again and again.

use std::time::Duration;

use flocker_backends::Acquisition;
use flocker_backends::ContainerRuntime;
use flocker_backends::ContainerSpec;
use flocker_backends::Handoff;
use flocker_backends::ReceiveRequest;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Epoch;
use flocker_model::RestartPolicy;
use flocker_model::Role;
use flocker_model::SnapshotGuid;
use flocker_model::Volume;

pub(super) fn name() -> ApplicationName {
    "mongodb".parse().unwrap()
}

pub(super) fn id() -> DatasetId {
    DatasetId::derived(&name())
}

pub(super) fn dataset() -> Dataset {
    Dataset {
        id: id(),
        owner: name(),
        maximum_size: None,
    }
}

/// Makes two nodes of one cluster.
pub(super) fn two_nodes() -> (Observer, MemoryNode, MemoryNode) {
    let observer = Observer::default();
    let node =
        |name: &str, last: u8| MemoryNode::new(name.parse().unwrap(), [10, 0, 0, last].into(), &observer);
    let (alpha, beta) = (node("alpha", 1), node("beta", 2));
    (observer, alpha, beta)
}

pub(super) fn spec(node: &MemoryNode, restart_policy: RestartPolicy) -> ContainerSpec {
    let mut application = Application::new("mongo".parse().unwrap());
    application.restart_policy = restart_policy;
    application.volume = Some(Volume {
        dataset: id(),
        mountpoint: "/data".into(),
        maximum_size: None,
    });
    ContainerSpec {
        name: name(),
        definition: application.definition_hash(&DefinitionKey::new([0; 32])),
        application,
        volume: Some(node.volumes().path(id())),
        node_address: node.address(),
    }
}

pub(super) async fn run(node: &MemoryNode) {
    node.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    let spec = spec(node, RestartPolicy::Never);
    node.runtime().start(&spec).await.unwrap();
}

pub(super) async fn stop(node: &MemoryNode) {
    node.runtime().stop(&name(), Duration::ZERO).await.unwrap();
}

pub(super) async fn release(node: &MemoryNode, epoch: u64) -> SnapshotGuid {
    let handoff = Handoff {
        dataset: id(),
        epoch: Epoch(epoch),
        to: "beta".parse().unwrap(),
        last: format!("handoff-{epoch}").parse().unwrap(),
    };
    node.volumes().release(&handoff).await.unwrap();
    let seen = &node.volumes().inventory().await.unwrap().datasets[&id()];
    seen.snapshots.last().unwrap().guid
}

pub(super) async fn copy(from: &MemoryNode, to: &MemoryNode, snapshot: &str, base: Option<SnapshotGuid>) {
    let request = SendRequest {
        dataset: id(),
        snapshot: snapshot.parse().unwrap(),
        base,
        resume: None,
    };
    let stream = from.volumes().send(&request).await.unwrap();
    let request = ReceiveRequest {
        dataset: dataset(),
        snapshot: snapshot.parse().unwrap(),
        base,
    };
    to.volumes().receive(&request, stream).await.unwrap();
}

pub(super) async fn acquire(node: &MemoryNode, epoch: u64, from: &str, guid: SnapshotGuid) {
    let acquisition = Acquisition {
        dataset: id(),
        epoch: Epoch(epoch),
        from: from.parse().unwrap(),
        guid: Some(guid),
    };
    node.volumes().acquire(&acquisition).await.unwrap();
}

pub(super) async fn role(node: &MemoryNode) -> Role {
    node.volumes().inventory().await.unwrap().datasets[&id()]
        .role
        .clone()
}
