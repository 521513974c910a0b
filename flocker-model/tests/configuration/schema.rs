use boon::Compiler;
use boon::SchemaIndex;
use boon::Schemas;
use flocker_model::config::Source;
use flocker_model::config::marshal;
use flocker_model::config::schema;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

use crate::corpus::Case;
use crate::corpus::cases;

/// The two schemas, compiled.
struct Checked {
    schemas: Schemas,
    application: SchemaIndex,
    deployment: SchemaIndex,
}

impl Checked {
    fn new() -> Self {
        let mut schemas = Schemas::new();
        let mut compile = |name: &str, schema: Value| {
            let mut compiler = Compiler::new();
            compiler.add_resource(name, schema).unwrap();
            compiler.compile(name, &mut schemas).unwrap()
        };
        let application = compile("memory:/application", schema::application());
        let deployment = compile("memory:/deployment", schema::deployment());
        Self {
            schemas,
            application,
            deployment,
        }
    }

    fn refusal(&self, source: &Source, piece: &Value) -> Option<String> {
        let schema = if source.name.ends_with(".nodes.yml") {
            self.deployment
        } else {
            self.application
        };
        let refused = self.schemas.validate(piece, schema).err()?;
        Some(format!("{} in {piece}: {refused:#}", source.name))
    }
}

/// Returns the file that a case is about: the deployment file, if there is one beside an empty application file.
fn subjects(case: &Case) -> Vec<&Source> {
    std::iter::once(&case.application).chain(&case.nodes).collect()
}

/// Reads a file with another reader than ours.
fn value(source: &Source) -> Value {
    serde_yaml::from_str(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.name))
}

/// Splits a file so that each piece has one application or one node, if the file is right around them.
fn pieces(document: &Value) -> Vec<Value> {
    for key in ["applications", "nodes"] {
        if let Some(Value::Object(entries)) = document.get(key)
            && document.get("version") == Some(&json!(1))
            && !entries.is_empty()
        {
            let piece = |(name, entry): (&String, &Value)| json!({"version": 1, key: {name: entry}});
            return entries.iter().map(piece).collect();
        }
    }
    vec![document.clone()]
}

#[test]
fn the_schema_takes_what_the_parser_takes() {
    let checked = Checked::new();
    for case in cases("valid") {
        for source in subjects(&case) {
            assert_eq!(checked.refusal(source, &value(source)), None);
        }
    }
}

#[test]
fn the_schema_refuses_every_single_mistake_that_one_file_shows() {
    let checked = Checked::new();
    for case in cases("invalid/schema") {
        let subject = case.nodes.as_ref().unwrap_or(&case.application);
        for piece in pieces(&value(subject)) {
            assert!(
                checked.refusal(subject, &piece).is_some(),
                "{} takes {piece}",
                subject.name
            );
        }
    }
}

#[test]
fn the_rest_is_seen_by_the_parser_alone() {
    let checked = Checked::new();
    for case in cases("invalid/parser") {
        for source in subjects(&case) {
            assert_eq!(checked.refusal(source, &value(source)), None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_schema_takes_what_is_printed((deployment, sources) in crate::properties::deployment()) {
        let checked = Checked::new();
        let printed = marshal::print(&deployment, &sources);
        for source in [Source::new("a.yml", printed.application), Source::new("b.nodes.yml", printed.deployment)] {
            prop_assert_eq!(checked.refusal(&source, &value(&source)), None);
        }
    }
}
