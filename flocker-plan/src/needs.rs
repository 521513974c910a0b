//! What a step needs: a short list that is mostly read, and that many steps may share.

use std::ops::Deref;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;

use crate::step::Need;

/// What a step needs, in order. It reads like a slice, and steps that need the same share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<Need>")]
pub struct Needs(Option<Arc<[Need]>>);

impl Needs {
    /// Adds a need. What other steps share stays as it is.
    pub fn push(&mut self, need: Need) {
        self.extend([need]);
    }

    /// Returns where the list stands in memory, if it may be another step's as well.
    pub(crate) fn shared(&self) -> Option<usize> {
        let shared = self.0.as_ref().filter(|needs| Arc::strong_count(needs) > 1);
        shared.map(|needs| needs.as_ptr().addr())
    }
}

impl Deref for Needs {
    type Target = [Need];

    fn deref(&self) -> &[Need] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<Vec<Need>> for Needs {
    fn from(needs: Vec<Need>) -> Self {
        Self((!needs.is_empty()).then(|| needs.into()))
    }
}

impl<const N: usize> From<[Need; N]> for Needs {
    fn from(needs: [Need; N]) -> Self {
        Self(Some(Arc::new(needs)))
    }
}

impl FromIterator<Need> for Needs {
    /// Most steps need one fact or two: these go straight to where they stay.
    fn from_iter<I: IntoIterator<Item = Need>>(needs: I) -> Self {
        let mut needs = needs.into_iter().fuse();
        match (needs.next(), needs.next(), needs.next()) {
            (None, ..) => Self::default(),
            (Some(only), None, _) => [only].into(),
            (Some(first), Some(second), None) => [first, second].into(),
            (Some(first), Some(second), Some(third)) => {
                let all = [first, second, third].into_iter().chain(needs);
                all.collect::<Vec<_>>().into()
            }
        }
    }
}

impl Extend<Need> for Needs {
    fn extend<I: IntoIterator<Item = Need>>(&mut self, needs: I) {
        let own = self.iter().cloned();
        *self = own.chain(needs).collect();
    }
}

impl<'a> IntoIterator for &'a Needs {
    type Item = &'a Need;
    type IntoIter = std::slice::Iter<'a, Need>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for Needs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}
