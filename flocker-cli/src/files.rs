//! The operator's files: the configuration, its secrets, and which files were used last.

mod last;

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::fs::OpenOptions;
use std::io;
use std::io::IsTerminal as _;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::Deployment;
use flocker_model::EnvironmentValue;
use flocker_model::config::Diagnostic;
use flocker_model::config::Loaded;
use flocker_model::config::NotText;
use flocker_model::config::SecretSource;
use flocker_model::config::Source;
use flocker_model::config::check_one;
use flocker_plan::SavedPlan;
use flocker_plan::SavedPlanError;

use crate::cli;
use crate::error::Failure;
use crate::ui;

pub(crate) use last::last_failures;
pub(crate) use last::last_policy;
pub(crate) use last::last_used;
pub(crate) use last::named_or_last;
pub(crate) use last::remember;

/// How large a configuration file or a file with a secret may be. The reader of configurations refuses somewhat less.
const SMALL: ByteSize = ByteSize(4 << 20);

/// How large a report of nodes or a saved plan may be.
const LARGE: ByteSize = ByteSize(256 << 20);

/// What each of the two files is called.
const CONFIGURATION: &str = "the configuration file";

/// After how long people want to know what is waited for.
const UNTIL_A_WAIT_IS_TOLD: Duration = Duration::from_secs(2);

/// Both configuration files, read and without errors; its secrets are still to be fetched.
#[derive(Debug)]
pub(crate) struct Configuration {
    loaded: Loaded,
    sources: [Source; 2],
}

/// Reads both files, given in either order.
pub(crate) fn read(paths: [&Path; 2]) -> Result<Configuration, Failure> {
    if paths[0] == paths[1] || is_one_file(paths) {
        return Err(
            Failure::usage(format!("`{}` was named twice", paths[0].display()))
                .hint("name the deployment file and the application file"),
        );
    }
    match paths.map(source) {
        [Ok(one), Ok(other)] => load([one, other]),
        files => Err(unusable(files)),
    }
}

/// Why there is no text of a configuration file.
enum Unread {
    Failed(io::Error),
    NotText(Box<NotText>),
}

/// Says all that is known of two files of which one at least has no text.
fn unusable(files: [Result<Source, (&Path, Unread)>; 2]) -> Failure {
    let mut failed: Vec<(&Path, io::Error)> = Vec::new();
    let mut diagnostics = Vec::new();
    let mut sources = Vec::new();
    for file in files {
        match file {
            Ok(source) => {
                diagnostics.extend(check_one(&source));
                sources.push(source);
            }
            Err((_, Unread::NotText(wrong))) => {
                diagnostics.push(wrong.diagnostic);
                sources.push(wrong.source);
            }
            Err((path, Unread::Failed(error))) => failed.push((path, error)),
        }
    }
    let has_errors = diagnostics.iter().any(Diagnostic::is_error);
    let wrong = Failure::configuration(diagnostics, &sources);
    let unread = match &failed[..] {
        [] => return wrong,
        [(path, error)] => unreadable(path, CONFIGURATION, error),
        [..] => {
            let mut unread = Failure::usage("could not read the configuration files");
            for (path, error) in &failed {
                unread.causes.push(format!("`{}`: {error}", path.display()));
            }
            unread
        }
    };
    Failure {
        files: wrong.files.filter(|_| has_errors),
        ..unread
    }
}

/// Says whether two paths lead to the same file. A pipe that is read for the one has nothing left for the other.
fn is_one_file(paths: [&Path; 2]) -> bool {
    let [one, other] = paths.map(std::fs::metadata);
    one.is_ok_and(|one| other.is_ok_and(|other| is_same(&one, &other)))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Takes the texts of both files, in either order.
pub(crate) fn load(sources: [Source; 2]) -> Result<Configuration, Failure> {
    match flocker_model::config::load(&sources[0], &sources[1]) {
        Ok(loaded) => Ok(Configuration { loaded, sources }),
        Err(diagnostics) => Err(Failure::configuration(diagnostics, &sources)),
    }
}

fn source(path: &Path) -> Result<Source, (&Path, Unread)> {
    let read = telling_of_a_wait(path, || read_within(path, SMALL));
    read.map_err(Unread::Failed)
        .and_then(|bytes| Source::from_bytes(path.display().to_string(), bytes).map_err(Unread::NotText))
        .map_err(|unread| (path, unread))
}

/// Reads a report or a saved plan that was named on the command line.
pub(crate) fn text(path: &Path, what: &str) -> Result<String, Failure> {
    let read = telling_of_a_wait(path, || text_within(path, LARGE));
    read.map_err(|error| unreadable(path, what, &error))
}

fn unreadable(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("could not read {what} `{}`", path.display())).because(error)
}

fn text_within(path: &Path, limit: ByteSize) -> io::Result<String> {
    String::from_utf8(read_within(path, limit)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Reads a file that is not large.
pub(crate) fn small_text(path: &Path) -> io::Result<String> {
    text_within(path, SMALL)
}

/// Does what may wait for whoever writes into a pipe, and says so where that takes long.
fn telling_of_a_wait<T>(path: &Path, read: impl FnOnce() -> T) -> T {
    let is_pipe = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo());
    if !is_pipe {
        return read();
    }
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(UNTIL_A_WAIT_IS_TOLD) == Err(RecvTimeoutError::Timeout) {
                let path = path.display();
                ui::aside(&format!(
                    "waiting for somebody to write into the pipe `{path}`, and to close it"
                ));
            }
        });
        let read = read();
        drop(done);
        read
    })
}

/// Reads a file, a pipe or what is typed on a terminal; of anything that goes on for too long, no more than shows that it does.
fn read_within(path: &Path, limit: ByteSize) -> io::Result<Vec<u8>> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let is_endless = std::fs::metadata(path)?.file_type().is_block_device();
    if is_endless {
        return Err(refuse("it is a device, not a file".into()));
    }
    let file = OpenOptions::new().read(true).open(path)?;
    if file.metadata()?.file_type().is_char_device() && !file.is_terminal() {
        return Err(refuse("it is a device, not a file".into()));
    }
    let mut bytes = Vec::new();
    file.take(limit.0.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit.0 {
        return Err(refuse(format!("it has more than {limit}, which is the limit")));
    }
    Ok(bytes)
}

/// Writes a file that was named on the command line, whole or not at all.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_for(0o666, path, text)
}

/// Refuses a file that a plan is not to be written to: one that it is made from, and any other that is there and is no
/// saved plan.
pub(crate) fn may_become_a_plan(path: &Path, inputs: &[&Path]) -> Result<(), Failure> {
    let Ok(there) = std::fs::metadata(path) else {
        // Nothing is there that could be lost; whether it can be written is found out when it is.
        return Ok(());
    };
    let refuse = |why: &str| {
        Failure::usage(format!("the plan is not written to `{}`: {why}", path.display()))
            .hint("`--out` takes a new file, or one that has a saved plan")
    };
    let is_it = |input: &&Path| {
        let input = std::fs::metadata(input);
        input.is_ok_and(|input| is_same(&input, &there))
    };
    if inputs.iter().any(is_it) {
        return Err(refuse("it is one of the files that the plan is made from"));
    }
    if !there.is_file() {
        return Err(refuse("it is not a file"));
    }
    let text = text_within(path, LARGE);
    match text.map(|text| SavedPlan::read(&text)) {
        // Of another version or not, it was written by `--out`.
        Ok(Ok(_) | Err(SavedPlanError::Version { .. })) => Ok(()),
        Ok(Err(_)) | Err(_) if there.len() > 0 => Err(refuse("it is there already, and is no saved plan")),
        // `mktemp` makes them.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

/// Writes a file for those whom a mode, less what the operator's mask takes away, lets read it.
///
/// What lies beside it until it is whole has the number of this process in its name: two commands may write the same file.
pub(crate) fn write_for(mode: u32, path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| {
        Failure::failed(format!("could not write `{}`", path.display())).because(error)
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&beside, path)
    };
    written().map_err(|error| {
        // What is left of a file that was never complete is of no use to anybody.
        std::fs::remove_file(&beside).ok();
        failed(&error)
    })
}

impl Configuration {
    /// Returns what may not be as meant.
    pub(crate) fn warnings(&self) -> &[Diagnostic] {
        self.loaded.warnings()
    }

    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Returns the applications with values in their environment that stand in the file itself.
    pub(crate) fn with_plain_values(&self) -> Result<Vec<ApplicationName>, Failure> {
        let is_plain = |value: &EnvironmentValue| matches!(value, EnvironmentValue::Plain(_));
        let deployment = self.without_secrets()?;
        let applications = deployment.applications().iter();
        let plain = applications.filter(|(_, application)| {
            let mut variables = application.environment.iter();
            variables.any(|(_, value)| is_plain(value))
        });
        Ok(plain.map(|(name, _)| name.clone()).collect())
    }

    /// Returns how many values are fetched when it is deployed.
    pub(crate) fn n_secrets(&self) -> usize {
        self.loaded.secrets().len()
    }

    /// Fetches the secrets. Relative files are looked for beside the file that names them.
    pub(crate) fn resolve(&self) -> Result<Deployment, Failure> {
        let fetched = self.loaded.resolve(|source| fetch(source, self.beside()));
        fetched.map_err(|diagnostics| Failure::configuration(diagnostics, &self.sources))
    }

    /// Fetches the secrets for commands that start nothing: one that cannot be fetched is withheld.
    pub(crate) fn resolve_what_can_be(&self) -> Result<Known, Failure> {
        let beside = self.beside();
        let mut withheld = Vec::new();
        let mut applications = BTreeSet::new();
        let fetched = self.loaded.resolve(|source| match fetch(source, beside) {
            Ok(content) => Ok(content),
            Err(reason) => {
                let users = self.loaded.secrets().iter().filter(|secret| secret.source == *source);
                for secret in users {
                    applications.insert(secret.application.clone());
                    withheld.push(format!(
                        "`{}` of {} could not be fetched from {source}: {reason}; whether it has changed is not known",
                        secret.variable, secret.application
                    ));
                }
                Ok("withheld".into())
            }
        });
        let deployment = fetched.map_err(|diagnostics| Failure::configuration(diagnostics, &self.sources))?;
        Ok(Known {
            deployment,
            applications,
            withheld,
        })
    }

    /// Returns where relative files of secrets are looked for: beside the file that names them.
    fn beside(&self) -> &Path {
        let named_in = self.loaded.secrets().first().map(|secret| &*secret.place.file);
        let beside = named_in.and_then(|file| Path::new(file).parent());
        beside.unwrap_or(Path::new(""))
    }

    /// Returns the deployment with something else in the place of every secret: for plans that nobody carries out.
    pub(crate) fn without_secrets(&self) -> Result<Deployment, Failure> {
        let fetched = self.loaded.resolve(|_| Ok("withheld".into()));
        fetched.map_err(|diagnostics| Failure::configuration(diagnostics, &self.sources))
    }
}

fn fetch(source: &SecretSource, beside: &Path) -> Result<String, String> {
    match source {
        SecretSource::File(path) => {
            text_within(&beside.join(&**path), SMALL).map_err(|error| error.to_string())
        }
        SecretSource::Environment(name) => cli::variable_os(name)
            .ok_or_else(|| "it is not set".to_owned())?
            .into_string()
            .map_err(|_| "it is not UTF-8".into()),
    }
}

/// A deployment as far as it can be known without every secret.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) deployment: Deployment,
    /// The applications that have something else in the place of a secret.
    pub(crate) applications: BTreeSet<ApplicationName>,
    /// What could not be fetched and why, a sentence for each.
    pub(crate) withheld: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_for_too_long_is_read_no_further_than_that() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (size, is_read) in [(9, true), (10, true), (11, false)] {
            std::fs::write(&path, "x".repeat(size)).unwrap();
            let read = text_within(&path, ByteSize(10));
            assert_eq!(read.is_ok(), is_read, "{size}: {read:?}");
        }
        let error = text_within(&path, ByteSize(10)).unwrap_err();
        assert!(error.to_string().contains("10 B"), "{error}");
    }

    #[test]
    fn a_device_is_no_file() {
        for device in ["/dev/zero", "/dev/null"] {
            let failure = text(Path::new(device), "the report").unwrap_err();
            assert_eq!(failure.causes, ["it is a device, not a file"], "{device}");
        }
    }

    #[test]
    fn one_file_is_not_both() {
        let directory = tempfile::tempdir().unwrap();
        let [pipe, other] = ["pipe", "other"].map(|name| directory.path().join(name));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        std::fs::hard_link(&pipe, &other).unwrap();
        // Without a look at what they are, this would wait for ever.
        let failure = read([&pipe, &other]).unwrap_err();
        assert!(failure.message.ends_with("was named twice"), "{failure}");
    }

    #[test]
    fn a_plan_takes_the_place_of_nothing_but_a_plan() {
        let directory = tempfile::tempdir().unwrap();
        let [input, link, notes, newer, empty, new] =
            ["input", "link", "notes", "newer", "empty", "new"].map(|name| directory.path().join(name));
        let newer_plan = include_str!("../tests/files/newer-plan.json");
        for (path, text) in [
            (&input, newer_plan),
            (&notes, "mine"),
            (&newer, newer_plan),
            (&empty, ""),
        ] {
            std::fs::write(path, text).unwrap();
        }
        std::fs::hard_link(&input, &link).unwrap();
        let why = |path: &Path| may_become_a_plan(path, &[&input]).map_err(|failure| failure.message);
        for path in [&input, &link] {
            let message = why(path).unwrap_err();
            assert!(
                message.ends_with("one of the files that the plan is made from"),
                "{message}"
            );
        }
        let message = why(&notes).unwrap_err();
        assert!(
            message.ends_with("it is there already, and is no saved plan"),
            "{message}"
        );
        for path in [directory.path(), Path::new("/dev/null")] {
            let message = why(path).unwrap_err();
            assert!(message.ends_with("it is not a file"), "{message}");
        }
        for path in [&newer, &empty, &new] {
            why(path).unwrap();
        }
    }
}
