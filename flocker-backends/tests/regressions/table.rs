//! The table of the original's defects names tests that exist, and leaves none of the defects out.

use std::fmt::Write as _;
use std::path::Path;

/// Everything that may hold a test, as one text.
fn sources(directory: &Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            writeln!(text, "fn {name}(").unwrap();
        }
    }
}

#[test]
fn the_table_names_every_defect_and_only_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = std::fs::read_to_string(root.join("docs/regressions.md")).unwrap();
    let mut text = String::new();
    sources(root, &mut text);
    for number in 1..=26 {
        assert!(
            table.contains(&format!("\n| L{number} |")),
            "L{number} is not in the table"
        );
    }
    let rows = table.lines().filter(|line| line.starts_with("| L"));
    let mut n_tests = 0;
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        n_tests += 1;
        assert!(
            text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<")),
            "{name}"
        );
    }
    assert!(n_tests > 60, "only {n_tests} tests are named");
    // And none that is numbered is left out.
    for name in text
        .split("fn l")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
    {
        let numbered = name.len() > 3
            && name.as_bytes()[..2].iter().all(u8::is_ascii_digit)
            && name.as_bytes()[2] == b'_';
        assert!(
            !numbered || table.contains(&format!("`l{name}`")),
            "l{name} is not in the table"
        );
    }
}

#[test]
fn the_list_of_faults_names_only_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let list = std::fs::read_to_string(root.join("docs/faults-real.md")).unwrap();
    let mut text = String::new();
    sources(root, &mut text);
    let mut n_tests = 0;
    // Of rows with a fault, where it was caused, a test and what came of it.
    for tests in list.lines().filter_map(|line| line.split('|').nth(3)) {
        for name in tests.split('`').skip(1).step_by(2) {
            n_tests += 1;
            assert!(text.contains(&format!("fn {name}(")), "{name}");
        }
    }
    assert!(n_tests > 40, "only {n_tests} tests are named");
}
