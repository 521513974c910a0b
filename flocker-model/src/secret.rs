//! Values that must not be shown.

use std::fmt;

/// A text that is never printed, logged or serialised.
///
/// There is no `Display`, no `Serialize` and no comparison by content; what
/// must be compared goes through a keyed hash. The one way to the content is
/// [`Secret::reveal`], so that every place which uses it can be found by name.
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(content: impl Into<Box<str>>) -> Self {
        Self(content.into())
    }

    /// Returns the content. Call it only where the content is handed on to what needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The key with which a node's definitions are hashed, so that a hash of a short secret tells nothing.
///
/// Each node makes its own and tells it only to those who may command it.
#[derive(Clone, PartialEq, Eq)]
pub struct DefinitionKey([u8; 32]);

impl DefinitionKey {
    /// Wraps 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes. Call it only to hash, or to hand the key to who may command the node.
    #[must_use]
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DefinitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_no_debug_that_shows_it() {
        let shown = format!(
            "{:?} {:?}",
            Secret::new("hunter2"),
            DefinitionKey::new([b'h'; 32])
        );
        assert_eq!(shown, "[secret] [key]");
    }
}
