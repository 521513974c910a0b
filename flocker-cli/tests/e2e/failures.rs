//! Targets on which it cannot be done.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::support::Machine;
use crate::support::Writer;
use crate::support::append;

#[test]
fn a_program_that_fails_at_its_new_home_serves_again_at_its_old_one() {
    let machine = Machine::with_nodes(&["alpha", "beta", "gamma"]);
    let program = machine.path("flocker").display().to_string();
    let beta = machine.address("beta");
    let application = format!(
        "version: 1
applications:
  ledger:
    image: /bin/sh
    command_line:
    - -c
    - 'test \"$FLOCKER_NODE_ADDRESS\" != {beta} && exec {program} demo-program --listen \"$FLOCKER_ADDRESS:7000\" --volume \"$FLOCKER_VOLUME\"'
    ports: [{{internal: 7000, external: 7000}}]
    volume: {{mountpoint: /data}}
    health_check: {{tcp: 7000, interval: 50ms}}
"
    );
    let nodes = ["alpha", "beta", "gamma"];
    machine.write_files(&nodes, "alpha", &application);
    machine.deploy().ok();
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    machine.write_files(&nodes, "beta", &application);
    let done = machine.start_deploy(&[]).wait();
    let last = done.last();
    assert_eq!(last["rolled_back"][0]["application"], "ledger", "{done:?}");
    assert_eq!(last["rolled_back"][0]["to"], "alpha", "{done:?}");
    done.code(1);
    writer.goes_on();
    machine.write_files(&nodes, "alpha", &application);
    machine.proves("alpha", &writer);
    drop(writer);
    machine.finish();
}

#[test]
fn a_target_whose_port_is_taken_is_refused_before_anything_stops() {
    let machine = Machine::with_nodes(&["alpha", "beta"]);
    machine.write_files(&["alpha"], "alpha", &machine.ledger(0));
    machine.deploy().ok();
    assert_eq!(append(machine.address("alpha"), "me", 1).unwrap(), 1);
    let foreign = TcpListener::bind((machine.address("beta"), 7000)).unwrap();
    machine.write_files(&["alpha", "beta"], "beta", &machine.ledger(0));
    let done = machine.start_deploy(&[]).wait();
    let is_stop = |line: &str| line.contains("step_started") && line.contains("/stop/");
    assert!(!done.stdout.lines().any(is_stop), "{done:?}");
    let refused = done.last()["refused"].to_string();
    assert!(refused.contains("7000") && refused.contains("beta"), "{done:?}");
    done.code(1);
    assert_eq!(append(machine.address("alpha"), "me", 2).unwrap(), 2);
    drop(foreign);
    machine.deploy().ok();
    assert_eq!(append(machine.address("beta"), "me", 3).unwrap(), 3);
    machine.finish();
}

#[test]
fn a_node_that_hangs_is_named_while_it_is_waited_for() {
    let machine = Machine::with_nodes(&["alpha", "beta"]);
    machine.write_files(&["alpha", "beta"], "alpha", &machine.ledger(0));
    machine.deploy().ok();
    let process = machine.signal_node("alpha", Signal::STOP);
    let way_out = format!(
        "waiting for an answer of alpha: its process {process} was halted by a signal; `kill -CONT {process}`"
    );
    let commands: [&[&str]; 6] = [
        &["logs", "ledger"],
        &["deploy", "--yes"],
        &["plan"],
        &["status"],
        &["status", "--json"],
        &["why", "alpha"],
    ];
    let running = commands.map(|arguments| (arguments, machine.spawn(arguments)));
    for (arguments, command) in running {
        let done = command.wait();
        // Whoever reads JSON reads nothing else.
        let is_said = !arguments.contains(&"--json");
        assert_eq!(
            done.stderr.matches(&way_out).count(),
            usize::from(is_said),
            "{arguments:?}: {done:?}"
        );
        match arguments[0] {
            "logs" => {
                assert!(done.stderr.contains("and alpha was not seen"), "{done:?}");
                done.code(1);
            }
            "status" => {
                assert!(
                    done.stdout.contains(&format!("`kill -CONT {process}`")),
                    "{done:?}"
                );
                assert!(!done.stdout.contains("local up alpha"), "{done:?}");
            }
            "why" => {
                let next = format!("next: kill -CONT {process}");
                assert!(done.stdout.lines().any(|line| line == next), "{done:?}");
            }
            _ => {}
        }
    }
    machine.signal_node("alpha", Signal::CONT);
    machine.run(&["logs", "ledger"]).ok();
    machine.finish();
}
