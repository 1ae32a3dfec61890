//! Postgres: what should be, and what was. One file a table; plain functions on a connection, whose transaction is
//! the caller's. No decision is made here but those that only Postgres can make atomically.
//!
//! Queries are never wrapped in a tokio timeout: dropping a query in flight leaks the pool's permit when the peer is
//! silently dead. `statement_timeout` bounds them at the server instead.

pub mod backends;
pub mod dispatch;
pub mod drones;
pub mod events;
pub mod installation;
pub mod list;
pub mod proxies;
pub mod turns;

use std::str::FromStr;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Connections for requests.
const CONNECTIONS_MAX: u32 = 16;
/// Connections for background tasks, apart, so that user traffic cannot starve them.
const HOUSEKEEPING_CONNECTIONS_MAX: u32 = 3;
/// A request waits this long for a connection; then it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// A housekeeping task may wait longer: nobody waits for it.
const HOUSEKEEPING_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENT_TIMEOUT: &str = "5s";
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "10s";

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("the database did not answer as it should")]
    Query(#[from] sqlx::Error),
    #[error("the row {id} of {table} has an unreadable {column}")]
    Row { table: &'static str, column: &'static str, id: String },
}

/// The two pools of a controller. `test_before_acquire` is off: it costs a round trip on every request, and a
/// connection that died idle fails one statement, which the caller sees as "come back", and is then replaced.
pub fn pools(options: &PgConnectOptions) -> (PgPool, PgPool) {
    let options = options.clone().application_name("jetway-controller").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ]);
    let requests = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .min_connections(2)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(options.clone());
    let housekeeping = PgPoolOptions::new()
        .max_connections(HOUSEKEEPING_CONNECTIONS_MAX)
        .acquire_timeout(HOUSEKEEPING_ACQUIRE_TIMEOUT)
        .test_before_acquire(true)
        .connect_lazy_with(options);
    (requests, housekeeping)
}

/// Reads a text column as its type.
fn parse<T: FromStr>(
    text: &str,
    table: &'static str,
    column: &'static str,
    id: impl std::fmt::Display,
) -> Result<T, DbError> {
    text.parse().map_err(|_| DbError::Row { table, column, id: id.to_string() })
}

/// Reads a status column.
fn status(
    rank: i16,
    table: &'static str,
    id: impl std::fmt::Display,
) -> Result<jetway_protocol::status::Status, DbError> {
    jetway_protocol::status::Status::from_rank(rank).ok_or(DbError::Row {
        table,
        column: "status",
        id: id.to_string(),
    })
}

/// Reads a JSON column as its type.
fn from_json<T: serde::de::DeserializeOwned>(
    value: serde_json::Value,
    table: &'static str,
    column: &'static str,
    id: impl std::fmt::Display,
) -> Result<T, DbError> {
    serde_json::from_value(value).map_err(|_| DbError::Row { table, column, id: id.to_string() })
}

/// Our own types always become JSON; what does not is a fault of ours, and reads back as null.
fn to_json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests;
