//! Images: what containers are made from, kept by a runtime under a name, known by an identity.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use flocker_model::Image;
use serde::Deserialize;
use serde::Serialize;
use thiserror::Error;

use crate::change::Change;
use crate::runtime::RuntimeError;
use crate::volume::ByteStream;

/// The identity of an image: a digest of all that it consists of, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(Box<str>);

/// Why a text is not the identity of an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not the identity of an image: it must be `sha256:` and 64 hexadecimal digits")]
pub struct ImageIdError(Box<str>);

impl ImageId {
    /// Returns it as engines write it: `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageId {
    type Err = ImageIdError;

    fn from_str(text: &str) -> Result<Self, ImageIdError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix("sha256:") {
            Some(digest) if digest.len() == 64 && digest.bytes().all(is_digit) => Ok(Self(text.into())),
            Some(_) | None => Err(ImageIdError(text.chars().take(80).collect::<String>().into())),
        }
    }
}

impl TryFrom<String> for ImageId {
    type Error = ImageIdError;

    fn try_from(text: String) -> Result<Self, ImageIdError> {
        text.parse()
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a runtime keeps its images.
#[async_trait]
pub trait ImageStore: fmt::Debug + Send + Sync {
    /// Returns what an image is here, or nothing where it is not here. Changes nothing.
    async fn present(&self, image: &Image) -> Result<Option<ImageId>, RuntimeError>;

    /// Returns an image as a stream, for the store of another node to take in. An image that is not here breaks the stream.
    fn export(&self, image: &Image) -> ByteStream;

    /// Takes in what another store has exported, under the name that it has there.
    ///
    /// `AlreadySo` where this very image has this name here; the stream is
    /// not read then. Fails where what arrived is another one than `id`. No
    /// other image and no other name comes in with it, whatever is sent.
    /// Dropped half way: parts of it, which the store uses or clears up.
    async fn import(&self, image: &Image, id: &ImageId, stream: ByteStream) -> Result<Change, RuntimeError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_a_whole_digest() {
        let whole = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(whole.parse::<ImageId>().unwrap().as_str(), whole);
        for text in [
            "",
            "sha256:",
            "busybox",
            &whole[1..],
            &whole[..70],
            &whole.to_uppercase(),
        ] {
            assert!(text.parse::<ImageId>().is_err(), "{text}");
        }
    }
}
