//! Orders to one node: what it refuses, what it does.

use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::memory::Fault;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle;
use flocker_engine::Order;
use flocker_engine::Unwatched;
use flocker_model::DefinitionHash;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::mongodb;
use crate::cluster::name;

fn create() -> Action {
    Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    }
}

fn stop() -> Action {
    Action::Stop {
        application: app("mongodb"),
        grace: Duration::from_secs(10),
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_can_be_given_twice() {
    let cluster = Cluster::new(["alpha"]);
    let alpha = cluster.remote("alpha");
    let order = Order::new(create(), Generation(1));
    assert_eq!(alpha.perform(&order, &Unwatched).await, Ok(Change::Made));
    assert_eq!(alpha.perform(&order, &Unwatched).await, Ok(Change::AlreadySo));
}

#[tokio::test(start_paused = true)]
async fn a_node_never_obeys_an_older_configuration_nor_an_older_epoch() {
    let mut cluster = Cluster::new(["alpha"]);
    cluster.perform("alpha", 5, [create()]).await;
    cluster.restart("alpha");
    let alpha = cluster.remote("alpha");
    assert_eq!(alpha.observe().await.unwrap().generation, Generation(5));
    let order = Order::new(stop(), Generation(4));
    assert_eq!(
        alpha.perform(&order, &Unwatched).await,
        Err(NodeError::Stale {
            ours: Generation(5),
            theirs: Generation(4)
        })
    );
    let last = SnapshotName::handoff(Epoch(3));
    let id = dataset().id;
    let release = Action::Release {
        dataset: id,
        epoch: Epoch(3),
        to: name("alpha"),
        last: last.clone(),
    };
    let renounce = Action::Renounce {
        dataset: id,
        epoch: Epoch(3),
    };
    cluster.perform("alpha", 5, [release, renounce]).await;
    cluster.restart("alpha");
    let alpha = cluster.remote("alpha");
    for (epoch, is_taken) in [(2, false), (3, false), (4, true)] {
        let action = Action::Acquire {
            dataset: id,
            epoch: Epoch(epoch),
            from: last.clone(),
            guid: None,
        };
        let taken = alpha
            .perform(&Order::new(action, Generation(5)), &Unwatched)
            .await;
        assert_eq!(taken.is_ok(), is_taken, "epoch {epoch}: {taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_generation_waits_for_what_is_under_way() {
    let cluster = Cluster::new(["alpha"]);
    cluster.perform("alpha", 1, [create()]).await;
    let faults = cluster.machine("alpha").memory.faults().clone();
    faults.decide(|attempt| (attempt.number == 2).then_some(Fault::Hang));
    let alpha = Arc::new(cluster.remote("alpha"));
    let take = Order::new(
        Action::Take {
            dataset: dataset().id,
            snapshot: SnapshotName::warm(Epoch(2), 1),
        },
        Generation(1),
    );
    let older = tokio::spawn({
        let alpha = Arc::clone(&alpha);
        async move { alpha.perform(&take, &Unwatched).await }
    });
    while faults.n_hanging() == 0 {
        tokio::task::yield_now().await;
    }
    let newer = Order::new(stop(), Generation(2));
    let newer = alpha.perform(&newer, &Unwatched);
    tokio::pin!(newer);
    assert!(
        tokio::time::timeout(Duration::from_secs(5), &mut newer)
            .await
            .is_err()
    );
    faults.let_go();
    assert_eq!(older.await.unwrap(), Ok(Change::Made));
    assert_eq!(newer.await, Ok(Change::AlreadySo));
}

#[tokio::test(start_paused = true)]
async fn orders_about_one_dataset_take_turns_and_others_do_not_wait() {
    let cluster = Cluster::new(["alpha"]);
    cluster.perform("alpha", 1, [create()]).await;
    let faults = cluster.machine("alpha").memory.faults().clone();
    faults.decide(|attempt| (attempt.number == 2).then_some(Fault::Hang));
    let alpha = Arc::new(cluster.remote("alpha"));
    let take = |round| {
        let action = Action::Take {
            dataset: dataset().id,
            snapshot: SnapshotName::warm(Epoch(2), round),
        };
        Order::new(action, Generation(1))
    };
    let first = tokio::spawn({
        let (alpha, take) = (Arc::clone(&alpha), take(1));
        async move { alpha.perform(&take, &Unwatched).await }
    });
    while faults.n_hanging() == 0 {
        tokio::task::yield_now().await;
    }
    let take = take(2);
    let second = alpha.perform(&take, &Unwatched);
    tokio::pin!(second);
    let waited = tokio::time::timeout(Duration::from_secs(5), &mut second).await;
    assert!(
        waited.is_err(),
        "the first is not at its end, and this came to {waited:?}"
    );
    let other = Order::new(stop(), Generation(1));
    assert_eq!(alpha.perform(&other, &Unwatched).await, Ok(Change::AlreadySo));
    faults.let_go();
    assert_eq!(first.await.unwrap(), Ok(Change::Made));
    assert_eq!(second.await, Ok(Change::Made));
}

#[tokio::test(start_paused = true)]
async fn another_machine_than_the_one_meant_refuses() {
    let cluster = Cluster::new(["alpha"]);
    let alpha = cluster.remote("alpha");
    let mut order = Order::new(create(), Generation(9));
    order.expects = Some(NodeId(Uuid::from_u128(7)));
    assert!(matches!(
        alpha.perform(&order, &Unwatched).await,
        Err(NodeError::WrongNode { .. })
    ));
    let state = alpha.observe().await.unwrap();
    assert_eq!(state.generation, Generation(0), "it is not even obeyed");
}

#[tokio::test(start_paused = true)]
async fn i1_nothing_starts_on_data_that_is_not_owned() {
    let cluster = Cluster::new(["alpha"]);
    let mut order = Order::new(cluster.start("alpha").await, Generation(1));
    order.application = Some(mongodb());
    let alpha = cluster.remote("alpha");
    assert_eq!(
        alpha.perform(&order, &Unwatched).await,
        Err(NodeError::NotPrimary {
            application: app("mongodb"),
            dataset: dataset().id
        })
    );
    cluster.perform("alpha", 1, [create()]).await;
    assert_eq!(alpha.perform(&order, &Unwatched).await, Ok(Change::Made));
    assert!(
        cluster
            .machine("alpha")
            .memory
            .runtime()
            .is_running(&app("mongodb"))
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_on_data_that_is_not_mounted() {
    let cluster = Cluster::new(["alpha"]);
    cluster.perform("alpha", 1, [create()]).await;
    let mut order = Order::new(cluster.start("alpha").await, Generation(1));
    order.application = Some(mongodb());
    let memory = &cluster.machine("alpha").memory;
    memory.volumes().set_mountable(dataset().id, false);
    let alpha = cluster.remote("alpha");
    let refusal = alpha.perform(&order, &Unwatched).await.unwrap_err();
    assert!(refusal.to_string().contains("mount"), "{refusal}");
    assert!(!memory.runtime().is_running(&app("mongodb")));
    memory.volumes().set_mountable(dataset().id, true);
    assert_eq!(alpha.perform(&order, &Unwatched).await, Ok(Change::Made));
}

#[tokio::test(start_paused = true)]
async fn i1_data_in_use_is_not_let_go() {
    let cluster = Cluster::new(["alpha"]);
    let start = cluster.start("alpha").await;
    cluster.perform("alpha", 1, [create(), start]).await;
    let alpha = cluster.remote("alpha");
    for action in [
        Action::Release {
            dataset: dataset().id,
            epoch: Epoch(2),
            to: "beta".parse().unwrap(),
            last: SnapshotName::handoff(Epoch(2)),
        },
        Action::Destroy {
            dataset: dataset().id,
        },
    ] {
        let order = Order::new(action, Generation(1));
        assert!(matches!(
            alpha.perform(&order, &Unwatched).await,
            Err(NodeError::InUse { .. })
        ));
    }
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_was_not_planned_is_refused() {
    let cluster = Cluster::new(["alpha"]);
    cluster.perform("alpha", 1, [create()]).await;
    let alpha = cluster.remote("alpha");
    let mut order = Order::new(
        Action::Start {
            application: app("mongodb"),
            definition: DefinitionHash(1),
        },
        Generation(1),
    );
    assert!(matches!(
        alpha.perform(&order, &Unwatched).await,
        Err(NodeError::Incomplete { .. })
    ));
    order.application = Some(mongodb());
    assert!(matches!(
        alpha.perform(&order, &Unwatched).await,
        Err(NodeError::OtherDefinition { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_backend_arrives_with_its_causes() {
    let cluster = Cluster::new(["alpha"]);
    let here = &cluster.machine("alpha").node;
    let order = Order::new(
        Action::Resize {
            dataset: dataset().id,
            to: None,
        },
        Generation(1),
    );
    let told = cluster.remote("alpha").perform(&order, &Unwatched).await;
    assert_eq!(told, here.perform(&order, &Unwatched).await);
    assert!(matches!(told, Err(NodeError::Backend(_))));
}

#[tokio::test(start_paused = true)]
async fn an_acquisition_without_a_guid_takes_that_of_its_own_snapshot() {
    let cluster = Cluster::new(["alpha"]);
    let last = SnapshotName::handoff(Epoch(2));
    let release = Action::Release {
        dataset: dataset().id,
        epoch: Epoch(2),
        to: "alpha".parse().unwrap(),
        last: last.clone(),
    };
    cluster.perform("alpha", 1, [create(), release]).await;
    let alpha = cluster.remote("alpha");
    let acquire = |from: &SnapshotName| {
        let action = Action::Acquire {
            dataset: dataset().id,
            epoch: Epoch(3),
            from: from.clone(),
            guid: None,
        };
        Order::new(action, Generation(1))
    };
    let missing = SnapshotName::handoff(Epoch(9));
    assert!(alpha.perform(&acquire(&missing), &Unwatched).await.is_err());
    assert_eq!(alpha.perform(&acquire(&last), &Unwatched).await, Ok(Change::Made));
}
