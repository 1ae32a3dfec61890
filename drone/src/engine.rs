//! The container engine as one agent asks it: each call with a deadline, and only so many at once.
//! What an answer means for a backend is decided elsewhere; the calls themselves are the
//! [`Runtime`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jetway_protocol::ids::SlotId;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::runtime::{ContainerStatus, Runtime, RuntimeError};

/// Calls of reconcilers and ends that ask the engine at once; kills do not queue here.
const CALLS_MAX: usize = 32;
/// Removals that the engine works on at once: it has more urgent things to do.
const REMOVALS_MAX: usize = 4;
/// An engine that has not answered by then is taken to have failed: what happened is unknown.
const CALL_SECONDS_MAX: u64 = 30;
/// The longest pull that is waited for.
pub const PULL_SECONDS_MAX: u64 = 30 * 60;

pub struct Engine {
    pub runtime: Arc<dyn Runtime>,
    calls: Semaphore,
    pub removals: Semaphore,
    pub ok: AtomicBool,
    /// Wakes the look at its health.
    pub look: Notify,
}

impl Engine {
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            calls: Semaphore::new(CALLS_MAX),
            removals: Semaphore::new(REMOVALS_MAX),
            ok: AtomicBool::new(true),
            look: Notify::new(),
        }
    }

    /// A call has met no engine: it is known to be down until it is looked at, which is done at
    /// once.
    pub fn note_loss(&self) {
        self.ok.store(false, Ordering::Relaxed);
        self.look.notify_one();
    }

    /// Not behind other calls: the runtime has a queue of its own for it, a slow one, and a caller
    /// that asks whether a container runs must not stand in that.
    pub async fn remove(&self, slot: SlotId) -> Result<(), RuntimeError> {
        bounded(self.runtime.remove(slot)).await
    }

    pub async fn inspect(&self, slot: SlotId) -> Result<ContainerStatus, RuntimeError> {
        let _permit = self.calls.acquire().await.map_err(|_| closing())?;
        bounded(self.runtime.inspect(slot)).await
    }
}

/// A call with its deadline.
pub async fn bounded<T>(call: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
    let deadline = Duration::from_secs(CALL_SECONDS_MAX);
    let silent = || RuntimeError::Engine(format!("no answer in {CALL_SECONDS_MAX} seconds"));
    timeout(deadline, call).await.unwrap_or_else(|_| Err(silent()))
}

fn closing() -> RuntimeError {
    RuntimeError::Engine("the agent is stopping".to_owned())
}
