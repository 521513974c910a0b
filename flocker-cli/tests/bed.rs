//! The programs of `tests/real/bed` say what they are for, stop at the first failure, and are all written about.
//!
//! That they work is seen by who has root: `tests/real/bed/conformance`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

/// What is in the folder and is no program.
const NO_PROGRAMS: [&str; 3] = ["README.md", "furnish.bash", "settings.bash"];

fn bed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/bed")
}

fn programs() -> Vec<(String, PathBuf, String)> {
    let mut programs: Vec<_> = bed()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !NO_PROGRAMS.contains(&name.as_str()))
        .map(|(name, path)| {
            let text = std::fs::read_to_string(&path).unwrap();
            (name, path, text)
        })
        .collect();
    programs.sort();
    assert!(!programs.is_empty());
    programs
}

#[test]
fn every_program_of_the_bed_says_what_it_is_for() {
    for (name, path, text) in programs() {
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("#!/bin/bash"), "{name}");
        let purpose = lines.next().unwrap();
        assert!(purpose.starts_with(&format!("# {name}")), "{name}: {purpose}");
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name} cannot be run");
    }
}

#[test]
fn every_program_of_the_bed_stops_at_the_first_failure() {
    let settings = std::fs::read_to_string(bed().join("settings.bash")).unwrap();
    assert!(settings.lines().any(|line| line == "set -euo pipefail"));
    for (name, _, text) in programs() {
        let stops = text.lines().any(|line| {
            line == "set -euo pipefail" || line == r#". "$(dirname "${BASH_SOURCE[0]}")/settings.bash""#
        });
        assert!(stops, "{name} goes on after a failure");
    }
}

#[test]
fn every_program_of_the_bed_is_known_to_who_needs_it() {
    let mut known = std::fs::read_to_string(bed().join("README.md")).unwrap();
    for (_, _, text) in programs() {
        known += &text;
    }
    for (name, _, text) in programs() {
        let elsewhere = known.replacen(&text, "", 1);
        let ways = [format!("/{name}"), format!("`{name} "), format!("`{name}`")];
        assert!(
            ways.iter().any(|way| elsewhere.contains(way)),
            "{name} is neither called nor written about"
        );
    }
}
