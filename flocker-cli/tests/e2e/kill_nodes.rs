//! Each node is killed at every step of a real move, comes back, and the next deploy finishes it.

use crate::support::Machine;
use crate::support::Writer;

/// What a node is to a move.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Source,
    Target,
    Router,
}

impl Victim {
    fn node(self, from: &'static str, to: &'static str) -> &'static str {
        match self {
            Self::Source => from,
            Self::Target => to,
            Self::Router => "gamma",
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what was killed at what is for whoever reads on"
)]
fn kill_at_every_step(victim: Victim) {
    let machine = Machine::with_nodes(&["alpha", "beta", "gamma"]);
    machine.place("alpha");
    machine.deploy().ok();
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    let mut n_pairs = 0;
    for [from, to] in [["alpha", "beta"], ["beta", "alpha"]].into_iter().cycle() {
        machine.place(to);
        let mut deploy = machine.start_deploy(&[]);
        let Some(event) = deploy.nth_step(n_pairs, &["step_started"]) else {
            deploy.wait().ok();
            machine.proves(to, &writer);
            break;
        };
        let node = victim.node(from, to);
        machine.kill_node(node);
        machine.up(&[node]).ok();
        // It may have gone on by itself, or given up.
        let code = deploy.wait().code;
        machine.deploy().ok();
        machine.proves(to, &writer);
        writer.goes_on();
        println!("{victim:?} killed at {event}; the deploy ended with {code:?}");
        n_pairs += 1;
    }
    println!("{n_pairs} steps x {victim:?}");
    assert!(n_pairs >= 10, "{n_pairs}");
    drop(writer);
    machine.finish();
}

#[test]
fn a_move_survives_the_death_of_its_source_at_every_step() {
    kill_at_every_step(Victim::Source);
}

#[test]
fn a_move_survives_the_death_of_its_target_at_every_step() {
    kill_at_every_step(Victim::Target);
}

#[test]
fn a_move_survives_the_death_of_a_node_that_only_routes_at_every_step() {
    kill_at_every_step(Victim::Router);
}

/// A copy that breaks off in the middle is only seen where it is long and the first.
#[test]
fn a_first_copy_survives_the_death_of_any_node_in_its_middle() {
    let nodes = ["alpha", "beta", "gamma"];
    for victim in [Victim::Source, Victim::Target, Victim::Router] {
        let machine = Machine::with_nodes(&nodes);
        machine.write_files(&nodes, "alpha", &machine.ledger(4000));
        machine.deploy().ok();
        let writer = Writer::start(machine.address("gamma"));
        writer.goes_on();
        machine.write_files(&nodes, "beta", &machine.ledger(4000));
        let mut deploy = machine.start_deploy(&["--bandwidth", "3M"]);
        let is_under_way = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            event["event"] == "step_progress" && event["done"].as_u64().unwrap_or_default() > 500_000
        };
        deploy.line_where(is_under_way).unwrap();
        let node = victim.node("alpha", "beta");
        machine.kill_node(node);
        machine.up(&[node]).ok();
        deploy.wait();
        machine.deploy().ok();
        machine.proves("beta", &writer);
        writer.goes_on();
        drop(writer);
        machine.finish();
    }
}
