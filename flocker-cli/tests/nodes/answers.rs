//! What people are told, and what they can do with it.

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use snapbox::cmd::cargo_bin;

use super::Machine;

#[test]
fn what_is_held_says_so_and_what_it_says_to_type_can_be_typed() {
    let machine = Machine::new(84);
    let held = machine
        .flocker(&["deploy", "--yes", "--hold", "beta.yml", "app.yml"])
        .ended_with(0);
    assert!(held.talk.contains("is held"), "{}", held.talk);
    let status = machine.flocker(&["status"]).ended_with(1);
    assert!(
        status.data.contains("ledger is ready to move from alpha to beta") && status.data.contains("is held"),
        "{}",
        status.data
    );
    let why = machine.flocker(&["why", "ledger"]).ended_with(0);
    assert!(why.data.contains("`flocker cutover ledger`"), "{}", why.data);
    // It is so since the deploy, and not only since somebody asks.
    std::thread::sleep(Duration::from_millis(1100));
    let why = machine.flocker(&["why", "ledger"]).ended_with(0);
    assert!(why.data.contains("  since: "), "{}", why.data);
    let told = machine.flocker(&["why", "--json", "ledger"]).ended_with(0).json();
    let seen_for = told["blocked"][0]["seen_for_ms"].as_u64();
    assert!(seen_for.is_some_and(|seen_for| seen_for >= 1000), "{told}");
    // Another file that was never deployed is held by nobody.
    machine.write("gone.yml", "version: 1\nnodes: {alpha: [], beta: []}\n");
    let other = machine.flocker(&["status", "gone.yml", "app.yml"]);
    assert!(!other.data.contains("is held"), "{}", other.data);
    let moved = machine.type_hint(&status.data, "cutover").ended_with(0);
    assert!(
        moved.talk.contains("ledger moved from alpha to beta"),
        "{}",
        moved.talk
    );
    machine.flocker(&["status"]).ended_with(0);
    // The files are those of the last deploy here, too.
    machine.flocker(&["plan", "--exit-code"]).ended_with(0);
    machine.flocker(&["deploy", "--yes"]).ended_with(0);
}

#[test]
fn what_needs_no_secret_does_without_and_a_node_that_is_gone_hides_no_other() {
    let machine = Machine::new(85);
    let app = std::fs::read_to_string(machine.path("app.yml")).unwrap();
    let secret = "    environment: {TOKEN: {from_environment: LEDGER_TOKEN}}\n";
    machine.write("app.yml", &(app + secret));
    let flocker = cargo_bin!("flocker");
    let with = |arguments: &[&str]| machine.run_with(flocker, arguments, &[("LEDGER_TOKEN", "tok")]);
    with(&["deploy", "--yes", "alpha.yml", "app.yml"]).ended_with(0);
    let status = machine.flocker(&["status"]).ended_with(0);
    assert!(
        status.data.contains("everything is as it is to be"),
        "{}",
        status.data
    );
    assert!(status.talk.contains("`TOKEN` of ledger"), "{}", status.talk);
    let told = machine.flocker(&["status", "--json"]).ended_with(0).json();
    assert_eq!(told["unknown"].as_array().unwrap().len(), 1);
    machine.flocker(&["why", "ledger"]).ended_with(0);
    machine.flocker(&["gc"]).ended_with(0);
    // It says why not, and not that a secret is missing.
    let promoted = machine
        .flocker(&["promote", "ledger", "--on", "beta", "--yes"])
        .ended_with(1);
    assert!(promoted.data.contains("alpha owns the data"), "{promoted:?}");
    // Nobody is asked to agree to a name that nobody knows.
    let unknown = machine
        .flocker(&["promote", "ledgre", "--on", "beta"])
        .ended_with(2);
    assert!(unknown.talk.contains("know of `ledgre`"), "{unknown:?}");
    machine.flocker(&["undo", "ledger", "--yes"]).ended_with(0);
    // What starts something needs it.
    let deploy = machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(2);
    assert!(deploy.talk.contains("LEDGER_TOKEN"), "{}", deploy.talk);
    with(&["deploy", "--yes", "beta.yml", "app.yml"]).ended_with(0);
    machine.flocker(&["undo", "ledger", "--yes"]).ended_with(2);
    with(&["undo", "ledger", "--yes"]).ended_with(0);

    machine.write(
        "three.yml",
        "version: 1\nnodes: {alpha: [ledger], beta: [], gamma: []}\n",
    );
    let partly = machine.flocker(&["status", "three.yml", "app.yml"]).ended_with(1);
    assert!(
        partly.data.contains("alpha  seen") && partly.data.contains("gamma  silent"),
        "{}",
        partly.data
    );
    assert!(
        partly.data.contains("`flocker local up gamma`"),
        "{}",
        partly.data
    );
    assert!(
        partly.data.contains("ledger       alpha  running"),
        "{}",
        partly.data
    );
}

#[test]
fn what_keeps_ending_fails_soon_and_why_shows_how() {
    let machine = Machine::new(86);
    machine.write(
        "app.yml",
        "version: 1
applications:
  ledger:
    image: /bin/sh
    command_line: [-c, 'echo no such table; exit 7']
    restart_policy: {name: always}
",
    );
    let failed = machine
        .flocker(&["deploy", "--yes", "--json", "alpha.yml", "app.yml"])
        .ended_with(1);
    let events: Vec<Value> = failed
        .data
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let n_pauses = events
        .iter()
        .filter(|event| event["event"] == "backing_off")
        .count();
    assert!(n_pauses <= 3, "{}", failed.data);
    let last = &events.last().unwrap()["failed"][0];
    let error = last["error"].as_str().unwrap();
    assert!(
        error.contains("times in a row") && error.contains("`no such table`"),
        "{error}"
    );
    let why = machine.flocker(&["why", "ledger"]).ended_with(0);
    assert!(why.data.contains("it was restarted"), "{}", why.data);
    // It says so too where it is not started again.
    machine.write(
        "app.yml",
        "version: 1
applications:
  ledger:
    image: /bin/sh
    command_line: [-c, 'echo no such table; exit 7']
    health_check: {tcp: 7000}
    ports: [{internal: 7000, external: 7000}]
",
    );
    let failed = machine
        .flocker(&["deploy", "--yes", "alpha.yml", "app.yml"])
        .ended_with(1);
    assert!(
        failed.talk.contains("ended right after its start"),
        "{}",
        failed.talk
    );
    let why = machine.flocker(&["why", "ledger"]).ended_with(0);
    assert!(
        why.data.contains("on alpha it is exited with 7")
            && why
                .data
                .contains("the last deploy could not do alpha/start/ledger: ")
            && why.data.contains("`no such table`"),
        "{}",
        why.data
    );
    assert!(
        why.data
            .contains("next: flocker logs ledger --on alpha --tail 50"),
        "{}",
        why.data
    );
}

#[test]
fn nobody_is_told_that_all_is_well_where_somebody_is_not_served() {
    let machine = Machine::new(88);
    machine.write(
        "app.yml",
        "version: 1
applications:
  ledger:
    image: /bin/sleep
    command_line: ['1000']
    health_check: {tcp: 7000, interval: 50ms, timeout: 200ms, retries: 2}
    ports: [{internal: 7000, external: 7000}]
",
    );
    // It runs, so from the second time on there is nothing to start.
    for _ in 0..2 {
        let unhealthy = machine
            .flocker(&["deploy", "--yes", "alpha.yml", "app.yml"])
            .ended_with(1);
        assert!(
            !unhealthy.talk.contains("everything is as it is to be"),
            "{}",
            unhealthy.talk
        );
    }
    let why = "ledger serves nobody on alpha";
    for asked in [&["status"][..], &["why", "ledger"]] {
        let told = machine.flocker(asked).data;
        assert!(
            told.contains(why) && told.contains("`flocker logs ledger --on alpha`"),
            "{told}"
        );
        assert!(
            !told.contains("everything is as it is to be") && !told.contains("nothing is to be done"),
            "{told}"
        );
    }
    machine.flocker(&["status"]).ended_with(1);
    // What a node that is not seen leads elsewhere, nobody knows.
    machine.write("app.yml", "version: 1\napplications: {}\n");
    machine.write("none.yml", "version: 1\nnodes: {alpha: [], beta: []}\n");
    let deploy = ["deploy", "--yes", "--allow-stop-all", "none.yml", "app.yml"];
    machine.flocker(&deploy).ended_with(0);
    machine.flocker(&["local", "down", "beta"]).ended_with(0);
    let silent = machine.flocker(&deploy).ended_with(1);
    assert!(
        silent.talk.contains("waits to see beta") && silent.talk.contains("bring beta back"),
        "{}",
        silent.talk
    );
    machine.flocker(&["local", "up", "beta"]).ended_with(0);
    machine.flocker(&deploy).ended_with(0);
}

#[test]
fn output_is_one_document_to_a_line_and_there_is_one_where_there_is_none() {
    let machine = Machine::new(87);
    let documents = |arguments: &[&str]| {
        let printed = machine.flocker(arguments).ended_with(0).data;
        let documents = printed
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        documents.collect::<Vec<_>>()
    };
    let none = documents(&["logs", "--json", "--tail", "0", "ledger"]);
    assert_eq!(none.len(), 1, "{none:?}");
    assert_eq!(
        (&none[0]["result"], &none[0]["lines"]),
        (&"complete".into(), &0.into())
    );
    machine.write(
        "app.yml",
        "version: 1
applications:
  ledger:
    image: /bin/sh
    command_line: [-c, 'echo one; printf \"two\"; exec sleep 1000']
",
    );
    machine
        .flocker(&["deploy", "--yes", "alpha.yml", "app.yml"])
        .ended_with(0);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let told = documents(&["logs", "--json", "--tail", "2", "ledger"]);
        let lines: Vec<&str> = told
            .iter()
            .filter_map(|document| document["line"].as_str())
            .collect();
        if lines == ["one", "two"] {
            assert_eq!(told.last().unwrap()["lines"], 2);
            break;
        }
        assert!(Instant::now() < end, "{told:?}");
    }
}

#[test]
fn who_undoes_is_told_what_the_file_says_only_where_it_says_something_else() {
    let machine = Machine::new(98);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    let undone = machine.flocker(&["undo", "--yes", "ledger"]).ended_with(0);
    let differs = "the deployment file still says that ledger is on beta";
    assert!(undone.talk.contains(differs), "{}", undone.talk);
    assert!(machine.settled_home("beta.yml").is_none());
    // There and back again is where the file says.
    let undone = machine.flocker(&["undo", "--yes", "ledger"]).ended_with(0);
    assert!(!undone.talk.contains("still says"), "{}", undone.talk);
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");
    let nothing = machine.flocker(&["gc"]).ended_with(0);
    assert_eq!(
        nothing.data,
        "nothing to drop: no spare copy and no trash that is seen is older than a week\n"
    );
}

#[test]
fn of_two_owners_the_older_can_be_the_one_that_counts() {
    let machine = Machine::new(99);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    // Beta is taken for lost, another copy is made the owner's, and then beta is back.
    machine.flocker(&["local", "down", "beta"]).ended_with(0);
    machine.flocker(&["node", "forget", "beta"]).ended_with(0);
    let promoted = machine
        .flocker(&["promote", "ledger", "--on", "alpha", "--yes"])
        .ended_with(0);
    assert!(promoted.talk.contains("`flocker deploy`"), "{}", promoted.talk);
    machine.flocker(&["node", "remember", "beta"]).ended_with(0);
    machine.flocker(&["local", "up", "beta"]).ended_with(0);
    let status = machine.flocker(&["status"]).ended_with(1);
    assert!(
        status.data.contains("written by more than one node"),
        "{}",
        status.data
    );
    machine
        .flocker(&["promote", "ledger", "--on", "beta", "--yes"])
        .ended_with(0);
    // What alpha had is not lost, and does not come back beside beta's.
    for on in [&[][..], &["--on", "alpha"]] {
        let undone = machine
            .flocker(&[&["undo", "ledger", "--yes"], on].concat())
            .ended_with(1);
        let talk = &undone.talk;
        assert!(talk.contains("while beta owns the data"), "{talk}");
        assert!(talk.contains("in the trash of alpha for"), "{talk}");
        let place = talk
            .split('`')
            .find(|word| word.contains("/volumes/trash/"))
            .unwrap();
        assert!(Path::new(place).join("data/records").exists(), "{place}");
    }
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");
}
