//! Looking at many nodes at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_engine::Claim;
use flocker_engine::Handles;
use flocker_engine::LockToken;
use flocker_engine::Looking;
use flocker_engine::NodeHandle;
use flocker_engine::Peer;
use flocker_engine::observe;
use flocker_model::Deployment;
use flocker_model::NodeId;
use flocker_model::Observed;
use flocker_model::Silence;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::SlowConnect;
use crate::cluster::address;
use crate::cluster::directory;
use crate::cluster::member;
use crate::cluster::name;

fn looking() -> Looking {
    Looking {
        deadline: Duration::from_secs(10),
        known: BTreeMap::new(),
    }
}

fn of_alpha() -> Deployment {
    Deployment::builder()
        .node(name("alpha"), member("alpha"))
        .build()
        .unwrap()
}

async fn tell_of(cluster: &Cluster, node: &str, others: &[&str]) {
    let peer = |other: &&str| {
        let peer = Peer {
            address: address(other),
            id: None,
        };
        (name(other), peer)
    };
    let claim = Claim {
        token: LockToken::random(),
        holder: "ann".into(),
        since: 0,
        peers: others.iter().map(peer).collect(),
    };
    let node = &cluster.machine(node).node;
    node.lock(&claim).await.unwrap();
    node.unlock(claim.token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_dropped_from_the_files_is_still_looked_at() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    tell_of(&cluster, "alpha", &["beta"]).await;
    tell_of(&cluster, "beta", &["gamma", "alpha"]).await;
    let state = observe(&of_alpha(), &cluster.handles(), &looking()).await;
    let seen: Vec<&str> = state.all_known().map(|(name, _)| name.as_str()).collect();
    assert_eq!(seen, ["alpha", "beta", "gamma"]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_node_is_listed_and_not_asked() {
    let cluster = Cluster::new(["alpha", "beta"]);
    tell_of(&cluster, "alpha", &["beta"]).await;
    cluster.machine("alpha").node.forget(&name("beta")).await.unwrap();
    let state = observe(&of_alpha(), &cluster.handles(), &looking()).await;
    assert_eq!(state.nodes[&name("beta")], Observed::Unknown(Silence::NotAsked));
    assert!(state.is_forgotten(&name("beta")));
}

#[tokio::test(start_paused = true)]
async fn i5_a_silent_node_is_unknown_and_says_why() {
    let cluster = Cluster::new(["alpha", "beta"]);
    cluster.network.part(OPERATOR, directory("beta"));
    let state = observe(&cluster.deployment("alpha"), &cluster.handles(), &looking()).await;
    assert!(state.known(&name("alpha")).is_some());
    assert!(matches!(
        &state.nodes[&name("beta")],
        Observed::Unknown(Silence::Unreachable { reason }) if reason.contains("beta")
    ));
}

#[tokio::test(start_paused = true)]
async fn one_slow_node_does_not_delay_the_others_beyond_the_deadline() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let slow = BTreeMap::from([(name("beta"), Duration::from_secs(3600))]);
    let handles = Handles::new(Arc::new(SlowConnect {
        elsewhere: cluster.elsewhere(),
        slow,
    }));
    let began = tokio::time::Instant::now();
    let state = observe(&cluster.deployment("alpha"), &handles, &looking()).await;
    assert!(began.elapsed() < Duration::from_secs(11));
    assert_eq!(state.all_known().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn another_machine_under_a_known_name_is_not_believed() {
    let cluster = Cluster::new(["alpha"]);
    let mut expected = member("alpha");
    let id = NodeId(Uuid::from_u128(3));
    expected.id = Some(id);
    let pinned = Deployment::builder()
        .node(name("alpha"), expected)
        .build()
        .unwrap();
    let by_file = observe(&pinned, &cluster.handles(), &looking()).await;
    let mut looking = looking();
    looking.known.insert(name("alpha"), id);
    let by_memory = observe(&of_alpha(), &cluster.handles(), &looking).await;
    for state in [by_file, by_memory] {
        assert!(matches!(
            &state.nodes[&name("alpha")],
            Observed::Unknown(Silence::WrongNode { expected, .. }) if *expected == id
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn one_machine_under_two_names_is_seen_once() {
    let cluster = Cluster::new(["alpha"]);
    let twice = Deployment::builder()
        .node(name("alpha"), member("alpha"))
        .node(name("zeta"), member("alpha"))
        .build()
        .unwrap();
    let state = observe(&twice, &cluster.handles(), &looking()).await;
    assert_eq!(
        state.nodes[&name("zeta")],
        Observed::Unknown(Silence::SameNode { other: name("alpha") })
    );
    // Under a name that only nodes remember, and the files have changed, nothing is missing.
    let claim = Claim {
        token: LockToken::random(),
        holder: "ann".into(),
        since: 0,
        peers: BTreeMap::from([(
            name("an-old-name"),
            Peer {
                address: address("alpha"),
                id: None,
            },
        )]),
    };
    cluster.machine("alpha").node.lock(&claim).await.unwrap();
    let state = observe(&of_alpha(), &cluster.handles(), &looking()).await;
    assert_eq!(state.nodes.keys().collect::<Vec<_>>(), [&name("alpha")]);
}
