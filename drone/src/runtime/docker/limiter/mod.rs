//! The queue before the engine: so many calls at once as it does well with, sessions' starts before what is made ahead, and
//! removals beside them. Not its business: what is called, and what an answer means to the caller.
//!
//! A call that is dropped gives its place back at once, whether it waits or is under way.

use std::future::Future;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::core::Core;
pub use self::core::{Call, Class, Outcome, Turn};
use crate::runtime::RuntimeError;

mod core;

#[derive(Clone)]
pub struct Limiter {
    core: Arc<Mutex<Core<oneshot::Sender<Permit>>>>,
}

/// For whoever shows how the engine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterCounters {
    /// Starts and what is made ahead, together, at most.
    pub limit: usize,
    pub starts_under_way: usize,
    pub starts_waiting: usize,
    pub ahead_under_way: usize,
    pub ahead_waiting: usize,
    pub removals_under_way: usize,
    pub removals_waiting: usize,
    /// Calls that the engine failed, since this process began.
    pub failures: u64,
}

/// The right to one call.
pub struct Permit {
    limiter: Limiter,
    class: Class,
    together: usize,
    since: Instant,
    outcome: Outcome,
}

/// Takes a place in the queue back when its future is dropped.
struct Place<'a> {
    limiter: &'a Limiter,
    class: Class,
    key: (Turn, u64),
}

impl Limiter {
    /// `cpus`: of the engine's host. One more call than it has, to begin with: each of them waits for disks and kernel locks, too.
    pub fn new(cpus: u32) -> Self {
        let limit = usize::try_from(cpus).unwrap_or(1).saturating_add(1);
        Self { core: Arc::new(Mutex::new(Core::new(limit))) }
    }

    pub fn limit(&self) -> usize {
        self.core().limit()
    }

    pub fn counters(&self) -> LimiterCounters {
        let core = self.core();
        LimiterCounters {
            limit: core.limit(),
            starts_under_way: core.under_way(Class::Start),
            starts_waiting: core.waiting(Class::Start),
            ahead_under_way: core.under_way(Class::Ahead),
            ahead_waiting: core.waiting(Class::Ahead),
            removals_under_way: core.under_way(Class::Removal),
            removals_waiting: core.waiting(Class::Removal),
            failures: core.failures(),
        }
    }

    /// Behind everybody who asked before.
    pub fn next_turn(&self) -> Turn {
        self.core().next_turn()
    }

    /// Makes the call when it is its turn, and learns from how it went.
    pub async fn call<T>(
        &self,
        class: Class,
        turn: Turn,
        kind: Call,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let mut permit = self.acquire(class, turn).await?;
        let outcome = call.await;
        permit.outcome = match &outcome {
            Ok(_) => Outcome::Took(kind, permit.since.elapsed()),
            Err(RuntimeError::Engine(_)) => Outcome::Failed,
            Err(_) => Outcome::Nothing,
        };
        outcome
    }

    /// A removal waits for its turn only.
    pub async fn removal<T>(
        &self,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        let turn = self.next_turn();
        let _permit = self.acquire(Class::Removal, turn).await?;
        call.await
    }

    pub async fn acquire(&self, class: Class, turn: Turn) -> Result<Permit, RuntimeError> {
        let (sender, receiver) = oneshot::channel();
        let key = self.core().ask(class, turn, sender);
        let place = Place { limiter: self, class, key };
        self.admit();
        let permit = receiver.await;
        drop(place);
        // Nobody drops a sender but the one who sends.
        permit.map_err(|_| RuntimeError::Engine("the queue before the engine is gone".to_owned()))
    }

    /// Permits are sent with the lock released: one that nobody takes any more is given back where it is dropped.
    fn admit(&self) {
        loop {
            let admitted = self.core().admit(Instant::now());
            let Some((class, sender, together)) = admitted else { return };
            let (limiter, since) = (self.clone(), Instant::now());
            let permit = Permit { limiter, class, together, since, outcome: Outcome::Nothing };
            let _given_back = sender.send(permit);
        }
    }

    fn core(&self) -> MutexGuard<'_, Core<oneshot::Sender<Permit>>> {
        self.core.lock()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.core().done(self.class, self.together, self.outcome, Instant::now());
        self.limiter.admit();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limiter.core().forget(self.class, self.key);
    }
}

#[cfg(test)]
mod tests;
