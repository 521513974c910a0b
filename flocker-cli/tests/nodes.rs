//! Commands on nodes: real processes on this machine, real files, real TCP.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use snapbox::cmd::Command;
use snapbox::cmd::cargo_bin;

/// Two nodes with one application, and its files.
struct Machine {
    home: tempfile::TempDir,
}

/// What a command has printed, and how it ended.
#[derive(Debug)]
struct Ended {
    status: i32,
    data: String,
    talk: String,
}

impl Machine {
    /// Starts both nodes with the application on alpha. Each test has addresses of its own to choose from.
    fn new(addresses: u8) -> Self {
        let home = tempfile::tempdir().unwrap();
        let machine = Self { home };
        let program = cargo_bin!("flocker");
        machine.write(
            "app.yml",
            &format!(
                "version: 1
applications:
  ledger:
    image: {}
    command_line: [demo-program, --listen, '{{address}}:{{port}}', --volume, '{{volume}}', --fill, '50']
    ports: [{{internal: 7000, external: 7000}}]
    volume: {{mountpoint: /data}}
    health_check: {{tcp: 7000, interval: 100ms, retries: 50}}
",
                program.display()
            ),
        );
        machine.write("alpha.yml", "version: 1\nnodes: {alpha: [ledger], beta: []}\n");
        machine.write("beta.yml", "version: 1\nnodes: {alpha: [], beta: [ledger]}\n");
        for name in ["flocker-deploy", "flocker-reportstate", "flocker-changestate"] {
            std::os::unix::fs::symlink(program, machine.path(name)).unwrap();
        }
        let first = format!("127.{addresses}.{}.1", std::process::id() % 250);
        machine
            .flocker(&["local", "up", "alpha", "beta", "--first-address", &first])
            .ended_with(0);
        machine
            .flocker(&["deploy", "--yes", "alpha.yml", "app.yml"])
            .ended_with(0);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Ended {
        self.run_with(program, arguments, &[])
    }

    fn run_with(&self, program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(self.home.path())
            .env("FLOCKER_STATE_DIR", self.path("state"))
            .env("NO_COLOR", "1")
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        Ended {
            status: output.status.code().unwrap(),
            data: String::from_utf8(output.stdout).unwrap(),
            talk: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn flocker(&self, arguments: &[&str]) -> Ended {
        self.run(cargo_bin!("flocker"), arguments)
    }

    /// Types what a hint says, and agrees to it.
    fn type_hint(&self, talk: &str, about: &str) -> Ended {
        let commands = talk.split('`').skip(1).step_by(2);
        let line = commands
            .filter_map(|command| command.strip_prefix("flocker "))
            .find(|command| command.starts_with(about))
            .unwrap_or_else(|| panic!("no hint about {about}: {talk}"));
        let mut arguments: Vec<&str> = line.split_whitespace().collect();
        arguments.push("--yes");
        self.flocker(&arguments)
    }

    fn seed(&self, name: &str, arguments: &[&str]) -> Ended {
        self.run(&self.path(name), arguments)
    }

    /// Returns on which node the application runs, if everything is as the files say.
    fn settled_home(&self, deployment: &str) -> Option<String> {
        let status = self.flocker(&["status", "--json", deployment, "app.yml"]).json();
        let is_settled = status["plan"]["settled"] == true;
        let home = &status["applications"][0]["node"];
        is_settled.then(|| home.as_str().unwrap().to_owned())
    }

    /// Ends the process of a node as a power cut would.
    fn kill(&self, node: &str) {
        let status = self.flocker(&["local", "status", "--json"]).json();
        let nodes = status["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|found| found["name"] == node).unwrap();
        let process = node["pid"].as_u64().unwrap().to_string();
        let killed = Command::new("kill").args(["-9", &process]).output().unwrap();
        assert!(killed.status.success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ended = self.flocker(&["local", "down", "--delete-data", "--yes"]);
        if !std::thread::panicking() {
            ended.ended_with(0);
        }
    }
}

impl Ended {
    #[track_caller]
    fn ended_with(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.data, self.talk);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.data)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.data, self.talk))
    }
}

#[test]
fn a_saved_plan_is_carried_out_exactly_or_not_at_all() {
    let machine = Machine::new(60);
    let planned = machine.flocker(&["plan", "--exit-code", "--out", "move.plan", "beta.yml", "app.yml"]);
    assert!(
        planned
            .ended_with(3)
            .data
            .contains("ledger moves from alpha to beta")
    );
    let deploy = ["deploy", "--yes", "--plan", "move.plan", "beta.yml", "app.yml"];
    let deployed = machine.flocker(&deploy).ended_with(0);
    assert!(
        deployed.talk.contains("ledger moved from alpha to beta"),
        "{}",
        deployed.talk
    );
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");
    // Done, it no longer holds; and a third party that moved things would be found out the same way.
    let again = machine.flocker(&deploy).ended_with(1);
    assert!(
        again
            .talk
            .contains("the saved plan no longer holds, and nothing was done"),
        "{}",
        again.talk
    );
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");
}

#[test]
fn a_plan_from_saved_reports_is_the_plan_from_the_nodes() {
    let machine = Machine::new(61);
    let report = machine.flocker(&["report-state", "--json"]).ended_with(0);
    machine.write("state.json", &report.data);
    let from_nodes = machine.flocker(&["plan", "--json", "beta.yml", "app.yml"]).json();
    let arguments = ["plan", "--json", "--state", "state.json", "beta.yml", "app.yml"];
    let from_report = machine.flocker(&arguments).json();
    assert!(from_nodes["steps"].as_array().unwrap().len() >= 3);
    assert_eq!(from_nodes["steps"], from_report["steps"]);
    assert_eq!(from_nodes["generation"], from_report["generation"]);
    assert!(!report.data.contains("definition_key"));
    assert_eq!(report.json()["nodes"]["alpha"]["seen"]["key"], "withheld");
}

#[test]
fn the_old_programs_do_their_work_silently_and_say_what_failed() {
    let machine = Machine::new(62);
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
    assert_eq!(reported["applications"]["ledger"]["ports"][0]["external"], 7000);

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

#[test]
fn what_is_dropped_is_shown_first_and_silence_is_no_leave_to_drop() {
    let machine = Machine::new(63);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    let gc = ["gc", "--older-than", "1ms"];
    // A node counts the age of its copies in whole seconds.
    let end = Instant::now() + Duration::from_secs(60);
    let shown = loop {
        let shown = machine.flocker(&gc).ended_with(0);
        if shown.data.contains("alpha  destroy  the copy of ledger") {
            break shown;
        }
        assert!(Instant::now() < end, "{}", shown.data);
    };
    assert!(shown.talk.contains("`--yes` does this"), "{}", shown.talk);
    // The owner of the data is silent: whether the copy is a spare one is not known.
    machine.kill("beta");
    let silent = machine.flocker(&["gc", "--older-than", "1ms", "--yes"]);
    assert!(!silent.data.contains("destroy"), "{}", silent.data);
    let why = machine.flocker(&["why", "beta"]).ended_with(0);
    assert!(why.data.contains("next: flocker local up beta"), "{}", why.data);
    machine.flocker(&["local", "up", "beta"]).ended_with(0);
    machine
        .flocker(&["gc", "--older-than", "1ms", "--yes"])
        .ended_with(0);
    let status = machine.flocker(&["status", "--json"]).json();
    let copies = status["datasets"].as_array().unwrap();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(copies[0]["node"], "beta");
}

#[test]
fn what_is_held_says_so_and_what_it_says_to_type_can_be_typed() {
    let machine = Machine::new(64);
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
    let machine = Machine::new(65);
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
    machine
        .flocker(&["promote", "ledger", "--on", "beta", "--yes"])
        .ended_with(0);
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
    let machine = Machine::new(66);
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
fn output_is_one_document_to_a_line_and_there_is_one_where_there_is_none() {
    let machine = Machine::new(67);
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
