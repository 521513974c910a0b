//! Which files were deployed last, and how that went.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use flocker_plan::CutOver;
use flocker_plan::Policy;
use serde::Deserialize;
use serde::Serialize;

use super::small_text;
use super::write_for;
use crate::error::Failure;

/// Which files were deployed last, so that other commands need not be told.
#[derive(Debug, Serialize, Deserialize)]
struct LastUsed {
    version: u32,
    files: [PathBuf; 2],
    /// Whether cut-overs were left for `flocker cutover`.
    #[serde(default)]
    hold: bool,
    /// What could not be done at last and why, by step, or by application where its move was given up.
    #[serde(default)]
    failures: BTreeMap<String, String>,
}

const LAST_USED: &str = "last-used.json";

/// Remembers the files of a deploy, how it went about cut-overs, and what failed. Not to be able to is no reason to stop.
pub(crate) fn remember(
    state_dir: &Path,
    paths: [&Path; 2],
    cut_over: CutOver,
    failures: BTreeMap<String, String>,
) {
    let [Ok(one), Ok(other)] = paths.map(std::path::absolute) else {
        return;
    };
    let last = LastUsed {
        version: 1,
        files: [one, other],
        hold: cut_over == CutOver::Hold,
        failures,
    };
    if let Ok(text) = serde_json::to_string(&last) {
        std::fs::create_dir_all(state_dir).ok();
        // Why something failed may be what an application said, which is not for everybody.
        write_for(0o600, &state_dir.join(LAST_USED), &(text + "\n")).ok();
    }
}

/// Returns the files of the last deploy, where there was one and they still exist.
///
/// What cannot be read is no sign that there was none.
pub(crate) fn last_used(state_dir: &Path) -> Result<Option<[PathBuf; 2]>, Failure> {
    Ok(read_last(state_dir)?.map(|last| last.files))
}

/// Returns what the last deploy could not do and why, by step, or by application where its move was given up.
pub(crate) fn last_failures(state_dir: &Path) -> BTreeMap<String, String> {
    last(state_dir).map_or_else(BTreeMap::new, |last| last.failures)
}

/// Returns the policy by which these files were deployed last; without files, that of the last deploy.
pub(crate) fn last_policy(state_dir: &Path, paths: Option<[&Path; 2]>) -> Policy {
    let is_meant = |last: &LastUsed| match paths.map(|paths| paths.map(std::path::absolute)) {
        None => true,
        Some([Ok(one), Ok(other)]) => {
            last.files == [one.clone(), other.clone()] || last.files == [other, one]
        }
        Some([Err(_), _] | [_, Err(_)]) => false,
    };
    let is_held = last(state_dir).is_some_and(|last| last.hold && is_meant(&last));
    Policy {
        cut_over: if is_held {
            CutOver::Hold
        } else {
            CutOver::WhenReady
        },
        ..Policy::default()
    }
}

/// Returns the files that were named, or else those of the last deploy.
pub(crate) fn named_or_last(state_dir: &Path, named: Option<[&Path; 2]>) -> Result<[PathBuf; 2], Failure> {
    if let Some(paths) = named {
        return Ok(paths.map(Path::to_path_buf));
    }
    last_used(state_dir)?.ok_or_else(|| {
        Failure::usage("no files were named, and there is no last deploy whose files could be meant")
            .hint("name the deployment file and the application file")
    })
}

/// Returns what is known of the last deploy, for what can be said without it as well.
fn last(state_dir: &Path) -> Option<LastUsed> {
    read_last(state_dir).ok().flatten()
}

fn read_last(state_dir: &Path) -> Result<Option<LastUsed>, Failure> {
    let path = state_dir.join(LAST_USED);
    let unreadable = || {
        let path = path.display();
        Failure::failed(format!(
            "could not read `{path}`, which says what was deployed last"
        ))
        .hint(format!(
            "`rm {path}` forgets it; a deploy with both files named writes it anew"
        ))
    };
    let text = match small_text(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| unreadable().because(&error))?,
    };
    let last: LastUsed = serde_json::from_str(&text).map_err(|error| unreadable().because(&error))?;
    let usable = last.version == 1 && last.files.iter().all(|path| path.exists());
    Ok(usable.then_some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_taken_for_no_last_deploy() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_used(directory.path()).unwrap(), None);
        std::fs::write(directory.path().join(LAST_USED), "{\"version\": 1, \"fil").unwrap();
        let failure = last_used(directory.path()).unwrap_err();
        assert!(
            failure.message.contains("which says what was deployed last"),
            "{failure}"
        );
        assert!(named_or_last(directory.path(), None).is_err());
        let named = [Path::new("a"), Path::new("b")];
        assert!(named_or_last(directory.path(), Some(named)).is_ok());
    }

    #[test]
    fn a_hold_is_remembered_for_its_own_files() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other, third] = ["one", "other", "third"].map(|name| directory.path().join(name));
        for path in [&one, &other, &third] {
            std::fs::write(path, "").unwrap();
        }
        let cut_over = |paths| last_policy(directory.path(), paths).cut_over;
        assert_eq!(cut_over(None), CutOver::WhenReady);
        remember(directory.path(), [&one, &other], CutOver::Hold, BTreeMap::new());
        assert_eq!(cut_over(None), CutOver::Hold);
        assert_eq!(cut_over(Some([&other, &one])), CutOver::Hold);
        assert_eq!(cut_over(Some([&one, &third])), CutOver::WhenReady);
        remember(
            directory.path(),
            [&one, &other],
            CutOver::WhenReady,
            BTreeMap::new(),
        );
        assert_eq!(cut_over(None), CutOver::WhenReady);
    }
}
