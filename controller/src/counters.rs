//! What this process has done since its start, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counters {
    pub connects_spawned: AtomicU64,
    pub connects_joined: AtomicU64,
    pub connects_refused: AtomicU64,
    pub connects_failed: AtomicU64,
    pub events: AtomicU64,
    pub rows_lost: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}
