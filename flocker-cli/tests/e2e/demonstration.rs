//! `flocker demo` proves what it says, and leaves nothing behind.

use std::path::Path;

use rustix::process::Signal;

use crate::support::Machine;
use crate::support::processes_about;

/// Demands that nothing runs or lies below the directory for temporary files.
#[track_caller]
fn nothing_is_left(machine: &Machine) {
    let left = processes_about(machine.directory());
    assert!(left.is_empty(), "{left:?}");
    let entries = std::fs::read_dir(machine.directory()).unwrap().flatten();
    let is_ours = |name: &str| name.starts_with("flocker-demo-");
    let left: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_ours))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_demonstration_moves_a_program_and_loses_nothing() {
    let machine = Machine::new();
    let done = machine.run(&["demo", "--json"]);
    let told = done.last();
    let proof = &told["proof"];
    assert_eq!(
        (&proof["lost"], &proof["duplicated"]),
        (&0.into(), &0.into()),
        "{told}"
    );
    assert!(proof["acknowledged"].as_u64().unwrap() > 100, "{told}");
    assert_eq!(proof["present"], proof["acknowledged"]);
    assert!(proof["pause_ms"].as_u64().unwrap() > 0);
    let rounds = told["rounds"].as_array().unwrap();
    let bytes = |at: usize| rounds[at]["bytes"].as_u64().unwrap();
    // The first copy is all of it, the last next to nothing.
    assert!(
        bytes(0) > 30_000_000 && bytes(rounds.len() - 1) < 1_000_000,
        "{told}"
    );
    let is_installed = |program: &str| {
        ["/usr/bin", "/bin"]
            .iter()
            .any(|directory| Path::new(directory).join(program).exists())
    };
    if is_installed("redis-server") {
        assert_eq!(told["stranger"]["program"], "redis", "{told}");
        assert_eq!(told["stranger"]["kept"], true, "{told}");
        assert!(told["stranger"]["downtime_ms"].as_u64().is_some(), "{told}");
    } else {
        eprintln!("NOT TESTED: redis-server is not installed, so no database was moved");
        assert_ne!(told["stranger"]["kept"], false);
    }
    done.ok();
    nothing_is_left(&machine);
}

#[test]
fn what_a_killed_demonstration_left_is_removed_by_the_next() {
    let machine = Machine::new();
    let mut demo = machine.spawn(&["demo"]);
    demo.line_where(|line| line.starts_with("Three nodes")).unwrap();
    demo.kill();
    assert!(!processes_about(machine.directory()).is_empty());
    let mut next = machine.spawn(&["demo"]);
    next.line_where(|line| line.starts_with("Removed what a demonstration that was killed had left"))
        .unwrap();
    next.line_where(|line| line.starts_with("Three nodes")).unwrap();
    next.signal(Signal::INT);
    next.wait().code(1);
    nothing_is_left(&machine);
}

#[test]
fn an_interrupted_demonstration_leaves_nothing_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let machine = Machine::new();
        let mut demo = machine.spawn(&["demo"]);
        demo.line_where(|line| line.contains("moves from alpha to beta"))
            .unwrap();
        demo.signal(signal);
        let done = demo.wait();
        assert!(done.stderr.contains("interrupted"), "{done:?}");
        done.code(1);
        nothing_is_left(&machine);
    }
}
