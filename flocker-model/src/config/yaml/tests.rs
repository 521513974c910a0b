use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value as Json;

use super::Kind;
use super::Node;
use super::Value;
use super::parse;
use crate::config::diagnostic::File;
use crate::config::diagnostic::Problems;
use crate::config::diagnostic::Source;

/// Says whether a tree is what another reader of YAML made of the same text.
fn agrees(node: &Node<'_>, other: &Json) -> bool {
    match (&node.value, other) {
        (Value::Sequence(items), Json::Array(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(item, other)| agrees(item, other))
        }
        (Value::Mapping(entries), Json::Object(others)) => {
            entries.len() == others.len()
                && entries.iter().all(|entry| {
                    let other = others.get(entry.key.text.as_ref());
                    other.is_some_and(|other| agrees(&entry.node, other))
                })
        }
        (Value::Scalar(scalar), other) => match scalar.kind {
            Kind::Text => *other == Json::String(scalar.text.to_string()),
            Kind::Null => other.is_null(),
            Kind::Bool => other.as_bool() == Some(scalar.text.eq_ignore_ascii_case("true")),
            Kind::Int | Kind::Float => other.is_number() || other.is_string() || other.is_null(),
            // Another reader may take it for anything; that is why it is called so.
            Kind::Ambiguous => true,
        },
        (Value::Sequence(_) | Value::Mapping(_), _) => false,
    }
}

#[track_caller]
fn check(text: &str) {
    let source = Source::new("text", text);
    let mut problems = Problems::default();
    let root = parse(&File::new(&source), &mut problems);
    let options = serde_yaml::options! { with_snippet: false, strict_booleans: true };
    let other = serde_yaml::from_str_with_options::<Json>(text, options);
    if let (Some(root), Ok(other), false) = (&root, &other, problems.has_errors()) {
        assert!(agrees(root, other), "{text:?} is {root:?}, not {other:?}");
    }
}

#[test]
fn the_tree_is_what_another_reader_sees() {
    for text in [
        "a: &a {b: [1, x, ~]}\nc: *a\nd:\n  <<: *a\n  e: |\n    f\n    g\n",
        "- >\n folded\n text\n- 'it''s'\n- \"\\u00e9\\n\"\n- plain text # not this\n- ? k\n  : v\n",
        "a:\n- b\n- c: d\n  e: f\n-\n",
        "[a, {b: c}, [], {}, '', ~, true, \"true\"]",
        "&k a: 1\nb: *k\n",
    ] {
        check(text);
    }
}

#[test]
fn a_span_is_what_was_written() {
    let text = "key: 'a b'\nlist:\n  - x\n  - {y: z}\nlast: end\n";
    let source = Source::new("text", text);
    let root = parse(&File::new(&source), &mut Problems::default()).unwrap();
    let Value::Mapping(entries) = &root.value else {
        panic!("{root:?}")
    };
    let written: Vec<_> = entries
        .iter()
        .map(|entry| (&text[entry.key.span.range()], &text[entry.node.span.range()]))
        .collect();
    assert_eq!(
        written,
        [("key", "'a b'"), ("list", "- x\n  - {y: z}"), ("last", "end")]
    );
}

proptest! {
    #[test]
    fn the_tree_of_any_text_is_what_another_reader_sees(pieces in vec(prop_oneof![
        Just("a"), Just("b"), Just(": "), Just("\n"), Just("\n  "), Just("- "), Just("["), Just("]"), Just("{"),
        Just("}"), Just(", "), Just("&a "), Just("*a"), Just("<<: "), Just("'"), Just("\""), Just("|\n  "), Just("~"),
        Just("5"), Just("true"), Just("? "), Just("#"), Just("é"),
    ], 0..24)) {
        check(&pieces.concat());
    }
}
