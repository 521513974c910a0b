//! The history, read by somebody who knows nothing but records.
//!
//! This file uses nothing of this project. It is given what applications were
//! told to be durable, and the logs that they left behind, wherever copies of
//! them are; from the numbers in the records it works out whether anything
//! was lost, forked, or written by two at once.

use std::collections::BTreeMap;
use std::fmt;

/// One record of an application: `sequence epoch writer nonce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The how manieth of its log it is, from 1.
    pub sequence: u64,
    /// Under which ownership it was written.
    pub epoch: u64,
    /// Where it was written.
    pub writer: &'a str,
    /// What tells it from every other record.
    pub nonce: u64,
}

impl<'a> Record<'a> {
    /// Reads a line of a log.
    #[must_use]
    pub fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let record = Self {
            sequence: words.next()?.parse().ok()?,
            epoch: words.next()?.parse().ok()?,
            writer: words.next()?,
            nonce: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(record)
    }
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            epoch,
            writer,
            nonce,
        } = self;
        write!(f, "{sequence} {epoch} {writer} {nonce}")
    }
}

/// Checks everything that there is of one application's data.
///
/// `acknowledged` is what it was told to be durable, in that order; `logs` are
/// the logs on all copies. Each log is numbered without a gap or a double; of
/// any two, one begins with the other; the longest has every acknowledged
/// record in its place; and no ownership was written under by two.
pub fn check<'a>(
    acknowledged: impl Iterator<Item = &'a str>,
    logs: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let mut writers: BTreeMap<u64, &str> = BTreeMap::new();
    let mut longest: Vec<Record<'_>> = Vec::new();
    for log in logs {
        let records = read_log(log, &mut writers)?;
        let n_common = records.len().min(longest.len());
        if let Some((one, other)) = records.iter().zip(&longest).find(|(one, other)| one != other) {
            return Err(format!("two copies went apart: `{one}` and `{other}`"));
        }
        if records.len() > n_common {
            longest = records;
        }
    }
    let mut last = 0;
    for line in acknowledged {
        let record = Record::read(line).ok_or_else(|| format!("`{line}` is no record"))?;
        note_writer(&mut writers, &record)?;
        if record.sequence <= last {
            return Err(format!("`{record}` was acknowledged after record {last}"));
        }
        last = record.sequence;
        let place = usize::try_from(record.sequence - 1).unwrap_or(usize::MAX);
        if longest.get(place) != Some(&record) {
            return Err(format!("no log has `{record}`, which was acknowledged"));
        }
    }
    Ok(())
}

fn read_log<'a>(log: &'a str, writers: &mut BTreeMap<u64, &'a str>) -> Result<Vec<Record<'a>>, String> {
    let mut records: Vec<Record<'_>> = Vec::new();
    for (expected, line) in (1..).zip(log.lines()) {
        let record = Record::read(line).ok_or_else(|| format!("`{line}` is no record"))?;
        if record.sequence != expected {
            return Err(format!("`{record}` stands where record {expected} should"));
        }
        if let Some(before) = records.last().filter(|before| before.epoch > record.epoch) {
            return Err(format!("`{record}` was written after `{before}`"));
        }
        note_writer(writers, &record)?;
        records.push(record);
    }
    Ok(records)
}

fn note_writer<'a>(writers: &mut BTreeMap<u64, &'a str>, record: &Record<'a>) -> Result<(), String> {
    let writer = *writers.entry(record.epoch).or_insert(record.writer);
    if writer == record.writer {
        return Ok(());
    }
    Err(format!(
        "{writer} and {} wrote in epoch {}",
        record.writer, record.epoch
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(acknowledged: &str, logs: &[&str]) -> Result<(), String> {
        check(acknowledged.lines(), logs.iter().copied())
    }

    #[test]
    fn copies_that_are_the_beginning_of_one_log_are_sound() {
        let log = "1 1 alpha 1\n2 1 alpha 2\n3 2 beta 3\n";
        let acknowledged = "1 1 alpha 1\n3 2 beta 3\n";
        assert_eq!(verdict(acknowledged, &["1 1 alpha 1\n", log, ""]), Ok(()));
    }

    #[test]
    fn a_gap_a_double_a_fork_a_loss_or_two_writers_is_found_out() {
        for (acknowledged, logs) in [
            ("", &["1 1 alpha 1\n3 1 alpha 2\n"] as &[&str]),
            ("", &["1 1 alpha 1\n1 1 alpha 2\n"]),
            ("", &["1 2 alpha 1\n2 1 alpha 2\n"]),
            ("", &["1 1 alpha 1\n2 1 beta 2\n"]),
            ("", &["1 1 alpha 1\n", "1 1 beta 1\n"]),
            ("", &["1 1 alpha 1\n2 1 alpha 2\n", "1 1 alpha 1\n2 1 alpha 3\n"]),
            ("", &["1 1 alpha\n"]),
            ("1 1 alpha 1\n2 1 alpha 2\n", &["1 1 alpha 1\n"]),
            ("2 1 alpha 2\n1 1 alpha 1\n", &["1 1 alpha 1\n2 1 alpha 2\n"]),
            ("1 1 beta 1\n", &["1 1 alpha 1\n"]),
        ] {
            assert!(verdict(acknowledged, logs).is_err(), "{acknowledged} {logs:?}");
        }
    }
}
