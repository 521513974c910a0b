use std::fmt::Write as _;

use flocker_model::config::Code;
use flocker_model::config::Diagnostic;
use flocker_model::config::Source;
use flocker_model::config::load;

fn refused(text: impl Into<String>) -> Vec<Diagnostic> {
    let nodes = Source::new("nodes.yml", "{version: 1, nodes: {}}");
    load(&Source::new("hostile.yml", text), &nodes).unwrap_err()
}

/// Texts that are too large to keep as files, and what they are refused for.
fn texts() -> Vec<(Code, String)> {
    let quadratic = format!("a: &a {:?}\nb: [{}]\n", "x".repeat(20_000), "*a, ".repeat(20_000));
    let mut chain = String::from("a0: &a0 {k: v}\n");
    for i in 1..3_000 {
        writeln!(chain, "a{i}: &a{i} {{<<: *a{}, k{i}: v}}", i - 1).unwrap();
    }
    vec![
        (Code::FileTooLarge, "a".repeat((5 << 19) + 1)),
        (Code::TooManyValues, format!("[{}]", "a,".repeat(700_000))),
        (Code::NestedTooDeeply, "[".repeat(20_000)),
        (Code::NestedTooDeeply, "- ".repeat(20_000)),
        (Code::NestedTooDeeply, "{a: ".repeat(20_000)),
        (Code::NestedTooDeeply, "? ".repeat(20_000)),
        (
            Code::TooManyAliases,
            format!("{quadratic}c: &c [{}]\n", "*a, ".repeat(20_000)),
        ),
        (Code::TooManyAliases, chain),
        (Code::WrongType, "x".repeat(5 << 19)),
        (Code::WrongType, format!("\"{}\"", "\\x01".repeat(100_000))),
        (Code::DuplicateKey, "a: 1\n".repeat(30_000)),
        (Code::TooManyProblems, "a: 1\n".repeat(30_000)),
        (
            Code::UnknownKey,
            (0..20_000).fold(String::from("version: 1\napplications: {}\n"), |mut text, i| {
                writeln!(text, "k{i}: 1").unwrap();
                text
            }),
        ),
        (
            Code::UnknownKey,
            (0..20_000).fold(String::from("{version: 1, applications: {}"), |mut text, i| {
                write!(text, ", k{i}: 1").unwrap();
                text
            }) + "}",
        ),
        (
            Code::UnknownApplication,
            (0..40_000).fold(
                String::from("version: 1\napplications:\n  a:\n    image: x\n    depends_on:\n"),
                |mut text, i| {
                    writeln!(text, "    - unknown-{i:08}").unwrap();
                    text
                },
            ),
        ),
        (Code::YamlSyntax, "&a ".repeat(100_000)),
        (Code::YamlSyntax, "\u{0}".repeat(1000)),
        (Code::YamlSyntax, "\"".into()),
    ]
}

/// The codes that only these texts bring out.
pub(crate) fn codes() -> impl Iterator<Item = Code> {
    [Code::FileTooLarge, Code::TooManyValues].into_iter()
}

#[test]
fn a_hostile_text_is_refused_for_what_it_is() {
    for (code, text) in texts() {
        let start: String = text.chars().take(30).collect();
        let diagnostics = refused(text);
        let codes: Vec<_> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        assert!(codes.contains(&code), "{start:?} gave {codes:?}");
        // What is said stays short, whatever was given.
        assert!(diagnostics.len() <= 201, "{start:?}");
        for diagnostic in &diagnostics {
            let n_shown = diagnostic.message.len() + diagnostic.hint.as_ref().map_or(0, String::len);
            assert!(n_shown < 2000, "{start:?} gave {n_shown} bytes");
        }
    }
}

#[test]
fn a_large_honest_file_is_read() {
    let mut application = String::from("version: 1\napplications:\n");
    let mut nodes = String::from("version: 1\nnodes:\n");
    for i in 0..10_000_u32 {
        let (port, node) = (i % 60_000 + 1, i % 100);
        writeln!(
            application,
            "  service-{i}:\n    image: registry.example/team/service:{i}\n    ports: [{{internal: 80, external: {port}}}]\n    volume: {{mountpoint: /data}}\n    environment: {{MODE: production}}\n    depends_on: [service-{}]",
            i.saturating_sub(1).max(u32::from(i == 0)),
        )
        .unwrap();
        if i % 200 == 0 {
            write!(nodes, "{}  node-{node}-{i}: [", if i == 0 { "" } else { "]\n" }).unwrap();
        }
        write!(nodes, "service-{i}, ").unwrap();
    }
    nodes.push_str("]\n");
    // The first depends on the second, and would wait for itself.
    let application = application.replacen("depends_on: [service-1]", "depends_on: []", 1);
    assert!(application.len() > 1_700_000);
    let loaded = load(
        &Source::new("app.yml", application),
        &Source::new("nodes.yml", nodes),
    );
    let deployment = loaded.unwrap().resolve(|_| Err(String::new())).unwrap();
    assert_eq!(deployment.applications().len(), 10_000);
    assert_eq!(deployment.members().len(), 50);
}

#[test]
fn a_line_of_any_length_is_read() {
    let mut application = String::from("{version: 1, applications: {a: {image: x, environment: {");
    for i in 0..20_000 {
        write!(application, "V{i}: {{from_file: f}}, ").unwrap();
    }
    application.push_str("}}}}");
    let nodes = Source::new("nodes.yml", "{version: 1, nodes: {alpha: [a]}}");
    let loaded = load(&Source::new("app.yml", application), &nodes).unwrap();
    assert_eq!(loaded.secrets().len(), 20_000);
}
