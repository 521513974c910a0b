use std::fmt::Write as _;

use flocker_model::config::Code;
use flocker_model::config::Source;
use flocker_model::config::load;

/// The codes that only the texts of `tests/budget` bring out, and what is no text.
pub(crate) fn codes() -> impl Iterator<Item = Code> {
    [Code::FileTooLarge, Code::TooManyValues, Code::NotUtf8].into_iter()
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
