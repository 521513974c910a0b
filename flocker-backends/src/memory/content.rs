//! What a dataset holds, and what makes one state of it into another.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::OnceLock;

/// The bytes of a file. They are hashed once, however many snapshots have them.
#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    hash: OnceLock<blake3::Hash>,
}

impl File {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            hash: OnceLock::new(),
        })
    }

    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.hash = OnceLock::new();
    }

    fn hash(&self) -> &blake3::Hash {
        self.hash.get_or_init(|| blake3::hash(&self.bytes))
    }
}

impl Deref for File {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for File {}

/// The files of a dataset. Cloning is cheap: a clone shares the list, and then every file, until one of the two changes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    files: Arc<BTreeMap<Arc<str>, Arc<File>>>,
}

impl Content {
    pub(super) fn get(&self, file: &str) -> Option<&[u8]> {
        self.files.get(file).map(|file| file.bytes.as_slice())
    }

    fn files_mut(&mut self) -> &mut BTreeMap<Arc<str>, Arc<File>> {
        Arc::make_mut(&mut self.files)
    }

    pub(super) fn put(&mut self, file: &str, bytes: &[u8]) {
        self.files_mut().insert(file.into(), File::new(bytes.to_vec()));
    }

    pub(super) fn append(&mut self, file: &str, bytes: &[u8]) {
        let files = self.files_mut();
        if let Some(held) = files.get_mut(file) {
            Arc::make_mut(held).append(bytes);
        } else {
            self.put(file, bytes);
        }
    }

    /// Removes a file, and says whether it was there.
    pub(super) fn remove(&mut self, file: &str) -> bool {
        self.files_mut().remove(file).is_some()
    }

    pub(super) fn size(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn to_files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files.iter();
        files
            .map(|(name, bytes)| (name.to_string(), bytes.to_vec()))
            .collect()
    }

    /// Feeds everything to a hash so that no two different contents feed the same bytes.
    pub(super) fn hash_into(&self, hasher: &mut blake3::Hasher) {
        for (name, bytes) in &*self.files {
            hasher.update(&(name.len() as u64).to_be_bytes());
            hasher.update(name.as_bytes());
            hasher.update(bytes.hash().as_bytes());
        }
    }
}

/// What happened to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Edit {
    Put(Arc<File>),
    Append { at: u64, bytes: Vec<u8> },
    Remove,
}

/// What makes one content into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    edits: BTreeMap<Arc<str>, Edit>,
}

impl Delta {
    pub(super) fn between(old: &Content, new: &Content) -> Self {
        let mut edits = BTreeMap::new();
        for (name, bytes) in &*new.files {
            let edit = match old.files.get(name) {
                Some(held) if Arc::ptr_eq(held, bytes) || held == bytes => continue,
                Some(held) if bytes.starts_with(held) => Edit::Append {
                    at: held.len() as u64,
                    bytes: bytes[held.len()..].to_vec(),
                },
                Some(_) | None => Edit::Put(Arc::clone(bytes)),
            };
            edits.insert(Arc::clone(name), edit);
        }
        for name in old.files.keys() {
            if !new.files.contains_key(name) {
                edits.insert(Arc::clone(name), Edit::Remove);
            }
        }
        Self { edits }
    }

    /// How many bytes of data the delta between two contents brings, without making it.
    pub(super) fn size_between(old: &Content, new: &Content) -> u64 {
        if Arc::ptr_eq(&old.files, &new.files) {
            return 0;
        }
        let sizes = new.files.iter().map(|(name, bytes)| match old.files.get(name) {
            Some(held) if Arc::ptr_eq(held, bytes) || held == bytes => 0,
            Some(held) if bytes.starts_with(held) => bytes.len() - held.len(),
            Some(_) | None => bytes.len(),
        });
        sizes.map(|size| size as u64).sum()
    }

    /// How many bytes of data it brings.
    #[cfg(test)]
    pub(super) fn size(&self) -> u64 {
        let sizes = self.edits.values().map(|edit| match edit {
            Edit::Put(bytes) => bytes.len() as u64,
            Edit::Append { bytes, .. } => bytes.len() as u64,
            Edit::Remove => 0,
        });
        sizes.sum()
    }

    /// Makes the old content into the new one, or says what does not fit.
    pub(super) fn apply(self, content: &mut Content) -> Result<(), &'static str> {
        let files = content.files_mut();
        for (name, edit) in self.edits {
            match edit {
                Edit::Put(bytes) => {
                    files.insert(name, bytes);
                }
                Edit::Append { at, bytes } => {
                    let held = files.get_mut(&name).ok_or("it appends to no file")?;
                    if held.len() as u64 != at {
                        return Err("it appends at another place");
                    }
                    Arc::make_mut(held).append(&bytes);
                }
                Edit::Remove => {
                    files.remove(&name).ok_or("it removes no file")?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, edit) in &self.edits {
            let (tag, at, bytes) = match edit {
                Edit::Put(bytes) => (b'p', 0, bytes.bytes.as_slice()),
                Edit::Append { at, bytes } => (b'a', *at, bytes.as_slice()),
                Edit::Remove => (b'r', 0, [].as_slice()),
            };
            out.push(tag);
            out.extend_from_slice(&at.to_be_bytes());
            for part in [name.as_bytes(), bytes] {
                out.extend_from_slice(&(part.len() as u64).to_be_bytes());
                out.extend_from_slice(part);
            }
        }
        out
    }

    pub(super) fn decode(mut input: &[u8]) -> Result<Self, &'static str> {
        let mut edits = BTreeMap::new();
        while let Some((tag, rest)) = input.split_first() {
            input = rest;
            let at = take_number(&mut input)?;
            let name = std::str::from_utf8(take_bytes(&mut input)?).map_err(|_| "a name is not text")?;
            let bytes = take_bytes(&mut input)?.to_vec();
            let edit = match tag {
                b'p' => Edit::Put(File::new(bytes)),
                b'a' => Edit::Append { at, bytes },
                b'r' => Edit::Remove,
                _ => return Err("an edit is of no known kind"),
            };
            edits.insert(name.into(), edit);
        }
        Ok(Self { edits })
    }
}

fn take_number(input: &mut &[u8]) -> Result<u64, &'static str> {
    let (number, rest) = input.split_first_chunk().ok_or("it ends within a number")?;
    *input = rest;
    Ok(u64::from_be_bytes(*number))
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], &'static str> {
    let length = usize::try_from(take_number(input)?).map_err(|_| "a length is too large")?;
    let (bytes, rest) = input.split_at_checked(length).ok_or("it ends within a file")?;
    *input = rest;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(files: &[(&str, &str)]) -> Content {
        let mut content = Content::default();
        for (name, text) in files {
            content.put(name, text.as_bytes());
        }
        content
    }

    #[test]
    fn a_delta_makes_the_old_content_into_the_new() {
        let old = content(&[("same", "1"), ("grown", "ab"), ("changed", "xy"), ("gone", "z")]);
        let new = content(&[("same", "1"), ("grown", "abcd"), ("changed", "x"), ("new", "")]);
        let delta = Delta::between(&old, &new);
        assert_eq!((delta.size(), Delta::size_between(&old, &new)), (3, 3));
        let delta = Delta::decode(&delta.encode()).unwrap();
        let mut made = old.clone();
        delta.clone().apply(&mut made).unwrap();
        assert_eq!(made, new);
        assert!(delta.apply(&mut content(&[("grown", "other")])).is_err());
    }

    #[test]
    fn what_is_added_to_a_file_that_was_hashed_is_hashed_too() {
        let hash = |content: &Content| {
            let mut hasher = blake3::Hasher::new();
            content.hash_into(&mut hasher);
            hasher.finalize()
        };
        let mut grown = content(&[("a", "12"), ("b", "")]);
        let before = hash(&grown);
        let kept = grown.clone();
        grown.append("a", b"3");
        assert_eq!(hash(&kept), before);
        assert_eq!(hash(&grown), hash(&content(&[("a", "123"), ("b", "")])));
        assert_ne!(hash(&grown), before);
    }

    #[test]
    fn a_delta_that_was_cut_is_refused() {
        let delta = Delta::between(&Content::default(), &content(&[("a", "text"), ("b", "")]));
        let bytes = delta.encode();
        for length in 1..bytes.len() {
            if let Ok(part) = Delta::decode(&bytes[..length]) {
                assert_ne!(part, delta);
            }
        }
    }
}
