//! Connections that are used again. A pool as sqlx has it sends a message and waits for the answer
//! each time that a connection is given back, from a task of its own; that is as much again as a
//! connect's read, and where the server has vanished it keeps the permit for as long as the kernel
//! waits. Here a connection is used again as it is, if its last statement succeeded
//! ([`Condition`]); every other one is closed at once, and its permit is free.
//!
//! Where a server has gone without a word, the first statement that is given up takes the idle
//! connections of every pool with it: they lead to the same host. So does one that fails because
//! the server is going.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::DbError;
use super::connection::{Condition, Connection};

/// What a backend of Postgres has gathered in memory goes with it.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// More of them than are needed are closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Rises when the server turns out to be gone. Connections of an earlier one are not used again.
#[derive(Debug, Clone, Default)]
pub struct Generation(Arc<AtomicU64>);

impl Generation {
    fn present(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The connections of `seen`, and only those, are over: of many that find out together the
    /// first one says so.
    fn is_over(&self, seen: u64) {
        if self.0.compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            tracing::warn!("Postgres has gone or does not answer; its connections are made anew");
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connections: usize,
    /// For a turn.
    pub wait: Duration,
    /// For a statement.
    pub deadline: Duration,
}

pub struct Pool {
    options: PgConnectOptions,
    limits: Limits,
    generation: Generation,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    made: Made,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Made {
    at: Instant,
    generation: u64,
}

impl Pool {
    /// Nothing is connected yet.
    pub fn new(options: PgConnectOptions, limits: Limits, generation: Generation) -> Self {
        let permits = Semaphore::new(limits.connections);
        Self { options, limits, generation, permits, idle: Mutex::default() }
    }

    /// A connection that nothing else uses meanwhile.
    pub async fn acquire(&self) -> Result<Loan<'_>, DbError> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => timeout(self.limits.wait, self.permits.acquire())
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)?
                .map_err(|_| sqlx::Error::PoolClosed)?,
        };
        let (connection, made) = match self.last_used() {
            Some(idle) => (idle.connection, idle.made),
            None => {
                let made = Made { at: Instant::now(), generation: self.generation.present() };
                (Connection::open(&self.options, self.limits.deadline).await?, made)
            }
        };
        Ok(Loan { pool: self, connection: Some(connection), made, _one_of_few: permit })
    }

    /// So that those that are not needed grow old.
    fn last_used(&self) -> Option<Idle> {
        let mut idle = self.lock();
        while let Some(last) = idle.pop() {
            if self.is_good(last.made) {
                return Some(last);
            }
        }
        None
    }

    fn is_good(&self, made: Made) -> bool {
        made.generation == self.generation.present() && made.at + LIFE > Instant::now()
    }

    fn give_back(&self, mut connection: Connection, made: Made) {
        if self.permits.is_closed() || !self.is_good(made) {
            return;
        }
        connection.set_deadline(self.limits.deadline);
        let now = Instant::now();
        let mut idle = self.lock();
        if idle.first().is_some_and(|first| first.since + IDLE_MAX <= now) {
            idle.remove(0);
        }
        idle.push(Idle { connection, made, since: now });
    }

    /// No statement begins any more.
    pub async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.lock());
        let closing = idle.into_iter().map(|idle| idle.connection.close());
        let _closed_or_dropped = futures_util::future::join_all(closing).await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock()
    }

    #[cfg(test)]
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }

    #[cfg(test)]
    pub fn limits(&self) -> Limits {
        self.limits
    }
}

/// A connection until it is dropped; then it is used again, or closed.
pub struct Loan<'a> {
    pool: &'a Pool,
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    made: Made,
    _one_of_few: SemaphorePermit<'a>,
}

const LENT: &str = "it is there until the loan is dropped";

impl Deref for Loan<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect(LENT)
    }
}

impl DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect(LENT)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match connection.condition() {
            Condition::Clean => self.pool.give_back(connection, self.made),
            Condition::Dead => self.pool.generation.is_over(self.made.generation),
            Condition::Busy | Condition::Failed => {}
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
