//! Turns, the gate, the deploy lock and tickets.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Change;
use flocker_model::Dataset;
use flocker_model::DatasetId;
use flocker_model::Generation;
use shuttle::future::block_on;
use shuttle::future::spawn;
use shuttle::future::yield_now;
use uuid::Uuid;

use super::admission::Admissions;
use super::gate::Gate;
use super::lock::DeployLock;
use super::lock::Session;
use super::turns::Subject;
use super::turns::Turns;
use super::turns::Use;
use crate::clock;
use crate::interleavings::Inside;
use crate::interleavings::all;
use crate::interleavings::try_out;
use crate::node::Claim;
use crate::node::LockToken;
use crate::node::Transfer;
use crate::node_error::NodeError;
use crate::sync::advance;

/// A wait without a limit: where nobody ends it the scheduler says so.
const ENDLESS: Duration = Duration::MAX;
/// A wait that may be over at any moment.
const SHORT: Duration = Duration::from_secs(1);

fn dataset(number: u128) -> DatasetId {
    DatasetId(Uuid::from_u128(number))
}

fn use_datasets(patience: [Duration; 4]) {
    let turns = Arc::new(Turns::default());
    let inside: Arc<[Inside; 2]> = Arc::default();
    let uses = [
        (0, Use::Alone),
        (0, Use::Alone),
        (0, Use::Shared),
        (1, Use::Alone),
    ];
    let tasks = uses.into_iter().zip(patience).map(|((number, how), patience)| {
        let (turns, inside) = (Arc::clone(&turns), Arc::clone(&inside));
        spawn(async move {
            let subject = Subject::Dataset(dataset(number as u128));
            let Ok(turn) = turns.take(subject, how, patience).await else {
                assert_ne!(patience, ENDLESS, "who has time gets a turn");
                return;
            };
            match how {
                Use::Alone => inside[number].alone().await,
                Use::Shared => inside[number].shared().await,
            }
            drop(turn);
        })
    });
    all(tasks.collect());
    // Whoever was there has left, in good order or not.
    block_on(async {
        let last = turns
            .take(Subject::Dataset(dataset(0)), Use::Alone, ENDLESS)
            .await;
        assert!(last.is_ok());
    });
}

#[test]
fn one_at_a_time_changes_a_dataset_and_all_get_a_turn() {
    try_out(|| use_datasets([ENDLESS; 4]));
}

#[test]
fn who_gives_up_waiting_does_not_keep_the_turn() {
    try_out(|| use_datasets([ENDLESS, SHORT, SHORT, ENDLESS]));
    try_out(|| use_datasets([SHORT; 4]));
}

#[test]
#[should_panic(expected = "two are there alone")]
fn without_turns_it_would_be_seen() {
    try_out(|| {
        let inside: Arc<Inside> = Arc::default();
        let tasks = (0..2).map(|_| {
            let inside = Arc::clone(&inside);
            spawn(async move { inside.alone().await })
        });
        all(tasks.collect());
    });
}

/// Orders of three generations come through one gate; how long each waits is given.
fn come_through(patience: [Duration; 4]) {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    let gate = Arc::new(Gate::new(Generation(1)));
    let inside: Arc<[AtomicUsize; 4]> = Arc::default();
    let orders = [1, 1, 2, 3];
    let tasks = orders.into_iter().zip(patience).map(|(generation, patience)| {
        let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
        spawn(async move {
            let entered = gate.enter(Generation(generation), patience, |_| Ok(())).await;
            let entry = match entered {
                Ok(entry) => entry,
                Err(NodeError::Stale { ours, .. }) => return assert!(ours > Generation(generation)),
                Err(NodeError::Deadline { .. }) => return assert_ne!(patience, ENDLESS),
                Err(other) => panic!("{other}"),
            };
            let number = usize::try_from(generation).unwrap();
            inside[number].fetch_add(1, SeqCst);
            for older in &inside[..number] {
                assert_eq!(older.load(SeqCst), 0, "an older order is under way");
            }
            yield_now().await;
            inside[number].fetch_sub(1, SeqCst);
            drop(entry);
        })
    });
    all(tasks.collect());
    block_on(async {
        gate.drained(ENDLESS).await.unwrap();
        let newest = gate.obeyed();
        let entry = gate.enter(newest.max(Generation(4)), ENDLESS, |_| Ok(())).await;
        assert!(entry.is_ok(), "nobody is left inside");
    });
}

#[test]
fn no_order_of_an_older_generation_is_under_way_beside_a_newer_one() {
    try_out(|| come_through([ENDLESS; 4]));
}

#[test]
fn who_gives_up_at_the_gate_holds_nobody_up() {
    try_out(|| come_through([ENDLESS, SHORT, SHORT, SHORT]));
    try_out(|| come_through([ENDLESS, ENDLESS, SHORT, ENDLESS]));
}

#[test]
fn a_transfer_always_hears_that_it_is_superseded() {
    try_out(|| {
        let gate = Arc::new(Gate::new(Generation(1)));
        let old = Arc::clone(&gate);
        let transfer = spawn(async move {
            match old.enter(Generation(1), ENDLESS, |_| Ok(())).await {
                Ok(entry) => assert!(entry.superseded().await.is_stale()),
                Err(refusal) => assert!(refusal.is_stale()),
            }
        });
        let newer = spawn(async move {
            assert!(gate.enter(Generation(2), ENDLESS, |_| Ok(())).await.is_ok());
        });
        all(vec![transfer, newer]);
    });
}

fn claim(number: u128) -> Claim {
    Claim {
        token: LockToken(Uuid::from_u128(number)),
        holder: format!("person {number}"),
        since: 0,
        peers: std::collections::BTreeMap::new(),
    }
}

#[test]
fn one_person_holds_the_deploy_lock() {
    try_out(|| {
        let lock: Arc<DeployLock> = Arc::default();
        let inside: Arc<Inside> = Arc::default();
        let tasks = (1..4).map(|number| {
            let (lock, inside) = (Arc::clone(&lock), Arc::clone(&inside));
            spawn(async move {
                let claim = claim(number);
                if lock.take(&claim, Session::HERE).is_ok() {
                    inside.alone().await;
                    assert!(
                        lock.check(Session::HERE, Some(claim.token)).is_ok(),
                        "nobody has taken it away"
                    );
                    assert_eq!(lock.release(claim.token), Change::Made);
                }
            })
        });
        all(tasks.collect());
        assert!(lock.take(&claim(9), Session::HERE).is_ok(), "it was given back");
    });
}

#[test]
fn a_lock_that_has_moved_to_a_new_connection_does_not_end_with_the_old_one() {
    try_out(|| {
        let lock: Arc<DeployLock> = Arc::default();
        let (old, new) = (Session::new(), Session::new());
        lock.take(&claim(1), old).unwrap();
        let renewed = Arc::clone(&lock);
        let renewal = spawn(async move {
            yield_now().await;
            // Somebody else may have come when the old connection had ended.
            let mine = renewed.take(&claim(1), new).is_ok();
            if mine {
                yield_now().await;
                assert!(renewed.check(new, Some(claim(1).token)).is_ok(), "it was renewed");
                assert!(renewed.check(old, Some(claim(1).token)).is_err(), "it has moved");
            }
        });
        let ended = Arc::clone(&lock);
        let end = spawn(async move {
            yield_now().await;
            ended.release_session(old);
        });
        let other = Arc::clone(&lock);
        let rival = spawn(async move {
            yield_now().await;
            let taken = other.take(&claim(2), Session::HERE).is_ok();
            assert_eq!(other.check(Session::HERE, Some(claim(2).token)).is_ok(), taken);
        });
        all(vec![renewal, end, rival]);
        let held = [(1, new), (2, Session::HERE)];
        let held = held.map(|(number, session)| lock.check(session, Some(claim(number).token)).is_ok());
        assert_eq!(held.iter().filter(|held| **held).count(), 1, "one of them has it");
    });
}

#[test]
fn after_a_lock_was_broken_nothing_is_done_under_it() {
    try_out(|| {
        let lock: Arc<DeployLock> = Arc::default();
        let gate = Arc::new(Gate::new(Generation(1)));
        let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let token = claim(1).token;
        lock.take(&claim(1), Session::HERE).unwrap();
        let node = (Arc::clone(&lock), Arc::clone(&gate), Arc::clone(&is_broken));
        let order = spawn(async move {
            let (lock, gate, is_broken) = node;
            // As `LocalNode::perform` does: asked again once inside.
            let before = lock.check(Session::HERE, Some(token));
            let entry = gate.enter(Generation(1), ENDLESS, |_| Ok(())).await.unwrap();
            if before.is_err() || lock.check(Session::HERE, Some(token)).is_err() {
                return;
            }
            yield_now().await;
            let is_broken = is_broken.load(std::sync::atomic::Ordering::SeqCst);
            assert!(!is_broken, "it is done under a lock that was broken");
            drop(entry);
        });
        let breaking = spawn(async move {
            // As `LocalNode::break_lock` does.
            lock.clear();
            gate.drained(ENDLESS).await.unwrap();
            is_broken.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        all(vec![order, breaking]);
    });
}

fn transfer() -> Transfer {
    Transfer {
        dataset: Dataset {
            id: dataset(1),
            owner: "mongodb".parse().unwrap(),
            maximum_size: None,
        },
        snapshot: "warm-2-1".parse().unwrap(),
        base: None,
        sender: None,
    }
}

#[test]
fn a_ticket_lets_one_in() {
    try_out(|| {
        let admissions: Arc<Admissions> = Arc::default();
        let transfer = transfer();
        let pass = admissions
            .open(&transfer, Generation(1), SHORT, |_| None)
            .unwrap();
        let n_let_in = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks = (0..3).map(|_| {
            let (admissions, n_let_in, transfer) =
                (Arc::clone(&admissions), Arc::clone(&n_let_in), transfer.clone());
            spawn(async move {
                if admissions
                    .redeem(pass, transfer.dataset.id, &transfer.snapshot)
                    .is_ok()
                {
                    n_let_in.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            })
        });
        all(tasks.collect());
        assert_eq!(n_let_in.load(std::sync::atomic::Ordering::SeqCst), 1);
    });
}

#[test]
fn a_ticket_that_was_renewed_or_has_expired_lets_nobody_in() {
    try_out(|| {
        let admissions: Arc<Admissions> = Arc::default();
        let transfer = transfer();
        let begin = clock::now();
        let expiry = begin + SHORT;
        let redeem = {
            let (admissions, transfer) = (Arc::clone(&admissions), transfer.clone());
            move |pass| admissions.redeem(pass, transfer.dataset.id, &transfer.snapshot)
        };
        let first = admissions
            .open(&transfer, Generation(1), SHORT, |_| None)
            .unwrap();
        let (early, late) = (redeem.clone(), redeem.clone());
        let user = spawn(async move {
            let before = clock::now();
            if early(first).is_ok() {
                assert!(before < expiry, "it had expired");
            }
        });
        let renewed = spawn(async move {
            let before = clock::now();
            let second = admissions
                .open(&transfer, Generation(1), SHORT, |_| None)
                .unwrap();
            assert!(late(first).is_err(), "it was renewed");
            (second, before, clock::now())
        });
        let time = spawn(async { advance(SHORT) });
        let (second, before, after) = block_on(async {
            user.await.unwrap();
            time.await.unwrap();
            renewed.await.unwrap()
        });
        assert!(redeem(first).is_err(), "it was renewed");
        let is_good = redeem(second).is_ok();
        if before >= expiry {
            assert!(is_good, "it was renewed after all that time");
        }
        if after < expiry {
            assert!(!is_good, "it has expired since");
        }
    });
}
