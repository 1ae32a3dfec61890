//! How long the machine did not let us run when we wanted to: measured by a thread that does nothing but want to. Printed with
//! each run, so that a finding on a machine that was too busy can be told from others; it excuses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::seen::now;

const EVERY: Duration = Duration::from_millis(10);
/// Shorter ones are usual.
const LONG: u64 = 100_000_000;

#[derive(Default)]
struct Measured {
    is_over: AtomicBool,
    longest: AtomicU64,
    long: AtomicU64,
}

pub struct Stalls {
    measured: Arc<Measured>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    pub fn measure() -> Self {
        let measured = Arc::new(Measured::default());
        let noted = measured.clone();
        Self { thread: Some(std::thread::spawn(move || watch(&noted))), measured }
    }

    /// In one line.
    pub fn said(&self) -> String {
        format!(
            "the longest time in which the machine did not let the driver run: {} ms; {} times longer than {} ms",
            self.measured.longest.load(Ordering::Relaxed) / 1_000_000,
            self.measured.long.load(Ordering::Relaxed),
            LONG / 1_000_000
        )
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.measured.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn watch(noted: &Measured) {
    let usual = u64::try_from(EVERY.as_nanos()).unwrap_or(0);
    while !noted.is_over.load(Ordering::Relaxed) {
        let from = now();
        std::thread::park_timeout(EVERY);
        let late = now().saturating_sub(from).saturating_sub(usual);
        noted.longest.fetch_max(late, Ordering::Relaxed);
        noted.long.fetch_add(u64::from(late > LONG), Ordering::Relaxed);
    }
}
