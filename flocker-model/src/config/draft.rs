//! What both forms of the application file are read into: applications, and where each part of them stands.

use std::collections::BTreeSet;
use std::fmt;

use super::diagnostic::Code;
use super::diagnostic::Span;
use super::reader::Reader;
use super::yaml::Node;
use thin_vec::ThinVec;

use crate::application::Application;
use crate::environment::EnvironmentValue;
use crate::id::ApplicationName;
use crate::id::DatasetId;
use crate::volume::Volume;

/// Where the value of a secret is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretSource {
    /// The content of a file, as the configuration names it: a relative path starts where the application file is.
    File(Box<str>),
    /// A variable of the operator's environment.
    Environment(Box<str>),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file `{path}`"),
            Self::Environment(name) => write!(f, "environment variable `{name}`"),
        }
    }
}

/// An application as far as it could be read, and where its parts stand.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) name: ApplicationName,
    pub(crate) span: Span,
    pub(crate) application: Application,
    /// The variables that were read and are not in its environment yet.
    variables: Vec<(Box<str>, EnvironmentValue)>,
    /// The variables whose values are still to be fetched.
    pub(crate) secrets: Vec<DraftSecret>,
    /// Where what claims the dataset stands.
    pub(crate) volume: Span,
    /// Where the ports stand, in their order; so for links and dependencies.
    pub(crate) ports: Vec<Span>,
    pub(crate) links: Vec<Span>,
    pub(crate) depends_on: Vec<Span>,
}

/// A variable whose value is still to be fetched.
#[derive(Clone, Debug)]
pub(crate) struct DraftSecret {
    pub(crate) variable: Box<str>,
    pub(crate) source: SecretSource,
    pub(crate) span: Span,
}

/// Everything that an application file says.
#[derive(Debug, Default)]
pub(crate) struct Applications {
    pub(crate) drafts: Vec<Draft>,
    /// Every name that is written, also of what could not be read.
    pub(crate) declared: BTreeSet<Box<str>>,
}

impl Draft {
    pub(crate) fn new(name: ApplicationName, span: Span, application: Application) -> Self {
        Self {
            name,
            span,
            application,
            variables: Vec::new(),
            secrets: Vec::new(),
            volume: span,
            ports: Vec::new(),
            links: Vec::new(),
            depends_on: Vec::new(),
        }
    }

    /// Gives the application its dataset; without an id, the one that its name says.
    pub(crate) fn claim(
        &mut self,
        span: Span,
        mountpoint: Box<str>,
        dataset: Option<DatasetId>,
    ) -> &mut Volume {
        self.volume = span;
        self.application.volume.insert(Volume {
            dataset: dataset.unwrap_or_else(|| DatasetId::derived(&self.name)),
            mountpoint: mountpoint.into(),
            maximum_size: None,
        })
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        let value = EnvironmentValue::Plain(value.into());
        self.variables.push((variable.into(), value));
    }

    /// Puts the variables that were set into the environment: all at once, because a file may have very many.
    pub(crate) fn end_environment(&mut self) {
        self.application.environment.extend(self.variables.drain(..));
    }

    pub(crate) fn set_secret(&mut self, variable: &str, source: SecretSource, span: Span) {
        self.secrets.push(DraftSecret {
            variable: variable.into(),
            source,
            span,
        });
    }
}

impl Reader<'_, '_, '_> {
    /// Returns the name of an environment variable.
    pub(crate) fn variable<'n>(&mut self, text: &'n str, span: Span) -> Option<&'n str> {
        if text.is_empty() || text.contains(['=', '\0']) {
            let message = "the name of a variable must not be empty, and must not have a `=` or a NUL".into();
            self.error(Code::BadVariable, span, message);
            return None;
        }
        Some(text)
    }

    /// Returns an absolute path inside a container.
    pub(crate) fn mountpoint(&mut self, text: &str, span: Span) -> Option<Box<str>> {
        let problem = if !text.starts_with('/') {
            "it must be absolute"
        } else if text.split('/').any(|part| matches!(part, "." | "..")) {
            "it must not have the parts `.` and `..`"
        } else if text.trim_matches('/').is_empty() {
            "it must not be the root"
        } else if text.contains(|c: char| c == ':' || c.is_control()) {
            "it must not have colons or control characters"
        } else {
            return Some(text.into());
        };
        let message = format!("`{}` is not a mountpoint: {problem}", super::yaml::shorten(text));
        self.error(Code::BadPath, span, message);
        None
    }

    /// Returns the names of other applications, and where they stand.
    pub(crate) fn names(&mut self, items: &[Node<'_>], what: &str) -> (ThinVec<ApplicationName>, Vec<Span>) {
        let mut names: ThinVec<ApplicationName> = ThinVec::new();
        let mut seen: BTreeSet<ApplicationName> = BTreeSet::new();
        let mut spans = Vec::new();
        for item in items {
            let Some(text) = self.string(item, what) else {
                continue;
            };
            let Some(name) = self.parse::<ApplicationName>(text, item.span, Code::BadName) else {
                continue;
            };
            if seen.insert(name.clone()) {
                names.push(name);
                spans.push(item.span);
            }
        }
        (names, spans)
    }
}
