//! A node that was put back and owned the data of several applications, which a person decides one after the other.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Change;
use flocker_engine::Claim;
use flocker_engine::End;
use flocker_engine::FileRecord;
use flocker_engine::Go;
use flocker_engine::LockToken;
use flocker_engine::Looking;
use flocker_engine::NodeHandle;
use flocker_engine::Order;
use flocker_engine::Outcome;
use flocker_engine::Peer;
use flocker_engine::PushOptions;
use flocker_engine::RecordStore as _;
use flocker_engine::Stop;
use flocker_engine::Unwatched;
use flocker_engine::announce;
use flocker_engine::behind;
use flocker_engine::converge::push;
use flocker_engine::leave_out_older_owners;
use flocker_engine::observe;
use flocker_engine::older_owners;

use flocker_model::Application;
use flocker_model::ByteSize;
use flocker_model::ClusterState;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::DeploymentBuilder;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::Manifestation;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Silence;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::Volume;
use flocker_plan::NotPromoted;
use flocker_plan::Policy;
use flocker_plan::Refusal;

use crate::cluster::Cluster;
use crate::cluster::Recorder;
use crate::cluster::address;
use crate::cluster::app;
use crate::cluster::member;
use crate::cluster::mongodb;
use crate::cluster::name;
use crate::put_back::Copy;
use crate::put_back::bring_back;
use crate::put_back::copy;
use crate::put_back::id;
use crate::put_back::obeyed;
use crate::put_back::put_back;
use crate::put_back::silence;
use crate::put_back::tell;

pub(crate) const APPS: [&str; 3] = ["ledger", "mail", "shop"];

pub(crate) fn data_of(application: &str) -> DatasetId {
    DatasetId::derived(&app(application))
}

/// Returns a deployment of all applications on one node.
fn all_on(cluster: &Cluster, home: &str) -> Deployment {
    begun(cluster, home).build().unwrap()
}

fn begun(cluster: &Cluster, home: &str) -> DeploymentBuilder {
    let mut builder = Deployment::builder();
    for text in APPS {
        let mut application = Application::new("store:1".parse().unwrap());
        application.volume = Some(Volume {
            dataset: data_of(text),
            mountpoint: "/data".into(),
            maximum_size: None,
        });
        builder = builder.application(app(text), application);
    }
    for node in cluster.machines.keys() {
        builder = builder.node(node.clone(), member(node.as_str()));
    }
    for text in APPS {
        builder = builder.place(&app(text), &name(home));
    }
    builder
}

pub(crate) async fn push_all(cluster: &Cluster, home: &str) -> Outcome {
    push_to(cluster, &all_on(cluster, home)).await
}

async fn push_to(cluster: &Cluster, desired: &Deployment) -> Outcome {
    let options = PushOptions::new("ann@laptop", 0, Stop::never());
    let listener = Recorder::default().listener();
    push(
        desired,
        &cluster.handles(),
        &Policy::default(),
        &options,
        &Go,
        listener,
    )
    .await
    .unwrap()
}

pub(crate) async fn look(cluster: &Cluster) -> ClusterState {
    let looking = Looking {
        deadline: Duration::from_secs(10),
        known: BTreeMap::new(),
    };
    observe(&all_on(cluster, "alpha"), &cluster.handles(), &looking).await
}

/// Says which applications run on a node.
pub(crate) fn running(cluster: &Cluster, node: &str) -> Vec<&'static str> {
    let runtime = cluster.machine(node).memory.runtime();
    APPS.into_iter()
        .filter(|text| runtime.is_running(&app(text)))
        .collect()
}

/// How far a promotion gets before its command dies.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// The others remember that alpha is behind, as long as it says to own what is another's.
    Noted,
    Announced,
    /// Only the steps of this node are carried out, in turn.
    Steps(usize),
    Told,
}

/// Decides whose copy of a dataset counts, as `flocker promote` does.
async fn promote(cluster: &Cluster, application: &str, on: &str, until: Until) {
    let actual = look(cluster).await;
    let newest = actual.all_known().map(|(_, state)| state.generation).max();
    let generation = newest.unwrap().next();
    let desired = all_on(cluster, on).at(generation);
    let plan = flocker_plan::promote(
        &desired,
        &actual,
        &Policy::default(),
        data_of(application),
        &name(on),
    );
    // What it has let go to itself, the next deploy takes up again: that needs no decision any more.
    let offered = NotPromoted::Offered { to: name(on) };
    let is_decided =
        |refusal: &Refusal| matches!(refusal, Refusal::NotPromoted { because, .. } if *because == offered);
    assert!(
        plan.waiting().is_empty() && plan.refused().iter().all(is_decided),
        "{plan:?}"
    );
    let held = hold(cluster, &actual).await;
    if let Until::Noted = until {
        for (node, claim) in &held {
            let mut claim = claim.clone();
            for (_, peer) in claim
                .peers
                .iter_mut()
                .filter(|(name, _)| name.as_str() == "alpha")
            {
                peer.generation = generation.next();
            }
            assert_eq!(node.lock(&claim).await, Ok(Change::AlreadySo));
        }
        return;
    }
    assert_eq!(
        announce(generation, &held, &behind(&actual)).await,
        BTreeMap::new()
    );
    let limit = match until {
        Until::Noted | Until::Announced => 0,
        Until::Steps(n_steps) => n_steps,
        Until::Told => usize::MAX,
    };
    for step in plan.steps().iter().take(limit) {
        let mut order = Order::new(step.action.clone(), generation);
        order.lock = held.first().map(|(_, claim)| claim.token);
        let (node, _) = held.iter().find(|(node, _)| *node.name() == step.actor).unwrap();
        node.perform(&order, &Unwatched).await.unwrap();
    }
    if plan.steps().len() < limit {
        let after = look(cluster).await;
        assert_eq!(
            announce(generation.next(), &held, &behind(&after)).await,
            BTreeMap::new()
        );
    }
}

pub(crate) async fn hold(cluster: &Cluster, actual: &ClusterState) -> Vec<(Arc<dyn NodeHandle>, Claim)> {
    let token = LockToken::random();
    let mut held: Vec<(Arc<dyn NodeHandle>, Claim)> = Vec::new();
    for (node, _) in actual.all_known() {
        let others = actual.all_known().filter(|(other, _)| *other != node);
        let peers = others.map(|(other, state)| {
            let peer = Peer {
                address: address(other.as_str()),
                id: Some(state.id),
                generation: Generation::default(),
            };
            (other.clone(), peer)
        });
        let claim = Claim {
            token,
            holder: "ann".into(),
            since: 0,
            peers: peers.collect(),
        };
        let handle = Arc::new(cluster.remote(node.as_str()));
        handle.lock(&claim).await.unwrap();
        held.push((handle, claim));
    }
    held
}

async fn moved_away() -> (Cluster, Copy) {
    let mut cluster = Cluster::new(["alpha", "beta", "gamma"]);
    push_all(&cluster, "alpha").await;
    let before = copy(&mut cluster, "alpha");
    push_all(&cluster, "alpha").await;
    let moved = push_all(&cluster, "beta").await;
    assert_eq!(moved.end, End::Settled, "{moved:#?}");
    assert_eq!(running(&cluster, "beta"), APPS);
    (cluster, before)
}

/// Returns whose data alpha says it owns and others know to be another's.
async fn undecided(cluster: &Cluster) -> BTreeSet<DatasetId> {
    older_owners(&look(cluster).await)
        .remove(&name("alpha"))
        .unwrap_or_default()
}

/// Demands that with beta silent nothing is believed of alpha, and nothing starts there; beta comes back then.
async fn is_not_believed(cluster: &Cluster, when: &str) {
    silence(cluster, "beta");
    let before = running(cluster, "alpha");
    for home in ["alpha", "gamma"] {
        push_all(cluster, home).await;
        assert_eq!(running(cluster, "alpha"), before, "{when}");
        assert_eq!(running(cluster, "gamma"), [""; 0], "{when}");
    }
    let actual = look(cluster).await;
    assert!(
        matches!(
            &actual.nodes[&name("alpha")],
            Observed::Unknown(Silence::PutBack { .. })
        ),
        "{when}: {actual:#?}"
    );
    bring_back(cluster, "beta");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_decided_yet_is_not_believed_once_the_first_is() {
    let (mut cluster, before) = moved_away().await;
    put_back(&mut cluster, &before);
    for (n_decided, decided) in APPS.into_iter().enumerate() {
        assert_eq!(
            undecided(&cluster).await,
            APPS[n_decided..].iter().map(|text| data_of(text)).collect()
        );
        is_not_believed(&cluster, decided).await;
        promote(&cluster, decided, "beta", Until::Told).await;
    }
    // All is decided: it counts again, whoever is silent, and says of nothing that it owns it.
    assert_eq!(undecided(&cluster).await, BTreeSet::new());
    silence(&cluster, "beta");
    assert!(look(&cluster).await.known(&name("alpha")).is_some());
    push_all(&cluster, "alpha").await;
    assert_eq!(running(&cluster, "alpha"), [""; 0]);
    bring_back(&cluster, "beta");
    let outcome = push_all(&cluster, "alpha").await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert_eq!(running(&cluster, "alpha"), APPS);
    assert_eq!(running(&cluster, "beta"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_promotion_that_dies_anywhere_leaves_a_node_that_was_put_back_what_it_is() {
    let ends = [Until::Noted, Until::Announced]
        .into_iter()
        .chain((1..6).map(Until::Steps));
    for (on, until) in ends.flat_map(|until| [("alpha", until), ("beta", until)]) {
        for is_put_back_again in [false, true] {
            let when = format!("{on}, {until:?}, {is_put_back_again}");
            let (mut cluster, before) = moved_away().await;
            put_back(&mut cluster, &before);
            promote(&cluster, "ledger", on, until).await;
            if is_put_back_again {
                put_back(&mut cluster, &before);
            }
            is_not_believed(&cluster, &when).await;
            // Whatever else is deployed meanwhile tells it nothing.
            push_all(&cluster, "beta").await;
            is_not_believed(&cluster, &when).await;

            // It can be decided, every one of them, and then all counts.
            for application in APPS {
                promote(&cluster, application, on, Until::Told).await;
            }
            assert_eq!(undecided(&cluster).await, BTreeSet::new(), "{when}");
            let outcome = push_all(&cluster, on).await;
            assert_eq!(outcome.end, End::Settled, "{when}: {outcome:#?}");
            let other = if on == "alpha" { "beta" } else { "alpha" };
            assert_eq!(running(&cluster, on), APPS, "{when}");
            assert_eq!(running(&cluster, other), [""; 0], "{when}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_copy_of_each_may_be_chosen_and_the_last_one_decides() {
    let (mut cluster, before) = moved_away().await;
    put_back(&mut cluster, &before);
    promote(&cluster, "ledger", "alpha", Until::Told).await;
    promote(&cluster, "mail", "beta", Until::Told).await;
    let rest: BTreeSet<DatasetId> = [data_of("shop")].into();
    assert_eq!(undecided(&cluster).await, rest);
    // Who deploys is told what is left to decide.
    let outcome = push_all(&cluster, "beta").await;
    let Observed::Unknown(silence) = &outcome.actual.nodes[&name("alpha")] else {
        panic!("{outcome:#?}");
    };
    assert!(
        matches!(silence, Silence::PutBack { owns, .. } if *owns == rest),
        "{silence:?}"
    );
    let (said, hint) = (silence.to_string(), silence.hint(&name("alpha")).unwrap());
    let shop = data_of("shop");
    assert!(
        said.ends_with(&format!("taken over from it since: {shop}")),
        "{said}"
    );
    assert!(
        hint.contains(&format!("`flocker promote {shop} --on NODE`")),
        "{hint}"
    );
    is_not_believed(&cluster, "two are decided").await;
    promote(&cluster, "shop", "beta", Until::Told).await;
    assert_eq!(push_all(&cluster, "beta").await.end, End::Settled);
    assert_eq!(running(&cluster, "beta"), APPS);
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_was_taken_up_since_is_not_taken_up_again_by_who_was_put_back() {
    for has_had_it in [false, true] {
        let mut cluster = Cluster::new(["alpha", "beta", "delta", "gamma"]);
        push_all(&cluster, if has_had_it { "alpha" } else { "beta" }).await;
        push_all(&cluster, "beta").await;
        let before = copy(&mut cluster, "alpha");
        for home in ["beta", "alpha", "gamma"] {
            let outcome = push_all(&cluster, home).await;
            assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
        }
        put_back(&mut cluster, &before);
        // With all in sight it contradicts nobody, and is told where ports lead.
        let actual = look(&cluster).await;
        assert_eq!(older_owners(&actual), BTreeMap::new(), "{has_had_it}");
        let mut web = Application::new("web:1".parse().unwrap());
        web.ports = mongodb().ports;
        let builder = begun(&cluster, "gamma").application(app("web"), web);
        let desired = builder.place(&app("web"), &name("delta")).build().unwrap();
        let outcome = push_to(&cluster, &desired).await;
        assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
        assert_eq!(obeyed(&cluster, "alpha"), outcome.generation);
        silence(&cluster, "gamma");
        for home in ["alpha", "beta"] {
            push_all(&cluster, home).await;
            assert_eq!(running(&cluster, "gamma"), APPS, "{has_had_it}");
            assert_eq!(running(&cluster, home), [""; 0], "{has_had_it}");
        }
        // It counts again once that offer is no more.
        bring_back(&cluster, "gamma");
        for home in ["alpha", "gamma"] {
            let outcome = push_all(&cluster, home).await;
            assert_eq!(outcome.end, End::Settled, "{has_had_it}: {outcome:#?}");
        }
        silence(&cluster, "gamma");
        assert!(look(&cluster).await.known(&name("alpha")).is_some());
    }
}

/// Whoever is left out of a deploy knows better no more than whoever is silent.
#[tokio::test(start_paused = true)]
async fn who_cannot_be_told_what_begins_is_missed_as_a_witness_too() {
    let mut cluster = Cluster::new(["alpha", "beta", "delta", "gamma"]);
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("gamma");
    let record = Arc::new(FileRecord::new(&home));
    let known = cluster.machine("gamma").record.load().unwrap().unwrap();
    record.save(&known).unwrap();
    cluster.restart_with("gamma", record);
    push_all(&cluster, "beta").await;
    let before = copy(&mut cluster, "alpha");
    for home in ["alpha", "gamma"] {
        let outcome = push_all(&cluster, home).await;
        assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    }
    put_back(&mut cluster, &before);
    std::fs::remove_dir_all(&home).unwrap();
    std::fs::write(&home, "").unwrap();
    for home in ["alpha", "beta"] {
        let outcome = push_all(&cluster, home).await;
        assert_eq!(running(&cluster, "gamma"), APPS, "{outcome:#?}");
        assert_eq!(running(&cluster, home), [""; 0], "{outcome:#?}");
    }
}

/// What cannot be read may be the newer owner's, or the very claim that is in question.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_put_back_is_not_believed_beside_what_cannot_be_read() {
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let seen = look(&cluster).await;
    tell(&cluster, "gamma", "alpha", id(&cluster, "alpha"), 9).await;
    let doubtful = look(&cluster).await;
    let beside = |state: &ClusterState, copy: Option<Manifestation>, unreadable: &str| {
        let mut state = state.clone();
        if let (Some(copy), Some(Observed::Known(alpha))) = (copy, state.nodes.get_mut(&name("alpha"))) {
            alpha.datasets.insert(data_of("ledger"), copy);
        }
        if let Some(Observed::Known(seen)) = state.nodes.get_mut(&name(unreadable)) {
            seen.unreadable.insert(data_of("ledger"), "it is damaged".into());
        }
        (!older_owners(&state).is_empty(), !behind(&state).is_empty())
    };
    for claim in [owned(3), offered(3, "beta", 3)] {
        assert_eq!(
            beside(&doubtful, Some(claim.clone()), "gamma"),
            (true, true),
            "{claim:?}"
        );
        assert_eq!(
            beside(&seen, Some(claim.clone()), "gamma"),
            (false, false),
            "{claim:?}"
        );
    }
    assert_eq!(beside(&doubtful, Some(copied(3)), "gamma"), (false, false));
    assert_eq!(beside(&doubtful, None, "alpha"), (false, true));
    assert_eq!(beside(&seen, None, "alpha"), (false, false));
}

fn copy_as(role: Role, fence: u64) -> Manifestation {
    Manifestation {
        role,
        snapshots: Vec::new(),
        maximum_size: None,
        used: ByteSize(1),
        unsent: ByteSize(0),
        findings: None,
        partial: None,
        fence: Epoch(fence),
        age: Duration::ZERO,
    }
}

fn owned(epoch: u64) -> Manifestation {
    let role = Role::Primary { epoch: Epoch(epoch) };
    copy_as(role, epoch)
}

fn offered(epoch: u64, to: &str, fence: u64) -> Manifestation {
    let role = Role::Released {
        epoch: Epoch(epoch),
        to: name(to),
        last: SnapshotName::handoff(Epoch(epoch)),
        guid: SnapshotGuid(epoch.into()),
    };
    copy_as(role, fence)
}

fn copied(fence: u64) -> Manifestation {
    copy_as(Role::Replica, fence)
}

#[tokio::test(start_paused = true)]
async fn who_was_put_back_is_behind_where_others_know_better_of_what_it_may_do() {
    #[derive(Debug, PartialEq)]
    enum Is {
        Fine,
        Behind,
        /// It is left out of what is deployed too.
        OlderOwner,
    }
    let cluster = Cluster::new(["alpha", "beta", "gamma"]);
    let seen = look(&cluster).await;
    tell(&cluster, "gamma", "alpha", id(&cluster, "alpha"), 9).await;
    let doubtful = look(&cluster).await;
    let cases = [
        // It owns what nobody else does, or what only an older owner of knows.
        ([Some(owned(3)), None, None], Is::Fine),
        (
            [Some(owned(3)), Some(offered(3, "alpha", 2)), Some(copied(2))],
            Is::Fine,
        ),
        // Others know of a newer owner, be it another, be it that one has gone.
        ([Some(owned(3)), Some(owned(4)), None], Is::OlderOwner),
        ([Some(owned(3)), None, Some(copied(4))], Is::OlderOwner),
        (
            [Some(owned(3)), Some(offered(4, "gamma", 4)), None],
            Is::OlderOwner,
        ),
        // Of two owners a person chooses, whichever is newer.
        ([Some(owned(3)), Some(owned(2)), None], Is::OlderOwner),
        (
            [Some(offered(3, "gamma", 3)), Some(owned(2)), None],
            Is::OlderOwner,
        ),
        // What it let go was taken.
        ([Some(offered(3, "beta", 3)), Some(owned(3)), None], Is::Fine),
        (
            [
                Some(offered(3, "beta", 3)),
                Some(offered(4, "gamma", 4)),
                Some(owned(4)),
            ],
            Is::Fine,
        ),
        // It was taken back and went elsewhere, and who was to take it may not know.
        (
            [Some(offered(3, "beta", 3)), Some(copied(3)), Some(owned(5))],
            Is::Behind,
        ),
        ([Some(offered(3, "beta", 3)), None, Some(owned(5))], Is::Behind),
        ([Some(offered(3, "beta", 5)), None, Some(owned(5))], Is::Fine),
        // It took up an offer and let it go again, and knows nothing of that.
        ([None, Some(offered(3, "alpha", 3)), Some(owned(4))], Is::Behind),
        (
            [Some(copied(3)), Some(offered(3, "alpha", 3)), Some(owned(4))],
            Is::Behind,
        ),
        (
            [Some(copied(4)), Some(offered(3, "alpha", 3)), Some(owned(4))],
            Is::Fine,
        ),
        ([None, Some(offered(3, "alpha", 3)), None], Is::Fine),
        // An offer between two others is theirs.
        ([None, Some(offered(3, "gamma", 3)), Some(copied(4))], Is::Fine),
        ([None, None, Some(owned(4))], Is::Fine),
    ];
    for (copies, expected) in cases {
        for (look, expected) in [(&doubtful, &expected), (&seen, &Is::Fine)] {
            let mut state = look.clone();
            for (node, copy) in ["alpha", "beta", "gamma"].into_iter().zip(copies.clone()) {
                if let (Some(copy), Some(Observed::Known(seen))) = (copy, state.nodes.get_mut(&name(node))) {
                    seen.datasets.insert(data_of("ledger"), copy);
                }
            }
            let is = match (older_owners(&state).is_empty(), behind(&state).is_empty()) {
                (true, true) => Is::Fine,
                (true, false) => Is::Behind,
                (false, _) => Is::OlderOwner,
            };
            assert_eq!(is, *expected, "{copies:?}");
            leave_out_older_owners(&mut state);
            let is_seen = state.known(&name("alpha")).is_some();
            assert_eq!(is_seen, is != Is::OlderOwner, "{copies:?}");
        }
    }
}
