//! What is printed, as a person sees it.
//!
//! Each file under `tests/transcripts/` is what a terminal would show: a
//! command after `$`, its standard output as it is, its standard error behind
//! `!`, and its exit status behind `?` where that is not 0. The commands run
//! in `tests/files/`, with an empty state directory and without colours; no
//! host can be reached from there.
//! `SNAPSHOTS=overwrite cargo test -p flocker-cli --test transcripts` writes
//! them anew.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

use snapbox::cmd::Command;

/// A place to run commands in, and the old names of the program.
struct Terminal {
    state: tempfile::TempDir,
}

impl Terminal {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let bin = state.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in [
            "flocker",
            "flocker-deploy",
            "flocker-reportstate",
            "flocker-changestate",
            "flocker-volume",
        ] {
            std::os::unix::fs::symlink(snapbox::cmd::cargo_bin!("flocker"), bin.join(name)).unwrap();
        }
        Self { state }
    }

    /// Runs one command and returns what a terminal would show after it.
    fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let program = self.state.path().join("bin").join(words.next().unwrap());
        let output = Command::new(program)
            .args(words.map(|word| word.trim_matches('\'')))
            .current_dir(files())
            .env_clear()
            .env("HOME", self.state.path())
            .env("FLOCKER_SSH_CONFIG", "nowhere.ssh_config")
            .env("COLUMNS", "100")
            .output()
            .unwrap();
        let mut shown = format!("$ {line}\n");
        for line in String::from_utf8(output.stdout).unwrap().split_inclusive('\n') {
            // How long ago the command before was is another thing each time.
            if !line.starts_with("     since: ") {
                shown.push_str(line);
            }
        }
        for line in String::from_utf8(output.stderr).unwrap().lines() {
            writeln!(shown, "{}", format!("! {line}").trim_end()).unwrap();
        }
        match output.status.code() {
            Some(0) => {}
            code => writeln!(shown, "? {}", code.unwrap()).unwrap(),
        }
        shown.replace(self.state.path().to_str().unwrap(), "[HOME]")
    }
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files")
}

#[track_caller]
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(name);
    let expected = std::fs::read_to_string(&path).unwrap();
    let terminal = Terminal::new();
    let commands = expected.lines().filter_map(|line| line.strip_prefix("$ "));
    let shown: Vec<String> = commands.map(|line| terminal.run(line)).collect();
    assert!(!shown.is_empty(), "{name} has no command");
    for shown in &shown {
        assert!(!shown.contains("flocker has a bug"), "{shown}");
    }
    snapbox::assert_data_eq!(shown.join("\n"), snapbox::Data::read_from(&path, None).raw());
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        })*

        #[test]
        fn every_transcript_is_checked() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
            let entries = std::fs::read_dir(folder).unwrap();
            let mut found: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            found.sort_unstable();
            let mut listed = vec![$(concat!(stringify!($name), ".txt")),*];
            listed.sort_unstable();
            assert_eq!(found, listed);
        }
    };
}

transcripts! {
    damaged
    help
    plan
    plan_blocked
    refused_input
    saved_plans
    seeds
    status
    udp
    validate
    why
    without_nodes
}
