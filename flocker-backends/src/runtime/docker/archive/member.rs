//! The paths that the archive of an image has.

use std::str::FromStr;

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// Which images there are, what they consist of and what they are called.
    List,
    /// What also says so, or is written for engines from before 2016: we write our own where it is needed.
    PassedOver,
    /// A directory.
    Folder,
    /// What an image is configured with, whose digest this is.
    Config(String),
    /// A layer.
    Layer,
    /// Any part of an image, whose digest this is.
    Blob(String),
}

impl FromStr for Member {
    type Err = ();

    fn from_str(path: &str) -> Result<Self, ()> {
        match path {
            "manifest.json" => return Ok(Self::List),
            "index.json" | "oci-layout" | "repositories" => return Ok(Self::PassedOver),
            "blobs" | "blobs/sha256" => return Ok(Self::Folder),
            _ => {}
        }
        if let Some(digest) = path.strip_prefix("blobs/sha256/") {
            return is_digest(digest).then(|| Self::Blob(digest.into())).ok_or(());
        }
        let (digest, rest) = path.split_at_checked(64).ok_or(())?;
        if !is_digest(digest) {
            return Err(());
        }
        match rest {
            "" => Ok(Self::Folder),
            ".json" => Ok(Self::Config(digest.into())),
            "/layer.tar" => Ok(Self::Layer),
            "/json" | "/VERSION" => Ok(Self::PassedOver),
            _ => Err(()),
        }
    }
}

fn is_digest(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}
