//! What a pool keeps of a stream that was cut, and the token that it gives out for it.
//!
//! A newer tool receives so that what has arrived stays in the pool, hidden or as a filesystem without a snapshot, and
//! that of the sender writes the rest for whoever shows the token. A token chooses what is sent, so none is believed:
//! the tool is asked what it is of, and it is used only where that is the one snapshot that was asked for anyway.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use flocker_model::DatasetId;
use flocker_model::SnapshotGuid;

use super::able::Blocks;
use super::seen::Seen;
use super::shared::Shared;
use super::spool::Note;
use super::tool::Context as _;
use super::tool::broken;
use crate::change::Change;
use crate::volume::VolumeError;

/// The longest token. One of the longest names is not half as long.
const LONGEST: usize = 4096;

/// What a pool gives out for the beginning of a stream: three numbers and what is packed, with a dash between them.
///
/// It can be mistaken for no option, and holds nothing but hexadecimal digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PoolToken(Box<str>);

impl PoolToken {
    /// Reads a token; nothing where it is not spelled as one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_hex =
            |part: &str| !part.is_empty() && part.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let mut parts = text.split('-');
        let is_token = text.len() <= LONGEST
            && parts.next() == Some("1")
            && parts.next().is_some_and(|sum| is_hex(sum) && sum.len() <= 16)
            && parts
                .next()
                .is_some_and(|length| is_hex(length) && length.len() <= 8)
            && parts
                .next()
                .is_some_and(|packed| is_hex(packed) && packed.len().is_multiple_of(2))
            && parts.next().is_none();
        is_token.then(|| Self(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn digest(&self) -> blake3::Hash {
        blake3::hash(self.0.as_bytes())
    }
}

/// What the tool says that a token is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) to: SnapshotGuid,
    pub(super) from: Option<SnapshotGuid>,
    /// What the sender called the snapshot when it began.
    pub(super) name: String,
    /// How many bytes of the stream the pool has.
    pub(super) arrived: u64,
    /// The blocks that the rest has as they lie on the sender's disk.
    pub(super) blocks: Blocks,
    /// Whether this node can send what is left.
    pub(super) is_here: bool,
    /// How many bytes that is, where the tool knows.
    pub(super) size: Option<u64>,
}

impl Rest {
    /// Reads what `zfs send -nvP -t` says.
    ///
    /// Nothing where anything is said twice or is not known: what it is of would be more than is understood.
    pub(super) fn parse(output: &str) -> Option<Self> {
        let mut said = BTreeMap::new();
        for line in output.lines().filter_map(|line| line.strip_prefix('\t')) {
            let (key, value) = line.split_once(" = ")?;
            if said.insert(key, value).is_some() {
                return None;
            }
        }
        let mut number = |key: &str| match said.remove(key) {
            None => Some(None),
            Some(value) => {
                let value = value.strip_prefix("0x")?;
                u64::from_str_radix(value, 16).ok().map(Some)
            }
        };
        let (to, from, arrived) = (number("toguid")??, number("fromguid")?, number("bytes")??);
        // Where in the snapshot it goes on.
        let _place = (number("object")??, number("offset")??);
        let name = said.remove("toname")?.to_owned();
        let mut letters = String::new();
        for (key, letter) in [("compressok", 'c'), ("largeblockok", 'L'), ("embedok", 'e')] {
            if said.remove(key).is_some() {
                letters.push(letter);
            }
        }
        said.is_empty().then(|| Self {
            to: SnapshotGuid(to.into()),
            from: from
                .filter(|from| *from != 0)
                .map(|from| SnapshotGuid(from.into())),
            name,
            arrived,
            blocks: Blocks::of_letters(&letters),
            is_here: sizes(output).next().is_some(),
            size: size(output),
        })
    }
}

/// Reads of which snapshot a token is from what `zfs send -nvP -t` says, also where it says more than is understood.
///
/// Nothing where it does not say, or does not say one and the same.
fn target(output: &str) -> Option<SnapshotGuid> {
    let targets = output
        .lines()
        .filter_map(|line| line.strip_prefix("\ttoguid = 0x"));
    let mut targets = targets.map(|guid| u64::from_str_radix(guid, 16).ok());
    let first = targets.next()??;
    targets
        .all(|other| other == Some(first))
        .then_some(SnapshotGuid(first.into()))
}

/// Reads how much would be sent from what a dry run says.
///
/// The tool has been seen to count below zero, which comes out as more than there is anywhere.
pub(super) fn size(output: &str) -> Option<u64> {
    let size = sizes(output).next()?.parse().ok()?;
    i64::try_from(size).is_ok().then_some(size)
}

fn sizes(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter_map(|line| line.strip_prefix("size\t"))
}

/// What is kept of an arrival: in which filesystem, and the pool's token for it.
pub(super) struct InPool {
    pub(super) into: String,
    pub(super) token: PoolToken,
}

/// Finds what the pool has kept of what a note speaks of.
pub(super) fn of_note(seen: &Seen, note: &Note) -> Option<InPool> {
    let into = note.arrival.as_ref()?.into.as_ref()?;
    Some(InPool {
        into: into.clone(),
        token: token_in(seen, note.dataset.id, into)?,
    })
}

/// Finds the token of what the pool has kept of a dataset's stream in a filesystem.
///
/// That is a copy of ours, or one of which nothing else is known yet: one that has a snapshot is none of those.
pub(super) fn token_in(seen: &Seen, dataset: DatasetId, into: &str) -> Option<PoolToken> {
    let ours = seen.here.get(&dataset).filter(|ours| ours.name == into);
    let filesystem = match ours {
        Some(ours) => &ours.filesystem,
        None => seen.foreign.get(into).filter(|new| new.snapshots.is_empty())?,
    };
    PoolToken::parse(filesystem.partial.as_ref()?)
}

impl Shared {
    /// Asks what a token is of, once for each.
    pub(super) async fn rest_of(
        &self,
        dataset: DatasetId,
        token: &PoolToken,
    ) -> Result<Option<Rest>, VolumeError> {
        if let Some(known) = self.rests.known(dataset, token) {
            return Ok(Some(known));
        }
        let asked = self.tool.rest_of(token).await;
        let rest = asked.to(|| "ask what has arrived".into())?;
        if let Some(rest) = &rest {
            self.rests.keep(dataset, token, rest);
        }
        Ok(rest)
    }

    /// Has the pool drop what it has kept of what began to arrive of a dataset. Needs the lock of the dataset's state.
    ///
    /// To be done before the note goes: it says which filesystem is ours that bears no mark yet. Nothing that is
    /// complete can go this way: the tool takes it from where a stream has stopped, and from nowhere else. Fails where the
    /// tool does not say whose it is.
    pub(super) async fn drop_pooled(
        &self,
        seen: &Seen,
        dataset: DatasetId,
        note: Option<&Note>,
    ) -> Result<Change, VolumeError> {
        let what = || format!("drop what the pool has kept of what arrived of dataset {dataset}");
        let mut change = Change::AlreadySo;
        if let Some(ours) = seen.here.get(&dataset)
            && ours.filesystem.partial.is_some()
        {
            self.tool.abort(&ours.name).await.to(what)?;
            change = Change::Made;
        }
        if let Some(note) = note
            && let Some(InPool { into, token }) = of_note(seen, note)
            && seen.foreign.contains_key(&into)
        {
            let said = self.tool.said_of(&token).await.to(what)?;
            // Without the note it would be nobody's for ever, so it must not be guessed that it is not ours.
            let unknown = || broken(what(), "the tool does not say what it is of");
            let to = target(&said).ok_or_else(unknown)?;
            // A filesystem of that name that somebody else makes just so is not ours all the same.
            if note.arrival.as_ref().is_some_and(|arrival| arrival.guid == to) {
                self.tool.abort(&into).await.to(what)?;
                change = Change::Made;
            }
        }
        Ok(change)
    }
}

/// What the last token of each dataset was found to be of, so that one that is looked at often is asked about once.
#[derive(Debug, Default)]
pub(super) struct Rests(Mutex<BTreeMap<DatasetId, (PoolToken, Rest)>>);

impl Rests {
    fn known(&self, dataset: DatasetId, token: &PoolToken) -> Option<Rest> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, rest) = known.get(&dataset)?;
        (of == token).then(|| rest.clone())
    }

    /// Returns what the last one was of.
    pub(super) fn last(&self, dataset: DatasetId) -> Option<Rest> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&dataset).map(|(_, rest)| rest.clone())
    }

    fn keep(&self, dataset: DatasetId, token: &PoolToken, rest: &Rest) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(dataset, (token.clone(), rest.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OpenZFS 2.1.11 says it.
    const SAID: &str = "resume token contents:\nnvlist version: 0\n\tfromguid = 0xe2688845b6b0489b\n\tobject = 0x2\n\t\
                        offset = 0xc0000\n\tbytes = 0xe0f50\n\ttoguid = 0x2b11770d93b52fac\n\t\
                        toname = flocker/x/a@s2\n\tembedok = 1\n\tcompressok = 1\n\
                        incremental\tflocker/x/a@s1\tflocker/x/a@s2\t3287584\nsize\t3287584\n";

    #[test]
    fn what_the_tool_says_of_a_token_is_read() {
        let rest = Rest::parse(SAID).unwrap();
        let expected = Rest {
            to: SnapshotGuid(0x2b11_770d_93b5_2fac),
            from: Some(SnapshotGuid(0xe268_8845_b6b0_489b)),
            name: "flocker/x/a@s2".into(),
            arrived: 0xe0f50,
            blocks: Blocks::of_letters("ce"),
            is_here: true,
            size: Some(3_287_584),
        };
        assert_eq!(rest, expected);
        // The receiver has no such snapshot.
        let (alone, _) = SAID.split_once("incremental").unwrap();
        assert_eq!(
            Rest::parse(alone),
            Some(Rest {
                is_here: false,
                size: None,
                ..expected.clone()
            })
        );
        // It was counted below zero.
        let below = SAID.replace("size\t3287584", "size\t18446744073709551000");
        assert_eq!(
            Rest::parse(&below),
            Some(Rest {
                size: None,
                ..expected
            })
        );
    }

    #[test]
    fn what_says_more_than_is_understood_is_no_rest() {
        let raw = SAID.replace("embedok", "rawok");
        let saved = SAID.replace("\tembedok = 1\n", "\tembedok = 1\n\tsavedok = 1\n");
        // A name can have a line in it that looks like another field.
        let twice = SAID.replace("a@s2\n\te", "a@s2\n\ttoguid = 0x1\n\te");
        let lacks = SAID.replace("\ttoguid = 0x2b11770d93b52fac\n", "");
        let odd = SAID.replace("0xe0f50", "many");
        for said in [raw, saved, twice, lacks, odd, String::new()] {
            assert_eq!(Rest::parse(&said), None, "{said}");
        }
    }

    #[test]
    fn whose_it_is_is_known_also_where_more_is_said_and_never_guessed() {
        let own = Some(SnapshotGuid(0x2b11_770d_93b5_2fac));
        assert_eq!(target(SAID), own);
        assert_eq!(target(&SAID.replace("embedok", "newok")), own);
        let other = SAID.replace("a@s2\n\te", "a@s2\n\ttoguid = 0x1\n\te");
        for said in [&*other, "", "resume token contents:\n", "\ttoguid = 0xmany\n"] {
            assert_eq!(target(said), None, "{said}");
        }
    }

    #[test]
    fn only_what_is_spelled_as_a_token_is_one() {
        let token = "1-dafdad163-f0-789c636064000310a500c4ec50360710e7";
        assert_eq!(PoolToken::parse(token).unwrap().as_str(), token);
        for text in [
            "",
            "-",
            "--",
            "1",
            "1-a-b",
            "1-a-b-",
            "1-a-b-abc",
            "1-a-b-ab-cd",
            "2-a-b-ab",
            "-1-a-b-ab",
            "1-a-b-AB",
            "1-a-b-ab\n",
            "1-a-b- ab",
            "1-a-b-$(ab)",
            "1-a-b-ab@s",
            &format!("1-a-b-{}", "ab".repeat(LONGEST)),
        ] {
            assert_eq!(PoolToken::parse(text), None, "{text}");
        }
    }

    #[test]
    fn of_each_dataset_just_the_last_token_is_remembered() {
        let rests = Rests::default();
        let rest = Rest::parse(SAID).unwrap();
        let tokens = ["1-a-1-00", "1-b-1-00"].map(|text| PoolToken::parse(text).unwrap());
        for dataset in (0..200).map(|n| DatasetId(uuid::Uuid::from_u128(n))) {
            for token in &tokens {
                assert_eq!(rests.known(dataset, token), None);
                rests.keep(dataset, token, &rest);
                assert_eq!(rests.known(dataset, token), Some(rest.clone()));
            }
            assert_eq!(rests.known(dataset, &tokens[0]), None);
        }
        let first = DatasetId(uuid::Uuid::from_u128(0));
        assert_eq!(rests.known(first, &tokens[1]), Some(rest.clone()));
        assert_eq!(rests.last(first), Some(rest));
    }
}
