//! What a service runs, when it is run again, and how it is seen to serve.

use std::num::NonZeroU32;

use super::super::diagnostic::Code;
use super::super::diagnostic::Span;
use super::super::reader::Reader;
use super::super::v1::Rhythm;
use super::super::yaml::Kind;
use super::super::yaml::Node;
use super::super::yaml::Scalar;
use super::super::yaml::Value;
use super::super::yaml::shorten;
use super::Form;
use super::keys;
use super::words;
use super::written;
use crate::application::HealthCheck;
use crate::application::RestartPolicy;

impl Reader<'_, '_, '_> {
    /// Returns a command: a list of words, or a text that is split into words.
    pub(super) fn command(&mut self, node: &Node<'_>, form: Form) -> Option<Vec<Box<str>>> {
        let words: Vec<Box<str>> = match &node.value {
            Value::Sequence(_) => self.strings(node, "`command`", "a word of `command`")?,
            Value::Scalar(_) | Value::Mapping(_) => {
                let text = self.string(node, "`command`")?;
                match words::split(text) {
                    Ok(words) => words,
                    Err(error) => {
                        let message = format!("`command` cannot be split into words: {error}");
                        let hint = "write it as a list of words";
                        self.error_with(Code::BadCommand, node.span, message, hint);
                        return None;
                    }
                }
            }
        };
        self.filled_words(words, node.span, form)
    }

    fn filled_words(&mut self, words: Vec<Box<str>>, span: Span, form: Form) -> Option<Vec<Box<str>>> {
        let words = words.into_iter();
        words
            .map(|word| self.filled(&word, span, form).map(Into::into))
            .collect()
    }

    pub(super) fn restart(&mut self, node: &Node<'_>) -> Option<RestartPolicy> {
        let text = match &node.value {
            // `no` is a boolean to readers of YAML 1.1, and `false` is what some write for it.
            Value::Scalar(Scalar {
                text,
                kind: Kind::Bool,
            }) if text.eq_ignore_ascii_case("false") => "no",
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => self.string(node, "`restart`")?,
        };
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (text, None),
        };
        match (name, count.map(str::parse::<NonZeroU32>)) {
            ("no", None) => Some(RestartPolicy::Never),
            ("always", None) => Some(RestartPolicy::Always),
            ("unless-stopped", None) => {
                let message = "`unless-stopped` is taken as `always`".into();
                let hint =
                    "an application that is to stay stopped is taken off its node in the deployment file";
                self.warn_with(Code::Approximated, node.span, message, hint);
                Some(RestartPolicy::Always)
            }
            ("on-failure", None) => Some(RestartPolicy::OnFailure {
                maximum_retry_count: None,
            }),
            ("on-failure", Some(Ok(count))) => Some(RestartPolicy::OnFailure {
                maximum_retry_count: Some(count),
            }),
            _ => {
                let message = format!("`{}` is not a restart policy", shorten(text));
                let hint = "use one of `no`, `always`, `on-failure`, `on-failure:COUNT` and `unless-stopped`";
                self.error_with(Code::BadChoice, node.span, message, hint);
                None
            }
        }
    }

    pub(super) fn service_health(&mut self, node: &Node<'_>, form: Form) -> Option<HealthCheck> {
        let fields = self.fields(node, &keys::HEALTH)?;
        if let Some(node) = fields.get("disable") {
            match written(node) {
                Some("true") => return None,
                Some("false") => {}
                Some(_) | None => self.wrong_type(node, "`disable`", "`true` or `false`"),
            }
        }
        let rhythm = self.rhythm(&fields, Rhythm::DOCKER);
        let test = self.required(&fields, "test")?;
        let no_shell = "no shell is ever run";
        let Value::Sequence(_) = &test.value else {
            let message = format!("a `test` that is one text would need a shell, and {no_shell}");
            let hint = "write it as a list: `[CMD, program, argument]`";
            self.error_with(Code::UnsupportedValue, test.span, message, hint);
            return None;
        };
        let mut words = self.strings(test, "`test`", "a word of `test`")?;
        match words.first().map(AsRef::as_ref) {
            Some("NONE") => None,
            Some("CMD") => {
                words.remove(0);
                let words = self.filled_words(words, test.span, form)?;
                Some(rhythm.check(self.command_probe(words, test)?))
            }
            Some("CMD-SHELL") => {
                let message = format!("`CMD-SHELL` is not supported: {no_shell}");
                let hint = "use `CMD` and a list of arguments";
                self.error_with(Code::UnsupportedValue, test.span, message, hint);
                None
            }
            Some(_) | None => {
                let message = "a `test` begins with `CMD` or `NONE`".into();
                self.error(Code::BadChoice, test.span, message);
                None
            }
        }
    }
}
