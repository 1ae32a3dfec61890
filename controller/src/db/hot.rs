//! The connections of a connect: its one read, and its one insert. A pool as sqlx has it sends a message and waits for the answer
//! each time that a connection is given back, from a task of its own; that would be as much again as the read itself. Here a
//! connection on which a statement has failed, or was dropped half-way, is closed, and every other one is used again as it is.
//!
//! One that died idle fails one statement, and the others that were idle then go with it: whoever reads may try again at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::DbError;

/// As long as sqlx' own pools keep one: what a backend of Postgres has gathered in memory goes with it.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// More of them than are needed are closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);

pub struct Hot {
    options: PgConnectOptions,
    wait: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PgConnection,
    made: Instant,
    since: Instant,
}

impl Hot {
    /// Nothing is connected yet. A statement waits for at most `wait` for its turn, and as long for a new connection.
    pub fn new(options: PgConnectOptions, connections: usize, wait: Duration) -> Self {
        Self { options, wait, permits: Semaphore::new(connections), idle: Mutex::default() }
    }

    /// A connection that nobody else has meanwhile, for statements outside any transaction. It is used again only by
    /// [`Taken::done`].
    pub async fn take(&self) -> Result<Taken<'_>, DbError> {
        let timed_out = |_| DbError::Query(sqlx::Error::PoolTimedOut);
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => timeout(self.wait, self.permits.acquire())
                .await
                .map_err(timed_out)?
                .map_err(|_| DbError::Query(sqlx::Error::PoolClosed))?,
        };
        let (connection, made) = match self.last_used() {
            Some(idle) => (idle.connection, idle.made),
            None => {
                let connection = timeout(self.wait, self.options.connect()).await.map_err(timed_out)??;
                (connection, Instant::now())
            }
        };
        Ok(Taken { hot: self, connection, made, _one_of_few: permit })
    }

    /// So that those that are not needed grow old.
    fn last_used(&self) -> Option<Idle> {
        let mut idle = self.lock();
        let (now, last) = (Instant::now(), idle.pop()?);
        if last.made + LIFE > now { Some(last) } else { None }
    }

    fn give_back(&self, connection: PgConnection, made: Instant) {
        if self.permits.is_closed() {
            return;
        }
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
        for idle in idle {
            let _closed_or_dropped = sqlx::Connection::close(idle.connection).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn idle(&self) -> usize {
        self.lock().len()
    }
}

/// Closed when it is dropped: a statement may be under way.
pub struct Taken<'a> {
    hot: &'a Hot,
    pub connection: PgConnection,
    made: Instant,
    _one_of_few: SemaphorePermit<'a>,
}

impl Taken<'_> {
    /// What came of the last statement decides whether the connection is used again.
    pub fn done<T>(self, done: Result<T, DbError>) -> Result<T, DbError> {
        match &done {
            Ok(_) | Err(DbError::Row { .. }) => self.hot.give_back(self.connection, self.made),
            // The server has gone, or is going: those that are idle are as dead.
            Err(error) if error.is_broken() => self.hot.lock().clear(),
            Err(_) => {}
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Database;

    async fn ask(hot: &Hot, sql: &'static str) -> Result<i32, DbError> {
        let mut taken = hot.take().await?;
        let done = sqlx::query_scalar(sql).fetch_one(&mut taken.connection).await;
        taken.done(done.map_err(DbError::from))
    }

    async fn process(hot: &Hot) -> Result<i32, DbError> {
        ask(hot, "select pg_backend_pid()").await
    }

    fn of(database: &Database, connections: usize) -> Hot {
        Hot::new(database.options(), connections, Duration::from_secs(3))
    }

    #[tokio::test]
    async fn a_connection_is_used_again_unless_its_statement_failed_or_was_dropped() {
        let database = Database::new().await;
        let hot = of(&database, 2);
        let first = process(&hot).await.unwrap();
        assert_eq!(process(&hot).await.unwrap(), first);
        assert!(ask(&hot, "select 1 / 0").await.is_err() && hot.idle() == 0);
        let second = process(&hot).await.unwrap();
        assert_ne!(second, first);
        let slow = ask(&hot, "select 1 from pg_sleep(60)");
        assert!(timeout(Duration::from_millis(50), slow).await.is_err());
        assert_eq!(hot.idle(), 0, "its answer would be the next one's");
        assert_ne!(process(&hot).await.unwrap(), second);
    }

    #[tokio::test]
    async fn there_are_never_more_than_allowed_and_who_waits_too_long_is_told() {
        let database = Database::new().await;
        let hot = Hot::new(database.options(), 2, Duration::from_millis(300));
        let many = futures_util::future::join_all((0..50).map(|_| process(&hot))).await;
        let processes: std::collections::HashSet<i32> = many.into_iter().map(Result::unwrap).collect();
        assert!(processes.len() <= 2, "{processes:?}");
        let _held = (hot.take().await.unwrap(), hot.take().await.unwrap());
        assert!(matches!(process(&hot).await, Err(DbError::Query(sqlx::Error::PoolTimedOut))));
        hot.close().await;
        assert!(matches!(process(&hot).await, Err(DbError::Query(sqlx::Error::PoolClosed))));
    }

    #[tokio::test]
    async fn of_those_that_died_idle_one_statement_fails() {
        let database = Database::new().await;
        let hot = of(&database, 4);
        futures_util::future::join_all((0..4).map(|_| ask(&hot, "select 1 from pg_sleep(0.05)"))).await;
        assert_eq!(hot.idle(), 4);
        let mut other = database.options().connect().await.unwrap();
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()")
            .execute(&mut other)
            .await
            .unwrap();
        assert!(process(&hot).await.is_err());
        process(&hot).await.unwrap();
    }
}
