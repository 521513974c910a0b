//! The applications' own clients: they write numbered records, and know which were acknowledged.
//!
//! The ledger believes nobody: it is filled by what a write answered, and read
//! against the logs themselves. It knows no planner, no node and no epoch but
//! those that stand in the records.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::NodeName;

use super::dice::Dice;

/// The file to which every application adds its records.
pub(crate) const LOG: &str = "log";

/// One record of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<'a> {
    sequence: u64,
    epoch: u64,
    node: &'a str,
}

fn parse(line: &str) -> Option<Entry<'_>> {
    let mut words = line.split(' ');
    let entry = Entry {
        sequence: words.next()?.parse().ok()?,
        epoch: words.next()?.parse().ok()?,
        node: words.next()?,
    };
    words.next()?;
    words.next().is_none().then_some(entry)
}

/// All clients, and what was acknowledged to them.
#[derive(Debug)]
pub(crate) struct Clients {
    dice: Dice,
    n_writes: u64,
    datasets: BTreeMap<ApplicationName, DatasetId>,
    /// Each log as it was when its last record was acknowledged.
    acknowledged: BTreeMap<DatasetId, Vec<u8>>,
    /// Datasets that somebody has asked to be deleted.
    deleted: BTreeSet<DatasetId>,
    n_acknowledged: u64,
}

impl Clients {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, 3),
            n_writes: 0,
            datasets: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            deleted: BTreeSet::new(),
            n_acknowledged: 0,
        }
    }

    /// Says with which data an application runs from now on.
    pub(crate) fn serve(&mut self, application: &ApplicationName, dataset: DatasetId) {
        self.datasets.insert(application.clone(), dataset);
    }

    /// Takes note that a dataset is to be deleted: nothing of it is missed any more.
    pub(crate) fn delete(&mut self, dataset: DatasetId) {
        self.deleted.insert(dataset);
        self.acknowledged.remove(&dataset);
    }

    /// Returns the data of every application.
    pub(crate) fn datasets(&self) -> impl Iterator<Item = DatasetId> {
        self.datasets.values().copied()
    }

    pub(crate) fn n_acknowledged(&self) -> u64 {
        self.n_acknowledged
    }

    /// Lets some applications write a record, wherever they run.
    pub(crate) fn write<'a>(
        &mut self,
        nodes: &(impl Iterator<Item = (&'a NodeName, &'a MemoryNode)> + Clone),
        observer: &Observer,
    ) {
        for (application, dataset) in self.datasets.clone() {
            if self.deleted.contains(&dataset) || !self.dice.says(1, 2) {
                continue;
            }
            for (name, node) in nodes.clone() {
                if node.runtime().is_running(&application) {
                    self.write_there(dataset, name, node, observer);
                }
            }
        }
    }

    fn write_there(&mut self, dataset: DatasetId, name: &NodeName, node: &MemoryNode, observer: &Observer) {
        let volumes = node.volumes();
        let log = volumes.read(dataset, LOG).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let last = text.lines().last().and_then(parse);
        let sequence = last.map_or(0, |last| last.sequence) + 1;
        let epoch = observer.owners(dataset).get(name).map_or(0, |epoch| epoch.0);
        self.n_writes += 1;
        let record = format!("{sequence} {epoch} {name} {}\n", self.n_writes);
        if self.dice.says(1, 6) {
            // A write that was not made durable is not acknowledged, and may be lost with the power.
            drop(volumes.append_unsynced(dataset, LOG, record.as_bytes()));
        } else if volumes.append(dataset, LOG, record.as_bytes()).is_ok() {
            self.n_acknowledged += 1;
            let mut log = log;
            log.extend_from_slice(record.as_bytes());
            self.acknowledged.insert(dataset, log);
        }
    }

    /// Lets the applications write bulk data into one of a few files of theirs.
    pub(crate) fn write_bulk<'a>(
        &mut self,
        nodes: &(impl Iterator<Item = (&'a NodeName, &'a MemoryNode)> + Clone),
        observer: &Observer,
    ) {
        for dataset in self.datasets.values().copied().collect::<Vec<_>>() {
            let file = format!("bulk-{}", self.dice.below(3));
            let size = self.dice.below(40_000);
            let seed = u8::try_from(self.dice.below(256)).unwrap_or(0);
            let is_due = self.dice.says(2, 3);
            let writers = observer.writers(dataset);
            for (_, node) in nodes.clone().filter(|(name, _)| writers.contains(*name)) {
                if is_due {
                    let content: Vec<u8> = (0..size)
                        .map(|at| seed.wrapping_add(at.to_le_bytes()[0]))
                        .collect();
                    // A full volume is the application's concern.
                    drop(node.volumes().put(dataset, &file, &content));
                }
            }
        }
    }

    /// Checks that everything acknowledged is on the owner, or where there is none, on some copy.
    pub(crate) fn check<'a>(
        &self,
        nodes: &(impl Iterator<Item = (&'a NodeName, &'a MemoryNode)> + Clone),
        observer: &Observer,
    ) -> Result<(), String> {
        for (dataset, acknowledged) in &self.acknowledged {
            let owners = observer.owners(*dataset);
            let holds = |node: &MemoryNode| {
                let log = node.volumes().read(*dataset, LOG);
                log.is_some_and(|log| log.starts_with(acknowledged))
            };
            let mut candidates = nodes
                .clone()
                .filter(|(name, _)| owners.is_empty() || owners.contains_key(*name));
            if !candidates.any(|(_, node)| holds(node)) {
                let who = if owners.is_empty() {
                    "no copy"
                } else {
                    "not the owner"
                };
                return Err(format!(
                    "I3: {who} of dataset {dataset} has all that was acknowledged"
                ));
            }
        }
        Ok(())
    }

    /// Reads the records of every log to the end, and compares them with what was acknowledged.
    pub(crate) fn check_records<'a>(
        &self,
        nodes: &(impl Iterator<Item = (&'a NodeName, &'a MemoryNode)> + Clone),
        observer: &Observer,
    ) -> Result<(), String> {
        for dataset in self.acknowledged.keys() {
            let owners = observer.owners(*dataset);
            for (name, node) in nodes.clone() {
                if owners.contains_key(name) {
                    let log = node.volumes().read(*dataset, LOG).unwrap_or_default();
                    check_log(&String::from_utf8_lossy(&log))
                        .map_err(|wrong| format!("I3: the log of dataset {dataset} on {name}: {wrong}"))?;
                }
            }
        }
        self.check(nodes, observer)
    }
}

/// Checks the records of one log: numbered without a gap or a double, ownerships in order, each of one node.
fn check_log(text: &str) -> Result<(), String> {
    let mut owner: Option<(u64, &str)> = None;
    for (expected, line) in (1..).zip(text.lines()) {
        let entry = parse(line).ok_or_else(|| format!("`{line}` is no record"))?;
        if entry.sequence != expected {
            return Err(format!(
                "record {} stands where {expected} should",
                entry.sequence
            ));
        }
        if let Some((epoch, node)) = owner {
            if entry.epoch < epoch {
                return Err(format!("epoch {} was written after epoch {epoch}", entry.epoch));
            }
            if entry.epoch == epoch && entry.node != node {
                return Err(format!("{node} and {} wrote in epoch {epoch}", entry.node));
            }
        }
        owner = Some((entry.epoch, entry.node));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_with_a_gap_a_double_or_two_writers_is_found_out() {
        assert_eq!(check_log("1 1 alpha 1\n2 1 alpha 2\n3 2 beta 3\n"), Ok(()));
        for wrong in [
            "1 1 alpha 1\n3 1 alpha 2\n",
            "1 1 alpha 1\n1 1 alpha 2\n",
            "1 2 alpha 1\n2 1 alpha 2\n",
            "1 1 alpha 1\n2 1 beta 2\n",
            "1 1 alpha\n",
        ] {
            assert!(check_log(wrong).is_err(), "{wrong}");
        }
    }
}
