//! What is on disk, for the next agent to find: identity, journals, tombstones, last outputs, and
//! the directories that sessions' containers are given. What a record means is its owner's.

pub mod data_dir;
mod identity_lock;
pub mod journal;
pub mod last_output;
pub mod run_dir;

use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use data_dir::DataDir;
use journal::{Journals, Tombstones};
use last_output::LastOutputs;

/// What the next agent must know.
pub struct Store {
    pub data_dir: DataDir,
    pub journals: Journals,
    /// What ended sessions have printed last.
    pub last_outputs: Arc<LastOutputs>,
    tombstones: Mutex<Tombstones>,
}

impl Store {
    pub fn open(data_dir: DataDir) -> io::Result<Self> {
        Ok(Self {
            journals: Journals::open(data_dir.path())?,
            last_outputs: Arc::new(LastOutputs::open(data_dir.path())?),
            tombstones: Mutex::new(Tombstones::open(data_dir.path())?),
            data_dir,
        })
    }

    /// Held for a few lines, never across an await.
    pub fn tombstones(&self) -> MutexGuard<'_, Tombstones> {
        self.tombstones.lock()
    }
}
