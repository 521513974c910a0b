//! Pools that are full.

use crate::cut_short::POSTGRES;
use crate::cut_short::accounts;
use crate::cut_short::fill;
use crate::ledger::Ledger;
use crate::support::Operator;
use crate::support::until;
use crate::watch::watched;

/// Fills the pool of a node with a file of somebody else's, all but so many bytes.
fn fill_pool(operator: &Operator, node: usize, leave_mb: u64) {
    empty_pool(operator, node);
    let bed = &operator.bed;
    bed.exec(
        node,
        &["zfs", "create", "-o", "mountpoint=/backup", "flocker/backup"],
    )
    .ok();
    // With what a pool says only now and then how much it has left, the last part comes in small pieces.
    let script = format!(
        "cd /backup; n=0; left() {{ zfs get -Hp -o value available flocker; }}; \
         while [ $(left) -gt $((({leave_mb} + 64) << 20)) ]; do dd if=/dev/urandom bs=1M count=32 >> filler 2>/dev/null || break; sync; done; \
         while [ $(left) -gt $(({leave_mb} << 20)) ] && [ $n -lt 100 ]; do \
         dd if=/dev/urandom of=filler bs=1M count=2 oflag=append conv=notrunc,fsync 2>/dev/null || break; zfs inherit flocker:none flocker/backup; \
         n=$((n + 1)); done; left"
    );
    let left = bed.exec(node, &["sh", "-c", &script]).ok();
    println!("node{node} has {} bytes left", left.trim());
}

fn empty_pool(operator: &Operator, node: usize) {
    until("the foreign filesystem is gone", || {
        operator.bed.exec(node, &["zfs", "destroy", "flocker/backup"]);
        !operator
            .bed
            .exec(node, &["zfs", "get", "name", "flocker/backup"])
            .ok
    });
}

#[test]
fn a_full_target_is_told_before_anything_is_stopped_and_the_move_goes_on_when_there_is_room() {
    let port = 5541;
    let operator = accounts(port);
    // More than there is room for.
    fill(&operator, port);
    fill_pool(&operator, 2, 20);
    operator.place([&[], &["ledgers"], &[]]);
    watched(&operator, "ledgers", POSTGRES, || {
        let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |ledger| {
            let refused = operator.deploy();
            assert_eq!(refused.code, Some(1), "{refused:?}");
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert!(
                said.contains("space") || said.contains("room") || said.contains("full"),
                "{said}"
            );
            assert!(!said.contains("done    node1 stop"), "it was stopped: {said}");
            let before = ledger.n_acknowledged();
            until("the client goes on meanwhile", || {
                ledger.n_acknowledged() > before
            });
            empty_pool(&operator, 2);
            operator.deploy().ok();
        });
        ledger.check(&operator, 2, port);
    });
    operator.finish();
}

#[test]
fn a_target_that_fills_up_in_the_middle_of_a_cut_over_loses_nothing() {
    let port = 5542;
    let operator = accounts(port);
    operator.place([&[], &["ledgers"], &[]]);
    watched(&operator, "ledgers", POSTGRES, || {
        let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| {
            let deploy = operator.start_deploy();
            let step = deploy.reaches(|event, step| event == "step_started" && step.contains("/stop/"));
            assert!(step.is_some());
            fill_pool(&operator, 2, 0);
            println!("the command ended with {:?}", deploy.wait());
            println!("while it is full: status {:?}", operator.deploy().code);
            empty_pool(&operator, 2);
            until("the next deploy finishes", || operator.deploy().code == Some(0));
        });
        ledger.check(&operator, 2, port);
    });
    operator.finish();
}

#[test]
fn a_full_source_can_still_be_left() {
    let port = 5543;
    let operator = accounts(port);
    fill_pool(&operator, 1, 8);
    operator.place([&[], &["ledgers"], &[]]);
    let moved = operator.deploy();
    println!("away from a full pool: status {:?}", moved.code);
    empty_pool(&operator, 1);
    until("the next deploy finishes", || operator.deploy().code == Some(0));
    let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| ());
    ledger.check(&operator, 2, port);
    operator.finish();
}
