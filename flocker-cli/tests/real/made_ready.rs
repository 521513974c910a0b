//! Machines that lack something: made ready, told of before anything is changed, or helped by another one.

use crate::support::App;
use crate::support::Operator;
use crate::support::redis;

/// A program of an image that only one node has.
fn rare(name: &'static str) -> App {
    App {
        name,
        text: format!(
            "  {name}:\n    image: rare:1\n    command_line: [sleep, infinity]\n    \
             volume: {{mountpoint: /data}}\n"
        ),
    }
}

/// Gives an image of this name to one node, and takes it from the others.
fn only_on_the_first(operator: &Operator) {
    for node in 1..=3 {
        operator.bed.exec(node, &["docker", "rmi", "-f", "rare:1"]);
    }
    // An image of its own, not another name of one that every node has.
    let made = operator
        .bed
        .exec(
            1,
            &["docker", "create", "--label", "rare=yes", "database", "true"],
        )
        .ok();
    operator
        .bed
        .exec(1, &["docker", "commit", made.trim(), "rare:1"])
        .ok();
    operator.bed.exec(1, &["docker", "rm", made.trim()]).ok();
}

fn image(operator: &Operator, node: usize) -> String {
    operator
        .bed
        .exec(
            node,
            &["docker", "image", "inspect", "--format", "{{.Id}}", "rare:1"],
        )
        .stdout
}

#[test]
fn an_image_that_cannot_be_pulled_comes_from_the_node_that_the_application_leaves() {
    let operator = Operator::new(vec![rare("sleeper")]);
    only_on_the_first(&operator);
    operator.place([&["sleeper"], &[], &[]]);
    operator.deploy().ok();
    assert_eq!(image(&operator, 2), "\n");
    operator.place([&[], &["sleeper"], &[]]);
    let moved = operator.deploy();
    assert!(moved.stderr.contains("is brought from node1"), "{moved:?}");
    moved.ok();
    assert_eq!(image(&operator, 2), image(&operator, 1));
    operator.finish();
}

#[test]
fn what_would_stop_a_deploy_half_way_is_told_before_anything_is_changed() {
    let operator = Operator::new(vec![rare("sleeper"), redis("notes", 6601)]);
    for node in 1..=3 {
        operator.bed.exec(node, &["docker", "rmi", "-f", "rare:1"]);
    }
    operator.place([&["sleeper", "notes"], &[], &[]]);
    let listener = ["sh", "-c", "setsid nc -l -k -p 6601 >/dev/null 2>&1 & echo $!"];
    operator.client(2, &["true"]);
    let running = [&["docker", "exec", "client"][..], &listener].concat();
    operator.bed.exec(2, &running).ok();
    let refused = operator.deploy();
    operator.bed.exec(2, &["docker", "rm", "-f", "client"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for said in [
        "2 things are in the way, and nothing was changed",
        "node1: image: `rare:1` is not there, cannot be pulled, and no node has it",
        "node2: ports: in use by something else: 6601, by `nc`",
    ] {
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
    }
    let made = operator
        .bed
        .exec(1, &["docker", "ps", "-aq", "--filter", "name=flocker--"])
        .ok();
    assert_eq!(made.trim(), "");
}

#[test]
fn a_bare_machine_is_made_ready_and_what_holds_data_is_left_alone() {
    let operator = Operator::new(Vec::new());
    // As it was before its first deploy, when nothing is settled yet.
    let settings = "/var/lib/flocker/settings.json";
    let away = format!("{settings}.away");
    operator.bed.exec(3, &["mv", settings, &away]);
    let disk = |name: &str| format!("/srv/disks/{name}");
    for (name, size) in [("fresh", "256M"), ("held", "256M")] {
        operator.bed.exec(3, &["truncate", "-s", size, &disk(name)]).ok();
    }
    operator
        .bed
        .exec(
            3,
            &[
                "sh",
                "-c",
                "printf data | dd of=/srv/disks/held bs=1 seek=4096 conv=notrunc 2>&1",
            ],
        )
        .ok();
    let prepare = |device: &str, last: &str| {
        operator.run(&[
            "node", "prepare", "node3", "--pool", "fresh", "--device", device, last,
        ])
    };
    let held = prepare(&disk("held"), "--plan");
    assert!(
        held.stdout.contains("something is written on it, at byte 4096"),
        "{held:?}"
    );
    held.code(1);
    let shown = prepare(&disk("fresh"), "--plan").ok();
    assert!(
        shown.contains("runs: zpool create -m none fresh /srv/disks/fresh"),
        "{shown}"
    );
    let pools = || operator.bed.exec(3, &["zpool", "list", "-H", "-o", "name"]).ok();
    assert!(!pools().contains("fresh"));
    prepare(&disk("fresh"), "--yes").ok();
    assert!(pools().contains("fresh"));
    let again = prepare(&disk("fresh"), "--yes").ok();
    assert!(
        again.contains("node3: ready") && !again.contains("runs:"),
        "{again}"
    );
    operator.bed.exec(3, &["zpool", "destroy", "fresh"]).ok();
    operator.bed.exec(3, &["rm", &disk("fresh"), &disk("held")]).ok();
    operator.bed.exec(3, &["mv", &away, settings]);
}
