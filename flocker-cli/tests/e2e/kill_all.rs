//! Everything dies at once at every step of a real move, as in a power cut; the next deploy finishes it.

use crate::support::Machine;
use crate::support::Writer;

#[test]
fn a_move_survives_a_power_cut_at_every_step() {
    let nodes = ["alpha", "beta", "gamma"];
    let machine = Machine::with_nodes(&nodes);
    machine.place("alpha");
    machine.deploy().ok();
    let writer = Writer::start(machine.address("gamma"));
    writer.goes_on();
    let mut n_cuts = 0;
    for home in ["beta", "alpha"].into_iter().cycle() {
        machine.place(home);
        let mut deploy = machine.start_deploy(&[]);
        let Some(event) = deploy.nth_step(n_cuts, &["step_started"]) else {
            deploy.wait().ok();
            machine.proves(home, &writer);
            break;
        };
        machine.kill_everything();
        deploy.kill();
        machine.up(&nodes).ok();
        machine.deploy().ok();
        machine.proves(home, &writer);
        writer.goes_on();
        println!("everything killed at {event}");
        n_cuts += 1;
    }
    println!("{n_cuts} steps x everything");
    assert!(n_cuts >= 10, "{n_cuts}");
    drop(writer);
    machine.finish();
}
