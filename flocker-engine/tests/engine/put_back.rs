//! Nodes that were put back from an older copy of their disk, and what others remember of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::Purpose;
use flocker_backends::memory::Picture;
use flocker_engine::Claim;
use flocker_engine::End;
use flocker_engine::FileRecord;
use flocker_engine::LockToken;
use flocker_engine::Looking;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle;
use flocker_engine::NodeRecord;
use flocker_engine::Peer;
use flocker_engine::RecordStore;
use flocker_engine::RemoteNode;
use flocker_engine::announce;
use flocker_engine::observe;
use flocker_engine::wire::Ask;
use flocker_engine::wire::Frame;
use flocker_engine::wire::Greeting;
use flocker_engine::wire::Reply;
use flocker_engine::wire::Request;
use flocker_engine::wire::Say;
use flocker_model::ClusterState;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::Observed;
use flocker_model::Silence;
use flocker_plan::Policy;
use flocker_plan::Refusal;
use flocker_plan::Waiting;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::address;
use crate::cluster::deadlines;
use crate::cluster::directory;
use crate::cluster::name;
use crate::converge::push_to;
use crate::converge::runs;
use crate::protocol::Raw;
use crate::protocol::open;

/// Everything that was on a node at some time.
pub(crate) struct Copy {
    node: &'static str,
    disk: Picture,
    record: NodeRecord,
}

/// Copies a node while it is off, and switches it on again.
pub(crate) fn copy(cluster: &mut Cluster, node: &'static str) -> Copy {
    let machine = cluster.machine(node);
    machine.memory.crash();
    let copy = Copy {
        node,
        disk: machine.memory.picture(),
        record: machine.record.load().unwrap().unwrap(),
    };
    cluster.restart(node);
    copy
}

pub(crate) fn put_back(cluster: &mut Cluster, copy: &Copy) {
    let machine = cluster.machine(copy.node);
    machine.memory.crash();
    machine.memory.become_as(&copy.disk);
    machine.record.save(&copy.record).unwrap();
    cluster.restart(copy.node);
}

pub(crate) fn silence(cluster: &Cluster, node: &str) {
    cluster.network.part(OPERATOR, directory(node));
}

pub(crate) fn bring_back(cluster: &Cluster, node: &str) {
    cluster.network.join(OPERATOR, directory(node));
}

pub(crate) async fn look(cluster: &Cluster) -> ClusterState {
    let looking = Looking {
        deadline: Duration::from_secs(10),
        known: BTreeMap::new(),
    };
    observe(&cluster.deployment("alpha"), &cluster.handles(), &looking).await
}

/// Returns what a doubted node says that it obeys, who remembers what, and who is silent.
fn doubt(
    actual: &ClusterState,
    node: &str,
) -> Option<(Generation, BTreeMap<NodeName, Generation>, BTreeSet<NodeName>)> {
    match &actual.nodes[&name(node)] {
        Observed::Unknown(Silence::PutBack {
            obeys,
            remembered,
            silent,
            ..
        }) => Some((*obeys, remembered.clone(), silent.clone())),
        Observed::Unknown(_) | Observed::Known(_) => None,
    }
}

pub(crate) fn obeyed(cluster: &Cluster, node: &str) -> Generation {
    cluster.machine(node).record.load().unwrap().unwrap().generation
}

/// Lets a node remember what another one has obeyed, by whatever identity.
pub(crate) async fn tell(cluster: &Cluster, node: &str, other: &str, id: NodeId, generation: u64) {
    let peer = Peer {
        address: address(other),
        id: Some(id),
        generation: Generation(generation),
    };
    let claim = Claim {
        token: LockToken::random(),
        holder: "ann".into(),
        since: 0,
        peers: [(name(other), peer)].into(),
    };
    let node = &cluster.machine(node).node;
    node.lock(&claim).await.unwrap();
    node.unlock(claim.token).await.unwrap();
}

pub(crate) fn id(cluster: &Cluster, node: &str) -> NodeId {
    cluster.machine(node).node.id()
}

/// A cluster whose application was moved from alpha to beta, and alpha as it was before.
async fn moved_away() -> (Cluster, Copy) {
    let mut cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    let before = copy(&mut cluster, "alpha");
    push_to(&cluster, "alpha").await;
    let moved = push_to(&cluster, "beta").await;
    assert_eq!(moved.end, End::Settled, "{moved:#?}");
    assert!(runs(&cluster, "beta"));
    (cluster, before)
}

#[tokio::test(start_paused = true)]
async fn while_the_new_owner_is_silent_the_old_one_that_was_put_back_is_not_believed() {
    let (mut cluster, before) = moved_away().await;
    let newest = obeyed(&cluster, "alpha");
    put_back(&mut cluster, &before);
    silence(&cluster, "beta");
    for home in ["alpha", "beta", "gamma"] {
        let outcome = push_to(&cluster, home).await;
        let End::Partly { waiting, .. } = &outcome.end else {
            panic!("{home}: {outcome:#?}");
        };
        assert!(
            matches!(&waiting[..], [Waiting::ForSight { .. }]),
            "{home}: {waiting:?}"
        );
        let who = [(name("gamma"), newest)].into();
        assert_eq!(
            doubt(&outcome.actual, "alpha"),
            Some((before.record.generation, who, [name("beta")].into())),
            "{home}"
        );
        assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"), "{home}");
    }
    // It was told nothing, so that nothing hides what it is.
    assert_eq!(
        cluster.machine("alpha").record.load().unwrap(),
        Some(before.record)
    );
}

#[tokio::test(start_paused = true)]
async fn with_the_new_owner_in_sight_the_old_one_is_told_nothing_that_would_hide_what_it_is() {
    let (mut cluster, before) = moved_away().await;
    let newest = obeyed(&cluster, "alpha");
    put_back(&mut cluster, &before);
    let outcome = push_to(&cluster, "beta").await;
    let who = [(name("beta"), newest), (name("gamma"), newest)].into();
    let older = (before.record.generation, who, BTreeSet::new());
    assert_eq!(doubt(&outcome.actual, "alpha"), Some(older));
    assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
    let record = cluster.machine("alpha").record.load().unwrap();
    assert_eq!(record.as_ref(), Some(&before.record));
    // Who looks sees both owners, and can decide.
    let desired = cluster.deployment("beta").at(newest.next());
    let plan = flocker_plan::plan(&desired, &look(&cluster).await, &Policy::default());
    assert!(
        matches!(plan.refused(), [Refusal::SplitOwnership { owners, .. }] if owners.len() == 2),
        "{plan:?}"
    );
    // And is doubted still when the newer one falls silent after that.
    silence(&cluster, "beta");
    push_to(&cluster, "alpha").await;
    assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
}

#[tokio::test(start_paused = true)]
async fn what_was_put_back_and_contradicts_nobody_is_believed_with_all_in_sight() {
    let mut cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    let [alpha, gamma] = ["alpha", "gamma"].map(|node| copy(&mut cluster, node));
    push_to(&cluster, "alpha").await;
    put_back(&mut cluster, &alpha);
    put_back(&mut cluster, &gamma);
    let outcome = push_to(&cluster, "alpha").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(runs(&cluster, "alpha"));
}

#[tokio::test(start_paused = true)]
async fn with_the_new_owner_lost_for_ever_the_old_one_is_believed() {
    let (mut cluster, before) = moved_away().await;
    put_back(&mut cluster, &before);
    cluster.machine("beta").memory.crash();
    silence(&cluster, "beta");
    let gamma = &cluster.machine("gamma").node;
    gamma.forget(&name("beta"), None).await.unwrap();
    let outcome = push_to(&cluster, "alpha").await;
    assert_eq!(doubt(&outcome.actual, "alpha"), None);
    assert!(runs(&cluster, "alpha"), "{outcome:#?}");
}

#[tokio::test(start_paused = true)]
async fn who_was_silent_during_the_last_deploys_is_believed() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    silence(&cluster, "gamma");
    push_to(&cluster, "beta").await;
    assert!(obeyed(&cluster, "gamma") < obeyed(&cluster, "alpha"));
    bring_back(&cluster, "gamma");
    silence(&cluster, "beta");
    let actual = look(&cluster).await;
    assert!(actual.known(&name("gamma")).is_some(), "{actual:#?}");
    assert!(actual.known(&name("alpha")).is_some(), "{actual:#?}");
}

#[tokio::test(start_paused = true)]
async fn two_that_were_put_back_are_judged_by_all_and_by_each_other() {
    let cluster = Cluster::new(["alpha", "beta", "gamma", "delta"]);
    let [alpha, gamma] = ["alpha", "gamma"].map(|node| id(&cluster, node));
    // gamma was put back to before generation 5, and knew already that alpha had obeyed 3.
    tell(&cluster, "gamma", "alpha", alpha, 3).await;
    tell(&cluster, "delta", "alpha", alpha, 4).await;
    tell(&cluster, "delta", "gamma", gamma, 5).await;
    let all = look(&cluster).await;
    assert_eq!(all.all_known().count(), 4);
    silence(&cluster, "beta");
    let actual = look(&cluster).await;
    let [old, three, four, five] = [0, 3, 4, 5].map(Generation);
    let beta: BTreeSet<NodeName> = [name("beta")].into();
    let of_alpha = [(name("gamma"), three), (name("delta"), four)].into();
    assert_eq!(doubt(&actual, "alpha"), Some((old, of_alpha, beta.clone())));
    let of_gamma = [(name("delta"), five)].into();
    assert_eq!(doubt(&actual, "gamma"), Some((old, of_gamma, beta)));
    // Who was put back has no say in who is lost: its word may have been taken back since.
    let gamma = &cluster.machine("gamma").node;
    gamma.forget(&name("beta"), None).await.unwrap();
    assert!(doubt(&look(&cluster).await, "alpha").is_some());
    let delta = &cluster.machine("delta").node;
    delta.forget(&name("beta"), None).await.unwrap();
    assert_eq!(doubt(&look(&cluster).await, "alpha"), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_held_against_another_machine_or_by_one_that_is_lost() {
    let cluster = Cluster::new(["alpha", "beta", "gamma", "delta"]);
    let alpha = id(&cluster, "alpha");
    silence(&cluster, "beta");
    // The machine that obeyed it was wiped, and has another identity since.
    tell(&cluster, "gamma", "alpha", NodeId(Uuid::from_u128(1)), 7).await;
    let actual = look(&cluster).await;
    assert!(matches!(
        actual.nodes[&name("alpha")],
        Observed::Unknown(Silence::Impostor { .. })
    ));
    let gamma = &cluster.machine("gamma").node;
    gamma.forget(&name("alpha"), Some(alpha)).await.unwrap();
    tell(&cluster, "gamma", "alpha", NodeId(Uuid::from_u128(1)), 8).await;
    assert!(look(&cluster).await.known(&name("alpha")).is_some());
    // What is remembered of this one outlives that it was lost, and of the other one too.
    tell(&cluster, "gamma", "alpha", alpha, 9).await;
    assert!(doubt(&look(&cluster).await, "alpha").is_some());
    gamma.forget(&name("alpha"), None).await.unwrap();
    gamma.remember(&name("alpha")).await.unwrap();
    // Two machines had that name, so it is nobody's until one is seen under a lock, as in every deploy.
    tell(&cluster, "gamma", "alpha", alpha, 0).await;
    assert!(doubt(&look(&cluster).await, "alpha").is_some());
    let other = NodeId(Uuid::from_u128(1));
    gamma.forget(&name("alpha"), Some(other)).await.unwrap();
    let of = |cluster: &Cluster| {
        let record = cluster.machine("gamma").record.load().unwrap().unwrap();
        let peer = &record.peers[&name("alpha")];
        (peer.id, peer.generation)
    };
    assert_eq!(of(&cluster), (Some(other), Generation(7)));
    gamma.forget(&name("alpha"), Some(alpha)).await.unwrap();
    assert_eq!(of(&cluster), (Some(alpha), Generation(9)));
    assert!(doubt(&look(&cluster).await, "alpha").is_some());
    // Nor does who is judged say which witness is lost. Where another one says so, that counts.
    tell(&cluster, "gamma", "alpha", alpha, 9).await;
    for (node, other) in [("alpha", "gamma"), ("delta", "gamma")] {
        tell(&cluster, node, other, id(&cluster, other), 0).await;
    }
    for (node, is_doubted) in [("alpha", true), ("delta", false)] {
        let node = &cluster.machine(node).node;
        node.forget(&name("gamma"), None).await.unwrap();
        assert_eq!(
            doubt(&look(&cluster).await, "alpha").is_some(),
            is_doubted,
            "{node:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_first_step_every_node_obeys_and_remembers_that_of_all_others() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let records: BTreeMap<NodeName, Arc<dyn RecordStore>> = cluster
        .machines
        .iter()
        .map(|(node, machine)| (node.clone(), Arc::clone(&machine.record)))
        .collect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for machine in cluster.machines.values() {
        let (records, seen) = (records.clone(), Arc::clone(&seen));
        machine.memory.faults().decide(move |_| {
            let now = records.values().map(|record| record.load().unwrap().unwrap());
            seen.lock().unwrap().push(now.collect::<Vec<_>>());
            None
        });
    }
    let outcome = push_to(&cluster, "alpha").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    let at_effects = seen.lock().unwrap().clone();
    for record in &at_effects[0] {
        assert_eq!(record.generation, outcome.generation);
        assert_eq!(record.peers.len(), 2);
        assert!(
            record
                .peers
                .values()
                .all(|peer| peer.generation == outcome.generation)
        );
    }
    // And where nothing is to be done, nothing is written.
    let before: Vec<_> = records.values().map(|record| record.load().unwrap()).collect();
    assert_eq!(push_to(&cluster, "alpha").await.end, End::Settled);
    let after: Vec<_> = records.values().map(|record| record.load().unwrap()).collect();
    assert_eq!(before, after);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_dies_while_it_says_what_begins_makes_nobody_doubtful() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_to(&cluster, "alpha").await;
    let next = obeyed(&cluster, "alpha").next();
    silence(&cluster, "beta");
    let claim = Claim {
        token: LockToken::random(),
        holder: "ann".into(),
        since: 0,
        peers: BTreeMap::new(),
    };
    // Half of it: one of two has obeyed. Nothing is remembered before all have.
    let alpha = cluster.remote("alpha");
    alpha.lock(&claim).await.unwrap();
    assert_eq!(alpha.obey(next, claim.token).await, Ok(Some(Change::Made)));
    assert_eq!(alpha.obey(next, claim.token).await, Ok(Some(Change::AlreadySo)));
    let other = LockToken::random();
    assert_eq!(alpha.obey(next.next(), other).await, Err(NodeError::LockLost));
    alpha.unlock(claim.token).await.unwrap();
    assert_eq!(look(&cluster).await.all_known().count(), 2);
    // All of it, and no step.
    let mut held: Vec<(Arc<dyn NodeHandle>, Claim)> = Vec::new();
    for (node, other) in [("alpha", "gamma"), ("gamma", "alpha")] {
        let peer = Peer {
            address: address(other),
            id: Some(id(&cluster, other)),
            generation: Generation::default(),
        };
        let mut claim = claim.clone();
        claim.peers.insert(name(other), peer);
        let handle = cluster.remote(node);
        handle.lock(&claim).await.unwrap();
        held.push((Arc::new(handle), claim));
    }
    assert_eq!(announce(next, &held, &BTreeSet::new()).await, BTreeMap::new());
    drop(held);
    assert_eq!(look(&cluster).await.all_known().count(), 2);
    bring_back(&cluster, "beta");
    let outcome = push_to(&cluster, "beta").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert!(outcome.generation > next);
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn who_cannot_write_down_what_begins_is_left_out_and_the_others_go_on() {
    let mut cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("gamma");
    let record = Arc::new(FileRecord::new(&home));
    record
        .save(&cluster.machine("gamma").record.load().unwrap().unwrap())
        .unwrap();
    cluster.restart_with("gamma", record);
    push_to(&cluster, "alpha").await;
    // Where it was, nothing can be written any more.
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::write(&home, "").unwrap();
    let outcome = push_to(&cluster, "beta").await;
    assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"), "{outcome:#?}");
    let Observed::Unknown(silence) = &outcome.actual.nodes[&name("gamma")] else {
        panic!("it is planned with");
    };
    assert!(
        silence.to_string().contains("could not be told what is deployed"),
        "{silence}"
    );
    cluster.assert_nothing_bad();
}

#[tokio::test(start_paused = true)]
async fn nothing_new_of_a_report_is_said_to_a_program_of_version_4_or_5() {
    let cluster = Cluster::new(["alpha"]);
    tell(&cluster, "alpha", "beta", NodeId(Uuid::from_u128(1)), 3).await;
    // A node of ours, asked by an older program, and by one of today.
    for (newest, is_said, keeps) in [(4, false, false), (5, true, false), (6, true, true)] {
        let mut raw = Raw::new(open(&cluster, Purpose::Control).await);
        raw.hello((1, newest), Some(Greeting::Control)).await;
        assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
        raw.ask(1, &Ask::Observe).await;
        let text = raw.next_message().await.unwrap();
        let reply: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let peer = &reply["say"]["state"]["peers"]["beta"];
        assert_eq!(peer.get("generation").is_some(), is_said, "{reply}");
        assert!(peer.get("id").is_some(), "{reply}");
        assert_eq!(reply["say"]["state"].get("keeps").is_some(), keeps, "{reply}");
    }
    // An older node, told by a program of ours.
    let mut acceptor = cluster.network.listen("/nodes/old");
    let old = tokio::spawn(async move {
        let incoming = acceptor.accept().await.unwrap();
        let mut raw = Raw::new(incoming.channel);
        raw.hello((1, 4), None).await;
        assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
        let text = raw.next_message().await.unwrap();
        let Request { id, ask } = serde_json::from_slice(&text).unwrap();
        assert!(matches!(ask, Ask::Lock(_)), "{ask:?}");
        assert!(!String::from_utf8(text).unwrap().contains("generation"));
        let say = Say::Changed(Change::AlreadySo);
        raw.say(&Reply { id, say }).await;
        raw
    });
    let transport = Arc::new(cluster.network.transport(OPERATOR));
    let node = RemoteNode::new(name("old"), address("old"), transport, deadlines());
    let peer = Peer {
        address: address("beta"),
        id: Some(NodeId(Uuid::from_u128(1))),
        generation: Generation(3),
    };
    let claim = Claim {
        token: LockToken::random(),
        holder: "ann".into(),
        since: 0,
        peers: [(name("beta"), peer)].into(),
    };
    assert_eq!(node.obey(Generation(4), claim.token).await, Ok(None));
    assert_eq!(node.lock(&claim).await, Ok(Change::AlreadySo));
    drop(old.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_was_declared_lost_and_taken_back_is_known_to_have_been_put_back() {
    for restarts in [false, true] {
        let (mut cluster, before) = moved_away().await;
        let newest = obeyed(&cluster, "alpha");
        put_back(&mut cluster, &before);
        for node in ["beta", "gamma"] {
            let node = &cluster.machine(node).node;
            node.forget(&name("alpha"), None).await.unwrap();
        }
        if restarts {
            let record = cluster.machine("gamma").record.load().unwrap().unwrap();
            let place = tempfile::tempdir().unwrap();
            let file = FileRecord::new(place.path());
            file.save(&record).unwrap();
            assert_eq!(file.load().unwrap(), Some(record));
            cluster.restart("gamma");
        }
        for node in ["beta", "gamma"] {
            let node = &cluster.machine(node).node;
            node.remember(&name("alpha")).await.unwrap();
        }
        silence(&cluster, "beta");
        // The very first look shows it.
        let who = [(name("gamma"), newest)].into();
        assert_eq!(
            doubt(&look(&cluster).await, "alpha"),
            Some((before.record.generation, who, [name("beta")].into()))
        );
        push_to(&cluster, "alpha").await;
        assert!(runs(&cluster, "beta") && !runs(&cluster, "alpha"));
    }
}
