//! The one reading of a pool: what `zfs get -rHp` says, as values.
//!
//! `get` is asked and not `list`, because it exists in the same form in every
//! ZFS there is. Nothing is guessed: a line that is not understood, or a
//! property that is missing, makes the whole reading fail. What could not be
//! read would otherwise pass for something that is not there.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::able::Able;

/// The properties that are asked of every ZFS.
const ALWAYS: [&str; 18] = [
    "type",
    "guid",
    "createtxg",
    "used",
    "referenced",
    "available",
    "usedbysnapshots",
    "mounted",
    "mountpoint",
    "readonly",
    "refquota",
    "userrefs",
    ROOT,
    SPOOL,
    DATASET,
    ROLE,
    OWNER,
    TRASHED,
];

/// Marks the filesystem below which ours are.
pub(super) const ROOT: &str = "flocker:root";
/// Marks the filesystem in which streams wait until they are complete.
pub(super) const SPOOL: &str = "flocker:spool";
/// Says which dataset a filesystem is. Without it, it is not ours.
pub(super) const DATASET: &str = "flocker:dataset";
/// Has the [standing](super::standing::Standing) of a dataset.
pub(super) const ROLE: &str = "flocker:role";
/// Names the application that first asked for a dataset.
pub(super) const OWNER: &str = "flocker:owner";
/// Says when a dataset was thrown away, in seconds since 1970.
pub(super) const TRASHED: &str = "flocker:trashed";
/// Says, on the parent, which ownership of a dataset was known here when a copy left; the dataset's id follows.
pub(super) const FENCE: &str = "flocker:fence.";
/// Marks a snapshot that we took or received.
pub(super) const SNAPSHOT: &str = "flocker:snapshot";

/// Tells, of a filesystem into which a stream came that was cut, what the sender's tool needs in order to go on.
const PARTIAL: &str = "receive_resume_token";

/// Returns what to ask for, as one argument.
#[must_use]
pub(super) fn properties(able: &Able) -> String {
    let mut properties = ALWAYS.to_vec();
    properties.push(SNAPSHOT);
    if able.tells_written {
        properties.push("written");
    }
    if able.drops_partial {
        properties.push(PARTIAL);
    }
    properties.join(",")
}

/// Reads our own properties that begin so from the output of `zfs get -Hp -o property,value,source`, without that beginning.
pub(super) fn parse_own(output: &[u8], beginning: &str) -> Result<BTreeMap<String, String>, Malformed> {
    let text = std::str::from_utf8(output).map_err(|_| Malformed("it is not text".into()))?;
    let mut own = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t');
        let (Some(property), Some(value), Some(source), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(Malformed(format!(
                "a line is not understood: `{}`",
                line.escape_debug()
            )));
        };
        if let Some(rest) = property.strip_prefix(beginning).filter(|_| source == "local") {
            own.insert(rest.to_owned(), value.to_owned());
        }
    }
    Ok(own)
}

/// Leaves out what is told again: older tools do so of a filesystem that is asked for by itself and with others.
pub(super) fn once(output: &[u8]) -> Vec<u8> {
    let mut told = BTreeSet::new();
    let lines = output.split_inclusive(|byte| *byte == b'\n').filter(|line| {
        let mut tabs = line.iter().enumerate().filter(|(_, byte)| **byte == b'\t');
        // What it is about, and which property of that.
        let about = tabs.nth(1).map_or(*line, |(end, _)| &line[..end]);
        told.insert(about)
    });
    lines.flatten().copied().collect()
}

/// Why a reading was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Everything below one filesystem, and itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// By name. Volumes and bookmarks are left out.
    pub filesystems: BTreeMap<String, Filesystem>,
}

/// One filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its identity in this pool.
    pub guid: u64,
    /// How many bytes it refers to.
    pub referenced: u64,
    /// How many bytes fit.
    pub available: u64,
    /// How many bytes only its snapshots refer to.
    pub used_by_snapshots: u64,
    /// How many bytes were written since its newest snapshot, where the tool tells.
    pub written: Option<u64>,
    /// Whether it is mounted.
    pub is_mounted: bool,
    /// Where it is to be mounted.
    pub mountpoint: String,
    /// Whether it is set not to be written.
    pub is_read_only: bool,
    /// Whether what is mounted is said to differ from what is set.
    pub is_mounted_otherwise: bool,
    /// How many bytes it may refer to.
    pub quota: Option<u64>,
    /// What the pool says of a stream that has begun to arrive in it and is not complete.
    pub partial: Option<String>,
    /// Our own properties that are set on itself: what is inherited or received from elsewhere says nothing of it.
    pub own: BTreeMap<String, String>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Taken>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its name, without that of its filesystem.
    pub name: String,
    /// Its identity in every pool.
    pub guid: u64,
    /// The transaction that made it.
    pub transaction: u64,
    /// How many bytes it alone refers to.
    pub used: u64,
    /// How many bytes it refers to.
    pub referenced: u64,
    /// How many bytes were written between the one before it and itself, where the tool tells.
    pub written: Option<u64>,
    /// How many holds it has.
    pub n_holds: u64,
    /// Whether we took or received it.
    pub is_ours: bool,
}

impl Listing {
    /// Reads the output of `zfs get -rHp -o name,property,value,source`.
    pub fn parse(output: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(output).map_err(|_| Malformed("it is not text".into()))?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(Malformed("its last line is cut".into()));
        }
        let mut rows: BTreeMap<&str, Properties<'_>> = BTreeMap::new();
        for line in text.lines() {
            let odd = || Malformed(format!("a line is not understood: `{}`", line.escape_debug()));
            let mut fields = line.split('\t');
            let (Some(name), Some(property), Some(value), Some(source), None) = (
                fields.next(),
                fields.next(),
                fields.next(),
                fields.next(),
                fields.next(),
            ) else {
                return Err(odd());
            };
            if name.is_empty() || property.is_empty() {
                return Err(odd());
            }
            let properties = rows.entry(name).or_insert_with(|| Properties {
                name,
                values: BTreeMap::new(),
            });
            if properties.values.insert(property, (value, source)).is_some() {
                return Err(odd());
            }
        }
        let mut listing = Self::default();
        for (name, properties) in rows.iter().filter(|(name, _)| !name.contains(['@', '#'])) {
            if properties.text("type")? == "filesystem" {
                listing
                    .filesystems
                    .insert((*name).to_owned(), properties.filesystem()?);
            }
        }
        for (name, properties) in &rows {
            let Some((of, name)) = name.split_once('@') else {
                continue;
            };
            // A snapshot of a volume is nothing of ours.
            if let Some(filesystem) = listing.filesystems.get_mut(of) {
                filesystem.snapshots.push(properties.snapshot(name)?);
            }
        }
        for filesystem in listing.filesystems.values_mut() {
            filesystem.snapshots.sort_by_key(|taken| taken.transaction);
        }
        Ok(listing)
    }
}

/// What was said of one name.
struct Properties<'a> {
    name: &'a str,
    values: BTreeMap<&'a str, (&'a str, &'a str)>,
}

impl<'a> Properties<'a> {
    fn get(&self, property: &str) -> Result<(&'a str, &'a str), Malformed> {
        let found = self.values.get(property).copied();
        found.ok_or_else(|| Malformed(format!("`{}` has no property `{property}`", self.name)))
    }

    fn text(&self, property: &str) -> Result<&'a str, Malformed> {
        self.get(property).map(|(value, _)| value)
    }

    fn number(&self, property: &str) -> Result<u64, Malformed> {
        let text = self.text(property)?;
        text.parse().map_err(|_| self.odd(property, text))
    }

    /// A number that only newer tools tell.
    fn number_if_told(&self, property: &str) -> Result<Option<u64>, Malformed> {
        match self.values.get(property) {
            None | Some(("-", _)) => Ok(None),
            Some(_) => self.number(property).map(Some),
        }
    }

    /// A text that only newer tools tell, and only where there is one.
    fn text_if_told(&self, property: &str) -> Option<String> {
        let (told, _) = self.values.get(property)?;
        (*told != "-").then(|| (*told).to_owned())
    }

    fn flag(&self, property: &str, yes: &str, no: &str) -> Result<bool, Malformed> {
        let text = self.text(property)?;
        if text == yes {
            Ok(true)
        } else if text == no {
            Ok(false)
        } else {
            Err(self.odd(property, text))
        }
    }

    fn odd(&self, property: &str, value: &str) -> Malformed {
        let value = value.escape_debug();
        Malformed(format!(
            "the property `{property}` of `{}` is `{value}`",
            self.name
        ))
    }

    fn filesystem(&self) -> Result<Filesystem, Malformed> {
        let shown = self.flag("readonly", "on", "off")?;
        let is_mounted_otherwise = self.get("readonly")?.1 == "temporary";
        let quota = match self.text("refquota")? {
            "none" => None,
            _ => Some(self.number("refquota")?).filter(|quota| *quota > 0),
        };
        let own = self.values.iter();
        let own = own
            .filter(|(property, (_, source))| property.starts_with("flocker:") && *source == "local")
            .map(|(property, (value, _))| ((*property).to_owned(), (*value).to_owned()))
            .collect();
        Ok(Filesystem {
            guid: self.number("guid")?,
            referenced: self.number("referenced")?,
            available: self.number("available")?,
            used_by_snapshots: self.number("usedbysnapshots")?,
            written: self.number_if_told("written")?,
            is_mounted: self.flag("mounted", "yes", "no")?,
            mountpoint: self.text("mountpoint")?.to_owned(),
            // What is shown while it differs is what is mounted.
            is_read_only: shown != is_mounted_otherwise,
            is_mounted_otherwise,
            quota,
            partial: self.text_if_told(PARTIAL),
            own,
            snapshots: Vec::new(),
        })
    }

    fn snapshot(&self, name: &str) -> Result<Taken, Malformed> {
        let mark = self.values.get(SNAPSHOT);
        Ok(Taken {
            name: name.to_owned(),
            guid: self.number("guid")?,
            transaction: self.number("createtxg")?,
            used: self.number("used")?,
            referenced: self.number("referenced")?,
            written: self.number_if_told("written")?,
            n_holds: self.number("userrefs")?,
            is_ours: mark.is_some_and(|(_, source)| *source == "local"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// Writes rows as the tool does.
    fn written<'a>(name: &str, rows: impl IntoIterator<Item = &'a (&'a str, &'a str, &'a str)>) -> String {
        let mut text = String::new();
        for (property, value, source) in rows {
            writeln!(text, "{name}\t{property}\t{value}\t{source}").unwrap();
        }
        text
    }

    fn filesystem(name: &str, more: &[(&str, &str, &str)]) -> String {
        let mut rows = vec![
            ("type", "filesystem", "-"),
            ("guid", "18446744073709551615", "-"),
            ("createtxg", "5", "-"),
            ("used", "10", "-"),
            ("referenced", "9", "-"),
            ("available", "100", "-"),
            ("usedbysnapshots", "1", "-"),
            ("mounted", "yes", "-"),
            ("mountpoint", "/flocker/a", "local"),
            ("readonly", "off", "default"),
            ("refquota", "0", "default"),
            ("userrefs", "-", "-"),
        ];
        rows.retain(|(property, ..)| more.iter().all(|(changed, ..)| changed != property));
        rows.extend(more);
        written(name, &rows)
    }

    fn snapshot(name: &str, transaction: u64, source: &str) -> String {
        let rows = [
            ("type", "snapshot", "-"),
            ("guid", "7", "-"),
            ("createtxg", &transaction.to_string(), "-"),
            ("used", "1", "-"),
            ("referenced", "9", "-"),
            ("userrefs", "1", "-"),
            ("flocker:snapshot", "1", source),
        ];
        written(name, &rows)
    }

    #[test]
    fn what_is_told_again_is_left_out_and_nothing_else() {
        let output = b"p\ttype\tfilesystem\t-\np/a\ttype\tfilesystem\t-\np/a\tused\t1\t-\np/a\ttype\tfilesystem\t-\np/a\tused\t2\t-\nodd\nlast";
        let kept = b"p\ttype\tfilesystem\t-\np/a\ttype\tfilesystem\t-\np/a\tused\t1\t-\nodd\nlast";
        assert_eq!(once(output), kept);
        assert!(once(b"").is_empty());
    }

    #[test]
    fn what_a_pool_has_kept_is_seen_by_whoever_can_drop_it() {
        let asked = |able: &Able| properties(able).split(',').any(|property| property == PARTIAL);
        let mut able = Able::default();
        assert!(!asked(&able));
        able.drops_partial = true;
        assert!(asked(&able));
    }

    #[test]
    fn only_what_is_set_on_itself_counts() {
        let text = filesystem("p/a", &[("flocker:dataset", "x", "local")])
            + &filesystem("p/a/b", &[("flocker:dataset", "x", "inherited from p/a")])
            + &filesystem("p/c", &[("flocker:dataset", "x", "received")]);
        let listing = Listing::parse(text.as_bytes()).unwrap();
        assert_eq!(listing.filesystems["p/a"].own["flocker:dataset"], "x");
        assert!(listing.filesystems["p/a/b"].own.is_empty());
        assert!(listing.filesystems["p/c"].own.is_empty());
    }

    #[test]
    fn snapshots_come_in_the_order_of_their_transactions() {
        let text = snapshot("p/a@z", 8, "local")
            + &filesystem("p/a", &[])
            + &snapshot("p/a@b", 9, "inherited from p")
            + &snapshot("p/gone@b", 9, "local");
        let listing = Listing::parse(text.as_bytes()).unwrap();
        let taken = &listing.filesystems["p/a"].snapshots;
        let names: Vec<_> = taken
            .iter()
            .map(|taken| (taken.name.as_str(), taken.is_ours))
            .collect();
        assert_eq!(names, [("z", true), ("b", false)]);
    }

    #[test]
    fn what_is_mounted_differs_from_what_is_set() {
        let of = |value, source| {
            let text = filesystem("p/a", &[("readonly", value, source)]);
            Listing::parse(text.as_bytes()).unwrap().filesystems["p/a"].is_read_only
        };
        assert!(of("on", "local"));
        assert!(!of("off", "local"));
        assert!(of("off", "temporary"));
        assert!(!of("on", "temporary"));
    }

    #[test]
    fn a_quota_of_nothing_is_none() {
        for (text, quota) in [("0", None), ("none", None), ("7", Some(7))] {
            let text = filesystem("p/a", &[("refquota", text, "local")]);
            let listing = Listing::parse(text.as_bytes()).unwrap();
            assert_eq!(listing.filesystems["p/a"].quota, quota);
        }
    }

    #[test]
    fn volumes_and_bookmarks_are_left_out() {
        let text = "p/v\ttype\tvolume\t-\np/v@s\ttype\tsnapshot\t-\np/a#b\ttype\tbookmark\t-\n";
        assert_eq!(Listing::parse(text.as_bytes()), Ok(Listing::default()));
    }

    #[test]
    fn of_the_fences_only_those_that_are_set_here_count() {
        let text = b"type\tfilesystem\t-\nflocker:fence.a\t3\tlocal\nflocker:fence.b\t4\tinherited from p\n";
        let own = parse_own(text, FENCE).unwrap();
        assert_eq!(own, BTreeMap::from([("a".to_owned(), "3".to_owned())]));
        parse_own(b"flocker:fence.a\t3\n", FENCE).unwrap_err();
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let whole = filesystem("p/a", &[]);
        let last = whole.lines().last().unwrap();
        let cases = [
            whole[..whole.len() - 1].to_owned(),
            whole.replace("p/a\tguid\t18446744073709551615\t-\n", ""),
            whole.replace("18446744073709551615", "1.2K"),
            whole.replace("\tyes\t", "\tperhaps\t"),
            format!("{whole}{last}\n"),
            format!("{whole}p/a\tx\n"),
            format!("{whole}p/a\tx\ty\tz\tw\n"),
            format!("{whole}\n"),
        ];
        for case in cases {
            Listing::parse(case.as_bytes()).unwrap_err();
        }
        Listing::parse(b"\xff\n").unwrap_err();
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_panic(text: Vec<u8>) {
            drop(Listing::parse(&text));
        }

        #[test]
        fn a_reading_that_lacks_a_line_is_never_a_smaller_one(line in 0_usize..19) {
            let text = filesystem("p/a", &[]) + &snapshot("p/a@s", 8, "local");
            let kept: Vec<&str> = text.lines().enumerate().filter(|(n, _)| *n != line).map(|(_, line)| line).collect();
            let kept = kept.join("\n") + "\n";
            // The owner's mark and the type of a snapshot may be absent; nothing else.
            match Listing::parse(kept.as_bytes()) {
                Err(_) => {}
                Ok(listing) => prop_assert_eq!(listing.filesystems["p/a"].snapshots.len(), 1),
            }
        }
    }
}
