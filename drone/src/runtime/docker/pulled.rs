//! Which images this drone itself has pulled, and in which order they were last used: kept in a file of the data directory, so
//! that the next agent knows it too. What others brought onto the engine is not in it. Not its business: what is removed
//! ([`super::collect`]).
//!
//! Uses are counted, not timed: only their order matters, and no clock can spoil it. A use is written with the next thing that
//! is; a kill in between makes an image look a little older than it is.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

const FILE: &str = "pulled-images.json";
/// Images that are remembered. One more, and the least recently used is forgotten: it stays on the engine for ever, as
/// somebody else's would.
const IMAGES_MAX: usize = 2000;

/// So long after its use a container may still be made of an image.
const LATELY: Duration = Duration::from_secs(120);

pub struct Pulled {
    path: PathBuf,
    record: Mutex<Record>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Rises with each use.
    uses: u64,
    /// By the engine's id.
    images: BTreeMap<String, Entry>,
    /// Uses of this process, as far as they were lately.
    #[serde(skip)]
    lately: HashMap<String, Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// As it was pulled.
    pub name: String,
    /// [`Record::uses`] at its last use.
    used: u64,
}

impl Pulled {
    /// What cannot be read counts as nothing pulled: then nothing of it is ever removed.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let record = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "which images were pulled is not known any more");
                Record::default()
            }),
            Err(_) => Record::default(),
        };
        Self { path, record: Mutex::new(record) }
    }

    /// This drone brought the image onto the engine, just now.
    pub fn note_pull(&self, id: &str, name: &str) {
        let mut record = self.record();
        record.uses += 1;
        let entry = Entry { name: name.to_owned(), used: record.uses };
        record.images.insert(id.to_owned(), entry);
        if record.images.len() > IMAGES_MAX {
            let oldest = record.images.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| id.clone());
            oldest.map(|id| record.images.remove(&id));
        }
        drop(record);
        self.save();
    }

    pub fn note_use(&self, id: &str) {
        let mut record = self.record();
        record.uses += 1;
        let (uses, now) = (record.uses, Instant::now());
        if let Some(entry) = record.images.get_mut(id) {
            entry.used = uses;
            record.lately.retain(|_, at| now.saturating_duration_since(*at) < LATELY);
            record.lately.insert(id.to_owned(), now);
        }
    }

    /// It is gone, or somebody else's by now.
    pub fn forget(&self, id: &str) {
        self.record().images.remove(id);
    }

    /// Ids and entries, least recently used first; without those that were used just now.
    pub fn by_use(&self) -> Vec<(String, Entry)> {
        let record = self.record();
        let now = Instant::now();
        let is_fresh =
            |id: &String| record.lately.get(id).is_some_and(|at| now.saturating_duration_since(*at) < LATELY);
        let old = record.images.iter().filter(|(id, _)| !is_fresh(id));
        let mut images: Vec<_> = old.map(|(id, entry)| (id.clone(), entry.clone())).collect();
        images.sort_by_key(|(_, entry)| entry.used);
        images
    }

    pub fn save(&self) {
        let text = serde_json::to_vec(&*self.record()).unwrap_or_default();
        let beside = self.path.with_extension("new");
        let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "which images were pulled cannot be written down");
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::data_dir::tests::TestDir;

    fn names(pulled: &Pulled) -> Vec<String> {
        pulled.by_use().into_iter().map(|(_, entry)| entry.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_order_of_use_outlives_the_agent() {
        let dir = TestDir::new();
        let pulled = Pulled::open(dir.path());
        for name in ["a", "b", "c"] {
            pulled.note_pull(&format!("sha256:{name}"), name);
        }
        pulled.note_use("sha256:a");
        pulled.note_use("sha256:of-somebody-else");
        assert_eq!(names(&pulled), ["b", "c"], "a container may be made of it any moment");
        tokio::time::advance(Duration::from_secs(119)).await;
        assert_eq!(names(&pulled), ["b", "c"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(names(&pulled), ["b", "c", "a"]);
        pulled.forget("sha256:b");
        pulled.save();
        let again = Pulled::open(dir.path());
        assert_eq!(names(&again), ["c", "a"]);
        again.note_pull("sha256:d", "d");
        assert_eq!(names(&again), ["c", "a", "d"]);
    }

    #[test]
    fn it_is_bounded_and_a_damaged_file_means_nothing_was_pulled() {
        let dir = TestDir::new();
        let pulled = Pulled::open(dir.path());
        {
            let mut record = pulled.record();
            for used in 1..=IMAGES_MAX as u64 {
                record.images.insert(format!("sha256:{used}"), Entry { name: used.to_string(), used });
            }
            record.uses = IMAGES_MAX as u64;
        }
        pulled.note_pull("sha256:new", "new");
        let all = names(&pulled);
        assert_eq!((all.len(), all[0].as_str(), all[IMAGES_MAX - 1].as_str()), (IMAGES_MAX, "2", "new"));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(names(&Pulled::open(dir.path())), Vec::<String>::new());
    }
}
