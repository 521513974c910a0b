//! Nodes that do not reach each other, or are not reached at all, in the middle of a move.

use std::time::Instant;

use crate::cut_short::POSTGRES;
use crate::cut_short::accounts;
use crate::cut_short::fill;
use crate::ledger::Ledger;
use crate::support::Operator;
use crate::support::until;
use crate::watch::watched;

#[test]
fn nodes_that_do_not_reach_each_other_from_the_beginning_copy_by_way_of_the_command() {
    let port = 5531;
    let operator = accounts(port);
    operator.bed.split(1, 2);
    operator.place([&[], &["ledgers"], &[]]);
    let plan = operator.run(&["plan", "deployment.yml", "application.yml"]).ok();
    assert!(
        plan.contains("copies from node1 to node2 are relayed by this machine: "),
        "{plan}"
    );
    let (ledger, deploy) = Ledger::while_writing(&operator, 3, port, |_| operator.deploy());
    deploy.ok();
    operator.bed.heal();
    ledger.check(&operator, 2, port);
    operator.place([&["ledgers"], &[], &[]]);
    let plan = operator.run(&["plan", "deployment.yml", "application.yml"]).ok();
    assert!(
        plan.contains("copies from node2 to node1 go by direct TLS"),
        "{plan}"
    );
    operator.finish();
}

#[test]
fn nodes_that_are_split_in_the_middle_of_a_copy_lose_nothing_and_the_copy_goes_on() {
    let port = 5532;
    let operator = accounts(port);
    fill(&operator, port);
    operator.bed.slow(1, "60mbit");
    operator.place([&[], &["ledgers"], &[]]);
    watched(&operator, "ledgers", POSTGRES, || {
        let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| {
            let deploy = operator.start_deploy();
            let step = deploy.reaches(|event, step| event == "step_progress" && step.contains("/push/"));
            println!("split at {step:?}");
            assert!(step.is_some(), "the copy was over before it could be cut");
            operator.bed.split(1, 2);
            println!("the command ended with {:?}", deploy.wait());
            operator.bed.heal();
            operator.bed.fast(1);
            until("the next deploy finishes", || operator.deploy().code == Some(0));
        });
        ledger.check(&operator, 2, port);
    });
    operator.finish();
}

/// Cuts something at the beginning of each of these steps, and puts it back when the command has done what it could.
fn cut_in_a_cut_over(
    port: u16,
    verbs: &[&str],
    cut: impl Fn(&Operator, usize, usize),
    mend: impl Fn(&Operator),
) {
    let operator = accounts(port);
    for (round, verb) in verbs.iter().enumerate() {
        let (source, target) = (1 + round % 2, 2 - round % 2);
        let homes: [[&[&str]; 3]; 2] = [[&[], &["ledgers"], &[]], [&["ledgers"], &[], &[]]];
        watched(&operator, "ledgers", POSTGRES, || {
            let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| {
                operator.place(homes[round % 2]);
                let deploy = operator.start_deploy();
                let step = deploy.reaches(|event, step| {
                    let is_last_copy = *verb != "push" || step.contains("@handoff-");
                    event == "step_started" && step.contains(&format!("/{verb}/")) && is_last_copy
                });
                println!("CUT at {step:?}");
                assert!(step.is_some(), "there was no {verb}");
                cut(&operator, source, target);
                let began = Instant::now();
                let status = deploy.wait();
                println!("the command ended with {status:?} after {:.1?}", began.elapsed());
                mend(&operator);
                until("the next deploy finishes", || operator.deploy().code == Some(0));
            });
            ledger.check(&operator, target, port);
        });
    }
    operator.finish();
}

#[test]
fn nodes_that_are_split_in_the_middle_of_a_cut_over_lose_nothing() {
    let split = |operator: &Operator, source, target| operator.bed.split(source, target);
    let verbs = ["stop", "release", "push", "acquire", "start"];
    cut_in_a_cut_over(5533, &verbs, split, |operator| operator.bed.heal());
}

#[test]
fn a_target_that_is_out_of_reach_in_the_middle_of_a_cut_over_is_waited_for() {
    let cut = |operator: &Operator, _, target| operator.bed.cut(target);
    cut_in_a_cut_over(5534, &["push", "acquire"], cut, |operator| {
        (1..=2).for_each(|node| operator.bed.join(node));
    });
}

#[test]
fn a_source_that_is_out_of_reach_in_the_middle_of_a_cut_over_is_waited_for() {
    let cut = |operator: &Operator, source, _| operator.bed.cut(source);
    cut_in_a_cut_over(5535, &["release", "push"], cut, |operator| {
        (1..=2).for_each(|node| operator.bed.join(node));
    });
}
