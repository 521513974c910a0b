//! A node's directory is put back from an older copy while whoever has taken its data over is silent.

use std::fs;
use std::path::Path;

use crate::support::Machine;
use crate::support::append;
use crate::support::processes_about;

const NODES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Copies a directory as it is, but for sockets.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), to).unwrap();
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

/// Says whether the program runs on a node.
fn runs(machine: &Machine, node: &str) -> bool {
    n_running(machine, node) > 0
}

fn n_running(machine: &Machine, node: &str) -> usize {
    let directory = machine.path("state/nodes").join(node);
    let all = processes_about(&directory).into_iter();
    all.filter(|(_, command_line)| command_line.contains(" demo-program "))
        .count()
}

/// Writes the files with the ledger and another application of its kind on one node of three.
fn place_two(machine: &Machine, home: &str) {
    let ledger = machine.ledger(0);
    let (_, definition) = ledger.split_once("  ledger:\n").unwrap();
    let mail = definition.replace("external: 7000", "external: 7001");
    machine.write_files(&NODES, home, &format!("{ledger}  mail:\n{mail}"));
    let file = machine.path("deployment.yml");
    let deployment = fs::read_to_string(&file).unwrap();
    fs::write(file, deployment.replace("[ledger]", "[ledger, mail]")).unwrap();
}

/// Deploys, and demands that nothing starts because of what alpha says, and that the reason is given.
#[track_caller]
fn nothing_starts(machine: &Machine, reason: &str) {
    let done = machine.start_deploy(&[]).wait();
    let silent = done.last()["silent"].to_string();
    assert!(silent.contains("alpha") && silent.contains(reason), "{done:?}");
    assert!(silent.contains("it was put back from an older copy"), "{done:?}");
    let is_start = |line: &str| line.contains("step_started") && line.contains("/start/");
    assert!(!done.stdout.lines().any(is_start), "{done:?}");
    done.code(1);
}

#[test]
fn an_older_copy_of_a_node_does_not_write_beside_the_new_owner() {
    let machine = Machine::with_nodes(&NODES);
    let alpha = machine.path("state/nodes/alpha");
    let kept = machine.path("kept");
    machine.place("alpha");
    machine.deploy().ok();
    assert_eq!(append(machine.address("gamma"), "me", 1).unwrap(), 1);
    machine.run(&["local", "down", "alpha"]).ok();
    copy(&alpha, &kept);
    machine.up(&["alpha"]).ok();
    machine.deploy().ok();
    machine.place("beta");
    machine.deploy().ok();
    assert_eq!(append(machine.address("gamma"), "me", 2).unwrap(), 2);

    machine.run(&["local", "down", "alpha"]).ok();
    fs::remove_dir_all(&alpha).unwrap();
    copy(&kept, &alpha);
    machine.up(&["alpha"]).ok();
    machine.kill_node("beta");
    for home in ["alpha", "beta"] {
        machine.place(home);
        nothing_starts(&machine, "while beta is silent");
    }
    // It still runs where it was moved to, and nowhere else.
    assert!(!runs(&machine, "alpha") && runs(&machine, "beta"));
    let why = machine.run(&["why", "alpha", "deployment.yml", "application.yml"]);
    assert!(why.stdout.contains("gamma remembers that it obeyed"), "{why:?}");
    assert!(why.stdout.contains("flocker why beta"), "{why:?}");
    let status = machine.run(&["status"]);
    assert!(
        status.stdout.contains("bring beta back, and alpha counts again"),
        "{status:?}"
    );
    assert!(status.stdout.contains("`flocker node forget beta`"), "{status:?}");
    status.code(1);

    // With both in sight it is told nothing that would hide what it is, and a person decides.
    machine.up(&["beta"]).ok();
    nothing_starts(&machine, "it says that it owns what was taken over from it since");
    machine.kill_node("beta");
    nothing_starts(&machine, "while beta is silent");
    machine.up(&["beta"]).ok();
    machine.run(&["promote", "ledger", "--on", "beta", "--yes"]).ok();
    machine.deploy().ok();
    for node in NODES {
        assert_eq!(machine.data(node).is_some(), node == "beta", "{node}");
        assert_eq!(runs(&machine, node), node == "beta", "{node}");
    }
    assert_eq!(append(machine.address("gamma"), "me", 3).unwrap(), 3);
    machine.finish();
}

#[test]
fn who_was_put_back_is_not_believed_before_all_that_it_owned_is_decided() {
    let machine = Machine::with_nodes(&NODES);
    let alpha = machine.path("state/nodes/alpha");
    let kept = machine.path("kept");
    place_two(&machine, "alpha");
    machine.deploy().ok();
    machine.run(&["local", "down", "alpha"]).ok();
    copy(&alpha, &kept);
    machine.up(&["alpha"]).ok();
    machine.deploy().ok();
    place_two(&machine, "beta");
    machine.deploy().ok();
    assert_eq!(n_running(&machine, "beta"), 2);

    machine.run(&["local", "down", "alpha"]).ok();
    fs::remove_dir_all(&alpha).unwrap();
    copy(&kept, &alpha);
    machine.up(&["alpha"]).ok();
    let first = machine.run(&["promote", "ledger", "--on", "beta", "--yes"]);
    let rest = "says that it owns the data of mail";
    let command = "flocker promote mail --on beta";
    assert!(
        first.stderr.contains(rest) && first.stderr.contains(command),
        "{first:?}"
    );
    assert!(!first.stderr.contains("owns the data of ledger"), "{first:?}");
    first.ok();
    let status = machine.run(&["status"]);
    assert!(
        status.stderr.contains(rest) && status.stderr.contains(command),
        "{status:?}"
    );
    let why = machine.run(&["why", "alpha"]);
    assert!(
        why.stdout.contains(rest) && why.stdout.contains(command),
        "{why:?}"
    );
    machine.kill_node("beta");
    place_two(&machine, "alpha");
    nothing_starts(&machine, "while beta is silent");
    assert_eq!(
        (n_running(&machine, "alpha"), n_running(&machine, "beta")),
        (0, 2)
    );

    machine.up(&["beta"]).ok();
    let last = machine.run(&["promote", "mail", "--on", "beta", "--yes"]);
    assert!(!last.stderr.contains("was put back"), "{last:?}");
    last.ok();
    // It counts again: another one may be silent.
    machine.kill_node("gamma");
    let status = machine.run(&["status"]);
    assert!(!status.stdout.contains("put back"), "{status:?}");
    machine.up(&["gamma"]).ok();
    place_two(&machine, "beta");
    machine.deploy().ok();
    assert_eq!(
        (n_running(&machine, "alpha"), n_running(&machine, "beta")),
        (0, 2)
    );
    machine.finish();
}
