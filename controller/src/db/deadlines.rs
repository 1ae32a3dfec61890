//! How long Postgres is waited for: the one place for these values. `docs/deploy.md` tells
//! operators of them.
//!
//! Two clocks bound each statement. Postgres ends it first and says so, as long as there is a
//! Postgres. A host that has lost its power or its network says nothing, so the controller gives
//! the statement up a little later ([`super::connection`]).

use std::time::Duration;

/// For a connection: a turn among the permits, and again for making a new one.
pub const CONNECT: Duration = Duration::from_secs(3);
/// For a background task's turn among the permits: no caller waits for it.
pub const TASK_TURN: Duration = Duration::from_secs(10);

/// `statement_timeout` of the connections for requests, reports and leases.
pub const STATEMENT_AT_SERVER: Duration = Duration::from_secs(3);
/// A statement, or a transaction from its begin to its commit. A drone's heartbeat waits for 4 s.
pub const STATEMENT: Duration = Duration::from_secs(4);

/// `statement_timeout` of the connections for background tasks.
pub const LONG_STATEMENT_AT_SERVER: Duration = Duration::from_secs(10);
/// A background task's statement that changes many rows: those of a dead drone, and old history.
pub const LONG_STATEMENT: Duration = Duration::from_secs(11);

/// `idle_in_transaction_session_timeout`: what a controller that has vanished has locked is free
/// after this time.
pub const IDLE_IN_TRANSACTION_AT_SERVER: Duration = Duration::from_secs(10);

/// All migrations at a start, the wait for another controller's included.
pub const MIGRATIONS: Duration = Duration::from_secs(10 * 60);

/// As Postgres reads it.
pub fn setting(deadline: Duration) -> String {
    format!("{}ms", deadline.as_millis())
}
