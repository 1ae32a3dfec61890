//! What each task did last, for operators. Nothing is decided by it.

use std::sync::Arc;

use jetway_api::tasks::{LastResult, Task as Record, WokenBy};
use jetway_protocol::time::UnixMicros;
use parking_lot::{Mutex, MutexGuard};

use super::Summary;

#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    all: Arc<Mutex<Vec<Record>>>,
}

/// One task's place among the records.
#[derive(Debug)]
pub(super) struct Slot {
    records: Records,
    at: usize,
}

impl Records {
    pub fn add(&self, name: &'static str) -> Slot {
        let mut all = self.lock();
        all.push(Record {
            name: name.to_owned(),
            last_started: None,
            last_finished: None,
            last_result: None,
            woken_by: None,
            runs: 0,
            failures: 0,
        });
        Slot { records: self.clone(), at: all.len() - 1 }
    }

    pub fn all(&self) -> Vec<Record> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.all.lock()
    }
}

impl Slot {
    pub fn started(&self, woken_by: WokenBy) {
        self.change(|record| {
            record.last_started = Some(UnixMicros::now().millis());
            record.woken_by = Some(woken_by);
        });
    }

    pub fn finished(&self, done: Result<Summary, String>) {
        self.change(|record| {
            record.last_finished = Some(UnixMicros::now().millis());
            record.runs += 1;
            record.failures += u64::from(done.is_err());
            record.last_result = Some(match done {
                Ok(summary) => LastResult::Ok(summary),
                Err(error) => LastResult::Error(error),
            });
        });
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        let mut all = self.records.lock();
        if let Some(record) = all.get_mut(self.at) {
            change(record);
        }
    }
}
