//! The archive in which an image travels, read member by member and written anew for the engine.
//!
//! An engine takes every image and every name that an archive has. So nothing
//! that says what is what is passed on: only the parts of the image, verified,
//! and at the end a list of our own that has one image and one name. Where the
//! sender's list stood does not matter. An archive that is refused was
//! not passed on to its end, and without a list its parts mean nothing.

mod error;
mod listing;
mod member;
mod metered;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::io::Write;
use std::str::FromStr as _;

use sha2::Digest as _;
use sha2::Sha256;
use tar::Archive;
use tar::Entry;
use tar::Header;

pub(super) use self::error::ArchiveError;
use self::member::Member;
use self::metered::Metered;
use crate::runtime::ImageId;

/// How long a member may be that is kept in memory: lists, and what an image is configured with.
const SMALL: u64 = 8 << 20;

/// How many members there may be. An image has at most 127 layers, and up to four members for each.
const MEMBERS: usize = 4096;

/// How much may follow the end of an archive. Programs fill up the last record.
const REST: u64 = 1 << 20;

/// The unit in which archives are written.
const BLOCK: usize = 512;

/// Where an engine keeps its images, which settles what it knows them by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// The engine's own: an image is known by the digest of its configuration.
    Classic,
    /// That of containerd: an image is known by the digest of its manifest, or of an index of several.
    Containerd,
}

/// Passes on the one image that was announced, under the one name that it is to have.
pub(super) fn pass(
    from: impl Read,
    to: impl Write,
    image: &ImageId,
    name: &str,
    store: Store,
) -> Result<(), ArchiveError> {
    let mut passage = Passage {
        to,
        image: image.as_str().trim_start_matches("sha256:"),
        held: BTreeMap::new(),
        announced: None,
        list: None,
    };
    let (from, meter) = Metered::new(from);
    let mut archive = Archive::new(from);
    let mut n_members = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        n_members += 1;
        if n_members > MEMBERS {
            return Err(ArchiveError::TooMany);
        }
        // From here on there is data, whose length is known.
        meter.open();
        passage.take(&mut entry)?;
        meter.close();
    }
    meter.open();
    if io::copy(&mut archive.into_inner().take(REST + 1), &mut io::sink())? > REST {
        return Err(ArchiveError::Rest);
    }
    passage.finish(name, store)
}

/// What is here of a member that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    /// It is passed over, or known already.
    Seen,
    /// A part that has its digest in its name.
    Blob,
    /// A layer with this digest.
    Layer(String),
    /// The same layer as at another path.
    Same(String),
}

struct Passage<'a, W> {
    to: W,
    /// The digits of the image that was announced.
    image: &'a str,
    held: BTreeMap<String, Held>,
    /// The path of what the image is known by, and what it says.
    announced: Option<(String, Vec<u8>)>,
    /// What the sender says is in the archive.
    list: Option<Vec<u8>>,
}

impl<W: Write> Passage<'_, W> {
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), ArchiveError> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        let foreign = || ArchiveError::foreign(&path);
        let path = match path.strip_suffix('/') {
            Some(folder) if kind.is_dir() => folder,
            Some(_) | None => &path,
        };
        let member: Member = path.parse().map_err(|()| foreign())?;
        if self.held.contains_key(path) {
            return Err(ArchiveError::Twice { path: path.into() });
        }
        let is_folder = member == Member::Folder;
        let held = if kind.is_dir() && is_folder {
            Held::Seen
        } else if kind.is_file() && !is_folder {
            self.take_file(&member, path, entry)?
        } else if kind.is_symlink() && member == Member::Layer {
            // Engines of old write a layer that they have written before as a link to it.
            Held::Same(link(entry).ok_or_else(foreign)?)
        } else {
            return Err(ArchiveError::kind(path));
        };
        self.held.insert(path.to_owned(), held);
        Ok(())
    }

    fn take_file(
        &mut self,
        member: &Member,
        path: &str,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<Held, ArchiveError> {
        match member {
            Member::List => {
                self.list = Some(small(path, entry)?);
                Ok(Held::Seen)
            }
            Member::PassedOver => {
                small(path, entry)?;
                Ok(Held::Seen)
            }
            Member::Blob(digest) | Member::Config(digest) if digest == self.image => {
                let content = small(path, entry)?;
                let found = self.pass_on(path, content.len() as u64, &mut &*content)?;
                check(path, digest, &found)?;
                self.announced = Some((path.to_owned(), content));
                Ok(Held::Seen)
            }
            Member::Config(_) => Err(ArchiveError::Other { path: path.into() }),
            Member::Blob(digest) => {
                let found = self.pass_on(path, entry.size(), entry)?;
                check(path, digest, &found)?;
                Ok(Held::Blob)
            }
            Member::Layer => Ok(Held::Layer(self.pass_on(path, entry.size(), entry)?)),
            Member::Folder => Err(ArchiveError::kind(path)),
        }
    }

    /// Writes a member with a head of our own, and returns its digest.
    fn pass_on(&mut self, path: &str, size: u64, from: &mut impl Read) -> Result<String, ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_path(path)?;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        self.to.write_all(header.as_bytes())?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            match from.read(&mut buffer[..most])? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                n_read => {
                    digest.update(&buffer[..n_read]);
                    self.to.write_all(&buffer[..n_read])?;
                    left -= n_read as u64;
                }
            }
        }
        let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
        if over > 0 {
            self.to.write_all(&[0; BLOCK][over..])?;
        }
        Ok(format!("{:x}", digest.finalize()))
    }

    /// Writes what the archive has, in our words, and its end.
    fn finish(mut self, name: &str, store: Store) -> Result<(), ArchiveError> {
        let (path, content) = self.announced.take().ok_or(ArchiveError::Absent)?;
        for (path, text) in listing::write(&self, &path, &content, name, store)? {
            self.pass_on(path, text.len() as u64, &mut &*text)?;
        }
        self.to.write_all(&[0; 2 * BLOCK])?;
        Ok(())
    }
}

/// Returns at which path the layer is that a link leads to; nothing where it leads elsewhere.
fn link(entry: &Entry<'_, impl Read>) -> Option<String> {
    let bytes = entry.link_name_bytes()?;
    let path = std::str::from_utf8(&bytes).ok()?.strip_prefix("../")?;
    (Member::from_str(path) == Ok(Member::Layer)).then(|| path.to_owned())
}

fn check(path: &str, said: &str, found: &str) -> Result<(), ArchiveError> {
    if said == found {
        return Ok(());
    }
    Err(ArchiveError::Digest { path: path.into() })
}

/// Reads a member into memory, if it is not too long.
fn small(path: &str, entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ArchiveError> {
    let size = entry.size();
    if size > SMALL {
        return Err(ArchiveError::Long { path: path.into() });
    }
    let mut content = Vec::new();
    if entry.read_to_end(&mut content)? as u64 != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(content)
}
