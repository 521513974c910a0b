//! The applications' own clients: they write numbered records, and know which were acknowledged.
//!
//! They believe nobody: what they know is what a write answered, and at the end
//! it is read against the logs themselves (`ledger`).

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::NodeName;

use super::dice::Dice;
use super::ledger;
use super::ledger::Record;

/// The file to which every application adds its records.
pub(crate) const LOG: &str = "log";

/// All clients, and what was acknowledged to them.
#[derive(Debug)]
pub(crate) struct Clients {
    dice: Dice,
    n_writes: u64,
    datasets: BTreeMap<ApplicationName, DatasetId>,
    /// Each log as it was when its last record was acknowledged.
    acknowledged: BTreeMap<DatasetId, Vec<u8>>,
    /// Every record that was acknowledged, as it stands in the log.
    records: BTreeMap<DatasetId, String>,
    /// How much is written at once at most.
    bulk: usize,
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
            records: BTreeMap::new(),
            bulk: 40_000,
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
        self.records.remove(&dataset);
    }

    /// Sets how much an application writes at once at most.
    pub(crate) fn set_bulk(&mut self, bulk: usize) {
        self.bulk = bulk;
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
        let mut writers = Vec::new();
        for (application, dataset) in &self.datasets {
            if self.deleted.contains(dataset) || !self.dice.says(1, 2) {
                continue;
            }
            let running = nodes
                .clone()
                .filter(|(_, node)| node.runtime().is_running(application));
            writers.extend(running.map(|(name, node)| (*dataset, name, node)));
        }
        for (dataset, name, node) in writers {
            self.write_there(dataset, name, node, observer);
        }
    }

    fn write_there(&mut self, dataset: DatasetId, name: &NodeName, node: &MemoryNode, observer: &Observer) {
        let volumes = node.volumes();
        let log = volumes.read(dataset, LOG).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let last = text.lines().next_back().and_then(Record::read);
        let sequence = last.map_or(0, |last| last.sequence) + 1;
        let epoch = observer.owns(dataset, name).map_or(0, |epoch| epoch.0);
        self.n_writes += 1;
        let record = format!("{sequence} {epoch} {name} {}\n", self.n_writes);
        if self.dice.says(1, 6) {
            // A write that was not made durable is not acknowledged, and may be lost with the power.
            drop(volumes.append_unsynced(dataset, LOG, record.as_bytes()));
        } else if volumes.append(dataset, LOG, record.as_bytes()).is_ok() {
            self.n_acknowledged += 1;
            self.records.entry(dataset).or_default().push_str(&record);
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
            let size = self.dice.below(self.bulk);
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
            let has_owner = !owners.is_empty();
            let mut candidates = nodes
                .clone()
                .filter(|(name, _)| !has_owner || owners.contains_key(*name));
            if !candidates.any(|(_, node)| node.volumes().begins_with(*dataset, LOG, acknowledged)) {
                let who = if has_owner { "not the owner" } else { "no copy" };
                return Err(format!(
                    "I3: {who} of dataset {dataset} has all that was acknowledged"
                ));
            }
        }
        Ok(())
    }

    /// Gives all logs, and what was acknowledged, to who knows nothing but records.
    pub(crate) fn check_records<'a>(
        &self,
        nodes: &(impl Iterator<Item = (&'a NodeName, &'a MemoryNode)> + Clone),
    ) -> Result<(), String> {
        for (dataset, records) in &self.records {
            let logs = nodes
                .clone()
                .filter_map(|(_, node)| node.volumes().read(*dataset, LOG));
            let logs: Vec<String> = logs
                .map(|log| String::from_utf8_lossy(&log).into_owned())
                .collect();
            ledger::check(records.lines(), logs.iter().map(String::as_str))
                .map_err(|wrong| format!("the records of dataset {dataset}: {wrong}"))?;
        }
        Ok(())
    }
}
