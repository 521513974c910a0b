//! `docs/json.md` shows what is really printed.
//!
//! Each command in it is run in `tests/files/`, and the block after it must be
//! its standard output. `SNAPSHOTS=overwrite cargo test -p flocker-cli --test
//! json_documents` writes the blocks anew.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, helper functions and all"
)]

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
