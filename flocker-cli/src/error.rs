//! Why a command did not do what was asked, who must act, and the exit status that says so.

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;
use flocker_model::config::Diagnostic;
use flocker_model::config::Source;
use serde::Serialize;

/// How a command ended that did what was asked, or as much of it as could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is done, or there was nothing to do.
    Done,
    /// Something failed, waits or is refused; what was printed names each.
    Blocked,
    /// There is something to do, and it was asked whether there is.
    WorkFound,
}

impl Ending {
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Blocked => 1,
            Self::WorkFound => 3,
        })
    }
}

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Who {
    /// Whoever typed the command: what was typed is wrong, or not enough.
    User,
    /// Whoever wrote the configuration.
    Configuration,
    /// Whoever looks after the nodes: something could not be done there.
    Cluster,
    /// We: this is a bug.
    Us,
}

impl Who {
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Cluster => 1,
            Self::User | Self::Configuration => 2,
            Self::Us => 101,
        })
    }
}

/// Why a command could not do what was asked.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failure {
    /// Who must act.
    pub(crate) who: Who,
    /// What could not be done, in one sentence without a full stop.
    pub(crate) message: String,
    /// Why not, the nearest cause first.
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// What is wrong with the files, where that is the reason.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Box<WrongFiles>>,
}

/// What is wrong with the configuration files.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WrongFiles {
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// The texts in which the diagnostics have their places.
    #[serde(skip)]
    pub(crate) sources: Vec<Source>,
}

impl Failure {
    fn new(who: Who, message: impl Into<String>) -> Self {
        Self {
            who,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            files: None,
        }
    }

    /// What was typed is wrong, or not enough.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Who::User, message)
    }

    /// What was typed could not be read, as clap says it.
    pub(crate) fn typed(error: &clap::Error) -> Self {
        let has_no_command = [
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
            ErrorKind::MissingSubcommand,
        ];
        if has_no_command.contains(&error.kind()) {
            return Self::usage("no command was given").hint("`flocker --help` lists the commands");
        }
        let text = error.render().to_string();
        let mut paragraphs = text.split("\n\n").map(str::trim);
        let first = paragraphs.next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        let words: Vec<&str> = message.split_whitespace().collect();
        let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: "));
        let hint = tip.map_or("`--help` shows what can be typed", |tip| tip);
        Self::usage(words.join(" ")).hint(hint)
    }

    /// Something could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Who::Cluster, message)
    }

    /// This is not supposed to be possible.
    pub(crate) fn bug(message: impl Into<String>) -> Self {
        Self::new(Who::Us, message).hint("this is a bug in flocker; please report it with this message")
    }

    /// The configuration files are wrong.
    pub(crate) fn configuration(mut diagnostics: Vec<Diagnostic>, sources: &[Source]) -> Self {
        let n_errors = diagnostics.iter().filter(|one| one.is_error()).count();
        let problems = if n_errors == 1 { "problem" } else { "problems" };
        // What has to be put right comes before what may not be as meant.
        diagnostics.sort_by_key(|one| !one.is_error());
        let wrong = WrongFiles {
            diagnostics,
            sources: sources.to_vec(),
        };
        Self {
            files: Some(Box::new(wrong)),
            ..Self::new(
                Who::Configuration,
                format!("the configuration cannot be used: {n_errors} {problems}"),
            )
        }
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds an error and all its causes.
    #[must_use]
    pub(crate) fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
