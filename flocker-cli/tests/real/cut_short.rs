//! Moves that are cut short: the command is killed, and the power of nodes is cut, at each step; the next deploy finishes them.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use flocker_model::DatasetId;

use crate::ledger::Ledger;
use crate::support::Operator;
use crate::support::postgres;
use crate::support::until;

const PORT: u16 = 5511;

fn accounts() -> Operator {
    let operator = Operator::new(vec![postgres("ledgers", PORT, "1G")]);
    operator.place([&["ledgers"], &[], &[]]);
    operator.deploy().ok();
    operator
        .sql(
            3,
            PORT,
            "create table if not exists ledger (i integer primary key)",
        )
        .ok();
    operator
        .sql(3, PORT, "insert into ledger values (1) on conflict do nothing")
        .ok();
    operator
}

const HOMES: [[&[&str]; 3]; 2] = [[&[], &["ledgers"], &[]], [&["ledgers"], &[], &[]]];

/// Looks again and again who may write, while `work` is done: never two.
fn watched<T>(operator: &Operator, work: impl FnOnce() -> T) -> T {
    let dataset = DatasetId::derived(&"ledgers".parse().unwrap()).to_string();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut n_looks = 0;
            while !is_over.load(Ordering::SeqCst) {
                let writable = operator.writable_on(&dataset);
                assert!(writable.len() <= 1, "two nodes may write at once: {writable:?}");
                n_looks += 1;
            }
            n_looks
        });
        let over = Over(&is_over);
        let worked = work();
        drop(over);
        println!("nobody else could write, in {} looks", watch.join().unwrap());
        worked
    })
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_command_is_killed_at_each_step_and_the_next_one_finishes() {
    let operator = accounts();
    let mut killed_at = Vec::new();
    watched(&operator, || {
        for homes in HOMES.into_iter().cycle() {
            operator.place(homes);
            let (ledger, is_over) = Ledger::while_writing(&operator, 3, PORT, |_| {
                let mut deploy = operator.start_deploy();
                let Some(event) = deploy.nth_step(killed_at.len()) else {
                    assert_eq!(deploy.wait(), Some(0));
                    return true;
                };
                deploy.kill();
                println!("killed at {event}");
                killed_at.push(event);
                operator.deploy().ok();
                false
            });
            ledger.check(&operator, 1, PORT);
            if is_over {
                break;
            }
        }
    });
    println!("the command was killed at {} events", killed_at.len());
    for verb in ["stop", "release", "push", "acquire", "start", "route"] {
        let is_there = |event: &String| event.contains(&format!("/{verb}/"));
        assert!(
            killed_at.iter().any(is_there),
            "never killed at {verb}: {killed_at:?}"
        );
    }
    operator.finish();
}

#[test]
fn the_power_of_a_node_is_cut_at_each_step_and_the_next_deploy_finishes() {
    let operator = accounts();
    let mut n_cuts = 0;
    // Every third event, for the one node and the other.
    let points = [1, 2]
        .into_iter()
        .flat_map(|node| (0..15).step_by(3).map(move |at| (node, at)));
    for (round, (node, at)) in points.enumerate() {
        operator.place(HOMES[round % 2]);
        let mut deploy = operator.start_deploy();
        let Some(event) = deploy.nth_step(at) else {
            assert_eq!(deploy.wait(), Some(0));
            continue;
        };
        operator.bed.cut_power(node);
        deploy.kill();
        println!("power of node{node} cut at {event}");
        n_cuts += 1;
        operator.bed.up();
        until("the next deploy finishes", || operator.deploy().code == Some(0));
        let (ledger, ()) = Ledger::while_writing(&operator, 3, PORT, |_| ());
        ledger.check(&operator, 2, PORT);
    }
    println!("power was cut {n_cuts} times");
    assert!(n_cuts >= 6, "power was cut only {n_cuts} times");
    operator.finish();
}

#[test]
fn a_network_that_is_split_during_a_move_loses_nothing() {
    let operator = accounts();
    operator.bed.split(1, 2);
    operator.place(HOMES[0]);
    // The nodes do not reach each other, but both are reached: the data goes by way of the command.
    operator.deploy().ok();
    operator.bed.heal();
    let (ledger, ()) = Ledger::while_writing(&operator, 3, PORT, |_| ());
    ledger.check(&operator, 2, PORT);
    operator.finish();
}
