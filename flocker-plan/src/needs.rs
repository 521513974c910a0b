//! What a step needs: a short list that is mostly read, and that many steps may share.

use std::fmt;
use std::ops::Deref;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;

use crate::step::Need;
use crate::step::Step;
use crate::view::number;

/// What a step needs, in order. It reads like a slice, and steps that need the same share it.
///
/// What several steps need may stand in memory together, and stays there as long as one of them does.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "Vec<Need>")]
pub struct Needs {
    all: Option<Arc<Vec<Need>>>,
    own: Listed,
}

impl Needs {
    /// Adds a need. What other steps share stays as it is.
    pub fn push(&mut self, need: Need) {
        self.extend([need]);
    }

    /// Returns where the list stands in memory, if it may be another step's as well.
    ///
    /// Of lists that stand together it is not said: most of them are one step's.
    pub(crate) fn shared(&self) -> Option<usize> {
        let shared = self.all.as_ref().filter(|all| Arc::strong_count(all) > 1);
        let whole = shared.filter(|all| self.own.range() == (0..all.len()));
        whole.map(|all| all.as_ptr().addr())
    }
}

impl Deref for Needs {
    type Target = [Need];

    fn deref(&self) -> &[Need] {
        self.all.as_ref().map_or(&[], |all| &all[self.own.range()])
    }
}

impl fmt::Debug for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for Needs {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Needs {}

impl From<Vec<Need>> for Needs {
    fn from(needs: Vec<Need>) -> Self {
        let own = Listed {
            start: 0,
            end: number(needs.len()),
        };
        Self {
            all: (!needs.is_empty()).then(|| needs.into()),
            own,
        }
    }
}

impl<const N: usize> From<[Need; N]> for Needs {
    fn from(needs: [Need; N]) -> Self {
        Vec::from(needs).into()
    }
}

impl FromIterator<Need> for Needs {
    fn from_iter<I: IntoIterator<Item = Need>>(needs: I) -> Self {
        needs.into_iter().collect::<Vec<_>>().into()
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

/// Where a list stands among those that are gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    start: u32,
    end: u32,
}

impl Listed {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Lists that will stand in memory together: to ask for room for each takes longer than to make it.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    needs: Vec<Need>,
    takers: Vec<(usize, Listed)>,
}

impl Gathered {
    /// Adds a list.
    pub(crate) fn list(&mut self, needs: impl IntoIterator<Item = Need>) -> Listed {
        let start = number(self.needs.len());
        self.needs.extend(needs);
        Listed {
            start,
            end: number(self.needs.len()),
        }
    }

    /// Returns what is on a list.
    pub(crate) fn get(&self, list: Listed) -> &[Need] {
        &self.needs[list.range()]
    }

    /// Says that the step at `position` needs what is on a list. Several may need what is on one.
    pub(crate) fn give(&mut self, position: usize, list: Listed) {
        if !list.is_empty() {
            self.takers.push((position, list));
        }
    }

    /// Returns how many needs are gathered.
    pub(crate) fn len(&self) -> usize {
        self.needs.len()
    }

    /// Gives all lists to their steps, of which the first stands at `first` among all, and begins again.
    pub(crate) fn hand_out(&mut self, first: usize, steps: &mut [Step]) {
        if self.takers.is_empty() {
            return self.needs.clear();
        }
        // As much room as they take, and the room where they were gathered stays near.
        let all: Arc<Vec<Need>> = Arc::new(self.needs.drain(..).collect());
        for (position, own) in self.takers.drain(..) {
            steps[position - first].needs = Needs {
                all: Some(Arc::clone(&all)),
                own,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;
    use crate::Because;
    use crate::Fact;
    use crate::Reason;

    fn stopped(name: &str) -> Need {
        Need {
            fact: Fact::Stopped {
                application: name.parse().unwrap(),
                on: "alpha".parse().unwrap(),
            },
            because: Because::OneCopy,
        }
    }

    fn step() -> Step {
        Step {
            actor: "alpha".parse().unwrap(),
            action: Action::EmptyTrash { entry: "old".into() },
            reason: Reason::Tidies { dataset: None }.into(),
            needs: Needs::default(),
        }
    }

    #[test]
    fn lists_that_stand_together_read_as_if_each_stood_alone() {
        let mut steps = vec![step(), step(), step(), step()];
        let mut gathered = Gathered::default();
        let none = gathered.list([]);
        let one = gathered.list([stopped("a")]);
        let two = gathered.list([stopped("b"), stopped("c")]);
        assert_eq!(gathered.get(two), [stopped("b"), stopped("c")]);
        for (position, list) in [(10, two), (11, none), (12, one), (13, two)] {
            gathered.give(position, list);
        }
        gathered.hand_out(10, &mut steps);
        assert_eq!(steps[0].needs, Needs::from([stopped("b"), stopped("c")]));
        assert_eq!(steps[1].needs, Needs::default());
        assert_eq!(steps[2].needs, Needs::from([stopped("a")]));
        assert_eq!(steps[3].needs, steps[0].needs);
        steps[3].needs.push(stopped("d"));
        assert_eq!(*steps[0].needs, [stopped("b"), stopped("c")]);
        assert_eq!(*steps[3].needs, [stopped("b"), stopped("c"), stopped("d")]);
        let later = gathered.list([stopped("e")]);
        gathered.give(0, later);
        gathered.hand_out(0, &mut steps);
        assert_eq!(*steps[0].needs, [stopped("e")]);
        assert_eq!(*steps[2].needs, [stopped("a")]);
    }

    #[test]
    fn only_a_list_that_stands_alone_is_known_by_its_place() {
        let alone = Needs::from([stopped("a")]);
        assert_eq!(alone.shared(), None);
        let same = alone.clone();
        assert_eq!(alone.shared(), same.shared());
        assert!(alone.shared().is_some());
        let mut steps = vec![step(), step()];
        let mut gathered = Gathered::default();
        for (position, name) in [(0, "a"), (1, "b")] {
            let list = gathered.list([stopped(name)]);
            gathered.give(position, list);
        }
        gathered.hand_out(0, &mut steps);
        assert_eq!([steps[0].needs.shared(), steps[1].needs.shared()], [None, None]);
    }
}
