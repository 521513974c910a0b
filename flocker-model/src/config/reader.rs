//! Takes typed values out of a tree, and says where and why where it cannot.
//!
//! Every method reports what is wrong itself and returns nothing then, so
//! that a caller goes on with the next field and all problems come out at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::diagnostic::Code;
use super::diagnostic::Diagnostic;
use super::diagnostic::File;
use super::diagnostic::Problems;
use super::diagnostic::Severity;
use super::diagnostic::Span;
use super::yaml::Entry;
use super::yaml::Kind;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Value;
use super::yaml::shorten;
use crate::number::PortNumber;

/// One file, and where its problems go.
pub(crate) struct Reader<'r, 'f, 's> {
    pub(crate) file: &'f File<'s>,
    pub(crate) problems: &'r mut Problems,
}

/// The keys that a mapping may have.
pub(crate) struct Keys {
    /// What the mapping is, with its article: `a port`.
    pub(crate) what: &'static str,
    pub(crate) known: &'static [&'static str],
    /// Keys that another tool knows, and why they are refused.
    pub(crate) unsupported: &'static [(&'static str, &'static str)],
    /// Whether keys that begin with `x-` are left alone.
    pub(crate) extensions: bool,
}

/// A mapping whose keys were checked.
pub(crate) struct Fields<'n, 'a> {
    entries: &'n [Entry<'a>],
    what: &'static str,
    pub(crate) span: Span,
}

impl<'n, 'a> Fields<'n, 'a> {
    /// Returns the value of a key that is there, even if it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node<'a>> {
        self.entries
            .iter()
            .find(|entry| entry.key.text == key)
            .map(|entry| &entry.node)
    }
}

impl<'s> Reader<'_, '_, 's> {
    pub(crate) fn new<'r, 'f>(file: &'f File<'s>, problems: &'r mut Problems) -> Reader<'r, 'f, 's> {
        Reader { file, problems }
    }

    pub(crate) fn text(&self) -> &'s str {
        &self.file.source.text
    }

    fn report(&mut self, severity: Severity, code: Code, span: Span, message: String, hint: Option<String>) {
        if self.problems.only_counts(severity) {
            return;
        }
        self.problems.push(Diagnostic {
            severity,
            code,
            message,
            place: self.file.place(span),
            also: Vec::new(),
            hint,
        });
    }

    pub(crate) fn error(&mut self, code: Code, span: Span, message: String) {
        self.report(Severity::Error, code, span, message, None);
    }

    pub(crate) fn error_with(&mut self, code: Code, span: Span, message: String, hint: impl Into<String>) {
        self.report(Severity::Error, code, span, message, Some(hint.into()));
    }

    pub(crate) fn warn_with(&mut self, code: Code, span: Span, message: String, hint: impl Into<String>) {
        self.report(Severity::Warning, code, span, message, Some(hint.into()));
    }

    /// Reports an error that takes two places of one file. Of those that are not listed any more nobody makes the text.
    pub(crate) fn conflict(
        &mut self,
        code: Code,
        span: Span,
        message: impl FnOnce() -> String,
        first: (Span, &str),
    ) {
        if self.problems.only_counts(Severity::Error) {
            return;
        }
        self.problems.push(Diagnostic {
            severity: Severity::Error,
            code,
            message: message(),
            place: self.file.place(span),
            also: vec![(self.file.place(first.0), first.1.into())],
            hint: None,
        });
    }

    pub(crate) fn wrong_type(&mut self, node: &Node<'_>, what: &str, wanted: &str) {
        let message = format!("{what} must be {wanted}, not {}", describe(node));
        let quoting_helps = wanted == "a text" && matches!(&node.value, Value::Scalar(_));
        let hint = match &node.value {
            Value::Scalar(Scalar { kind, text }) if quoting_helps && *kind != Kind::Null => {
                Some(format!("put it in quotes: \"{}\"", shorten(text)))
            }
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => None,
        };
        self.report(Severity::Error, Code::WrongType, node.span, message, hint);
    }

    /// Returns a text. Numbers, booleans and nulls are not texts.
    pub(crate) fn string<'n>(&mut self, node: &'n Node<'_>, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(Scalar {
                text,
                kind: Kind::Text | Kind::Ambiguous,
            }) => self.handed_on(text, node.span, || what),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, what, "a text");
                None
            }
        }
    }

    /// Returns a text that can be an argument of a program, or part of its environment.
    pub(crate) fn handed_on<'n, T: Display>(
        &mut self,
        text: &'n str,
        span: Span,
        what: impl FnOnce() -> T,
    ) -> Option<&'n str> {
        if text.contains('\0') {
            let what = what();
            let message = format!("{what} must not have a NUL character: no program can be given one");
            self.error(Code::BadText, span, message);
            return None;
        }
        Some(text)
    }

    /// Returns the text of a scalar that may be written as a text or as a number, and is not null.
    pub(crate) fn quantity<'n>(&mut self, node: &'n Node<'_>, what: &str, wanted: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar(Scalar {
                text,
                kind: Kind::Text | Kind::Ambiguous | Kind::Int | Kind::Float,
            }) => Some(text),
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, what, wanted);
                None
            }
        }
    }

    /// Returns a text that was parsed.
    pub(crate) fn parsed<T>(&mut self, node: &Node<'_>, what: &str, code: Code) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.string(node, what)?;
        self.parse(text, node.span, code)
    }

    /// Returns what a text says.
    pub(crate) fn parse<T>(&mut self, text: &str, span: Span, code: Code) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(code, span, error.to_string());
                None
            }
        }
    }

    /// Returns an integer of a range. A boolean is none, and neither is a number in quotes.
    pub(crate) fn number(&mut self, node: &Node<'_>, what: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        match &node.value {
            Value::Scalar(Scalar {
                text,
                kind: Kind::Int,
            }) => {
                let number = text.parse().ok().filter(|number| range.contains(number));
                if number.is_none() {
                    let message = format!("{what} must be {}, not {}", wanted(), shorten(text));
                    self.error(Code::BadNumber, node.span, message);
                }
                number
            }
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, what, &wanted());
                None
            }
        }
    }

    pub(crate) fn port(&mut self, node: &Node<'_>, what: &str) -> Option<PortNumber> {
        let number = self.number(node, what, 1..=65535)?;
        PortNumber::new(u16::try_from(number).ok()?)
    }

    pub(crate) fn list<'n, 'a>(&mut self, node: &'n Node<'a>, what: &str) -> Option<&'n [Node<'a>]> {
        match &node.value {
            Value::Sequence(items) => Some(items),
            Value::Scalar(_) | Value::Mapping(_) => {
                self.wrong_type(node, what, "a list");
                None
            }
        }
    }

    /// Returns the texts of a list; those that are none are reported and left out.
    pub(crate) fn strings(&mut self, node: &Node<'_>, what: &str, each: &str) -> Option<Vec<Box<str>>> {
        let items = self.list(node, what)?;
        let texts = items.iter().filter_map(|item| self.string(item, each));
        Some(texts.map(Into::into).collect())
    }

    pub(crate) fn mapping<'n, 'a>(&mut self, node: &'n Node<'a>, what: &str) -> Option<&'n [Entry<'a>]> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            Value::Scalar(_) | Value::Sequence(_) => {
                self.wrong_type(node, what, "a mapping");
                None
            }
        }
    }

    /// Returns a mapping of known keys; every key that is not known is named.
    pub(crate) fn fields<'n, 'a>(&mut self, node: &'n Node<'a>, keys: &Keys) -> Option<Fields<'n, 'a>> {
        let entries = self.mapping(node, keys.what)?;
        for Entry { key, node: _ } in entries {
            if keys.known.contains(&key.text.as_ref()) || (keys.extensions && key.text.starts_with("x-")) {
                continue;
            }
            if self.problems.only_counts(Severity::Error) {
                continue;
            }
            if let Some((_, reason)) = keys.unsupported.iter().find(|(name, _)| *name == key.text) {
                let message = format!("`{}` is not supported: {reason}", key.text);
                self.error(Code::UnsupportedKey, key.span, message);
                continue;
            }
            let message = format!("`{}` is not a key of {}", shorten(&key.text), keys.what);
            let hint = match self.suggest(&key.text, keys.known.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("its keys are {}", listed(keys.known)),
            };
            self.error_with(Code::UnknownKey, key.span, message, hint);
        }
        Some(Fields {
            entries,
            what: keys.what,
            span: node.span,
        })
    }

    /// Returns the value of a key that must be there.
    pub(crate) fn required<'n, 'a>(&mut self, fields: &Fields<'n, 'a>, key: &str) -> Option<&'n Node<'a>> {
        let node = fields.get(key);
        if node.is_none() {
            let message = format!("{} needs the key `{key}`", fields.what);
            let first = fields.entries.first().map_or(fields.span, |entry| entry.key.span);
            self.error(Code::MissingKey, first, message);
        }
        node
    }

    /// Returns the one of some texts that is nearest to this one, if it is near, or the shortest that goes on where this one
    /// ends; capitals do not count. Nothing is returned once nobody would read it, or so much was compared already that a
    /// person would have to wait.
    pub(crate) fn suggest<'t>(
        &self,
        text: &str,
        candidates: impl Iterator<Item = &'t str>,
    ) -> Option<&'t str> {
        // To compare two texts takes the product of their lengths.
        const MOST_WORK: usize = 1 << 22;
        // Fewer letters begin too much.
        const BEGINNING: usize = 3;
        let work = &self.problems.compared;
        if self.problems.is_full() || text.len() > 64 {
            return None;
        }
        let text = text.to_ascii_lowercase();
        let limit = (text.chars().count() / 3).clamp(1, 3);
        let is_beginning = |candidate: &str| {
            let beginning = candidate.as_bytes().get(..text.len());
            text.len() >= BEGINNING
                && beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(text.as_bytes()))
        };
        candidates
            .map(|candidate| {
                let is_close = candidate.len().abs_diff(text.len()) <= limit;
                (is_close, candidate)
            })
            .take_while(|(is_close, candidate)| {
                let width = if *is_close { candidate.len() } else { 1 };
                work.set(work.get() + text.len() * width);
                work.get() <= MOST_WORK
            })
            .filter_map(|(is_close, candidate)| {
                let distance = || strsim::osa_distance(&text, &candidate.to_ascii_lowercase());
                let distance = Some(()).filter(|()| is_close).map(|()| distance());
                match distance.filter(|distance| *distance <= limit) {
                    Some(distance) => Some((distance, candidate.len(), candidate)),
                    // What was left out is further than what was mistyped.
                    None => is_beginning(candidate).then_some((limit + 1, candidate.len(), candidate)),
                }
            })
            .min()
            .map(|(_, _, candidate)| candidate)
    }
}

/// Writes texts as a sentence has them: `a`, `b` and `c`.
pub(crate) fn listed(texts: &[&str]) -> String {
    match texts {
        [] => "none".into(),
        [one] => format!("`{one}`"),
        [rest @ .., last] => format!("`{}` and `{last}`", rest.join("`, `")),
    }
}

/// Says what a value is, for a message.
pub(crate) fn describe(node: &Node<'_>) -> String {
    match &node.value {
        Value::Sequence(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
        Value::Scalar(Scalar { text, kind }) => {
            let text = shorten(text);
            match kind {
                Kind::Null => "nothing".into(),
                Kind::Bool => format!("the boolean `{text}`"),
                Kind::Int | Kind::Float => format!("the number `{text}`"),
                Kind::Text | Kind::Ambiguous => format!("the text `{text}`"),
            }
        }
    }
}
