//! Counting afterwards: what was acknowledged against what is in the file, and nothing taken on trust.
//!
//! It reads the file itself, knows nothing of the program's own reader, and
//! compares every acknowledgement: a record counts as present only under the
//! sequence that was acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::writer::Written;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Proof {
    /// How many records were acknowledged.
    pub(super) acknowledged: u64,
    /// How many of them are in the file, under the sequence that was acknowledged.
    pub(super) present: u64,
    /// How many of them are not.
    pub(super) lost: u64,
    /// How many lines are a record that another line is already, acknowledged or not.
    pub(super) duplicated: u64,
    /// How many of the records that were there before everything are gone.
    pub(super) filling_lost: u64,
    /// The longest time between two acknowledgements, as the client saw it.
    pub(super) pause_ms: u64,
    /// How often the client sent a record again because its acknowledgement did not come.
    pub(super) retries: u64,
}

impl Proof {
    pub(super) fn holds(&self) -> bool {
        self.acknowledged > 0 && self.lost == 0 && self.duplicated == 0 && self.filling_lost == 0
    }
}

/// Compares a file of records with what its clients were told.
pub(super) fn check(file: &Path, filling: u64, clients: &[Written]) -> io::Result<Proof> {
    let bytes = std::fs::read(file)?;
    Ok(compare(&bytes, filling, clients))
}

fn compare(bytes: &[u8], filling: u64, clients: &[Written]) -> Proof {
    let mut found: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    let mut duplicated = 0;
    let whole = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    for line in whole {
        let words = std::str::from_utf8(line).unwrap_or_default().split_whitespace();
        let words: Vec<&str> = words.take(3).collect();
        let [sequence, client, number] = words[..] else {
            continue;
        };
        if let (Ok(sequence), Ok(number)) = (sequence.parse(), number.parse())
            && found.insert((client, number), sequence).is_some()
        {
            duplicated += 1;
        }
    }
    let mut proof = Proof {
        acknowledged: 0,
        present: 0,
        lost: 0,
        duplicated,
        filling_lost: (1..=filling)
            .filter(|number| found.get(&("filling", *number)) != Some(number))
            .map(|_| 1)
            .sum(),
        pause_ms: 0,
        retries: 0,
    };
    for client in clients {
        for (number, sequence) in &client.acknowledged {
            proof.acknowledged += 1;
            if found.get(&(client.client, *number)) == Some(sequence) {
                proof.present += 1;
            } else {
                proof.lost += 1;
            }
        }
        let pause = u64::try_from(client.pause.as_millis()).unwrap_or(u64::MAX);
        proof.pause_ms = proof.pause_ms.max(pause);
        proof.retries += client.n_retries;
    }
    proof
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[track_caller]
    fn check(file: &str, acknowledged: &[(u64, u64)], expected: [u64; 5]) {
        let written = Written {
            client: "a",
            acknowledged: acknowledged.iter().copied().collect(),
            pause: Duration::from_millis(7),
            n_retries: 2,
        };
        let proof = compare(file.as_bytes(), 1, &[written]);
        let Proof {
            acknowledged,
            present,
            lost,
            duplicated,
            filling_lost,
            pause_ms,
            retries,
        } = &proof;
        assert_eq!(
            [*acknowledged, *present, *lost, *duplicated, *filling_lost],
            expected
        );
        assert_eq!((*pause_ms, *retries), (7, 2));
        assert_eq!(proof.holds(), expected[2..] == [0, 0, 0]);
    }

    #[test]
    fn a_file_that_has_everything_once_is_proof() {
        check(
            "1 filling 1 abc\n2 a 1\n3 a 2\n",
            &[(1, 2), (2, 3)],
            [2, 2, 0, 0, 0],
        );
        // The last record was not acknowledged any more; it may be there.
        check("1 filling 1 abc\n2 a 1\n3 a 2\n", &[(1, 2)], [1, 1, 0, 0, 0]);
    }

    #[test]
    fn what_is_missing_twice_torn_or_elsewhere_is_found() {
        check("1 filling 1 abc\n3 a 2\n", &[(1, 2), (2, 3)], [2, 1, 1, 0, 0]);
        check("1 filling 1 abc\n2 a 1\n3 a 1\n", &[(1, 3)], [1, 1, 0, 1, 0]);
        check(
            "1 filling 1 abc\n2 a 1\n3 a 2",
            &[(1, 2), (2, 3)],
            [2, 1, 1, 0, 0],
        );
        check("1 filling 1 abc\n2 a 1\n", &[(1, 9)], [1, 0, 1, 0, 0]);
        check("2 a 1\n", &[(1, 2)], [1, 1, 0, 0, 1]);
    }
}
