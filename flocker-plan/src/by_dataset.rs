//! Records by dataset, found at once.

use std::cell::OnceCell;

use flocker_model::DatasetId;

/// A record about one dataset.
pub(crate) trait OfDataset {
    fn dataset(&self) -> DatasetId;
}

/// Records in order of dataset.
///
/// Ids of datasets are random, so that the first bits of one say where its
/// records stand, give or take a few. A search by halves would miss the
/// processor's caches twenty times in a million records; ids that are not
/// random cost just that search.
#[derive(Debug)]
pub(crate) struct ByDataset<T> {
    records: Vec<T>,
    /// By the first bits of an id: where its records begin. Made when the first search asks.
    starts: OnceCell<Vec<u32>>,
}

impl<T: OfDataset> ByDataset<T> {
    /// Keeps records, which must be in order of dataset.
    pub(crate) fn new(records: Vec<T>) -> Self {
        debug_assert!(records.is_sorted_by_key(OfDataset::dataset));
        Self {
            records,
            starts: OnceCell::new(),
        }
    }

    pub(crate) fn all(&self) -> &[T] {
        &self.records
    }

    pub(crate) fn of(&self, dataset: DatasetId) -> &[T] {
        let starts = self.starts.get_or_init(|| self.find_starts());
        let place = place(dataset, self.n_bits());
        let near = &self.records[starts[place] as usize..starts[place + 1] as usize];
        let start = near.partition_point(|record| record.dataset() < dataset);
        let n_own = near[start..]
            .iter()
            .take_while(|record| record.dataset() == dataset);
        &near[start..start + n_own.count()]
    }

    /// About one place for every record.
    fn n_bits(&self) -> u32 {
        self.records.len().checked_ilog2().unwrap_or(0)
    }

    fn find_starts(&self) -> Vec<u32> {
        let n_bits = self.n_bits();
        let n_places = 1_usize << n_bits;
        let mut starts = Vec::with_capacity(n_places + 1);
        for (position, record) in (0_u32..).zip(&self.records) {
            let place = place(record.dataset(), n_bits);
            while starts.len() <= place {
                starts.push(position);
            }
        }
        starts.resize(n_places + 1, crate::view::number(self.records.len()));
        starts
    }
}

/// Returns the first so many bits of an id.
fn place(dataset: DatasetId, n_bits: u32) -> usize {
    let (first, _) = dataset.0.as_u64_pair();
    usize::try_from(first.checked_shr(u64::BITS - n_bits).unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OfDataset for (u128, u32) {
        fn dataset(&self) -> DatasetId {
            let text = format!("{:032x}", self.0);
            text.parse().unwrap()
        }
    }

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let spread = |number: u128| number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let close = |number: u128| number * 3;
        let far = |number: u128| u128::MAX - number * 3;
        for (n, id) in [
            (0, close as fn(u128) -> u128),
            (1, far),
            (2, spread),
            (7, far),
            (300, spread),
            (300, close),
        ] {
            let mut records: Vec<(u128, u32)> = (0..n)
                .flat_map(|number| [(id(number), 0), (id(number), 1)])
                .collect();
            records.sort_unstable();
            let records = ByDataset::new(records);
            for number in 0..n {
                let dataset = (id(number), 0).dataset();
                assert_eq!(records.of(dataset), [(id(number), 0), (id(number), 1)]);
                assert_eq!(records.of((id(number).wrapping_add(1), 0).dataset()), []);
            }
            assert_eq!(records.of((u128::MAX - 1, 0).dataset()), []);
        }
    }
}
