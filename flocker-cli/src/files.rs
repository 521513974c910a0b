//! The operator's files: the configuration, its secrets, and which files were used last.

use std::path::Path;
use std::path::PathBuf;

use flocker_model::Deployment;
use flocker_model::config::Diagnostic;
use flocker_model::config::Loaded;
use flocker_model::config::SecretSource;
use flocker_model::config::Source;
use serde::Deserialize;
use serde::Serialize;

use crate::cli;
use crate::error::Failure;

/// Both configuration files, read and without errors; its secrets are still to be fetched.
#[derive(Debug)]
pub(crate) struct Configuration {
    loaded: Loaded,
    sources: [Source; 2],
}

/// Reads both files, given in either order.
pub(crate) fn read(paths: [&Path; 2]) -> Result<Configuration, Failure> {
    let [one, other] = paths.map(source);
    load([one?, other?])
}

/// Takes the texts of both files, in either order.
pub(crate) fn load(sources: [Source; 2]) -> Result<Configuration, Failure> {
    match flocker_model::config::load(&sources[0], &sources[1]) {
        Ok(loaded) => Ok(Configuration { loaded, sources }),
        Err(diagnostics) => Err(Failure::configuration(diagnostics, &sources)),
    }
}

fn source(path: &Path) -> Result<Source, Failure> {
    let name = path.display().to_string();
    text(path, "the configuration file").map(|text| Source::new(name, text))
}

/// Reads a file that was named on the command line.
pub(crate) fn text(path: &Path, what: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("could not read {what} `{}`", path.display())).because(&error)
    })
}

/// Writes a file that was named on the command line, whole or not at all.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| {
        Failure::failed(format!("could not write `{}`", path.display())).because(error)
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
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

    /// Returns how many values are fetched when it is deployed.
    pub(crate) fn n_secrets(&self) -> usize {
        self.loaded.secrets().len()
    }

    /// Fetches the secrets. Relative files are looked for beside the file that names them.
    pub(crate) fn resolve(&self) -> Result<Deployment, Failure> {
        let named_in = self.loaded.secrets().first().map(|secret| &*secret.place.file);
        let beside = named_in.and_then(|file| Path::new(file).parent());
        let beside = beside.unwrap_or(Path::new(""));
        let fetched = self.loaded.resolve(|source| fetch(source, beside));
        fetched.map_err(|diagnostics| Failure::configuration(diagnostics, &self.sources))
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
            std::fs::read_to_string(beside.join(&**path)).map_err(|error| error.to_string())
        }
        SecretSource::Environment(name) => cli::variable_os(name)
            .ok_or_else(|| "it is not set".to_owned())?
            .into_string()
            .map_err(|_| "it is not UTF-8".into()),
    }
}

/// Which files were deployed last, so that `why` and `status` need not be told.
#[derive(Debug, Serialize, Deserialize)]
struct LastUsed {
    version: u32,
    files: [PathBuf; 2],
}

const LAST_USED: &str = "last-used.json";

/// Remembers the files of a deploy. Not to be able to is no reason to stop.
pub(crate) fn remember(state_dir: &Path, paths: [&Path; 2]) {
    let [Ok(one), Ok(other)] = paths.map(std::path::absolute) else {
        return;
    };
    let last = LastUsed {
        version: 1,
        files: [one, other],
    };
    if let Ok(text) = serde_json::to_string(&last) {
        std::fs::create_dir_all(state_dir).ok();
        write(&state_dir.join(LAST_USED), &(text + "\n")).ok();
    }
}

/// Returns the files of the last deploy, where there was one and they still exist.
pub(crate) fn last_used(state_dir: &Path) -> Option<[PathBuf; 2]> {
    let text = std::fs::read_to_string(state_dir.join(LAST_USED)).ok()?;
    let last: LastUsed = serde_json::from_str(&text).ok()?;
    let usable = last.version == 1 && last.files.iter().all(|path| path.exists());
    usable.then_some(last.files)
}
