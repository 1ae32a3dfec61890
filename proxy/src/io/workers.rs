//! The threads that carry clients' bytes. A connection belongs to one of them from its first byte
//! to its last, with its upstreams, its timers and its tunnel: none of its turns wakes another
//! thread, and its memory stays in one processor's caches (decision 7).
//!
//! The process's own runtime has everything that connections share: drones' streams, the
//! registration, the accepting itself.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use jetway_service::lifecycle::Lifecycle;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ends its threads when it is dropped, with whatever they still carry.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    next: AtomicUsize,
    _end: DropGuard,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    load: Load,
}

/// Held by each connection of a worker: the worker with the least gets the next one.
#[derive(Debug, Clone, Default)]
pub struct Load(Arc<()>);

impl Load {
    fn held(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Workers {
    /// As many as there are processors for this process, until the last of its tasks has ended.
    pub fn for_this_machine(lifecycle: &Lifecycle) -> io::Result<Arc<Self>> {
        let workers = Arc::new(Self::new(thread::available_parallelism().map_or(1, NonZero::get))?);
        let (kept, tasks) = (workers.clone(), lifecycle.clone());
        #[expect(clippy::disallowed_methods, reason = "it waits for the tasks that are counted")]
        tokio::spawn(async move {
            tasks.ended().await;
            drop(kept);
        });
        Ok(workers)
    }

    pub fn new(count: usize) -> io::Result<Self> {
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let workers =
            (0..count.max(1)).map(|number| worker(number, end.clone())).collect::<Result<_, _>>()?;
        Ok(Self { workers, next: AtomicUsize::new(0), _end: guard })
    }

    /// Whose the next connection is: one of those that carry least, each in its turn.
    pub fn next(&self) -> (&Handle, Load) {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        let in_turn = self.workers[first..].iter().chain(&self.workers[..first]);
        // There is at least one.
        let worker = in_turn.min_by_key(|worker| worker.load.held()).unwrap_or(&self.workers[first]);
        (&worker.handle, worker.load.clone())
    }
}

fn worker(number: usize, end: CancellationToken) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("clients-{number}"))
        .spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(Worker { handle, load: Load::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_carries_least_is_next_and_each_in_its_turn() {
        let workers = Workers::new(3).unwrap();
        let place =
            |load: &Load| workers.workers.iter().position(|w| Arc::ptr_eq(&w.load.0, &load.0)).unwrap();
        let mut held: Vec<Load> = (0..6).map(|_| workers.next().1).collect();
        let mut places: Vec<usize> = held.iter().map(place).collect();
        places.sort_unstable();
        assert_eq!(places, [0, 0, 1, 1, 2, 2]);
        let gone = held.pop().unwrap();
        let freed = place(&gone);
        drop(gone);
        for _ in 0..3 {
            assert_eq!(place(&workers.next().1), freed, "it has one less than the others");
        }
        drop(held);
        let in_turn: std::collections::BTreeSet<usize> = (0..3).map(|_| place(&workers.next().1)).collect();
        assert_eq!(in_turn.len(), 3, "short connections go round");
    }

    #[tokio::test]
    async fn what_they_carry_ends_with_them() {
        let workers = Workers::new(2).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let (handle, _load) = workers.next();
        handle.spawn(async move {
            let _held = tell;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert!(told.await.is_err(), "it was dropped");
    }
}
