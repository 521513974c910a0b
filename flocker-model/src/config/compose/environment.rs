//! The environment of a service.

use super::super::diagnostic::Code;
use super::super::diagnostic::Span;
use super::super::draft::Draft;
use super::super::draft::SecretSource;
use super::super::reader::Reader;
use super::super::yaml::Entry;
use super::super::yaml::Kind;
use super::super::yaml::Node;
use super::super::yaml::Scalar;
use super::super::yaml::Value;
use super::Form;

impl Reader<'_, '_, '_> {
    /// Reads a mapping, or a list of `NAME=VALUE`. A name without a value is fetched from the operator's environment.
    pub(super) fn service_environment(&mut self, node: &Node<'_>, draft: &mut Draft, form: Form) {
        match &node.value {
            Value::Mapping(entries) => {
                for Entry { key, node } in entries {
                    let Some(variable) = self.variable(&key.text, key.span) else {
                        continue;
                    };
                    match &node.value {
                        Value::Scalar(Scalar { kind: Kind::Null, .. }) => {
                            let source = SecretSource::Environment(variable.into());
                            draft.set_secret(variable, source, key.span);
                        }
                        Value::Scalar(Scalar {
                            text,
                            kind: Kind::Bool,
                        }) => draft.set(variable, &text.to_ascii_lowercase()),
                        Value::Scalar(Scalar { text, .. }) => {
                            self.value(variable, text, node.span, draft, form);
                        }
                        Value::Sequence(_) | Value::Mapping(_) => {
                            let message = format!(
                                "the value of `{}` must be a text, a number or a boolean",
                                super::shorten(variable)
                            );
                            self.error(Code::WrongType, node.span, message);
                        }
                    }
                }
            }
            Value::Sequence(items) => self.list_environment(items, draft, form),
            Value::Scalar(_) => {
                let message = "`environment` must be a mapping or a list".into();
                self.error(Code::WrongType, node.span, message);
            }
        }
    }

    fn list_environment(&mut self, items: &[Node<'_>], draft: &mut Draft, form: Form) {
        let mut seen: std::collections::BTreeMap<&str, Span> = std::collections::BTreeMap::new();
        for item in items {
            let Value::Scalar(Scalar {
                text,
                kind: Kind::Text | Kind::Ambiguous,
            }) = &item.value
            else {
                let message = "an item of `environment` must be a text, `NAME=VALUE`".into();
                self.error(Code::WrongType, item.span, message);
                continue;
            };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (text.as_ref(), None),
            };
            let Some(variable) = self.variable(name, item.span) else {
                continue;
            };
            if let Some(first) = seen.insert(variable, item.span) {
                let message = || format!("the variable `{}` stands twice", super::shorten(variable));
                self.conflict(Code::DuplicateKey, item.span, message, (first, "first here"));
                continue;
            }
            if let Some(value) = value {
                self.value(variable, value, item.span, draft, form);
            } else {
                let source = SecretSource::Environment(variable.into());
                draft.set_secret(variable, source, item.span);
            }
        }
    }

    fn value(&mut self, variable: &str, text: &str, span: Span, draft: &mut Draft, form: Form) {
        if form == Form::Compose
            && let Some(name) = whole_variable(text)
        {
            draft.set_secret(variable, SecretSource::Environment(name.into()), span);
            return;
        }
        let what = || format!("the value of `{}`", super::shorten(variable));
        if self.handed_on(text, span, what).is_some()
            && let Some(text) = self.filled(text, span, form)
        {
            draft.set(variable, &text);
        }
    }
}

/// Returns `NAME` of a text that is `${NAME}` or `$NAME` and nothing else.
fn whole_variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let name = match name.strip_prefix('{') {
        Some(name) => name.strip_suffix('}')?,
        None => name,
    };
    let starts_well = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    let is_name = name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    (starts_well && is_name).then_some(name)
}
