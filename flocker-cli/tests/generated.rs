//! Completions and manual pages are made of what can be typed.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

use snapbox::cmd::Command;

fn run(arguments: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let program = Command::new(snapbox::cmd::cargo_bin!("flocker"));
    let output = program
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn verbs() -> Vec<String> {
    let help = run(&["--help"]);
    let listed = help.split_once("Commands:\n").unwrap().1;
    let listed = listed.split_once("\n\n").unwrap().0;
    let verbs = listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    verbs
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_shell_completes_every_verb() {
    let verbs = verbs();
    assert!(
        verbs.contains(&"deploy".to_owned()) && verbs.len() >= 16,
        "{verbs:?}"
    );
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        for verb in &verbs {
            assert!(script.contains(verb.as_str()), "{shell} does not complete {verb}");
        }
    }
}

#[test]
fn every_verb_has_its_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    run(&["man", folder.path().to_str().unwrap()]);
    for verb in verbs().iter().filter(|verb| *verb != "help") {
        let page = std::fs::read_to_string(folder.path().join(format!("flocker-{verb}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
    let first = std::fs::read_to_string(folder.path().join("flocker.1")).unwrap();
    assert_eq!(first, run(&["man"]));
    assert!(!folder.path().join("flocker-help.1").exists());
}

#[test]
fn the_schemas_are_those_of_the_two_files() {
    for (file, key) in [("application", "applications"), ("deployment", "nodes")] {
        let schema: serde_json::Value = serde_json::from_str(&run(&["schema", file])).unwrap();
        assert!(schema["properties"].get(key).is_some(), "{file}: {schema}");
    }
}

#[test]
fn what_cannot_be_written_is_no_success() {
    let home = tempfile::tempdir().unwrap();
    let flocker = snapbox::cmd::cargo_bin!("flocker");
    for line in [
        "schema application",
        "man",
        "--help",
        "deploy --help",
        "--version",
    ] {
        let typed = format!("exec {} {line} > /dev/full", flocker.display());
        let shell = Command::new("sh").args(["-c", &typed]).env_clear();
        let output = shell.env("HOME", home.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(
            said.contains("caused by: No space left on device"),
            "{line}: {said}"
        );
    }
}
