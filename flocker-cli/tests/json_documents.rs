//! `docs/json.md` shows what is really printed.
//!
//! Each command in it is run in `tests/files/`, and the block after it must be
//! its standard output. `SNAPSHOTS=overwrite cargo test -p flocker-cli --test
//! json_documents` writes the blocks anew.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

use std::collections::BTreeSet;
use std::path::Path;

use snapbox::cmd::Command;

const BEFORE: &str = "```console\n$ flocker ";
const BETWEEN: &str = "\n```\n```json\n";
const AFTER: &str = "```\n";

fn run(line: &str, home: &Path) -> String {
    let output = Command::new(snapbox::cmd::cargo_bin!("flocker"))
        .args(line.split_whitespace())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files"))
        .env_clear()
        .env("HOME", home)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for document in serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>() {
        let document = document.unwrap();
        assert_eq!(document["version"], 1, "{line}");
        assert_eq!(document["command"], line.split_whitespace().next().unwrap());
    }
    text
}

#[test]
fn every_example_in_the_description_is_what_is_printed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let described = std::fs::read_to_string(&path).unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut printed = String::new();
    let mut rest = described.as_str();
    let mut n_examples = 0;
    while let Some((text, after)) = rest.split_once(BEFORE) {
        let (line, after) = after.split_once(BETWEEN).unwrap();
        let end = after.find(AFTER).unwrap();
        let block = run(line, home.path());
        printed.extend([text, BEFORE, line, BETWEEN, &block]);
        rest = &after[end..];
        n_examples += 1;
    }
    printed.push_str(rest);
    assert!(n_examples >= 7, "docs/json.md has {n_examples} examples");
    snapbox::assert_data_eq!(printed, snapbox::Data::read_from(&path, None).raw());
}

/// Returns the words that a tag may be, as the program itself lists them when it reads one that it does not know.
fn words<T: serde::de::DeserializeOwned + std::fmt::Debug>(tag: &str) -> BTreeSet<String> {
    let unknown = serde_json::json!({ tag: "?" });
    let said = serde_json::from_value::<T>(unknown).unwrap_err().to_string();
    let (_, listed) = said.split_once("expected one of ").expect("a list of all");
    backticked(listed)
}

fn backticked(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_word_is_described_and_none_that_is_not_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let described = std::fs::read_to_string(path).unwrap();
    let (_, described) = described.split_once("\n## Words\n").unwrap();
    for (tag, words) in [
        ("refused", words::<flocker_plan::Refusal>("refused")),
        ("waiting", words::<flocker_plan::Waiting>("waiting")),
        ("cause", words::<flocker_model::Silence>("cause")),
        ("reason", words::<flocker_plan::Reason>("reason")),
        ("action", words::<flocker_plan::Action>("action")),
        ("fact", words::<flocker_plan::Fact>("fact")),
    ] {
        let (_, list) = described.split_once(&format!("\n`{tag}`: ")).unwrap();
        let items = list
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with("- "))
            .map(|line| line.split_once(':').unwrap().0);
        let listed: BTreeSet<String> = items.flat_map(backticked).collect();
        assert_eq!(listed, words, "{tag}");
    }
}
