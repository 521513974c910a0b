//! The programs of Flocker 0.1 to 0.4 under their old names.

use super::Machine;

#[test]
fn the_old_programs_do_their_work_silently_and_say_what_failed() {
    let machine = Machine::new(62);
    let app = std::fs::read_to_string(machine.path("app.yml")).unwrap();
    machine.write(
        "app.yml",
        &app.replace("{mountpoint: /data}", "{mountpoint: /data, maximum_size: 100M}"),
    );
    let deployed = machine
        .seed("flocker-deploy", &["beta.yml", "app.yml"])
        .ended_with(0);
    assert_eq!((deployed.data.as_str(), deployed.talk.as_str()), ("", ""));
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");

    let reported = machine
        .seed("flocker-reportstate", &["beta"])
        .ended_with(0)
        .json();
    assert_eq!(reported["version"], 1);
    let ledger = &reported["applications"]["ledger"];
    assert_eq!(ledger["ports"][0]["external"], 7000);
    assert_eq!(ledger["volume"]["maximum_size"], "104857600");

    // Each node does its own part; nobody tells them anything but the files and what was reported.
    let read = |name: &str| std::fs::read_to_string(machine.path(name)).unwrap();
    let (deployment, application) = (read("alpha.yml"), read("app.yml"));
    let mut n_turns = 0;
    while machine.settled_home("alpha.yml").is_none() {
        n_turns += 1;
        assert!(n_turns < 12, "the nodes do not get there by themselves");
        for node in ["alpha", "beta"] {
            let current = machine.seed("flocker-reportstate", &[]).ended_with(0).data;
            let turn = machine.seed(
                "flocker-changestate",
                &[&deployment, &application, &current, node],
            );
            assert_eq!(turn.data, "");
            turn.ended_with(0);
        }
    }
    assert_eq!(machine.settled_home("alpha.yml").unwrap(), "alpha");

    // What stands in arguments can be read by everybody.
    let current = machine.seed("flocker-reportstate", &[]).ended_with(0).data;
    let open = format!("{application}    environment: {{TOKEN: hunter2}}\n");
    for (application, is_told) in [(&open, true), (&application, false)] {
        let arguments = [deployment.as_str(), application, &current, "nobody"];
        let told = machine.seed("flocker-changestate", &arguments).ended_with(2).talk;
        let says = "the environment of ledger stands in the arguments";
        assert_eq!(told.contains(says), is_told, "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    machine.kill("beta");
    let failed = machine
        .seed("flocker-deploy", &["beta.yml", "app.yml"])
        .ended_with(1);
    assert!(
        failed.talk.contains("nothing was changed") && failed.talk.contains("caused by: beta:"),
        "{}",
        failed.talk
    );
    assert_eq!(failed.data, "");
}

/// Returns the identity of a node.
fn id(machine: &Machine, node: &str) -> String {
    let reported = machine.flocker(&["report-state", "--json", node]).json();
    let id = &reported["nodes"][node]["seen"]["id"];
    id.as_str().unwrap().to_owned()
}

#[test]
fn the_snapshots_of_a_volume_are_listed_by_whoever_owns_it() {
    let machine = Machine::new(96);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    let (alpha, beta) = (id(&machine, "alpha"), id(&machine, "beta"));
    let volume = |arguments: &[&str]| machine.seed("flocker-volume", arguments);
    let dataset = {
        let status = machine.flocker(&["status", "--json"]).json();
        status["datasets"][0]["dataset"].as_str().unwrap().to_owned()
    };
    for name in ["ledger", "default.ledger", &format!("default.{dataset}")] {
        for node in ["alpha", "beta"] {
            let listed = volume(&["--node", node, "snapshots", &beta, name]).ended_with(0);
            assert_eq!(
                (listed.data.as_str(), listed.talk.as_str()),
                ("handoff-2\n", ""),
                "{name}"
            );
        }
    }
    // As ever, nothing is said of what is not there: it has another owner, or was never made.
    for (owner, name) in [(&alpha, "ledger"), (&beta, "other")] {
        let listed = volume(&["snapshots", owner, name, "--node", "alpha"]).ended_with(0);
        assert_eq!(
            (listed.data.as_str(), listed.talk.as_str()),
            ("", ""),
            "{owner} {name}"
        );
    }
    let json = volume(&["--json", "--node", "beta", "snapshots", &beta, "ledger"]).json();
    assert_eq!(json["snapshots"][0], "handoff-2");
    let unclear = volume(&["snapshots", &beta, "ledger"]).ended_with(2);
    assert!(unclear.talk.contains("alpha and beta"), "{}", unclear.talk);
    for arguments in [&["--node", "beta"][..], &[]] {
        let none = volume(arguments).ended_with(0);
        assert_eq!((none.data.as_str(), none.talk.as_str()), ("", ""));
    }
    // Silence is not absence.
    machine.kill("beta");
    let silent = volume(&["--node", "beta", "snapshots", &beta, "ledger"]).ended_with(1);
    assert!(silent.talk.contains("beta was not seen"), "{}", silent.talk);
    volume(&[]).ended_with(1);
}

#[test]
fn no_volume_changes_hands_on_the_word_of_whoever_calls() {
    let machine = Machine::new(97);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    let (alpha, beta) = (id(&machine, "alpha"), id(&machine, "beta"));
    let before = machine.flocker(&["report-state", "--json"]).json();
    let volume = |arguments: &[&str]| machine.seed("flocker-volume", arguments).ended_with(1);
    let owned = volume(&["--node", "beta", "acquire", &alpha, "ledger"]);
    assert!(
        owned.talk.contains("Can't acquire already-owned volume"),
        "{}",
        owned.talk
    );
    let taken = volume(&["--node", "alpha", "acquire", &beta, "ledger"]);
    assert!(
        taken.talk.contains("`flocker promote ledger --on alpha`"),
        "{}",
        taken.talk
    );
    let missing = volume(&["--node", "alpha", "acquire", &beta, "other"]);
    assert!(missing.talk.contains("there is no copy"), "{}", missing.talk);
    volume(&["receive", &beta, "ledger"]);
    volume(&["clone_to", &beta, "ledger", "copy"]);
    volume(&["clone-to", &beta, "ledger", "copy"]);
    let after = machine.flocker(&["report-state", "--json"]).json();
    for node in ["alpha", "beta"] {
        let datasets = |report: &serde_json::Value| {
            let mut datasets = report["nodes"][node]["seen"]["datasets"].clone();
            for copy in datasets.as_object_mut().unwrap().values_mut() {
                copy["age"].take();
            }
            datasets
        };
        assert_eq!(datasets(&before), datasets(&after), "{node}");
    }
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");
}
