//! The house is as `ARCHITECTURE.md` says it is.
//!
//! This reads manifests and sources and nothing else. Where it fails, either
//! the change or the document is wrong; it names the file and the line.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

#[path = "tidy/sources.rs"]
mod sources;

use std::collections::BTreeSet;

use sources::Crate;
use sources::Source;
use sources::all_sources;
use sources::crates;
use sources::root;

/// Which of our crates each of our crates may use, in whatever section of its manifest.
const STAIRCASE: &[(&str, &[&str])] = &[
    ("flocker-model", &[]),
    ("flocker-plan", &["flocker-model"]),
    // Itself, with the features that only its tests need.
    ("flocker-backends", &["flocker-model", "flocker-backends"]),
    (
        "flocker-engine",
        &["flocker-model", "flocker-plan", "flocker-backends"],
    ),
    (
        "flocker-cli",
        &[
            "flocker-model",
            "flocker-plan",
            "flocker-backends",
            "flocker-engine",
        ],
    ),
];

/// Which of our crates may use which of others', where only some may.
const ONLY_FOR: &[(&str, &[&str])] = &[
    ("tokio", &["flocker-backends", "flocker-engine", "flocker-cli"]),
    ("clap", &["flocker-cli"]),
    ("anstream", &["flocker-cli"]),
    ("annotate-snippets", &["flocker-cli"]),
    ("serde_yaml", &["flocker-model"]),
    (
        "getrandom",
        &["flocker-backends", "flocker-engine", "flocker-cli"],
    ),
];

/// Fails with every line of the sources that has one of the words and may not.
#[track_caller]
fn forbid(sources: &[Source], words: &[&str], may: impl Fn(&Source, &str) -> bool, why: &str) {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.code() {
            for word in words.iter().filter(|word| sources::has_word(line, word)) {
                if !may(source, line) {
                    found.push(format!("{}:{number}: `{word}`: {}", source.path, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

fn library(name: &str) -> Crate {
    let found = crates().into_iter().find(|one| one.name == name);
    found.unwrap_or_else(|| panic!("there is no crate {name}"))
}

#[test]
fn every_crate_stands_on_its_step_of_the_staircase() {
    for one in crates() {
        let Some((_, may)) = STAIRCASE.iter().find(|(name, _)| *name == one.name) else {
            // The side rooms may look at everything.
            assert!(
                !one.name.starts_with("flocker-")
                    || matches!(&*one.name, "flocker-examples" | "flocker-benches"),
                "{} has no step on the staircase",
                one.name
            );
            continue;
        };
        for used in one.dependencies() {
            assert!(
                // A crate that uses itself turns a feature on for its own tests.
                !used.starts_with("flocker-") || used == one.name || may.contains(&&*used),
                "{} may not use {used}",
                one.name
            );
            let only = ONLY_FOR.iter().find(|(name, _)| *name == used);
            assert!(
                only.is_none_or(|(_, may)| may.contains(&&*one.name)),
                "{} may not use {used}",
                one.name
            );
        }
    }
}

#[test]
fn model_and_plan_never_touch_the_outside_world() {
    for name in ["flocker-model", "flocker-plan"] {
        let words = [
            "tokio",
            "async",
            "await",
            "std::fs",
            "std::io",
            "std::env",
            "std::process",
            "std::thread",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "Instant",
            "SystemTime",
            "RandomState",
            "getrandom",
            "rand",
            "new_v4",
            "tracing",
        ];
        forbid(
            &library(name).sources(),
            &words,
            // What comes of work in shares is the same with any number of threads.
            |source, line| {
                source.path.ends_with("flocker-plan/src/shares.rs") && line.contains("std::thread")
            },
            "values and decisions touch nothing outside of them",
        );
    }
}

#[test]
fn plan_and_backends_do_not_know_each_other() {
    for (name, other) in [
        ("flocker-plan", "flocker_backends"),
        ("flocker-backends", "flocker_plan"),
    ] {
        let one = library(name);
        forbid(
            &one.sources(),
            &[other],
            |_, _| false,
            "only the engine knows both",
        );
        let other = other.replace('_', "-");
        assert!(!one.dependencies().contains(&other), "{name} depends on {other}");
    }
}

#[test]
fn programs_are_spawned_in_one_file_and_never_through_a_shell() {
    let libraries: Vec<Source> = STAIRCASE
        .iter()
        .flat_map(|(name, _)| library(name).sources())
        .collect();
    let the_one = |source: &Source| source.path == "flocker-backends/src/process.rs";
    assert!(
        libraries.iter().any(the_one),
        "flocker-backends/src/process.rs is gone"
    );
    forbid(
        &libraries,
        &[
            "process::Command",
            "Command::new",
            "CommandExt",
            "execve",
            "execvp",
            "fork",
            "posix_spawn",
        ],
        |source, line| the_one(source) || line.contains("clap::Command"),
        "programs are spawned in flocker-backends/src/process.rs only",
    );
    forbid(
        &libraries,
        &[
            "\"sh\"",
            "\"/bin/sh\"",
            "\"bash\"",
            "\"/bin/bash\"",
            "\"-c\"",
            "\"dash\"",
        ],
        |_, _| false,
        "nothing goes through a shell",
    );
    forbid(
        &libraries,
        &["serde_yaml", "serde_saphyr"],
        |source, _| source.path == "flocker-model/src/config/yaml.rs",
        "YAML is read at one door",
    );
}

#[test]
fn only_the_command_line_speaks_to_people() {
    let libraries: Vec<Source> = STAIRCASE
        .iter()
        .flat_map(|(name, _)| library(name).sources())
        .collect();
    let is_ui = |source: &Source| source.path == "flocker-cli/src/ui.rs";
    // A program for those who work on Flocker, which is only built where it is asked for.
    let is_simulate = |source: &Source| source.path.starts_with("flocker-engine/src/bin/");
    forbid(
        &libraries,
        &["print!", "println!", "eprint!", "eprintln!", "dbg!"],
        |_, _| false,
        "what is printed goes through flocker-cli/src/ui.rs",
    );
    forbid(
        &libraries,
        &["stdout()", "stderr()", "anstream"],
        // Handing a stream on to another program is not writing to it.
        |source, line| is_ui(source) || is_simulate(source) || line.contains("as_fd()"),
        "standard output and error are written in flocker-cli/src/ui.rs only",
    );
    forbid(
        &libraries,
        &["env::var", "env::var_os", "env::vars"],
        |source, _| source.path == "flocker-cli/src/cli.rs",
        "the environment is read in flocker-cli/src/cli.rs only",
    );
}

#[test]
fn every_crate_inherits_the_lints() {
    let without: Vec<String> = crates()
        .into_iter()
        .filter(|one| !one.manifest.contains("[lints]\nworkspace = true"))
        .map(|one| one.name)
        .collect();
    assert!(
        without.is_empty(),
        "no `[lints] workspace = true` in {}",
        without.join(", ")
    );
}

#[test]
fn no_file_is_too_long_to_be_held_in_the_head() {
    // Of a rule that grows, a part is a rule of its own.
    let most = |path: &str| if is_rule(path) { 400 } else { 600 };
    let sources = all_sources();
    let long: Vec<String> = sources
        .iter()
        .map(|source| (source.text.lines().count(), &source.path))
        .filter(|(n_lines, path)| *n_lines > most(path))
        .map(|(n_lines, path)| format!("{path} has {n_lines} lines"))
        .collect();
    assert!(
        long.is_empty(),
        "more than 600 lines, or 400 of a rule:\n{}",
        long.join("\n")
    );
    assert!(
        sources.iter().any(|source| is_rule(&source.path)),
        "no rule was looked at"
    );
}

fn is_rule(path: &str) -> bool {
    path.starts_with("flocker-plan/src/rules/")
}

#[test]
fn no_file_has_what_a_merge_leaves_where_two_have_changed_the_same() {
    let mut left = Vec::new();
    let files = sources::all_files();
    for name in ["CHANGELOG.md", "Cargo.lock", ".ci/run", "docs/proof.md"] {
        assert!(files.contains(&root().join(name)), "{name} is not looked at");
    }
    for path in files {
        // A file that a program running beside this one has just removed says nothing.
        for number in sources::conflicts(&std::fs::read(&path).unwrap_or_default()) {
            left.push(format!("{}:{number}", path.display()));
        }
    }
    assert!(left.is_empty(), "marks of a merge:\n{}", left.join("\n"));
    // No mark stands at the beginning of a line here, so that this file is not among them.
    let [ours, base, both, theirs] = ["<", "|", "=", ">"].map(|one| one.repeat(7));
    let text = format!("a\n{ours} HEAD\nb\n{base} 1a2b\nc\n{both}\r\nd\n{theirs} other");
    assert_eq!(sources::conflicts(text.as_bytes()), [2, 4, 6, 8]);
    let harmless = format!("{both}=\n {ours} HEAD\n{theirs}x\n| {base} |\n");
    assert_eq!(sources::conflicts(harmless.as_bytes()), [0; 0]);
}

#[test]
fn nothing_is_exported_or_left_to_chance_by_a_star() {
    let stars: Vec<String> = all_sources()
        .iter()
        .flat_map(|source| {
            let code = source.code().into_iter();
            code.filter(|(_, line)| line.trim_start().starts_with("pub use") && line.contains("::*"))
                .map(|(number, line)| format!("{}:{number}: {line}", source.path))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(
        stars.is_empty(),
        "names are exported one by one:\n{}",
        stars.join("\n")
    );
}

#[test]
fn every_source_file_is_part_of_its_crate() {
    for one in crates() {
        let sources = one.all_sources();
        let declared: BTreeSet<String> = sources.iter().flat_map(Source::declared_modules).collect();
        for source in &sources {
            let within = source.within(&one);
            let is_entrance = sources::is_entrance(&within) || one.manifest.contains(&within);
            assert!(
                is_entrance || declared.contains(source.stem()),
                "{} is in no module",
                source.path
            );
        }
    }
}

#[test]
fn every_file_of_the_tests_is_used() {
    for one in crates() {
        let sources = one.all_sources();
        let said: String = sources.iter().map(|source| source.text.as_str()).collect();
        let transcripts: String = one
            .test_files()
            .iter()
            .filter(|path| path.extension().is_some_and(|kind| kind == "txt"))
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .collect();
        for path in one.test_files() {
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_source = path.extension().is_some_and(|kind| kind == "rs");
            // A folder whose name stands in the code is read as a whole; `files` is not: each of it is asked for.
            let folders = path.parent().unwrap().components().rev();
            let is_in_named_folder = folders
                .map(|folder| folder.as_os_str().to_str().unwrap())
                .take_while(|folder| *folder != "tests")
                .any(|folder| folder != "files" && said.contains(&format!("/{folder}")));
            assert!(
                is_source || is_in_named_folder || said.contains(name) || transcripts.contains(name),
                "{} is used by no test",
                path.display()
            );
        }
    }
}

#[test]
fn each_of_the_ten_rules_has_its_test() {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let sources = all_sources();
    let mut n_rules = 0;
    for line in document.lines() {
        let Some((number, rule)) = line.split_once(". ") else {
            continue;
        };
        let Some((_, test)) = rule.split_once("— test `") else {
            continue;
        };
        n_rules += 1;
        assert_eq!(number, n_rules.to_string(), "the rules are numbered in order");
        let test = test.trim_end().trim_end_matches('`');
        let is_there = sources.iter().any(|source| source.has_test(test));
        assert!(
            is_there,
            "rule {number} names the test `{test}`, which does not exist"
        );
    }
    assert_eq!(n_rules, 10, "ARCHITECTURE.md has ten rules, each with its test");
}

#[test]
fn what_is_looked_for_would_be_found() {
    assert!(sources::has_word("    println!(\"x\");", "println!"));
    assert!(!sources::has_word("    eprintln!(\"x\");", "println!"));
    assert!(sources::has_word("use tokio::fs;", "tokio"));
    assert!(!sources::has_word("let not_tokio = 1;", "tokio"));
    assert!(sources::has_word("spawn(\"sh\")", "\"sh\""));
    let source = Source {
        path: "flocker-model/src/x.rs".into(),
        text: "// tokio\nlet a = \"http://tokio\"; // tokio\n#[cfg(test)]\nmod tests { use tokio; }\n".into(),
    };
    let code = source.code();
    assert_eq!(code, [(1, ""), (2, "let a = \"http://tokio\"; ")]);
    let law = Source {
        path: "flocker-plan/tests/laws.rs".into(),
        text: "#[test]\nfn a_law() {}\nfn no_test() {}\n#[tokio::test]\nasync fn later() {}\n".into(),
    };
    assert!(law.has_test("a_law") && law.has_test("later") && !law.has_test("no_test"));
}

#[test]
#[should_panic(expected = "flocker-model/src/x.rs:1: `tokio`")]
fn what_is_forbidden_is_named_with_its_line() {
    let source = Source {
        path: "flocker-model/src/x.rs".into(),
        text: "use tokio::fs;".into(),
    };
    forbid(&[source], &["tokio"], |_, _| false, "a reason");
}
