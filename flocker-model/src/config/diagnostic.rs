//! What is wrong with a file, and where.
//!
//! A diagnostic is a value: it says everything and draws nothing. How it is
//! shown with colours and underlined source is for the command line.

use std::cell::Cell;
use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;

use serde::Serialize;
use serde::Serializer;

/// A configuration text and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What to call it, usually the path of the file.
    pub name: String,
    /// Its content.
    pub text: String,
}

impl Source {
    /// Names a text.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The files cannot be used.
    Error,
    /// The files can be used, but perhaps not as meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// Declares the codes: their variants, their stable text, and the list of all.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident => $text:literal,)*) => {
        /// The kind of a diagnostic. Its text is stable, for tools and for searching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

codes! {
    // YAML
    /// The file is not UTF-8.
    NotUtf8 => "not-utf8",
    /// The text is not YAML.
    YamlSyntax => "yaml-syntax",
    /// A key stands twice in one mapping.
    DuplicateKey => "duplicate-key",
    /// A key is a list or a mapping.
    BadKey => "bad-key",
    /// A value has a YAML tag that means nothing here.
    UnsupportedTag => "unsupported-tag",
    /// A `<<` does not name a mapping.
    BadMerge => "bad-merge",
    /// Aliases repeat too much.
    TooManyAliases => "too-many-aliases",
    /// The file is too large.
    FileTooLarge => "file-too-large",
    /// The file is nested too deeply.
    NestedTooDeeply => "nested-too-deeply",
    /// The file has too many values.
    TooManyValues => "too-many-values",
    /// The file holds more than one document.
    SeveralDocuments => "several-documents",
    /// There are more problems than are listed.
    TooManyProblems => "too-many-problems",
    // Which file is which
    /// The file is neither of the two that are needed.
    UnknownFile => "unknown-file",
    /// One file is both.
    MixedFile => "mixed-file",
    /// Both files are of one kind.
    TwoOfAKind => "two-of-a-kind",
    /// The version is not one that is known.
    BadVersion => "bad-version",
    // Structure
    /// A required key is missing.
    MissingKey => "missing-key",
    /// A key is not known.
    UnknownKey => "unknown-key",
    /// A key of Docker Compose or Fig that has no counterpart.
    UnsupportedKey => "unsupported-key",
    /// A value of Docker Compose or Fig that has no counterpart.
    UnsupportedValue => "unsupported-value",
    /// Keys stand together that exclude each other.
    ExclusiveKeys => "exclusive-keys",
    /// A value has the wrong type.
    WrongType => "wrong-type",
    // Values
    /// A name has characters that it may not have.
    BadName => "bad-name",
    /// A text is not an image.
    BadImage => "bad-image",
    /// A number is out of range, or not a number.
    BadNumber => "bad-number",
    /// A text is not a size.
    BadSize => "bad-size",
    /// A text is not a duration.
    BadDuration => "bad-duration",
    /// A path is not absolute, or not clean.
    BadPath => "bad-path",
    /// A text is not a UUID.
    BadId => "bad-id",
    /// A text is not the name of an environment variable.
    BadVariable => "bad-variable",
    /// A text cannot be handed to a program.
    BadText => "bad-text",
    /// A command cannot be split into words.
    BadCommand => "bad-command",
    /// A text is not one of the words that are allowed.
    BadChoice => "bad-choice",
    /// A text is not `EXTERNAL:INTERNAL`.
    BadPort => "bad-port",
    /// A host or user that cannot be reached over SSH.
    BadAddress => "bad-address",
    /// A text that is something else to other readers of YAML.
    AmbiguousText => "ambiguous-text",
    /// A `${VARIABLE}` that would have to be filled in.
    Interpolation => "interpolation",
    // The whole
    /// An application is named that is not defined.
    UnknownApplication => "unknown-application",
    /// A volume is named that is not declared.
    UnknownVolume => "unknown-volume",
    /// Two applications claim one dataset.
    DatasetClaimedTwice => "dataset-claimed-twice",
    /// One external port is claimed twice.
    PortClaimedTwice => "port-claimed-twice",
    /// One application has two links of the same alias and local port.
    LinkClaimedTwice => "link-claimed-twice",
    /// An application with data is placed on two nodes.
    VolumeOnTwoNodes => "volume-on-two-nodes",
    /// An application is listed twice for one node.
    PlacedTwice => "placed-twice",
    /// Two names for one node.
    NodeNamedTwice => "node-named-twice",
    /// Applications wait for each other.
    DependencyCycle => "dependency-cycle",
    /// An application runs nowhere.
    PlacedNowhere => "placed-nowhere",
    /// A link ends at a port that nothing serves.
    LinkToNothing => "link-to-nothing",
    /// A value is taken to mean something near to it.
    Approximated => "approximated",
    /// Braces in an argument are not filled, and may be meant to be.
    UnfilledPlace => "unfilled-place",
    /// A secret could not be fetched.
    SecretUnavailable => "secret-unavailable",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A stretch of a file, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Span {
    /// Where it begins.
    pub start: u32,
    /// Where it has ended.
    pub end: u32,
}

impl Span {
    /// Returns the stretch as a range of indices.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A stretch of a named file, and where a person finds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// What the file is called.
    pub file: Box<str>,
    /// The stretch.
    pub span: Span,
    /// The line on which it begins, from 1.
    pub line: u32,
    /// The character of that line at which it begins, from 1.
    pub column: u32,
}

impl Place {
    /// Returns the line on which the place begins, without its end, from the text of its file.
    ///
    /// Nothing is returned for a text that is shorter than the place says.
    #[must_use]
    pub fn excerpt<'t>(&self, text: &'t str) -> Option<&'t str> {
        let at = self.span.start as usize;
        let (before, after) = (text.get(..at)?, text.get(at..)?);
        // The two characters of one line end are not parted.
        let before = before
            .strip_suffix('\r')
            .filter(|_| after.starts_with('\n'))
            .unwrap_or(before);
        let start = before.rfind(LINE_ENDS).map_or(0, |end| end + 1);
        text.get(start..)?.split(LINE_ENDS).next()
    }
}

/// What ends a line of YAML; both together end one.
const LINE_ENDS: [char; 2] = ['\n', '\r'];

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One thing that is wrong, or may be, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing it is.
    pub code: Code,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where.
    pub place: Place,
    /// The other places of a conflict, and what stands there.
    pub also: Vec<(Place, String)>,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// Says whether the files cannot be used because of this.
    #[must_use]
    pub fn is_error(&self) -> bool {
        match self.severity {
            Severity::Error => true,
            Severity::Warning => false,
        }
    }
}

impl fmt::Display for Diagnostic {
    /// Writes one plain line: `file:line:column: error: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.severity, self.message)
    }
}

/// A source with the beginnings of its lines, so that a place is found quickly, also on a very long line.
#[derive(Debug)]
pub(crate) struct File<'s> {
    pub(crate) source: &'s Source,
    /// Made when the first place is asked for: most files have nothing wrong.
    index: OnceCell<Index>,
}

#[derive(Debug)]
struct Index {
    /// Where each line begins.
    lines: Vec<u32>,
    /// How many characters begin before each block of [`BLOCK`] bytes.
    blocks: Vec<usize>,
}

const BLOCK: usize = 1024;

impl Index {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let ends = bytes.iter().enumerate().filter(|&(at, &byte)| match byte {
            b'\n' => true,
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        });
        let lines = std::iter::once(0)
            .chain(ends.filter_map(|(at, _)| u32::try_from(at + 1).ok()))
            .collect();
        let mut n_characters = 0;
        let blocks = text.as_bytes().chunks(BLOCK).map(|block| {
            let before = n_characters;
            n_characters += count_characters(block);
            before
        });
        Self {
            lines,
            blocks: blocks.collect(),
        }
    }
}

impl<'s> File<'s> {
    /// Takes a source. Only its first 4 GiB have places.
    pub(crate) fn new(source: &'s Source) -> Self {
        Self {
            source,
            index: OnceCell::new(),
        }
    }

    fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(&self.source.text))
    }

    /// Returns where the file begins.
    pub(crate) fn beginning(&self) -> Place {
        Place {
            file: self.source.name.as_str().into(),
            span: Span::default(),
            line: 1,
            column: 1,
        }
    }

    pub(crate) fn place(&self, span: Span) -> Place {
        let lines = &self.index().lines;
        let line = lines.partition_point(|&start| start <= span.start).max(1);
        let start = lines.get(line - 1).copied().unwrap_or(0);
        let column = self.characters_before(span.start) - self.characters_before(start) + 1;
        Place {
            file: self.source.name.as_str().into(),
            span,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }

    fn characters_before(&self, at: u32) -> usize {
        let at = (at as usize).min(self.source.text.len());
        let block = at / BLOCK;
        let in_block = &self.source.text.as_bytes()[block * BLOCK..at];
        let before = self.index().blocks.get(block).copied();
        // A text that ends with its last block has none that begins there.
        before.map_or_else(
            || count_characters(self.source.text.as_bytes()),
            |n| n + count_characters(in_block),
        )
    }
}

/// Counts the bytes that begin a character.
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}

/// Collects problems, at most so many of each severity that a person would read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Diagnostic>,
    errors: Count,
    warnings: Count,
    /// How much work it was so far to look for what may have been meant.
    pub(crate) compared: Cell<usize>,
}

#[derive(Debug, Default)]
struct Count {
    n_listed: usize,
    n_dropped: usize,
}

impl Problems {
    const LIMIT: usize = 100;

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        let count = match diagnostic.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if count.n_listed < Self::LIMIT {
            count.n_listed += 1;
            self.list.push(diagnostic);
        } else {
            count.n_dropped += 1;
        }
    }

    /// Counts a problem that would not be listed any more, and says whether it was one: its text and place need no thought.
    pub(crate) fn only_counts(&mut self, severity: Severity) -> bool {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        let only_counts = count.n_listed >= Self::LIMIT;
        count.n_dropped += usize::from(only_counts);
        only_counts
    }

    /// Says whether one more error would only be counted, so that nobody need think of a hint for it.
    pub(crate) fn is_full(&self) -> bool {
        self.errors.n_listed >= Self::LIMIT
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors.n_listed > 0
    }

    /// Returns everything in order of file and place; what was too much is counted in the last one.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.list
            .sort_by(|one, two| (&one.place, one.code).cmp(&(&two.place, two.code)));
        let n_dropped = self.errors.n_dropped + self.warnings.n_dropped;
        if let (Some(last), 1..) = (self.list.last(), n_dropped) {
            self.list.push(Diagnostic {
                severity: if self.errors.n_dropped > 0 {
                    Severity::Error
                } else {
                    Severity::Warning
                },
                code: Code::TooManyProblems,
                message: format!("there are {n_dropped} more problems, which are not listed"),
                place: last.place.clone(),
                also: Vec::new(),
                hint: None,
            });
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_finds_its_line() {
        let source = Source::new("a.yml", "x: 1\r\né: ö y\nlast");
        let file = File::new(&source);
        let start = source.text.find('y').unwrap();
        let place = file.place(Span {
            start: u32::try_from(start).unwrap(),
            end: u32::try_from(start + 1).unwrap(),
        });
        assert_eq!((place.line, place.column), (2, 6));
        assert_eq!(place.excerpt(&source.text), Some("é: ö y"));
        assert_eq!(file.beginning(), file.place(Span::default()));
        assert_eq!(file.place(Span::default()).excerpt(&source.text), Some("x: 1"));
        assert_eq!(place.excerpt("x"), None);
        assert_eq!(place.to_string(), "a.yml:2:6");
    }

    #[test]
    fn every_line_end_of_yaml_is_counted() {
        let source = Source::new("a", "one\rtwo\n\rfour\r\nfive\r");
        let file = File::new(&source);
        let found: Vec<_> = (0..=source.text.len())
            .map(|at| {
                let at = u32::try_from(at).unwrap();
                let place = file.place(Span { start: at, end: at });
                (
                    place.line,
                    place.column,
                    place.excerpt(&source.text).unwrap().to_owned(),
                )
            })
            .collect();
        for (at, line, column, excerpt) in [
            (0, 1, 1, "one"),
            (3, 1, 4, "one"),
            (4, 2, 1, "two"),
            (7, 2, 4, "two"),
            (8, 3, 1, ""),
            (9, 4, 1, "four"),
            (13, 4, 5, "four"),
            (14, 4, 6, "four"),
            (15, 5, 1, "five"),
            (20, 6, 1, ""),
        ] {
            assert_eq!(found[at], (line, column, excerpt.to_owned()), "{at}");
        }
    }

    #[test]
    fn a_place_on_a_long_line_is_counted_as_on_a_short_one() {
        let source = Source::new("a", format!("x\n{}", "é".repeat(2047)));
        let file = File::new(&source);
        for (start, column) in [
            (2, 1),
            (4, 2),
            (1024, 512),
            (2048, 1024),
            (4094, 2047),
            (4096, 2048),
        ] {
            let place = file.place(Span { start, end: start });
            assert_eq!((place.line, place.column), (2, column));
        }
        assert_eq!(source.text.len(), 4096);
    }

    #[test]
    fn every_code_has_its_own_text() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
    }
}
