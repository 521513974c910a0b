//! The one place that speaks to people.
//!
//! Standard output is data: what was asked for, as text or as JSON. Standard
//! error is talk: problems, questions, progress. Colours are dropped where
//! nobody sees them, and none carries a meaning that the words do not.

use std::borrow::Cow;
use std::io::BufRead as _;
use std::io::ErrorKind;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use annotate_snippets::AnnotationKind;
use annotate_snippets::Group;
use annotate_snippets::Level;
use annotate_snippets::Renderer;
use annotate_snippets::Snippet;
use anstyle::AnsiColor;
use anstyle::Style;
use flocker_model::config::Diagnostic;
use flocker_model::config::Place;
use flocker_model::config::Severity;
use flocker_model::config::Source;
use serde::Serialize;

use crate::cli::Colour;
use crate::error::Ending;
use crate::error::Failure;
use crate::json;
use crate::json::Document;

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();
const CAUSE: Style = Style::new().dimmed();

/// The body of the document that says why there is no other.
#[derive(Serialize)]
struct Error<'a> {
    error: &'a Failure,
}

/// Where words go.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    command: String,
    json: bool,
    /// Whether something stands on the line that is written over and over.
    has_status: Arc<Mutex<bool>>,
    /// Why not all that was asked for could be printed.
    unwritten: Arc<Mutex<Option<std::io::Error>>>,
}

impl Ui {
    /// Decides about colours, once for the whole program.
    pub(crate) fn new(command: impl Into<String>, json: bool, colour: Colour) -> Self {
        match colour {
            Colour::Auto => {}
            Colour::Always => anstream::ColorChoice::Always.write_global(),
            Colour::Never => anstream::ColorChoice::Never.write_global(),
        }
        Self {
            command: command.into(),
            json,
            has_status: Arc::default(),
            unwritten: Arc::default(),
        }
    }

    /// Says whether JSON was asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Says whether there is somebody who can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Says whether a line can be written over and over.
    pub(crate) fn is_live() -> bool {
        std::io::stderr().is_terminal()
    }

    /// Prints what was asked for, as it is. Whoever stops reading has enough.
    pub(crate) fn data(&self, text: &str) {
        self.clear_status();
        // There is no colour in data to be dropped, and there may be much of it.
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        drop(out);
        self.written(written);
    }

    /// Prints the help that was asked for, or the version, as clap has it.
    pub(crate) fn help(&self, help: &clap::Error) {
        self.written(help.print().and_then(|()| std::io::stdout().flush()));
    }

    /// Notes that standard output takes no more, as on a full disk.
    fn written(&self, result: std::io::Result<()>) {
        let failed = result.err().filter(|error| error.kind() != ErrorKind::BrokenPipe);
        if failed.is_some() {
            *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        }
    }

    /// Says why not all that was asked for could be printed, where that is so.
    fn unwritten(&self) -> Option<Failure> {
        let failed = self
            .unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        Some(Failure::failed("not everything could be written to standard output").because(&failed))
    }

    /// Prints bytes of an application, which are nobody's to change. Says whether anybody still reads.
    pub(crate) fn bytes(bytes: &[u8]) -> bool {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).is_ok()
    }

    /// Prints the one JSON document of a command.
    pub(crate) fn document(&self, body: &impl Serialize) -> Result<(), Failure> {
        self.clear_status();
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        let written = serde_json::to_writer_pretty(&mut out, &Document::new(&self.command, body));
        match written {
            Ok(()) => self.written(out.write_all(b"\n").and_then(|()| out.flush())),
            Err(error) if error.is_io() => self.written(Err(error.into())),
            Err(error) => return Err(unwritten(&error)),
        }
        Ok(())
    }

    /// Prints one JSON document on one line: an event, or the end of a stream of them.
    pub(crate) fn line(&self, body: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(&Document::new(&self.command, body));
        self.data(&(text.map_err(|error| unwritten(&error))? + "\n"));
        Ok(())
    }

    /// Says something, on a line of its own.
    pub(crate) fn say(&self, text: &str) {
        self.clear_status();
        let mut err = anstream::stderr().lock();
        unheard(writeln!(err, "{text}"));
    }

    /// Says that something is not as it should be.
    pub(crate) fn warn(&self, text: &str) {
        self.say(&format!("{WARNING}warning{WARNING:#}: {text}"));
    }

    /// Says what could be done.
    pub(crate) fn hint(&self, text: &str) {
        self.say(&format!("{HINT}hint{HINT:#}: {text}"));
    }

    /// Writes the status line anew, cut to the width of the terminal. Does nothing where there is none.
    pub(crate) fn status(&self, text: &str) {
        if !Self::is_live() {
            return;
        }
        let width =
            terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| width.0.into());
        let text: String = text.chars().take(usize::saturating_sub(width, 1)).collect();
        let mut has_status = self.has_status.lock().unwrap_or_else(PoisonError::into_inner);
        let mut err = std::io::stderr().lock();
        unheard(write!(err, "\r{text}\x1b[K").and_then(|()| err.flush()));
        *has_status = true;
    }

    /// Takes the status line away.
    pub(crate) fn clear_status(&self) {
        let mut has_status = self.has_status.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *has_status) {
            let mut err = std::io::stderr().lock();
            unheard(write!(err, "\r\x1b[K").and_then(|()| err.flush()));
        }
    }

    /// Asks a question that is answered by yes or no. Anything but yes is no.
    pub(crate) fn confirm(&self, question: &str) -> bool {
        self.clear_status();
        let mut err = anstream::stderr().lock();
        unheard(write!(err, "{question} [y/N] ").and_then(|()| err.flush()));
        drop(err);
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if !answer.ends_with('\n') {
            // The question still stands on the line on which the next thing would be said.
            self.say("");
        }
        read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    /// Shows problems of the files under the lines in which they are.
    pub(crate) fn diagnostics(&self, diagnostics: &[Diagnostic], sources: &[Source]) {
        for diagnostic in diagnostics {
            self.say(&drawn(diagnostic, sources));
            self.say("");
        }
    }

    /// Says why a command could not do what was asked, if so, and returns the exit status that says how it ended.
    pub(crate) fn end(&self, ended: Result<Ending, Failure>) -> ExitCode {
        let status = match ended {
            Ok(ending) => ending.exit_code(),
            Err(failure) => {
                self.failure(&failure);
                failure.who.exit_code()
            }
        };
        let Some(unwritten) = self.unwritten() else {
            return status;
        };
        self.tell(&unwritten);
        unwritten.who.exit_code()
    }

    /// Says why a command could not do what was asked; with `--json`, in its document.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let body = Error { error: failure };
            let is_said = if json::STREAMS.contains(&self.command.as_str()) {
                self.line(&body)
            } else {
                self.document(&body)
            };
            if is_said.is_ok() {
                return;
            }
        }
        self.tell(failure);
    }

    /// Says it to people.
    fn tell(&self, failure: &Failure) {
        if let Some(wrong) = &failure.files {
            self.diagnostics(&wrong.diagnostics, &wrong.sources);
        }
        self.say(&format!("{ERROR}error{ERROR:#}: {}", failure.message));
        for cause in &failure.causes {
            self.say(&format!("{CAUSE}  caused by: {cause}{CAUSE:#}"));
        }
        if let Some(hint) = &failure.hint {
            self.hint(hint);
        }
    }
}

/// Shows what clap says is wrong with what was typed.
pub(crate) fn clap_problem(error: &clap::Error) {
    unheard(error.print());
}

/// Shows what clap says on standard error, help and all.
pub(crate) fn clap_talk(error: &clap::Error) {
    let mut err = anstream::stderr().lock();
    unheard(write!(err, "{}", error.render().ansi()));
}

/// Says something about what takes long, where nothing stands on the line that is written over and over.
pub(crate) fn aside(text: &str) {
    let mut err = anstream::stderr().lock();
    unheard(writeln!(err, "{text}"));
}

/// Says that this program has broken down. It is called where nothing else can be relied on.
pub(crate) fn breakdown(what: &str, place: &str) {
    let mut err = anstream::stderr().lock();
    unheard(writeln!(
        err,
        "{ERROR}error{ERROR:#}: flocker has a bug: {what}\n{CAUSE}  caused by: a panic at {place}{CAUSE:#}\n\
         {HINT}hint{HINT:#}: nothing is lost by it: the same command goes on where this one stopped; please report this message"
    ));
}

/// Lets it pass that nobody listens any more: what was to be done is done all the same.
fn unheard(_: std::io::Result<()>) {}

fn unwritten(error: &serde_json::Error) -> Failure {
    Failure::bug(format!("the JSON document could not be written: {error}"))
}

/// Draws a diagnostic with its lines. Whether colours are shown is for the stream to decide.
fn drawn(diagnostic: &Diagnostic, sources: &[Source]) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let code = diagnostic.code.to_string();
    let title = level.primary_title(diagnostic.message.as_str()).id(code.as_str());
    let text_of = |place: &Place| sources.iter().find(|source| source.name.as_str() == &*place.file);
    let mut group = Group::with_title(title);
    let mut files: Vec<&str> = vec![&diagnostic.place.file];
    for (place, _) in &diagnostic.also {
        if !files.contains(&&*place.file) {
            files.push(&place.file);
        }
    }
    for file in files {
        let Some(source) = sources.iter().find(|source| source.name == file) else {
            continue;
        };
        let mut snippet = Snippet::source(with_line_ends(&source.text)).path(file);
        if *diagnostic.place.file == *file {
            let range = clipped(&diagnostic.place, &source.text);
            snippet = snippet.annotation(AnnotationKind::Primary.span(range));
        }
        for (place, label) in &diagnostic.also {
            if *place.file == *file {
                let range = clipped(place, &source.text);
                snippet = snippet.annotation(AnnotationKind::Context.span(range).label(label.as_str()));
            }
        }
        group = group.element(snippet);
    }
    if text_of(&diagnostic.place).is_none() {
        return diagnostic.to_string();
    }
    if let Some(hint) = &diagnostic.hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    Renderer::styled().render(&[group])
}

/// Returns a text of the same length in which every line ends as whoever draws it expects.
fn with_line_ends(text: &str) -> Cow<'_, str> {
    let is_alone = |(at, _): &(usize, &str)| text.as_bytes().get(at + 1) != Some(&b'\n');
    let alone: Vec<usize> = text
        .match_indices('\r')
        .filter(is_alone)
        .map(|(at, _)| at)
        .collect();
    if alone.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut drawn = String::with_capacity(text.len());
    let mut start = 0;
    for end in alone {
        drawn.push_str(&text[start..end]);
        drawn.push('\n');
        start = end + 1;
    }
    drawn.push_str(&text[start..]);
    Cow::Owned(drawn)
}

/// Returns the stretch of a place, up to the end of its line: a block of many lines is not drawn in full.
fn clipped(place: &Place, text: &str) -> std::ops::Range<usize> {
    let range = place.span.range();
    let Some(within) = text.get(range.clone()) else {
        return text.len()..text.len();
    };
    let first = within.split(['\n', '\r']).next().unwrap_or(within);
    let first = first.trim_end();
    range.start
        ..range.start
            + first
                .len()
                .max(usize::from(!within.is_empty() && first.is_empty()))
}
