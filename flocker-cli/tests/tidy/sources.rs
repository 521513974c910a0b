//! Reading the sources of the workspace.

use std::path::Path;
use std::path::PathBuf;

/// Returns the folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap().to_path_buf()
}

/// A member of the workspace.
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) manifest: String,
    folder: PathBuf,
}

/// Returns the members, as the manifest of the workspace lists them.
pub(crate) fn crates() -> Vec<Crate> {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1;
    let members = members.split_once(']').unwrap().0;
    let found: Vec<Crate> = members
        .split('"')
        .skip(1)
        .step_by(2)
        .map(|member| {
            let folder = root().join(member);
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
            let name = manifest.split_once("name = \"").unwrap().1;
            let name = name.split_once('"').unwrap().0.to_owned();
            Crate {
                name,
                manifest,
                folder,
            }
        })
        .collect();
    assert!(found.len() >= 7, "the members of the workspace could not be read");
    found
}

impl Crate {
    /// Returns what it depends on, in whatever section.
    pub(crate) fn dependencies(&self) -> Vec<String> {
        let mut is_inside = false;
        let mut found = Vec::new();
        for line in self.manifest.lines() {
            if line.starts_with('[') {
                is_inside = line.trim_end().ends_with("dependencies]");
            } else if is_inside && let Some((name, _)) = line.split_once(['.', '=']) {
                found.push(name.trim().to_owned());
            }
        }
        found
    }

    /// Returns what is built into it: not its tests.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let sources = read(&self.folder.join("src"));
        assert!(!sources.is_empty(), "{} has no sources", self.name);
        sources
    }

    pub(crate) fn all_sources(&self) -> Vec<Source> {
        read(&self.folder)
    }

    /// Returns every file below `tests/`.
    pub(crate) fn test_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder.join("tests"), &mut found);
        found
    }
}

/// One Rust file.
pub(crate) struct Source {
    /// Its path in the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Returns every Rust file of the workspace, and of the fuzz targets beside it.
pub(crate) fn all_sources() -> Vec<Source> {
    let mut found: Vec<Source> = crates().iter().flat_map(Crate::all_sources).collect();
    found.extend(read(&root().join("fuzz").join("fuzz_targets")));
    found
}

fn read(folder: &Path) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(folder, &mut paths);
    let paths = paths.into_iter();
    let paths = paths.filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let sources = paths.map(|path| Source {
        text: std::fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
    });
    sources.collect()
}

/// Returns every file of the project, of whatever kind.
pub(crate) fn all_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found
}

/// Returns the numbers of the lines that a merge leaves where two have changed the same.
pub(crate) fn conflicts(text: &[u8]) -> Vec<usize> {
    let is_mark = |line: &[u8]| {
        let n_same = line.iter().take_while(|byte| **byte == line[0]).count();
        let ends = matches!(line.get(7), None | Some(b' ' | b'\r'));
        n_same == 7 && ends && matches!(line[0], b'<' | b'|' | b'=' | b'>')
    };
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && is_mark(line))
        .map(|(number, _)| number + 1)
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort_unstable();
    for path in entries {
        if path.is_dir() {
            if path
                .file_name()
                .is_some_and(|name| name != "target" && name != ".git")
            {
                walk(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

impl Source {
    /// Returns its lines with their numbers, without comments and without tests, be they at its end or all of it.
    pub(crate) fn code(&self) -> Vec<(usize, &str)> {
        if self.stem() == "tests" {
            return Vec::new();
        }
        let lines = self.text.lines().enumerate();
        let lines = lines.take_while(|(_, line)| *line != "#[cfg(test)]");
        lines
            .map(|(position, line)| (position + 1, without_comment(line)))
            .collect()
    }

    /// Returns the name of the module that it is.
    pub(crate) fn stem(&self) -> &str {
        let path = Path::new(&self.path);
        let named = match path.file_stem() {
            Some(stem) if stem == "mod" => path.parent().and_then(Path::file_name),
            stem => stem,
        };
        named.unwrap().to_str().unwrap()
    }

    pub(crate) fn within(&self, one: &Crate) -> String {
        let folder = one.folder.strip_prefix(root()).unwrap();
        let path = Path::new(&self.path).strip_prefix(folder).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns the modules that it declares.
    pub(crate) fn declared_modules(&self) -> Vec<String> {
        let lines = self.text.lines().map(str::trim_start);
        let lines = lines.filter_map(|line| {
            let (before, name) = line.split_once("mod ")?;
            let is_declaration = before.is_empty() || before.starts_with("pub");
            is_declaration.then(|| name.strip_suffix(';')).flatten()
        });
        lines.map(str::to_owned).collect()
    }

    /// Says whether it has a test of this name.
    pub(crate) fn has_test(&self, name: &str) -> bool {
        let head = format!("fn {name}(");
        let mut before = "";
        for line in self.text.lines().map(str::trim) {
            let is_here = line.starts_with(&head) || line.starts_with(&format!("async {head}"));
            if is_here && before.starts_with("#[") && before.contains("test") {
                return true;
            }
            before = line;
        }
        // Laws are written without an attribute of their own, inside `proptest!`.
        self.text.contains("proptest!") && self.text.contains(&head)
    }
}

/// Says whether a program, a library or a test begins in this file of a crate.
pub(crate) fn is_entrance(within: &str) -> bool {
    let parts: Vec<&str> = within.split('/').collect();
    matches!(
        parts.as_slice(),
        ["src", "lib.rs" | "main.rs"]
            | ["build.rs"]
            | ["src", "bin", _]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    )
}

fn without_comment(line: &str) -> &str {
    // Not inside a text, as in an address.
    let is_outside = |at: usize| line[..at].matches('"').count().is_multiple_of(2);
    let comment = line.match_indices("//").find(|(at, _)| is_outside(*at));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Says whether a line has a word, not as a part of another.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let begins = !word.starts_with(is_part) || !before.is_some_and(is_part);
        let ends = !word.ends_with(is_part) || !after.is_some_and(is_part);
        begins && ends
    })
}
