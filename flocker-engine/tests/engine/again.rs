//! What a node does by itself after its machine has started anew.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::memory::MemoryProgram;
use flocker_engine::Awakening;
use flocker_engine::End;
use flocker_engine::LockToken;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle as _;
use flocker_engine::RemoteNode;
use flocker_engine::STARTING;
use flocker_engine::Woken;
use flocker_model::Application;
use flocker_model::DefinitionHash;
use flocker_model::Epoch;
use flocker_model::Home;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use flocker_plan::boot::Stays;

use crate::cluster::Cluster;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::name;
use crate::cluster::port;
use crate::converge::push_to;
use crate::lock::claim;

fn route() -> RouteChange {
    let target = RouteTarget {
        application: app("mongodb"),
        internal: port().number,
        homes: vec![Home {
            node: name("alpha"),
            address: IpAddr::from([10, 0, 0, 1]),
        }],
    };
    RouteChange {
        set: [(port(), target)].into(),
        drop: BTreeSet::new(),
    }
}

/// Returns a node on which `mongodb` runs and has a route, and that route.
async fn serving() -> (Cluster, RouteTable) {
    let cluster = Cluster::new(["alpha"]);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    let start = cluster.start("alpha").await;
    cluster
        .perform(
            "alpha",
            1,
            [
                create,
                start,
                Action::Route {
                    change: route().into(),
                },
            ],
        )
        .await;
    let routes = cluster.machine("alpha").node.observe().await.unwrap().routes;
    (cluster, routes)
}

fn lose_power(cluster: &mut Cluster) {
    cluster.machine("alpha").memory.crash();
    cluster.restart("alpha");
}

async fn start_again(cluster: &Cluster, routes: &RouteTable) -> Result<Awakening, NodeError> {
    let node = &cluster.machine("alpha").node;
    node.start_again(|| routes.clone(), 1_700_000_000).await
}

fn runs(cluster: &Cluster) -> bool {
    cluster
        .machine("alpha")
        .memory
        .runtime()
        .is_running(&app("mongodb"))
}

#[tokio::test(start_paused = true)]
async fn what_ran_on_data_of_this_node_runs_again_and_has_its_routes() {
    let (mut cluster, routes) = serving().await;
    lose_power(&mut cluster);
    assert!(!runs(&cluster));
    let before = cluster.machine("alpha").node.observe().await.unwrap();
    assert!(before.routes.entries().is_empty());
    let awakening = start_again(&cluster, &routes).await.unwrap();
    assert_eq!(awakening.applications, [(app("mongodb"), Woken::Started)].into());
    assert_eq!(awakening.routes, Ok(1));
    assert!(runs(&cluster));
    let after = cluster.machine("alpha").node.observe().await.unwrap();
    assert_eq!(after.routes, routes);
    // Nothing of the data has changed but what a look changes.
    assert_eq!(after.generation, before.generation);
    assert_eq!(
        after.datasets[&dataset().id].role,
        before.datasets[&dataset().id].role
    );
    let again = start_again(&cluster, &routes).await.unwrap();
    assert_eq!(again.applications, [(app("mongodb"), Woken::Runs)].into());
    assert_eq!(again.routes, Ok(0));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn what_was_let_go_before_the_boot_stays_where_it_is() {
    let (mut cluster, routes) = serving().await;
    lose_power(&mut cluster);
    let release = Action::Release {
        dataset: dataset().id,
        epoch: Epoch(2),
        to: name("beta"),
        last: SnapshotName::handoff(Epoch(2)),
    };
    cluster.perform("alpha", 2, [release]).await;
    lose_power(&mut cluster);
    let awakening = start_again(&cluster, &routes).await.unwrap();
    let stays = Woken::Stays(Stays::LetGo { to: name("beta") });
    assert_eq!(awakening.applications, [(app("mongodb"), stays)].into());
    assert!(!runs(&cluster));
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn who_deploys_starts_what_is_to_run() {
    let (mut cluster, routes) = serving().await;
    lose_power(&mut cluster);
    let claim = claim("ann@laptop");
    let ann = cluster.remote("alpha");
    ann.lock(&claim).await.unwrap();
    let refusal = start_again(&cluster, &routes).await.unwrap_err();
    assert!(matches!(refusal, NodeError::Held { .. }), "{refusal}");
    assert!(!runs(&cluster));
    ann.unlock(claim.token).await.unwrap();
    start_again(&cluster, &routes).await.unwrap();
    assert!(runs(&cluster));
    // Nobody has to wait for it afterwards.
    ann.lock(&claim).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_start_keeps_no_other_from_it() {
    let (mut cluster, routes) = serving().await;
    let runtime = cluster.machine("alpha").memory.runtime();
    let application = Application::new("broken:1".parse().unwrap());
    let spec = ContainerSpec {
        // It comes before the other by name.
        name: app("broken"),
        application: application.clone(),
        definition: DefinitionHash(1),
        volume: None,
        node_address: IpAddr::from([10, 0, 0, 1]),
    };
    runtime.start(&spec).await.unwrap();
    lose_power(&mut cluster);
    cluster
        .machine("alpha")
        .memory
        .runtime()
        .install(application.image, MemoryProgram::IsMissing);
    let awakening = start_again(&cluster, &routes).await.unwrap();
    assert!(matches!(
        awakening.applications[&app("broken")],
        Woken::Failed(NodeError::Backend(_))
    ));
    assert_eq!(awakening.applications[&app("mongodb")], Woken::Started);
    assert_eq!(awakening.routes, Ok(1));
    assert!(runs(&cluster));
}

#[tokio::test(start_paused = true)]
async fn what_was_in_force_is_asked_for_when_nobody_else_changes_it_any_more() {
    let (mut cluster, routes) = serving().await;
    lose_power(&mut cluster);
    let claim = claim("ann@laptop");
    let ann = cluster.remote("alpha");
    ann.lock(&claim).await.unwrap();
    let node = &cluster.machine("alpha").node;
    let not_asked = || panic!("it is asked for although somebody deploys");
    node.start_again(not_asked, 1_700_000_000).await.unwrap_err();
    ann.unlock(claim.token).await.unwrap();
    let awakening = start_again(&cluster, &routes).await.unwrap();
    assert_eq!(awakening.routes, Ok(1));
}

/// Takes the lock of alpha as its start does.
async fn start_holds_the_lock(cluster: &Cluster) -> (RemoteNode, LockToken) {
    let claim = claim(STARTING);
    let alpha = cluster.remote("alpha");
    alpha.lock(&claim).await.unwrap();
    (alpha, claim.token)
}

#[tokio::test(start_paused = true)]
async fn who_deploys_waits_for_a_machine_that_starts() {
    let cluster = Cluster::new(["alpha", "beta"]);
    let (alpha, token) = start_holds_the_lock(&cluster).await;
    let ended = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        alpha.unlock(token).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(push_to(&cluster, "alpha"), ended);
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster));
}
