//! The deploy lock: held, waited for, lost with its connection, broken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::memory::Fault;
use flocker_engine::Claim;
use flocker_engine::LockToken;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle;
use flocker_engine::Order;
use flocker_engine::Peer;
use flocker_engine::Unwatched;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::NodeId;
use flocker_plan::Action;
use uuid::Uuid;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::address;
use crate::cluster::dataset;
use crate::cluster::directory;
use crate::cluster::name;

pub(crate) fn claim(holder: &str) -> Claim {
    Claim {
        token: LockToken::random(),
        holder: holder.into(),
        since: 1_700_000_000,
        peers: BTreeMap::new(),
    }
}

fn held_by(holder: &str) -> NodeError {
    NodeError::Held {
        holder: holder.into(),
        since: 1_700_000_000,
    }
}

/// Asks for the lock until it is given.
async fn wait_for(node: &dyn NodeHandle, claim: &Claim) {
    for _ in 0..1000 {
        if node.lock(claim).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the lock was not given");
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_until_it_is_given_back() {
    let cluster = Cluster::new(["alpha"]);
    let (ann, bob) = (cluster.remote("alpha"), cluster.remote("alpha"));
    let (anns, bobs) = (claim("ann@laptop"), claim("bob@desk"));
    assert_eq!(ann.lock(&anns).await.unwrap(), Change::Made);
    assert_eq!(ann.lock(&anns).await.unwrap(), Change::AlreadySo);
    assert_eq!(bob.lock(&bobs).await, Err(held_by("ann@laptop")));
    assert_eq!(bob.unlock(bobs.token).await, Ok(Change::AlreadySo));
    assert_eq!(ann.unlock(anns.token).await, Ok(Change::Made));
    assert!(bob.lock(&bobs).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lock_ends_with_its_connection() {
    let cluster = Cluster::new(["alpha"]);
    let bob = cluster.remote("alpha");
    let ann = cluster.remote("alpha");
    ann.lock(&claim("ann")).await.unwrap();
    drop(ann);
    wait_for(&bob, &claim("bob")).await;

    let carl = cluster.remote("alpha");
    assert_eq!(carl.lock(&claim("carl")).await, Err(held_by("bob")));
    cluster.network.cut(OPERATOR, directory("alpha"));
    wait_for(&cluster.remote("alpha"), &claim("dora")).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_outlives_its_connection_until_its_orders_are_at_an_end() {
    let cluster = Cluster::new(["alpha"]);
    let faults = cluster.machine("alpha").memory.faults().clone();
    faults.decide(|_| Some(Fault::Hang));
    let ann = cluster.remote("alpha");
    let anns = claim("ann");
    ann.lock(&anns).await.unwrap();
    let mut order = Order::new(
        Action::Create {
            dataset: dataset(),
            epoch: Epoch::FIRST,
        },
        Generation(1),
    );
    order.lock = Some(anns.token);
    {
        let perform = ann.perform(&order, &Unwatched);
        tokio::pin!(perform);
        while faults.n_hanging() == 0 {
            tokio::select! {
                ended = &mut perform => panic!("it hangs, and ended with {ended:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        cluster.network.cut(OPERATOR, directory("alpha"));
        let bob = cluster.remote("alpha");
        assert_eq!(bob.lock(&claim("bob")).await, Err(held_by("ann")));
    }
    // After its grace the order is dropped, and then the lock is free.
    wait_for(&cluster.remote("alpha"), &claim("bob")).await;
    assert_eq!(faults.n_hanging(), 0);
}

#[tokio::test(start_paused = true)]
async fn orders_under_a_broken_lock_are_refused() {
    let cluster = Cluster::new(["alpha"]);
    let (ann, bob) = (cluster.remote("alpha"), cluster.remote("alpha"));
    let (anns, bobs) = (claim("ann"), claim("bob"));
    ann.lock(&anns).await.unwrap();
    assert_eq!(bob.break_lock().await, Ok(Change::Made));
    bob.lock(&bobs).await.unwrap();
    let mut order = Order::new(
        Action::Create {
            dataset: dataset(),
            epoch: Epoch::FIRST,
        },
        Generation(1),
    );
    order.lock = Some(anns.token);
    assert_eq!(ann.perform(&order, &Unwatched).await, Err(NodeError::LockLost));
    order.lock = Some(bobs.token);
    assert_eq!(bob.perform(&order, &Unwatched).await, Ok(Change::Made));
}

#[tokio::test(start_paused = true)]
async fn an_order_that_comes_late_over_a_connection_that_was_given_up_is_refused() {
    let cluster = Cluster::new(["alpha"]);
    // The same command twice: its first connection is one that it has given up, and of which the node does not know that.
    let (given_up, newer) = (cluster.remote("alpha"), cluster.remote("alpha"));
    let claim = claim("ann");
    given_up.lock(&claim).await.unwrap();
    assert_eq!(newer.lock(&claim).await, Ok(Change::AlreadySo));
    let change = flocker_model::RouteChange {
        set: BTreeMap::new(),
        drop: [flocker_model::ExternalPort::tcp(
            flocker_model::PortNumber::new(80).unwrap(),
        )]
        .into(),
    };
    let mut order = Order::new(
        Action::Route {
            change: Arc::new(change),
        },
        Generation(1),
    );
    order.lock = Some(claim.token);
    assert_eq!(
        given_up.perform(&order, &Unwatched).await,
        Err(NodeError::LockLost)
    );
    assert_eq!(newer.perform(&order, &Unwatched).await, Ok(Change::AlreadySo));
    // Its end does not take the lock from the newer one.
    drop(given_up);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(newer.perform(&order, &Unwatched).await, Ok(Change::AlreadySo));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_falls_silent_loses_its_lock() {
    let cluster = Cluster::new(["alpha"]);
    // A laptop that was closed says nothing, and its connection does not end.
    let silent: Arc<dyn flocker_backends::Transport> = Arc::new(cluster.network.transport("/laptop"));
    let channel = silent
        .open(&address("alpha"), flocker_backends::Purpose::Control)
        .await
        .unwrap();
    let mut ann = crate::protocol::Raw::greet(channel).await;
    ann.ask(1, &flocker_engine::wire::Ask::Lock(claim("ann"))).await;
    ann.next_message().await.unwrap();
    let bob = cluster.remote("alpha");
    assert_eq!(bob.lock(&claim("bob")).await, Err(held_by("ann")));
    wait_for(&bob, &claim("bob")).await;
    drop(ann);
}

#[tokio::test(start_paused = true)]
async fn a_node_remembers_whom_it_was_told_of_and_who_answered_first() {
    let mut cluster = Cluster::new(["alpha"]);
    let first = NodeId(Uuid::from_u128(1));
    let mut told = claim("ann");
    let peer = |id| Peer {
        address: address("beta"),
        id,
        generation: Generation::default(),
    };
    told.peers.insert(name("beta"), peer(Some(first)));
    cluster.remote("alpha").lock(&told).await.unwrap();
    cluster.restart("alpha");
    let alpha = cluster.remote("alpha");
    let state = alpha.observe().await.unwrap();
    assert_eq!(state.peers, [(name("beta"), peer(Some(first)))].into());
    let second = NodeId(Uuid::from_u128(2));
    told.peers.insert(name("beta"), peer(Some(second)));
    alpha.lock(&told).await.unwrap();
    let state = alpha.observe().await.unwrap();
    assert_eq!(state.peers, [(name("beta"), peer(Some(first)))].into());

    assert_eq!(alpha.forget(&name("beta"), None).await, Ok(Change::Made));
    assert_eq!(alpha.forget(&name("beta"), None).await, Ok(Change::AlreadySo));
    let state = alpha.observe().await.unwrap();
    assert_eq!(state.forgotten, [(name("beta"), [first].into())].into());
    assert_eq!(state.peers, [(name("beta"), peer(None))].into());
    assert_eq!(alpha.remember(&name("beta")).await, Ok(Change::Made));
    assert!(alpha.observe().await.unwrap().forgotten.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_answers_by_now_is_remembered_instead_of_who_is_forgotten() {
    let mut cluster = Cluster::new(["alpha"]);
    let (old, new) = (NodeId(Uuid::from_u128(1)), NodeId(Uuid::from_u128(2)));
    let peer = |id| Peer {
        address: address("beta"),
        id,
        generation: Generation::default(),
    };
    let mut told = claim("ann");
    told.peers.insert(name("beta"), peer(Some(old)));
    cluster.remote("alpha").lock(&told).await.unwrap();
    let alpha = cluster.remote("alpha");
    let beta = name("beta");
    assert_eq!(alpha.forget(&beta, Some(new)).await, Ok(Change::Made));
    assert_eq!(alpha.forget(&beta, Some(new)).await, Ok(Change::AlreadySo));
    cluster.restart("alpha");
    let alpha = cluster.remote("alpha");
    let state = alpha.observe().await.unwrap();
    assert_eq!(state.peers, [(beta.clone(), peer(Some(new)))].into());
    assert_eq!(state.forgotten, [(beta.clone(), [old].into())].into());
    // And back: what was forgotten by mistake is not lost for ever.
    assert_eq!(alpha.forget(&beta, Some(old)).await, Ok(Change::Made));
    let state = alpha.observe().await.unwrap();
    assert_eq!(state.peers, [(beta.clone(), peer(Some(old)))].into());
    assert_eq!(state.forgotten, [(beta, [new].into())].into());
}
