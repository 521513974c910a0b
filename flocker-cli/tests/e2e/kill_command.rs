//! The command is killed at every event of a real move; the next deploy finishes it.

use crate::support::Machine;
use crate::support::Writer;

#[test]
fn a_deploy_that_is_killed_anywhere_is_finished_by_the_next_one() {
    let machine = Machine::with_nodes(&["alpha", "beta", "gamma"]);
    machine.place("alpha");
    machine.deploy().ok();
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    let mut killed_at = Vec::new();
    for home in ["beta", "alpha"].into_iter().cycle() {
        machine.place(home);
        let mut deploy = machine.start_deploy(&[]);
        let Some(event) = deploy.nth_step(killed_at.len(), &["step_started", "step_done"]) else {
            // It came to its end before so many events: there is none left to be killed at.
            deploy.wait().ok();
            machine.proves(home, &writer);
            break;
        };
        deploy.kill();
        machine.deploy().ok();
        machine.proves(home, &writer);
        writer.goes_on();
        println!("killed at {event}");
        killed_at.push(event);
    }
    println!("killed at {} events", killed_at.len());
    let verbs = ["push", "stop", "release", "acquire", "start", "route"];
    for verb in verbs {
        let is_there = |event: &String| event.contains(&format!("/{verb}/"));
        assert!(
            killed_at.iter().any(is_there),
            "never killed at {verb}: {killed_at:?}"
        );
    }
    drop(writer);
    machine.finish();
}

/// What is done while the program still runs is only all seen where the target has no copy yet.
#[test]
fn a_first_move_that_is_killed_before_its_cut_over_is_finished_by_the_next_deploy() {
    let nodes = ["alpha", "beta", "gamma"];
    for verb in ["prepare", "take", "push"] {
        for kind in ["step_started", "step_done"] {
            let machine = Machine::with_nodes(&nodes);
            machine.write_files(&nodes, "alpha", &machine.ledger(3000));
            machine.deploy().ok();
            let writer = Writer::start(machine.address("gamma"));
            writer.goes_on();
            machine.write_files(&nodes, "beta", &machine.ledger(3000));
            let mut deploy = machine.start_deploy(&[]);
            let is_it = |line: &str| line.contains(kind) && line.contains(&format!("/{verb}/"));
            deploy.line_where(is_it).unwrap();
            deploy.kill();
            machine.deploy().ok();
            machine.proves("beta", &writer);
            drop(writer);
            machine.finish();
        }
    }
}
