//! What this machine's ZFS can do: asked once, of the tool itself, never guessed from a version.

use serde::Deserialize;
use serde::Serialize;

/// What the tool can do beyond what every ZFS can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing by itself that a tool can do or cannot"
)]
pub(super) struct Able {
    /// It tells how much was written since a snapshot.
    pub(super) tells_written: bool,
    /// It sends compressed, large and embedded blocks as they are: which of `c`, `L` and `e`.
    pub(super) sends: Blocks,
    /// It receives these, into the pool that it was asked about.
    pub(super) takes: Blocks,
    /// It receives without mounting what it received.
    pub(super) receives_unmounted: bool,
    /// It sets properties while it receives.
    pub(super) receives_properties: bool,
    /// It says beforehand how much it would send.
    pub(super) estimates: bool,
    /// It sends the rest of what another pool has kept the beginning of, and says beforehand what that would be.
    pub(super) sends_rests: bool,
    /// It keeps in the pool, the one that it was asked about, what has arrived of a stream that was cut.
    pub(super) keeps_partial: bool,
    /// It tells what a pool has kept, and drops it: whatever is known of the pool.
    pub(super) drops_partial: bool,
}

/// Blocks that travel as they lie on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub(super) struct Blocks(u8);

impl From<Blocks> for u8 {
    fn from(blocks: Blocks) -> Self {
        blocks.0
    }
}

impl TryFrom<u8> for Blocks {
    type Error = &'static str;

    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        Self::from_bits(bits).ok_or("there are no such blocks")
    }
}

impl Blocks {
    const LETTERS: [(u8, char); 3] = [(1, 'c'), (2, 'L'), (4, 'e')];

    /// What the pool has to have switched on for each of them. Which way a block was compressed is not known
    /// beforehand, so every way there is has to be.
    const FEATURES: [(u8, &'static [&'static str]); 3] = [
        (1, &["lz4_compress", "zstd_compress"]),
        (2, &["large_blocks"]),
        (4, &["embedded_data", "lz4_compress"]),
    ];

    /// Reads what a pool has switched on from the output of `zpool get -H -o property,value all`.
    pub(super) fn of_pool(properties: &str) -> Self {
        let on = Self::FEATURES
            .iter()
            .filter(|(_, features)| features.iter().all(|feature| is_on(properties, feature)));
        Self(on.map(|(bit, _)| bit).sum())
    }

    /// Reads what a peer says that it sends; nothing where it says more than there is.
    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self(bits))
    }

    /// Reads the letters of the option that asks for them.
    pub(super) fn of_letters(letters: &str) -> Self {
        let bits = Self::LETTERS
            .iter()
            .filter(|(_, letter)| letters.contains(*letter))
            .map(|(bit, _)| bit)
            .sum();
        Self(bits)
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// Returns the option that asks for them, if any is asked for.
    pub(super) fn option(self) -> Option<String> {
        let letters: String = Self::LETTERS
            .iter()
            .filter(|(bit, _)| self.0 & bit > 0)
            .map(|(_, letter)| letter)
            .collect();
        (!letters.is_empty()).then(|| format!("-{letters}"))
    }

    /// Those that are among both.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Says whether whoever can handle these can handle those too.
    pub(super) fn cover(self, those: Self) -> bool {
        those.0 & !self.0 == 0
    }
}

/// Reads from the output of `zpool get -H -o property,value all` whether a pool has a feature switched on.
fn is_on(properties: &str, feature: &str) -> bool {
    properties.lines().any(|line| {
        line.strip_prefix("feature@")
            .and_then(|line| line.strip_prefix(feature))
            .is_some_and(|value| matches!(value, "\tenabled" | "\tactive"))
    })
}

impl Able {
    /// Leaves of what the tool can do what this pool can too; `properties` as [`Blocks::of_pool`] reads them.
    pub(super) fn limit_to_pool(&mut self, properties: &str) {
        self.takes = self.sends.and(Blocks::of_pool(properties));
        self.keeps_partial &= is_on(properties, "extensible_dataset");
    }

    /// Reads what `zfs send` and `zfs receive` say of how they are used.
    pub(super) fn from_usage(send: &str, receive: &str) -> Self {
        let sending = letters(send, "send");
        let receiving = letters(receive, "receive");
        let drops_partial = usage_lines(receive, "receive").any(|line| line.starts_with(" -A <"));
        Self {
            tells_written: false,
            sends: Blocks::of_letters(&sending),
            takes: Blocks::default(),
            receives_unmounted: receiving.contains('u'),
            receives_properties: usage_lines(receive, "receive").any(|line| line.contains("[-o ")),
            estimates: usage_lines(send, "send").any(tells_beforehand),
            sends_rests: usage_lines(send, "send")
                .any(|line| tells_beforehand(line) && line.contains(" -t <receive_resume_token>")),
            keeps_partial: receiving.contains('s') && drops_partial,
            drops_partial,
        }
    }
}

/// The lines that say how a command is used.
fn usage_lines<'a>(usage: &'a str, command: &'a str) -> impl Iterator<Item = &'a str> {
    usage
        .lines()
        .filter_map(move |line| line.trim_start().strip_prefix(command))
        .filter(|rest| rest.starts_with(' '))
}

/// Says whether there is a dry run of what this line is of, in a form that is made to be read.
fn tells_beforehand(line: &str) -> bool {
    let group = group(line).unwrap_or_default();
    ['n', 'v', 'P'].iter().all(|letter| group.contains(*letter))
}

/// The one-letter options in the first `[-abc]` of a line.
fn group(line: &str) -> Option<&str> {
    let group = line.trim_start().strip_prefix("[-")?.split(']').next()?;
    group.chars().all(char::is_alphanumeric).then_some(group)
}

/// The one-letter options in the first `[-abc]` of each line of a command.
fn letters(usage: &str, command: &str) -> String {
    usage_lines(usage, command).filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUSE_SEND: &str = "missing snapshot argument\nusage:\n\tsend [-RDp] [-[iI] snapshot] <snapshot>\n";
    const FUSE_RECEIVE: &str =
        "usage:\n\treceive [-vnF] <filesystem|volume|snapshot>\n\treceive [-vnF] -d <filesystem>\n";
    const OPEN_SEND: &str = "usage:\n\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]\n\t     [-R [-X dataset[,dataset]...]]     <snapshot>\n\tsend [-DnVvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>\n\tsend [-nVvPe] -t <receive_resume_token>\n";
    const OPEN_RECEIVE: &str = "usage:\n\treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...\n\t    <filesystem|volume|snapshot>\n\treceive -A <filesystem|volume>\n";

    #[test]
    fn an_old_tool_can_do_little() {
        assert_eq!(Able::from_usage(FUSE_SEND, FUSE_RECEIVE), Able::default());
        assert_eq!(Able::from_usage("", "zfs: not found"), Able::default());
    }

    #[test]
    fn a_new_tool_can_do_much() {
        let able = Able::from_usage(OPEN_SEND, OPEN_RECEIVE);
        assert_eq!(able.sends.option().as_deref(), Some("-cLe"));
        assert!(able.receives_unmounted && able.receives_properties);
        assert!(able.estimates && able.sends_rests && able.keeps_partial);
    }

    #[test]
    fn what_a_pool_cannot_keep_is_not_kept_there() {
        let on = "feature@extensible_dataset\tactive\n";
        for (properties, keeps) in [
            (on, true),
            (&on.replace("active", "disabled"), false),
            ("", false),
        ] {
            let mut able = Able::from_usage(OPEN_SEND, OPEN_RECEIVE);
            able.limit_to_pool(properties);
            assert_eq!(able.keeps_partial, keeps, "{properties}");
            // What an earlier start has kept is seen all the same.
            assert!(able.drops_partial, "{properties}");
        }
    }

    #[test]
    fn a_pool_takes_what_it_has_switched_on() {
        let all = "size\t1.9G\nfeature@lz4_compress\tactive\nfeature@zstd_compress\tenabled\n\
                   feature@large_blocks\tenabled\nfeature@embedded_data\tactive\n";
        assert_eq!(Blocks::of_pool(all).option().as_deref(), Some("-cLe"));
        let old = all.replace("feature@zstd_compress\tenabled\n", "");
        assert_eq!(Blocks::of_pool(&old).option().as_deref(), Some("-Le"));
        let off = all.replace("active", "disabled");
        assert_eq!(Blocks::of_pool(&off).option().as_deref(), Some("-L"));
        assert_eq!(Blocks::of_pool("version\t23\n"), Blocks::default());
    }

    #[test]
    fn who_can_do_more_covers_who_can_do_less() {
        let all = Blocks::from_bits(7).unwrap();
        assert!(all.cover(Blocks::default()));
        assert!(!Blocks::default().cover(all));
        assert_eq!(all.and(Blocks::default()), Blocks::default());
        assert_eq!(all.and(all), all);
        assert_eq!(Blocks::default().option(), None);
        assert_eq!(Blocks::from_bits(8), None);
    }
}
