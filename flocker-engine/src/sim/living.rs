//! What a simulated program writes down of itself, as long as it lives.

use std::io;
use std::sync::Arc;

use flocker_backends::memory::MemoryNode;

use crate::record::MemoryRecord;
use crate::record::NodeRecord;
use crate::record::RecordError;
use crate::record::RecordStore;

/// The record of a machine, as one run of our program has it: once that has ended, it writes nothing any more.
#[derive(Debug)]
pub(super) struct LivingRecord {
    pub(super) store: Arc<MemoryRecord>,
    pub(super) process: MemoryNode,
}

impl RecordStore for LivingRecord {
    fn load(&self) -> Result<Option<NodeRecord>, RecordError> {
        self.store.load()
    }

    fn save(&self, record: &NodeRecord) -> Result<(), RecordError> {
        if self.process.is_up() {
            return self.store.save(record);
        }
        Err(RecordError::new(
            "write the record of a program that has ended",
            io::ErrorKind::ConnectionAborted.into(),
        ))
    }
}
