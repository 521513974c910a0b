//! The places that an argument leaves for what only its node knows: `{volume}`, `{address}`, `{port}` and `{port:NUMBER}`.
//!
//! Programs of local nodes are started with them filled in; a container gets
//! its arguments as they stand, and braces may mean something else to it. So
//! nothing here is an error, and only what is very near is spoken of.

use std::collections::BTreeSet;

use super::diagnostic::Code;
use super::diagnostic::Severity;
use super::diagnostic::Span;
use super::draft::Draft;
use super::reader::Reader;
use super::reader::listed;
use super::yaml::Entry;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Value;
use super::yaml::shorten;

const NAMES: [&str; 3] = ["volume", "address", "port"];

/// Returns what a mapping says of a key.
pub(crate) fn within<'n, 'a>(node: &'n Node<'a>, name: &str) -> Option<&'n Node<'a>> {
    let Value::Mapping(entries) = &node.value else {
        return None;
    };
    let found = entries.iter().find(|Entry { key, .. }| key.text == name);
    found.map(|entry| &entry.node)
}

/// What an application has that a place may stand for.
struct Declared<'d> {
    draft: &'d Draft,
    ports: BTreeSet<u16>,
}

impl Declared<'_> {
    /// Says whether a place is filled; nothing of what is none.
    fn filled(&self, inside: &str) -> Option<bool> {
        match inside {
            "address" => Some(true),
            "volume" => Some(self.draft.application.volume.is_some()),
            "port" => Some(!self.ports.is_empty()),
            _ => {
                let wanted = inside.strip_prefix("port:")?;
                let number = wanted
                    .parse()
                    .ok()
                    .filter(|number: &u16| number.to_string() == wanted);
                Some(number.is_some_and(|number| self.ports.contains(&number)))
            }
        }
    }
}

impl Reader<'_, '_, '_> {
    /// Warns of places that are not filled, in a text or a list of texts.
    pub(crate) fn places(&mut self, node: &Node<'_>, draft: &Draft) {
        let ports = draft.application.ports.iter();
        let ports: BTreeSet<u16> = ports.map(|port| port.internal.get()).collect();
        let declared = Declared { draft, ports };
        match &node.value {
            Value::Sequence(items) => {
                for item in items {
                    if let Value::Scalar(Scalar { text, .. }) = &item.value {
                        self.places_of(text, item.span, &declared);
                    }
                }
            }
            Value::Scalar(Scalar { text, .. }) => self.places_of(text, node.span, &declared),
            Value::Mapping(_) => {}
        }
    }

    fn places_of(&mut self, text: &str, span: Span, declared: &Declared<'_>) {
        let mut rest = text;
        while let Some((piece, after)) = rest.split_once('}') {
            rest = after;
            if let Some((before, inside)) = piece.rsplit_once('{') {
                match declared.filled(inside) {
                    Some(true) => {}
                    Some(false) => self.missing(inside, span, declared),
                    None => self.near_place(before, inside, span),
                }
            }
        }
    }

    fn missing(&mut self, inside: &str, span: Span, Declared { draft, ports }: &Declared<'_>) {
        if self.problems.only_counts(Severity::Warning) {
            return;
        }
        let name = &draft.name;
        let missing = match inside {
            "volume" => format!("a volume, and `{name}` has none"),
            "port" => format!("a port, and `{name}` has none"),
            _ => format!("an internal port that `{name}` does not have"),
        };
        let message = format!("`{{{}}}` asks for {missing}", shorten(inside));
        let ports: Vec<String> = ports.iter().take(8).map(ToString::to_string).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let hint = if inside == "volume" || ports.is_empty() {
            "a program of a local node is not started so; in a container it stands as it is".into()
        } else {
            format!("declared are: {}", listed(&ports))
        };
        self.warn_with(Code::UnfilledPlace, span, message, hint);
    }

    fn near_place(&mut self, before: &str, inside: &str, span: Span) {
        // A shell or another template would fill these itself.
        if before.ends_with(['$', '{', '%', '#']) {
            return;
        }
        let (word, number) = inside
            .split_once([':', ' '])
            .map_or((inside, None), |(word, number)| (word, Some(number)));
        let is_word = word.bytes().all(|byte| byte.is_ascii_alphabetic());
        if !is_word || number.is_some_and(|number| number.trim().parse::<u16>().is_err()) {
            return;
        }
        let Some(near) = self.suggest(word, NAMES.into_iter()) else {
            return;
        };
        let meant = match number {
            Some(number) if near == "port" => format!("{{port:{}}}", number.trim()),
            Some(_) => return,
            None => format!("{{{near}}}"),
        };
        let message = format!(
            "`{{{}}}` stands for nothing, and is not replaced",
            shorten(inside)
        );
        self.warn_with(
            Code::UnfilledPlace,
            span,
            message,
            format!("did you mean `{meant}`?"),
        );
    }
}
