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
use flocker_engine::observe_telling;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_model::NodeName;
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
    let others: Vec<(&str, Option<NodeId>)> = others.iter().map(|other| (*other, None)).collect();
    tell_who(cluster, node, &others).await;
}

async fn tell_who(cluster: &Cluster, node: &str, others: &[(&str, Option<NodeId>)]) {
    let peer = |(other, id): &(&str, Option<NodeId>)| {
        let peer = Peer {
            address: address(other),
            id: *id,
            generation: Generation::default(),
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
    let alpha = &cluster.machine("alpha").node;
    alpha.forget(&name("beta"), None).await.unwrap();
    let state = observe(&of_alpha(), &cluster.handles(), &looking()).await;
    assert_eq!(state.nodes[&name("beta")], Observed::Unknown(Silence::Forgotten));
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
    let mut told = Vec::new();
    let late = |nodes| told.push((began.elapsed().as_secs(), nodes));
    let state = observe_telling(&cluster.deployment("alpha"), &handles, &looking(), late).await;
    assert!(began.elapsed() < Duration::from_secs(11));
    assert_eq!(state.all_known().count(), 2);
    // Long before the deadline, and once.
    assert_eq!(told, [(2, vec![name("beta")])]);
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
                generation: Generation::default(),
            },
        )]),
    };
    cluster.machine("alpha").node.lock(&claim).await.unwrap();
    let state = observe(&of_alpha(), &cluster.handles(), &looking()).await;
    assert_eq!(state.nodes.keys().collect::<Vec<_>>(), [&name("alpha")]);
}

fn somebody(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

/// Returns whom a node is taken for, if it is doubted.
fn impostor(state: &ClusterState, node: &str) -> Option<(NodeId, BTreeMap<NodeName, NodeId>)> {
    match &state.nodes[&name(node)] {
        Observed::Unknown(Silence::Impostor { found, remembered }) => Some((*found, remembered.clone())),
        Observed::Unknown(_) | Observed::Known(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_not_who_others_remember_is_not_seen() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let id = |node: &str| cluster.machine(node).node.id();
    let old = somebody(1);
    tell_who(
        &cluster,
        "alpha",
        &[("beta", Some(id("beta"))), ("gamma", Some(old))],
    )
    .await;
    let desired = cluster.deployment("alpha");
    let look = async || observe(&desired, &cluster.handles(), &looking()).await;
    let state = look().await;
    assert!(state.known(&name("beta")).is_some());
    assert_eq!(
        impostor(&state, "gamma"),
        Some((id("gamma"), [(name("alpha"), old)].into()))
    );
    assert!(!state.is_forgotten(&name("gamma")));
    // Once the old one is forgotten, the new one is who is meant.
    let alpha = &cluster.machine("alpha").node;
    alpha.forget(&name("gamma"), Some(id("gamma"))).await.unwrap();
    let state = look().await;
    assert!(state.known(&name("gamma")).is_some());
    assert!(!state.is_forgotten(&name("gamma")));
    // And is missed when it falls silent.
    cluster.network.part(OPERATOR, directory("gamma"));
    let state = look().await;
    assert!(state.known(&name("gamma")).is_none());
    assert!(!state.is_forgotten(&name("gamma")));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_disagree_on_another_are_told_apart() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let found = cluster.machine("gamma").node.id();
    let old = somebody(1);
    tell_who(&cluster, "alpha", &[("gamma", Some(old))]).await;
    tell_who(&cluster, "beta", &[("gamma", Some(found))]).await;
    let desired = cluster.deployment("alpha");
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    let remembered = [(name("alpha"), old), (name("beta"), found)].into();
    assert_eq!(impostor(&state, "gamma"), Some((found, remembered)));
    let Observed::Unknown(silence) = &state.nodes[&name("gamma")] else {
        panic!("it is seen");
    };
    let text = silence.to_string();
    assert!(text.contains(&format!("node {found} answers")), "{text}");
    assert!(text.contains("as beta remembers"), "{text}");
    assert!(text.contains(&format!("alpha remembers node {old}")), "{text}");
    let hint = silence.hint(&name("gamma")).unwrap();
    assert!(hint.contains("`flocker node forget gamma`"), "{hint}");
    // Who is wrong is named, and who is right can be said.
    assert!(hint.contains("the gamma that alpha knew"), "{hint}");
    assert!(hint.contains(&format!("`id: {found}` at gamma")), "{hint}");
    // Every node has forgotten the same one: what beta remembers counts.
    let alpha = &cluster.machine("alpha").node;
    alpha.forget(&name("gamma"), Some(found)).await.unwrap();
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    assert!(state.known(&name("gamma")).is_some());
}

#[tokio::test(start_paused = true)]
async fn one_wrong_memory_hides_nobody_else_and_is_overruled_by_the_files() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let id = |node: &str| cluster.machine(node).node.id();
    tell_who(&cluster, "alpha", &[("beta", Some(somebody(1)))]).await;
    let mut desired = cluster.deployment("alpha");
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    assert!(state.known(&name("alpha")).is_some());
    assert!(state.known(&name("gamma")).is_some());
    assert!(impostor(&state, "beta").is_some());
    // A machine of elsewhere that answers as alpha accuses all, and all accuse it: who is right is for a person to say.
    tell_who(&cluster, "alpha", &[("gamma", Some(somebody(2)))]).await;
    for node in ["beta", "gamma"] {
        tell_who(&cluster, node, &[("alpha", Some(somebody(3)))]).await;
    }
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    assert_eq!(state.all_known().count(), 0);
    // The ids that the hints name, in the file, let in who is meant, and nobody else.
    let mut builder = Deployment::builder();
    for node in ["alpha", "beta", "gamma"] {
        let mut pinned = member(node);
        pinned.id = (node != "alpha").then(|| id(node));
        builder = builder.node(name(node), pinned);
    }
    desired = builder.build().unwrap();
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    assert!(state.known(&name("beta")).is_some());
    assert!(state.known(&name("gamma")).is_some());
    assert!(impostor(&state, "alpha").is_some());
}

#[tokio::test(start_paused = true)]
async fn one_node_that_has_forgotten_speaks_for_those_that_were_away() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let old = somebody(1);
    for node in ["alpha", "beta"] {
        tell_who(&cluster, node, &[("gamma", Some(old))]).await;
    }
    let alpha = &cluster.machine("alpha").node;
    alpha.forget(&name("gamma"), None).await.unwrap();
    let desired = cluster.deployment("alpha");
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    // It is another machine than the one that was lost.
    assert!(state.known(&name("gamma")).is_some());
    assert!(!state.is_forgotten(&name("gamma")));
    cluster.network.part(OPERATOR, directory("gamma"));
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    assert!(state.is_forgotten(&name("gamma")));
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_that_answers_again_is_forgotten_and_accuses_nobody() {
    let cluster = Cluster::new(["alpha", "beta"]);
    let beta = cluster.machine("beta").node.id();
    tell_who(&cluster, "alpha", &[("beta", Some(beta))]).await;
    tell_who(&cluster, "beta", &[("alpha", Some(somebody(1)))]).await;
    let alpha = &cluster.machine("alpha").node;
    alpha.forget(&name("beta"), None).await.unwrap();
    let state = observe(&cluster.deployment("alpha"), &cluster.handles(), &looking()).await;
    assert!(state.known(&name("alpha")).is_some());
    assert!(state.known(&name("beta")).is_some());
    assert!(state.is_forgotten(&name("beta")));
}

#[tokio::test(start_paused = true)]
async fn the_files_go_before_what_is_remembered() {
    let cluster = Cluster::new(["alpha", "beta"]);
    tell_who(&cluster, "alpha", &[("beta", Some(somebody(1)))]).await;
    let mut pinned = member("beta");
    pinned.id = Some(cluster.machine("beta").node.id());
    let desired = Deployment::builder()
        .node(name("alpha"), member("alpha"))
        .node(name("beta"), pinned)
        .build()
        .unwrap();
    let state = observe(&desired, &cluster.handles(), &looking()).await;
    assert!(state.known(&name("beta")).is_some());
}
