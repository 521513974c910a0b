//! The name of the filesystem below which ours are.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The longest name of a parent. A pool allows 255 bytes for a snapshot with all that is above it.
const LONGEST: usize = 120;

/// The name of a filesystem below a pool, as in `tank/flocker`.
///
/// It can never be mistaken for a command-line option, a snapshot or a bookmark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentName(Box<str>);

impl ParentName {
    /// Returns the name of the pool.
    #[must_use]
    pub fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ParentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ParentName {
    type Err = ParentNameError;

    fn from_str(text: &str) -> Result<Self, ParentNameError> {
        let is_part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        let is_name = text.len() <= LONGEST && text.contains('/') && text.split('/').all(is_part);
        if !is_name {
            return Err(ParentNameError(text.into()));
        }
        Ok(Self(text.into()))
    }
}

/// Why a text is not the name of a filesystem below a pool.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not the name of a filesystem below a pool, as in `tank/flocker`: \
     letters, digits, `_`, `-` and `.`, each part starting with a letter or digit, {LONGEST} at most"
)]
pub struct ParentNameError(Box<str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_alone_is_not_ours_to_use() {
        let parent: ParentName = "tank/a/flocker-1".parse().unwrap();
        assert_eq!(parent.pool(), "tank");
        for text in [
            "", "tank", "/tank", "tank/", "tank//a", "-t/a", "tank/-a", "tank/a@b", "tank/a#b", "tank/a b",
        ] {
            text.parse::<ParentName>().unwrap_err();
        }
        format!("tank/{}", "a".repeat(LONGEST))
            .parse::<ParentName>()
            .unwrap_err();
    }
}
