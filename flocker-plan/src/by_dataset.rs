//! Records by dataset, found at once.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::OnceLock;

use flocker_model::DatasetId;

use crate::shares::Workers;
use crate::shares::each;

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

impl<T: OfDataset + Copy + Send + Sync> ByDataset<T> {
    /// Puts records into order that were found in whatever order.
    pub(crate) fn of_parts(workers: Workers, parts: &[Vec<T>]) -> Self {
        let n_records = parts.iter().map(Vec::len).sum();
        let n_bits = n_bits(n_records);
        let shares = workers.shares(1 << n_bits, n_records);
        let mut sorted = each(&shares, |places| sorted(parts, n_bits, places)).into_iter();
        let mut records = sorted.next().unwrap_or_default();
        records.reserve_exact(n_records - records.len());
        for mut share in sorted {
            records.append(&mut share);
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
        let start = near.partition_point(|record| record.dataset() < dataset);
        let n_own = near[start..]
            .iter()
            .take_while(|record| record.dataset() == dataset);
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

/// Returns the records whose ids begin with some of the first bits, in order.
///
/// Each goes straight to where the first bits put it: only the few that share them are compared with each other.
fn sorted<T: OfDataset + Copy>(parts: &[Vec<T>], n_bits: u32, places: Range<usize>) -> Vec<T> {
    let own = || {
        let all = parts.iter().flatten();
        let all = all.map(|record| (place(record.dataset(), n_bits), record));
        let own = all.filter(|(place, _)| places.contains(place));
        own.map(|(place, record)| (place - places.start, record))
    };
    let Some((_, &any)) = own().next() else {
        return Vec::new();
    };
    let mut starts = vec![0_u32; places.len() + 1];
    for (place, _) in own() {
        starts[place + 1] += 1;
    }
    for place in 0..places.len() {
        starts[place + 1] += starts[place];
    }
    let mut free = starts.clone();
    let mut sorted = vec![any; starts[places.len()] as usize];
    for (place, record) in own() {
        let free = &mut free[place];
        sorted[*free as usize] = *record;
        *free += 1;
    }
    for bounds in starts.windows(2) {
        let same = &mut sorted[bounds[0] as usize..bounds[1] as usize];
        if same.len() > 1 {
            same.sort_unstable_by(compare);
        }
    }
    sorted
}

/// Compares by number: comparing ids byte by byte takes as long as all the rest of planning what is settled.
fn compare<T: OfDataset>(one: &T, other: &T) -> Ordering {
    let number = |record: &T| record.dataset().0.as_u128();
    number(one).cmp(&number(other)).then_with(|| one.order(other))
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
    use std::num::NonZero;

    use super::*;

    const THREE: NonZero<usize> = NonZero::new(3).unwrap();

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
            let parts: [Vec<(u128, u32)>; 2] = [odds, evens];
            let alone = ByDataset::of_parts(Workers::ALONE, &parts);
            let records = ByDataset::of_parts(Workers::new(THREE, NonZero::<usize>::MIN), &parts);
            assert_eq!(alone.all(), records.all());
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
