//! Records by dataset, found at once.

use std::cmp::Ordering;
use std::sync::OnceLock;

use flocker_model::DatasetId;

/// A record about one dataset.
pub(crate) trait OfDataset {
    fn dataset(&self) -> DatasetId;

    /// Compares two records of one dataset.
    fn order(&self, other: &Self) -> Ordering;
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
    starts: OnceLock<Vec<u32>>,
}

impl<T: OfDataset> ByDataset<T> {
    /// Puts records together of which each part is in order.
    pub(crate) fn of_sorted(parts: Vec<Vec<T>>) -> Self {
        let n_parts = parts.len();
        let n_records = parts.iter().map(Vec::len).sum::<usize>();
        let mut parts = parts.into_iter();
        let mut records = parts.next().unwrap_or_default();
        records.reserve_exact(n_records - records.len());
        records.extend(parts.flatten());
        if n_parts > 1 {
            // This sort finds the parts, and does nothing but merge them.
            records.sort_by(compare);
        }
        Self {
            records,
            starts: OnceLock::new(),
        }
    }

    pub(crate) fn all(&self) -> &[T] {
        &self.records
    }

    pub(crate) fn of(&self, dataset: DatasetId) -> &[T] {
        let place = place(dataset, n_bits(self.records.len()));
        let starts = self.starts.get_or_init(|| self.find_starts());
        let near = &self.records[starts[place] as usize..starts[place + 1] as usize];
        let dataset = number(dataset);
        let start = near.partition_point(|record| number(record.dataset()) < dataset);
        let n_own = near[start..]
            .iter()
            .take_while(|record| number(record.dataset()) == dataset);
        &near[start..start + n_own.count()]
    }

    /// Reads what [`ByDataset::of`] will read of some datasets, and returns a number that means nothing.
    ///
    /// Far-off memory is waited for one piece after the other, unless many are asked for at once: no read here
    /// depends on what another one found.
    pub(crate) fn look_ahead(&self, datasets: &[DatasetId]) -> u64 {
        let starts = self.starts.get_or_init(|| self.find_starts());
        let n_bits = n_bits(self.records.len());
        let starts = datasets.iter().map(|&dataset| starts[place(dataset, n_bits)]);
        let starts: Vec<u32> = starts.collect();
        // The records of one dataset may stand on two lines of the caches.
        let near = |ahead: usize| starts.iter().map(move |&start| start as usize + ahead);
        let records = near(0).chain(near(2)).filter_map(|at| self.records.get(at));
        let read = records.map(|record| record.dataset().0.as_u64_pair().1);
        read.fold(0, u64::wrapping_add)
    }

    fn find_starts(&self) -> Vec<u32> {
        let n_bits = n_bits(self.records.len());
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

/// Puts records into order.
pub(crate) fn sort<T: OfDataset>(records: &mut [T]) {
    records.sort_unstable_by(compare);
}

fn compare<T: OfDataset>(one: &T, other: &T) -> Ordering {
    number(one.dataset())
        .cmp(&number(other.dataset()))
        .then_with(|| one.order(other))
}

/// Ids are compared by number: byte by byte it takes as long as all the rest of planning what is settled.
fn number(dataset: DatasetId) -> u128 {
    dataset.0.as_u128()
}

/// About one place for every record.
fn n_bits(n_records: usize) -> u32 {
    n_records.checked_ilog2().unwrap_or(0)
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

        fn order(&self, other: &Self) -> Ordering {
            self.1.cmp(&other.1)
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
            let records: Vec<(u128, u32)> = (0..n)
                .flat_map(|number| [(id(number), 1), (id(number), 0)])
                .collect();
            let (evens, odds) = records.into_iter().partition(|(id, _)| id % 2 == 0);
            let mut parts: [Vec<(u128, u32)>; 2] = [odds, evens];
            for part in &mut parts {
                sort(part);
            }
            let records = ByDataset::of_sorted(parts.into());
            assert!(records.all().is_sorted());
            for number in 0..n {
                let dataset = (id(number), 0).dataset();
                assert_eq!(records.of(dataset), [(id(number), 0), (id(number), 1)]);
                assert_eq!(records.of((id(number).wrapping_add(1), 0).dataset()), []);
            }
            let sought: Vec<DatasetId> = (0..=n).map(|number| (id(number), 0).dataset()).collect();
            records.look_ahead(&sought);
            assert_eq!(records.look_ahead(&[]), 0);
            assert_eq!(records.of((u128::MAX - 1, 0).dataset()), []);
        }
    }
}
