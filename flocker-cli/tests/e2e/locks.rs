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
fn an_interrupted_deploy_says_what_is_left_and_the_next_one_does_it() {
    let machine = Machine::with_nodes(&NODES);
    let deploy = slow_move(&machine);
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    deploy.signal(Signal::INT);
    let done = deploy.wait();
    let last = done.last();
    assert_eq!(last["result"], "interrupted", "{done:?}");
    done.code(1);
    // Nothing was stopped for a move that did not take place.
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
