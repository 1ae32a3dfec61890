//! The only way to Postgres: a connection whose every statement has a deadline at the client. The
//! driver's connection is private to it, so no statement can be sent without one.
//!
//! A statement that is given up, or whose future is dropped half-way, leaves its connection in the
//! middle of an exchange. Such a connection takes no further statement, and its owner drops it:
//! dropping closes the socket, sends nothing and waits for nothing, so a dead peer cannot hold it
//! up.
//!
//! `TCP_USER_TIMEOUT` and keepalive would tell of a dead host as early, but sqlx 0.9 makes its
//! sockets itself and neither takes one of ours nor shows the one that it has made.

use std::future::Future;
use std::io::ErrorKind;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{ConnectOptions, Describe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlStr};
use tokio::time::{Instant, timeout, timeout_at};

use super::deadlines;

/// Whether a connection can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The last statement has succeeded, and no transaction is open.
    Clean,
    /// A statement is under way, or was dropped half-way; or a transaction was left open.
    Busy,
    /// A statement has failed; the server is as it was. Others may follow it, for the same
    /// borrower.
    Failed,
    /// The server has gone, or did not answer in time: its other connections are as dead.
    Dead,
}

#[derive(Debug)]
pub struct Connection {
    inner: PgConnection,
    deadline: Duration,
    condition: Condition,
    /// Of the transaction that is open.
    until: Option<Instant>,
}

impl Connection {
    /// Made within [`deadlines::CONNECT`]. `deadline`: of each statement, and of a transaction as a
    /// whole.
    pub async fn open(options: &PgConnectOptions, deadline: Duration) -> Result<Self, Error> {
        let inner = timeout(deadlines::CONNECT, options.connect()).await.unwrap_or_else(|_| Err(late()))?;
        Ok(Self::over(inner, deadline))
    }

    pub fn over(inner: PgConnection, deadline: Duration) -> Self {
        Self { inner, deadline, condition: Condition::Clean, until: None }
    }

    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// What a transaction that was neither committed nor rolled back leaves behind is no clean
    /// connection.
    pub fn condition(&self) -> Condition {
        match (self.condition, self.until) {
            (Condition::Clean, Some(_)) => Condition::Busy,
            (condition, _) => condition,
        }
    }

    pub async fn begin(&mut self) -> Result<Transaction<'_>, Error> {
        let until = Instant::now() + self.deadline;
        self.until = Some(until);
        self.execute("begin").await?;
        Ok(Transaction { connection: self, is_open: true })
    }

    /// Brings the database up to date, within [`deadlines::MIGRATIONS`].
    pub async fn migrate(&mut self, migrator: &Migrator) -> Result<(), MigrateError> {
        let migrated = timeout(deadlines::MIGRATIONS, migrator.run(&mut self.inner)).await;
        migrated.unwrap_or_else(|_| Err(late().into()))
    }

    /// Tells the server of the end.
    pub async fn close(self) -> Result<(), Error> {
        let close = sqlx::Connection::close(self.inner);
        timeout(deadlines::CONNECT, close).await.unwrap_or_else(|_| Err(late()))
    }

    /// The driver's connection for one statement, and by when the statement must have ended.
    fn start(&mut self) -> Result<Statement<'_>, Error> {
        let after = self.condition;
        match after {
            Condition::Clean | Condition::Failed => self.condition = Condition::Busy,
            Condition::Busy | Condition::Dead => {
                return Err(Error::Io(ErrorKind::ConnectionAborted.into()));
            }
        }
        let until = self.until.unwrap_or_else(|| Instant::now() + self.deadline);
        Ok(Statement { inner: &mut self.inner, condition: &mut self.condition, after, until })
    }
}

/// A statement that is about to be sent.
struct Statement<'c> {
    inner: &'c mut PgConnection,
    condition: &'c mut Condition,
    /// What the condition is once it has succeeded.
    after: Condition,
    until: Instant,
}

/// The outcome of a statement, or of its next row; it decides about the connection, too.
async fn bounded<T>(
    condition: &mut Condition,
    until: Instant,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let done = timeout_at(until, work).await.unwrap_or_else(|_| Err(late()));
    if let Err(error) = &done {
        *condition = if is_broken(error) { Condition::Dead } else { Condition::Failed };
    }
    done
}

fn late() -> Error {
    Error::Io(std::io::Error::new(ErrorKind::TimedOut, "Postgres has not answered in time"))
}

/// No answer came in time, from us or from the kernel.
pub fn is_late(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == ErrorKind::TimedOut)
}

/// The connection is gone, or the server is going or not back yet: a statement that changes nothing
/// may be sent again on another one.
pub fn is_broken(error: &Error) -> bool {
    match error {
        Error::Io(_) => true,
        Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref().unwrap_or_default();
            matches!(code, "57P01" | "57P02" | "57P03") || code.starts_with("08")
        }
        _ => false,
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let Statement { inner, condition, after, until } = self.start()?;
            let done = bounded(condition, until, inner.execute(query)).await?;
            *condition = after;
            Ok(done)
        })
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Statement { inner, condition, after, until } = match self.start() {
            Ok(statement) => statement,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        let rows = (inner.fetch_many(query), condition);
        Box::pin(stream::try_unfold(rows, move |(mut rows, condition)| async move {
            let next = bounded(condition, until, rows.try_next()).await?;
            if next.is_none() {
                *condition = after;
            }
            Ok(next.map(|next| (next, (rows, condition))))
        }))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let Statement { inner, condition, after, until } = self.start()?;
            let row = bounded(condition, until, inner.fetch_optional(query)).await?;
            *condition = after;
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let Statement { inner, condition, after, until } = self.start()?;
            let prepared = bounded(condition, until, inner.prepare_with(sql, parameters)).await?;
            *condition = after;
            Ok(prepared)
        })
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let Statement { inner, condition, after, until } = self.start()?;
            let described = bounded(condition, until, inner.describe(sql)).await?;
            *condition = after;
            Ok(described)
        })
    }
}

/// Statements that come into force together. One deadline is for all of them.
#[derive(Debug)]
pub struct Transaction<'c> {
    connection: &'c mut Connection,
    is_open: bool,
}

impl Transaction<'_> {
    /// Where this fails for want of an answer, the changes may be in force or not.
    pub async fn commit(mut self) -> Result<(), Error> {
        self.end("commit").await
    }

    pub async fn rollback(mut self) -> Result<(), Error> {
        self.end("rollback").await
    }

    async fn end(&mut self, sql: &'static str) -> Result<(), Error> {
        // Postgres would roll back, and call it a success.
        if self.connection.condition != Condition::Clean {
            return Err(Error::Io(ErrorKind::ConnectionAborted.into()));
        }
        self.connection.execute(sql).await?;
        self.connection.until = None;
        self.is_open = false;
        Ok(())
    }
}

impl std::ops::Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl std::ops::DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    /// The connection takes no further statement, so that none becomes a part of what was given up;
    /// and the server rolls back when it is closed.
    fn drop(&mut self) {
        if self.is_open && self.connection.condition != Condition::Dead {
            self.connection.condition = Condition::Busy;
        }
    }
}
