//! Texts in their order, of which a hostile file has very many.
//!
//! Most texts differ in their first bytes. Those stand beside the position
//! here, so that few texts have to be fetched from where they are.

use std::cmp::Ordering;

/// Positions in the order of the texts there; those of one text in their own order.
pub(crate) struct Order(Vec<Position>);

#[derive(Clone, Copy)]
pub(crate) struct Position {
    beginning: Beginning,
    index: u32,
}

impl Position {
    pub(crate) fn index(self) -> usize {
        self.index as usize
    }
}

/// The first sixteen bytes of a text, filled up with zeros: where two differ, they are in the order of their texts.
type Beginning = (u64, u64);

fn beginning(text: &str) -> Beginning {
    let first = |text: &[u8]| {
        let mut bytes = [0; 8];
        let n = text.len().min(bytes.len());
        bytes[..n].copy_from_slice(&text[..n]);
        u64::from_be_bytes(bytes)
    };
    let text = text.as_bytes();
    (first(text), first(text.get(8..).unwrap_or_default()))
}

impl Order {
    /// Sorts so many texts.
    pub(crate) fn new<'t>(n_texts: usize, text: impl Fn(usize) -> &'t str) -> Self {
        let positions = (0..).zip(0..n_texts).map(|(index, at)| Position {
            beginning: beginning(text(at)),
            index,
        });
        let mut positions: Vec<Position> = positions.collect();
        // Stable, and quick for what is in order already, as it is in most files.
        positions.sort_by(|one, other| {
            let by_text = || text(one.index()).cmp(text(other.index()));
            one.beginning.cmp(&other.beginning).then_with(by_text)
        });
        Self(positions)
    }

    /// Returns all positions, in order of text.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> {
        self.0.iter().map(|position| position.index())
    }

    /// Returns the position of a text, if it is there.
    pub(crate) fn find<'t>(&self, wanted: &str, text: impl Fn(usize) -> &'t str) -> Option<usize> {
        let start = beginning(wanted);
        let found = self.0.binary_search_by(|position| {
            let by_text = || text(position.index()).cmp(wanted);
            position.beginning.cmp(&start).then_with(by_text)
        });
        found.ok().map(|at| self.0[at].index())
    }

    /// Returns the positions of each text, in order of text.
    pub(crate) fn groups<'t>(&self, text: impl Fn(usize) -> &'t str) -> impl Iterator<Item = &[Position]> {
        self.0.chunk_by(move |one, other| {
            one.beginning == other.beginning && text(one.index()).cmp(text(other.index())) == Ordering::Equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_in_order_also_where_they_begin_alike() {
        let texts = [
            "service-0000000-b",
            "b",
            "a\0",
            "service-0000000-a",
            "a",
            "",
            "b",
            "service-0000000",
            "é",
        ];
        let order = Order::new(texts.len(), |at| texts[at]);
        let groups = order.groups(|at| texts[at]);
        let groups: Vec<Vec<usize>> = groups
            .map(|group| group.iter().map(|position| position.index()).collect())
            .collect();
        let expected: [&[usize]; 8] = [&[5], &[4], &[2], &[1, 6], &[7], &[3], &[0], &[8]];
        assert_eq!(groups, expected);
        for (wanted, found) in [
            ("service-0000000-a", Some(3)),
            ("service-0000000-c", None),
            ("a", Some(4)),
            ("", Some(5)),
            ("c", None),
        ] {
            assert_eq!(order.find(wanted, |at| texts[at]), found, "{wanted}");
        }
    }
}
