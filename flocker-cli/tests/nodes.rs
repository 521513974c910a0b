//! Commands on nodes: real processes on this machine, real files, real TCP.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

#[path = "nodes/answers.rs"]
mod answers;
#[path = "nodes/seeds.rs"]
mod seeds;

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
        for name in [
            "flocker-deploy",
            "flocker-reportstate",
            "flocker-changestate",
            "flocker-volume",
        ] {
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
    assert!(
        why.data.contains("it answered this machine last ") && why.data.contains(" ago"),
        "{}",
        why.data
    );
    machine.flocker(&["local", "up", "beta"]).ended_with(0);
    machine
        .flocker(&["gc", "--older-than", "1ms", "--yes"])
        .ended_with(0);
    let status = machine.flocker(&["status", "--json"]).json();
    let copies = status["datasets"].as_array().unwrap();
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(copies[0]["node"], "beta");
}

/// Where applications run, by what is seen.
fn homes(machine: &Machine) -> Vec<(String, String)> {
    let status = machine.flocker(&["status", "--json"]).json();
    let rows = status["applications"].as_array().unwrap();
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| (word(row, "application"), word(row, "node")))
        .collect()
}

#[test]
fn a_node_that_was_made_anew_is_a_stranger_until_the_old_one_is_forgotten() {
    let machine = Machine::new(64);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    machine
        .flocker(&["local", "down", "beta", "--delete-data", "--yes"])
        .ended_with(0);
    machine.flocker(&["local", "up", "beta"]).ended_with(0);

    // It is empty, and that says nothing of the data of the one that is gone.
    let status = machine.flocker(&["status"]).ended_with(1);
    for said in [
        "answers under this name, but alpha remembers node",
        "`flocker node forget beta` says so",
        "ledger waits to see beta",
    ] {
        assert!(status.data.contains(said), "{said}: {}", status.data);
    }
    let planned = machine.flocker(&["plan", "--json", "beta.yml", "app.yml"]).json();
    assert_eq!(planned["silent"][0]["cause"], "impostor", "{planned}");
    assert_eq!(planned["steps"].as_array().unwrap().len(), 0, "{planned}");
    let promoted = machine
        .flocker(&["promote", "ledger", "--on", "alpha", "--yes"])
        .ended_with(1);
    assert!(promoted.data.contains("waits to see beta"), "{promoted:?}");
    assert!(
        !promoted.data.contains("everything is as it is to be"),
        "{promoted:?}"
    );

    let forgotten = machine.flocker(&["node", "forget", "beta"]).ended_with(0);
    assert!(
        forgotten.talk.contains("beta is the machine that answers by now"),
        "{forgotten:?}"
    );
    // The copy that is left is older than what was lost: a person says that it is good enough.
    let refused = machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(1);
    assert!(refused.talk.contains("no node owns it"), "{refused:?}");
    machine
        .flocker(&["promote", "ledger", "--on", "alpha", "--yes"])
        .ended_with(0);
    machine
        .flocker(&["deploy", "--yes", "beta.yml", "app.yml"])
        .ended_with(0);
    assert_eq!(machine.settled_home("beta.yml").unwrap(), "beta");
    // Whoever has taken its place is remembered, and is not made good by yet another one.
    machine
        .flocker(&["local", "down", "beta", "--delete-data", "--yes"])
        .ended_with(0);
    machine.flocker(&["local", "up", "beta"]).ended_with(0);
    machine.flocker(&["status"]).ended_with(1);
}

#[test]
fn what_does_not_exist_is_neither_forgotten_nor_undone_nor_promoted() {
    let machine = Machine::new(65);
    for (arguments, message) in [
        (&["node", "forget", "nosuch"][..], "there is no node `nosuch`"),
        (&["node", "remember", "nosuch"], "there is no node `nosuch`"),
        (&["undo", "nosuch", "--yes"], "there is no application `nosuch`"),
        (
            &["undo", "ledger", "--on", "nosuch", "--yes"],
            "there is no node `nosuch`",
        ),
        (
            &["promote", "ledger", "--on", "nosuch", "--yes"],
            "there is no node `nosuch`",
        ),
    ] {
        let refused = machine.flocker(arguments).ended_with(2);
        assert!(refused.talk.contains(message), "{arguments:?}: {}", refused.talk);
        assert!(refused.talk.contains("hint: "), "{arguments:?}: {}", refused.talk);
    }
    // What exists and has nothing to undo is as it was: that is no error.
    let nothing = machine.flocker(&["undo", "ledger", "--yes"]).ended_with(0);
    assert!(nothing.talk.contains("nothing to undo"), "{nothing:?}");
    // A node that has no copy is not made the owner, and that is not taken for done.
    let promoted = machine
        .flocker(&["promote", "ledger", "--on", "beta", "--yes"])
        .ended_with(1);
    assert!(promoted.data.contains("alpha owns the data"), "{promoted:?}");
    machine
        .flocker(&["promote", "ledger", "--on", "alpha", "--yes"])
        .ended_with(0);
}

#[test]
fn a_node_that_is_lost_is_called_lost_in_what_a_deploy_says() {
    let machine = Machine::new(66);
    machine
        .flocker(&["local", "down", "beta", "--delete-data", "--yes"])
        .ended_with(0);
    machine.flocker(&["node", "forget", "beta"]).ended_with(0);
    machine.write("alone.yml", "version: 1\nnodes: {alpha: [ledger]}\n");
    let deployed = machine
        .flocker(&["deploy", "--yes", "alone.yml", "app.yml"])
        .ended_with(0);
    assert!(
        deployed
            .talk
            .contains("beta was not seen: it was declared lost for ever"),
        "{}",
        deployed.talk
    );
    assert!(!deployed.talk.contains("asked"), "{}", deployed.talk);
    // Nothing is awaited of it.
    let all = machine.flocker(&["report-state"]).ended_with(0);
    assert!(all.talk.contains("beta was not seen"), "{}", all.talk);
}

#[test]
fn files_that_were_refused_are_not_remembered() {
    let machine = Machine::new(67);
    machine.write("nothing.yml", "version: 1\nnodes: {alpha: [], beta: []}\n");
    let refused = machine
        .flocker(&["deploy", "--yes", "nothing.yml", "app.yml"])
        .ended_with(1);
    assert!(refused.talk.contains("would be stopped"), "{}", refused.talk);
    // Without files, what was obeyed last counts.
    let status = machine.flocker(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["plan"]["settled"], true, "{status}");
    machine
        .flocker(&["deploy", "--yes", "--allow-stop-all", "nothing.yml", "app.yml"])
        .ended_with(0);
    let status = machine.flocker(&["status", "--json"]).ended_with(0).json();
    assert_eq!(status["plan"]["settled"], true, "{status}");
    assert_eq!(homes(&machine), []);
}

#[test]
fn an_undo_moves_one_application_alone() {
    let machine = Machine::new(68);
    let files = std::fs::read_to_string(machine.path("app.yml")).unwrap();
    machine.write(
        "two.yml",
        &format!("{files}  clock:\n    image: /bin/sleep\n    command_line: ['600']\n"),
    );
    machine.write(
        "nodes.yml",
        "version: 1\nnodes: {alpha: [ledger, clock], beta: []}\n",
    );
    machine
        .flocker(&["deploy", "--yes", "nodes.yml", "two.yml"])
        .ended_with(0);
    machine.write(
        "nodes.yml",
        "version: 1\nnodes: {alpha: [clock], beta: [ledger]}\n",
    );
    machine
        .flocker(&["deploy", "--yes", "nodes.yml", "two.yml"])
        .ended_with(0);
    let pair = |application: &str, node: &str| (application.to_owned(), node.to_owned());
    assert_eq!(homes(&machine), [pair("clock", "alpha"), pair("ledger", "beta")]);
    // Somebody has begun to write the next version of the file; it was not deployed.
    machine.write(
        "nodes.yml",
        "version: 1\nnodes: {alpha: [], beta: [clock, ledger]}\n",
    );
    let undone = machine.flocker(&["undo", "ledger", "--yes"]).ended_with(0);
    assert!(
        undone.talk.contains("ledger moved from beta to alpha"),
        "{}",
        undone.talk
    );
    assert_eq!(homes(&machine), [pair("clock", "alpha"), pair("ledger", "alpha")]);
}
