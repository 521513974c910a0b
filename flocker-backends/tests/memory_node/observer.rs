//! What must never happen is noted when it does.

use flocker_backends::ContainerRuntime;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::Loss;
use flocker_backends::memory::Violation;
use flocker_model::Epoch;
use flocker_model::RestartPolicy;
use flocker_model::Role;

use super::steps::{acquire, copy, dataset, id, name, release, role, run, spec, stop, two_nodes};

#[tokio::test]
async fn a_move_by_the_rules_breaks_none() {
    let (observer, alpha, beta) = two_nodes();
    run(&alpha).await;
    alpha.volumes().append(id(), "journal", b"1").unwrap();
    let warm = "warm-2-1".parse().unwrap();
    alpha.volumes().snapshot(id(), &warm).await.unwrap();
    copy(&alpha, &beta, "warm-2-1", None).await;
    alpha.volumes().append(id(), "journal", b"2").unwrap();
    stop(&alpha).await;
    let seen = alpha.volumes().inventory().await.unwrap();
    let base = seen.datasets[&id()].snapshots[0].guid;
    let last = release(&alpha, 2).await;
    copy(&alpha, &beta, "handoff-2", Some(base)).await;
    acquire(&beta, 2, "handoff-2", last).await;
    let spec = spec(&beta, RestartPolicy::Never);
    beta.runtime().start(&spec).await.unwrap();
    beta.volumes().append(id(), "journal", b"3").unwrap();
    assert_eq!(observer.writers(id()), ["beta".parse().unwrap()].into());
    assert_eq!(
        observer.acknowledged(id()),
        [("journal".into(), b"123".to_vec())].into()
    );
    assert_eq!(beta.contents()[&id()], observer.acknowledged(id()));
    // The old copy is destroyed while the new one has written more.
    alpha.volumes().destroy(id()).await.unwrap();
    let loss = Loss {
        node: "alpha".parse().unwrap(),
        dataset: id(),
        sole: false,
    };
    assert_eq!(observer.losses(), [loss]);
    assert_eq!(observer.violations(), []);
}

#[tokio::test]
async fn a_write_without_ownership_is_noted() {
    let (observer, alpha, _) = two_nodes();
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha
        .volumes()
        .append(id(), "journal", b"no container")
        .unwrap_err();
    assert_eq!(observer.violations(), []);
    release(&alpha, 2).await;
    alpha.volumes().put(id(), "journal", b"too late").unwrap_err();
    let violation = Violation::WroteWithoutOwnership {
        dataset: id(),
        node: "alpha".parse().unwrap(),
    };
    assert_eq!(observer.violations(), [violation]);
}

#[tokio::test]
async fn a_container_without_its_volume_is_noted_and_not_started() {
    let (observer, alpha, beta) = two_nodes();
    run(&alpha).await;
    let spec = spec(&beta, RestartPolicy::Never);
    beta.runtime().start(&spec).await.unwrap_err();
    assert!(beta.runtime().list().await.unwrap().is_empty());
    let violation = Violation::StartedWithoutOwnership {
        application: name(),
        dataset: id(),
        node: "beta".parse().unwrap(),
    };
    assert_eq!(observer.violations(), [violation]);
}

#[tokio::test]
async fn a_volume_is_not_taken_from_under_a_container() {
    let (observer, alpha, _) = two_nodes();
    run(&alpha).await;
    alpha.volumes().destroy(id()).await.unwrap_err();
    assert_eq!(role(&alpha).await, Role::Primary { epoch: Epoch::FIRST });
    let violation = Violation::TakenFromContainer {
        dataset: id(),
        node: "alpha".parse().unwrap(),
    };
    assert_eq!(observer.violations(), [violation]);
}

#[tokio::test]
async fn two_owners_are_noted_whatever_either_node_believes() {
    let (observer, alpha, beta) = two_nodes();
    run(&alpha).await;
    run(&beta).await;
    let nodes: std::collections::BTreeSet<_> = [alpha.name().clone(), beta.name().clone()].into();
    let violations = observer.violations();
    for expected in [
        Violation::EmptyOverData {
            dataset: id(),
            node: beta.name().clone(),
            holders: [alpha.name().clone()].into(),
        },
        Violation::TwoPrimaries {
            dataset: id(),
            nodes: nodes.clone(),
        },
        Violation::TwoWriters { dataset: id(), nodes },
        Violation::EpochWentBack {
            dataset: id(),
            node: beta.name().clone(),
            epoch: Epoch::FIRST,
            newest: Epoch::FIRST,
        },
    ] {
        assert!(
            violations.contains(&expected),
            "{expected} is not in {violations:?}"
        );
    }
}

#[tokio::test]
async fn going_on_from_an_older_copy_is_noted() {
    let (observer, alpha, beta) = two_nodes();
    run(&alpha).await;
    alpha.volumes().append(id(), "journal", b"1").unwrap();
    let warm = "warm-2-1".parse().unwrap();
    alpha.volumes().snapshot(id(), &warm).await.unwrap();
    copy(&alpha, &beta, "warm-2-1", None).await;
    alpha.volumes().append(id(), "journal", b"2").unwrap();
    stop(&alpha).await;
    release(&alpha, 2).await;
    let seen = beta.volumes().inventory().await.unwrap();
    let guid = seen.datasets[&id()].snapshots[0].guid;
    acquire(&beta, 2, "warm-2-1", guid).await;
    let violation = Violation::LostWrites {
        dataset: id(),
        node: "beta".parse().unwrap(),
    };
    assert_eq!(observer.violations(), [violation]);
}

#[tokio::test]
async fn the_loss_of_the_only_copy_is_told() {
    let (observer, alpha, beta) = two_nodes();
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha.volumes().put(id(), "journal", b"1").unwrap();
    release(&alpha, 2).await;
    copy(&alpha, &beta, "handoff-2", None).await;
    beta.volumes().destroy(id()).await.unwrap();
    alpha.volumes().destroy(id()).await.unwrap();
    let sole: Vec<bool> = observer.losses().iter().map(|loss| loss.sole).collect();
    assert_eq!(sole, [false, true]);
}
