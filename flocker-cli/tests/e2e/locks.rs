//! Two deploys at once, and one that is interrupted.

use rustix::process::Signal;

use crate::support::Machine;
use crate::support::Running;
use crate::support::Writer;

const NODES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Starts a move that copies for some seconds, and returns when the copy has begun.
fn slow_move(machine: &Machine) -> Running {
    machine.write_files(&NODES, "alpha", &machine.ledger(4000));
    machine.deploy().ok();
    machine.write_files(&NODES, "beta", &machine.ledger(4000));
    let mut deploy = machine.start_deploy(&["--bandwidth", "2M"]);
    let begun = |line: &str| line.contains("step_started") && line.contains("/push/");
    deploy.line_where(begun).unwrap();
    deploy
}

#[test]
fn of_two_deploys_one_is_told_who_deploys_and_one_may_wait() {
    let machine = Machine::with_nodes(&NODES);
    let first = slow_move(&machine);
    let files = ["deployment.yml", "application.yml"];
    let second = machine.run(&["deploy", "--yes", files[0], files[1]]);
    // Who it is comes first, and which process of which machine.
    assert!(
        second.stderr.contains("error: could not take the deploy lock of"),
        "{second:?}"
    );
    let process = format!("process {} holds it", first.id());
    assert!(
        second.stderr.contains("tester on ") && second.stderr.contains(&process),
        "{second:?}"
    );
    second.code(1);
    let third = machine.deploy();
    assert!(third.stderr.contains("waiting for the deploy lock"), "{third:?}");
    third.ok();
    first.wait().ok();
    assert!(machine.data("beta").is_some());
    machine.finish();
}

#[test]
fn a_lock_that_is_taken_away_ends_the_deploy_that_held_it() {
    let machine = Machine::with_nodes(&NODES);
    let first = slow_move(&machine);
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    let files = ["deployment.yml", "application.yml"];
    // Slow enough for the other to ask for the lock again meanwhile.
    let breaks = ["deploy", "--yes", "--break-lock", "--bandwidth", "2M"];
    machine.run(&[&breaks[..], &files].concat()).ok();
    // Its orders are refused from then on: whatever it still says, the move is done once.
    let robbed = first.wait();
    assert!(robbed.last().get("error").is_some(), "{robbed:?}");
    robbed.code(1);
    machine.proves("beta", &writer);
    drop(writer);
    machine.finish();
}

#[test]
fn an_interrupted_deploy_says_what_is_left_and_the_next_one_does_it() {
    let machine = Machine::with_nodes(&NODES);
    let deploy = slow_move(&machine);
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    deploy.signal(Signal::INT);
    let done = deploy.wait();
    let last = done.last();
    assert_eq!(last["result"], "interrupted", "{done:?}");
    // The copy may have ended just then; the cut-over is left either way.
    let cut_over = &last["waiting"][0]["message"];
    assert!(
        cut_over.as_str().unwrap().contains("the cut-over of ledger"),
        "{done:?}"
    );
    done.code(1);
    // Nothing was stopped for a move that did not take place.
    writer.goes_on();
    machine.deploy().ok();
    machine.proves("beta", &writer);
    drop(writer);
    machine.finish();
}

#[test]
fn a_deploy_that_is_interrupted_in_its_cut_over_brings_the_application_back_first() {
    let machine = Machine::with_nodes(&NODES);
    machine.place("alpha");
    machine.deploy().ok();
    machine.place("beta");
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    let mut deploy = machine.start_deploy(&[]);
    let is_away = |line: &str| line.contains("step_started") && line.contains("/release/");
    deploy.line_where(is_away).unwrap();
    deploy.signal(Signal::INT);
    let done = deploy.wait();
    let last = done.last();
    assert_eq!(last["result"], "interrupted", "{done:?}");
    assert!(last["moves"][0]["downtime_ms"].is_u64(), "{done:?}");
    assert!(done.stdout.contains(r#""finishing":["ledger"]"#), "{done:?}");
    done.code(1);
    // Who comes by way of a third node is served, before anybody deploys again.
    writer.goes_on();
    machine.deploy().ok();
    machine.proves("beta", &writer);
    drop(writer);
    machine.finish();
}

#[test]
fn who_is_asked_can_leave_and_others_can_deploy() {
    let machine = Machine::with_nodes(&NODES);
    machine.place("alpha");
    let (shown, code) = machine.interrupted_at_a_question("deploy deployment.yml application.yml");
    assert!(
        shown.contains("ledger starts on alpha") && shown.contains("nothing was done"),
        "{shown}"
    );
    assert_eq!(code, Some(1), "{shown}");
    // The locks are given back, and nothing waits for them.
    let files = ["deployment.yml", "application.yml"];
    machine.run(&["deploy", "--yes", files[0], files[1]]).ok();
    machine.finish();
}
