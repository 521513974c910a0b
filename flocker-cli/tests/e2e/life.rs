//! A day with it: up, deploy, move, look, undo, down.

use std::collections::BTreeSet;
use std::net::TcpListener;

use serde_json::Value;

use crate::support::Machine;
use crate::support::Writer;
use crate::support::append;
use crate::support::processes_about;

const FILES: [&str; 2] = ["deployment.yml", "application.yml"];

#[test]
fn a_program_is_deployed_moved_looked_at_and_moved_back() {
    let machine = Machine::with_nodes(&["alpha", "beta", "gamma"]);
    machine.place("alpha");
    assert!(
        machine
            .run(&["plan", FILES[0], FILES[1]])
            .ok()
            .contains("ledger starts on alpha")
    );
    machine.deploy().ok();
    assert_eq!(append(machine.address("beta"), "me", 1).unwrap(), 1);

    machine.place("beta");
    let plan = machine.run(&["plan", "--exit-code", FILES[0], FILES[1]]);
    assert!(plan.code(3).contains("ledger moves from alpha to beta"));
    machine.deploy().ok();
    assert_eq!(append(machine.address("alpha"), "me", 2).unwrap(), 2);
    machine.run(&["plan", "--exit-code", FILES[0], FILES[1]]).ok();

    let status = machine.run(&["status", FILES[0], FILES[1]]);
    assert!(status.ok().contains("ledger"));
    let report: Value = serde_json::from_str(&machine.run(&["report-state", "--json"]).ok()).unwrap();
    assert!(report.to_string().contains("ledger"));
    machine.run(&["logs", "ledger"]).ok();

    machine.run(&["undo", "--yes", "ledger"]).ok();
    assert!(machine.data("alpha").is_some() && machine.data("beta").is_none());
    assert_eq!(append(machine.address("gamma"), "me", 3).unwrap(), 3);
    assert_eq!(
        append(machine.address("gamma"), "me", 1).unwrap(),
        1,
        "the first is still there"
    );
    machine.finish();
}

#[test]
fn nodes_are_made_once_come_back_after_a_kill_and_keep_their_data() {
    let machine = Machine::with_nodes(&["alpha", "beta"]);
    let before = machine.status();
    let again: Value = {
        let up = machine
            .run(&["local", "up", "alpha", "beta", "alpha", "--json"])
            .ok();
        serde_json::from_str(&up).unwrap()
    };
    for node in again["nodes"].as_array().unwrap() {
        assert_eq!(node["started"], false);
    }
    machine.write_files(&["alpha", "beta"], "alpha", &machine.ledger(0));
    machine.deploy().ok();
    assert_eq!(append(machine.address("beta"), "me", 1).unwrap(), 1);

    // The program outlives its node, whose routes are back when it is.
    let programs = || -> Vec<i32> {
        let all = processes_about(machine.directory()).into_iter();
        let programs = all.filter(|(_, command_line)| command_line.contains(" demo-program "));
        programs.map(|(id, _)| id).collect()
    };
    let program = programs();
    machine.kill_node("alpha");
    let words = |node: &Value| (node["state"].clone(), node["applications"][0]["status"].clone());
    assert_eq!(words(&machine.status()[0]), ("down".into(), "running".into()));
    machine.up(&["alpha", "beta"]).ok();
    let after = machine.status();
    assert_eq!(words(&after[0]), ("up".into(), "running".into()));
    assert_eq!(append(machine.address("alpha"), "me", 2).unwrap(), 2);
    assert_eq!(append(machine.address("beta"), "me", 3).unwrap(), 3);
    assert_eq!((program.len(), programs()), (1, program));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["address"], after["address"]);
    }
    assert_ne!(before[0]["pid"], after[0]["pid"]);
    assert_eq!(before[1]["pid"], after[1]["pid"]);

    machine.run(&["local", "down"]).ok();
    assert!(processes_about(machine.directory()).is_empty());
    let asleep = machine.status();
    assert_eq!(asleep[0]["state"], "down");
    assert!(asleep[0]["data_bytes"].as_u64().unwrap() > 0);
    machine.up(&["alpha", "beta"]).ok();
    machine.deploy().ok();
    assert_eq!(append(machine.address("alpha"), "me", 4).unwrap(), 4);
    machine.finish();
}

#[test]
fn nodes_of_another_flocker_are_renewed_and_what_runs_on_them_runs_on() {
    let machine = Machine::new();
    let other = machine.path("other-flocker");
    std::fs::copy(env!("CARGO_BIN_EXE_flocker"), &other).unwrap();
    let first = machine.first_address().to_string();
    let up = ["local", "up", "--first-address", &first];
    machine.spawn_as(&other, &up).wait().ok();
    machine.place("alpha");
    machine.deploy().ok();
    let writer = Writer::start(machine.address("beta"));
    writer.goes_on();

    let pids = || -> Vec<Value> { machine.status().iter().map(|node| node["pid"].clone()).collect() };
    let others = || -> Vec<Value> {
        let nodes = machine.status();
        nodes.iter().map(|node| node["other_program"].clone()).collect()
    };
    let program = || -> Vec<i32> {
        let all = processes_about(machine.directory()).into_iter();
        let programs = all.filter(|(_, command_line)| command_line.contains(" demo-program "));
        programs.map(|(id, _)| id).collect()
    };
    let (before, ledger) = (pids(), program());
    assert_eq!(others(), [true, true, true]);
    let told = machine.run(&["local", "status"]);
    assert!(
        told.stderr.contains("`flocker local renew alpha` replaces it"),
        "{told:?}"
    );

    machine.run(&["local", "renew", "alpha"]).ok();
    assert_eq!(others(), [false, true, true]);
    writer.goes_on();
    // The rest of them, the one by whose address the client comes among them; one that does not run is started.
    machine.kill_node("gamma");
    let renewed: Value = serde_json::from_str(&machine.run(&["local", "renew", "--json"]).ok()).unwrap();
    let started: Vec<&Value> = renewed["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["started"])
        .collect();
    assert_eq!(started, [false, true, true]);
    assert_eq!(others(), [false, false, false]);
    for (before, after) in before.iter().zip(pids()) {
        assert_ne!(*before, after);
    }
    writer.goes_on();
    assert_eq!((ledger.len(), program()), (1, ledger));

    // Done twice, the second time does nothing.
    let renewed = pids();
    machine.run(&["local", "renew"]).ok();
    assert_eq!(pids(), renewed);
    let unknown = machine.run(&["local", "renew", "omega"]);
    assert!(unknown.stderr.contains("there is no local node `omega`"));
    unknown.code(2);
    // They are nodes as they were: what they have can be moved.
    machine.place("beta");
    machine.deploy().ok();
    machine.proves("beta", &writer);
    drop(writer);
    machine.finish();
}

#[test]
fn data_is_deleted_only_where_that_was_said_twice() {
    let machine = Machine::with_nodes(&["alpha"]);
    let refused = machine.run(&["local", "down", "--delete-data"]);
    assert!(
        refused.stderr.contains("deletes all data of alpha"),
        "{refused:?}"
    );
    refused.code(2);
    assert_eq!(machine.status()[0]["state"], "up");
    let unknown = machine.run(&["local", "down", "omega"]);
    assert!(unknown.stderr.contains("there is no local node `omega`"));
    unknown.code(2);
    machine.finish();
}

#[test]
fn two_machines_never_share_an_address() {
    let one = Machine::with_nodes(&["alpha"]);
    let address = one.address("alpha").to_string();
    let other = Machine::new();
    // A name that is said twice is one node.
    let up = ["local", "up", "--first-address", &address, "alpha", "alpha"];
    other.run(&up).ok();
    assert_ne!(other.address("alpha"), one.address("alpha"));
    // An address that was taken while a node was down is given up for another.
    one.run(&["local", "down", "alpha", "alpha"]).ok();
    let taker = TcpListener::bind((one.address("alpha"), 0)).unwrap();
    one.up(&["alpha"]).ok();
    assert_ne!(one.address("alpha").to_string(), address);
    drop(taker);
    one.finish();
    other.finish();
}

#[test]
fn nodes_that_are_made_at_the_same_moment_get_different_addresses() {
    let machines: Vec<Machine> = (0..4).map(|_| Machine::new()).collect();
    let first = machines[0].first_address().to_string();
    let up = ["local", "up", "--first-address", &first];
    let all: Vec<_> = machines.iter().map(|machine| machine.spawn(&up)).collect();
    for one in all {
        one.wait().ok();
    }
    let nodes = ["alpha", "beta", "gamma"];
    let of_all = machines
        .iter()
        .flat_map(|machine| nodes.map(|node| machine.address(node)));
    let addresses: BTreeSet<_> = of_all.collect();
    assert_eq!(addresses.len(), machines.len() * nodes.len());
    for machine in machines {
        machine.finish();
    }
}

#[test]
fn a_deploy_makes_the_nodes_that_it_is_to_make() {
    let machine = Machine::new();
    machine.write_files(&["one", "192.0.2.10"], "one", &machine.ledger(0));
    machine
        .run(&["deploy", "--local", "--yes", FILES[0], FILES[1]])
        .ok();
    assert_eq!(append(machine.address("192.0.2.10"), "me", 1).unwrap(), 1);
    machine.finish();
}
