//! The records on disk: numbered lines, each durable before it is acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Write as _;
use std::path::Path;

/// The file of the records in the volume.
pub(in crate::demo) const RECORDS: &str = "records";

/// The client that the filling is ascribed to.
const FILLER: &str = "filling";

/// One record: `<sequence> <client> <number>`, and for filling a long tail that means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    sequence: u64,
    client: String,
    number: u64,
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let record = Self {
            sequence: words.next()?.parse().ok()?,
            client: words.next()?.to_owned(),
            number: words.next()?.parse().ok()?,
        };
        (!record.client.is_empty()).then_some(record)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequence,
            client,
            number,
        } = self;
        write!(f, "{sequence} {client} {number}")
    }
}

/// Every record, on disk and in memory.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    /// Clients and their numbers, by sequence from 1.
    records: Vec<(String, u64)>,
    sequences: BTreeMap<(String, u64), u64>,
}

impl Store {
    /// Opens the records and drops a torn last one, which was never acknowledged.
    ///
    /// Anything else that is not a record is an error: what is broken is not cut off in silence.
    pub(super) fn open(volume: &Path, filling: u64) -> io::Result<Self> {
        let path = volume.join(RECORDS);
        if !path.try_exists()? {
            fill(volume, filling)?;
        }
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        let mut store = Self {
            file,
            records: Vec::new(),
            sequences: BTreeMap::new(),
        };
        let whole = store.read()?;
        if whole < store.file.metadata()?.len() {
            store.file.set_len(whole)?;
            store.file.sync_all()?;
        }
        Ok(store)
    }

    /// Reads all records and returns where the last whole one ends.
    fn read(&mut self) -> io::Result<u64> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        let mut whole = 0;
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Ok(whole);
            }
            let expected = self.records.len() as u64 + 1;
            let record = std::str::from_utf8(&line).ok().and_then(Record::parse);
            let record = record
                .filter(|record| record.sequence == expected)
                .ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("record {expected} at byte {whole} is broken"),
                    )
                })?;
            self.note(record.client, record.number);
            whole += length as u64;
        }
    }

    fn note(&mut self, client: String, number: u64) -> u64 {
        self.records.push((client.clone(), number));
        let sequence = self.records.len() as u64;
        self.sequences.insert((client, number), sequence);
        sequence
    }

    /// Makes a client's record durable and returns its sequence. Sent again, it is still one record.
    pub(super) fn append(&mut self, client: &str, number: u64) -> io::Result<u64> {
        if let Some(sequence) = self.sequences.get(&(client.to_owned(), number)) {
            return Ok(*sequence);
        }
        let sequence = self.records.len() as u64 + 1;
        self.file
            .write_all(format!("{sequence} {client} {number}\n").as_bytes())?;
        self.file.sync_data()?;
        Ok(self.note(client.to_owned(), number))
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        self.records
            .iter()
            .zip(1..)
            .map(|((client, number), sequence)| Record {
                sequence,
                client: client.clone(),
                number: *number,
            })
    }
}

/// Makes the file with so many records of filling, whole or not at all.
fn fill(volume: &Path, n_records: u64) -> io::Result<()> {
    let new = volume.join("records.new");
    let mut file = BufWriter::new(File::create(&new)?);
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut tail = String::with_capacity(1024);
    for number in 1..=n_records {
        tail.clear();
        while tail.len() < 1000 {
            fmt::Write::write_fmt(&mut tail, format_args!("{:016x}", noise.next()))
                .map_err(io::Error::other)?;
        }
        writeln!(file, "{number} {FILLER} {number} {tail}")?;
    }
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    std::fs::rename(&new, volume.join(RECORDS))?;
    File::open(volume)?.sync_all()
}

/// Numbers that look like chance, so that no copy of them can be made smaller than it is.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(store: &Store) -> Vec<String> {
        store.records().map(|record| record.to_string()).collect()
    }

    #[test]
    fn records_survive_and_one_that_is_sent_again_is_still_one() {
        let volume = tempfile::tempdir().unwrap();
        let mut store = Store::open(volume.path(), 0).unwrap();
        assert_eq!(store.append("a", 7).unwrap(), 1);
        assert_eq!(store.append("b", 7).unwrap(), 2);
        assert_eq!(store.append("a", 7).unwrap(), 1);
        let mut store = Store::open(volume.path(), 0).unwrap();
        assert_eq!(store.append("a", 7).unwrap(), 1);
        assert_eq!(store.append("a", 8).unwrap(), 3);
        assert_eq!(listed(&store), ["1 a 7", "2 b 7", "3 a 8"]);
    }

    #[test]
    fn a_torn_last_record_is_dropped_and_its_number_used_again() {
        let volume = tempfile::tempdir().unwrap();
        std::fs::write(volume.path().join(RECORDS), "1 a 1\n2 a 2\n3 a").unwrap();
        let mut store = Store::open(volume.path(), 0).unwrap();
        assert_eq!(store.append("a", 9).unwrap(), 3);
        let text = std::fs::read_to_string(volume.path().join(RECORDS)).unwrap();
        assert_eq!(text, "1 a 1\n2 a 2\n3 a 9\n");
    }

    #[test]
    fn a_broken_record_in_the_middle_is_never_cut_off() {
        for text in ["1 a 1\nnonsense\n3 a 3\n", "1 a 1\n3 a 3\n", "1 a 1\n1 a 1\n"] {
            let volume = tempfile::tempdir().unwrap();
            let path = volume.path().join(RECORDS);
            std::fs::write(&path, text).unwrap();
            assert!(Store::open(volume.path(), 0).is_err(), "{text}");
            assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn filling_is_records_too_and_is_made_once() {
        let volume = tempfile::tempdir().unwrap();
        let store = Store::open(volume.path(), 50).unwrap();
        assert_eq!(store.records().count(), 50);
        let length = || std::fs::metadata(volume.path().join(RECORDS)).unwrap().len();
        let before = length();
        assert!(before > 50_000);
        drop(Store::open(volume.path(), 80).unwrap());
        assert_eq!(length(), before);
    }
}
