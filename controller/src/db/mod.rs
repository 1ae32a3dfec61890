//! Postgres: what should be, and what was. One file a table; plain functions on a connection, whose transaction is
//! the caller's. No decision is made here but those that only Postgres can make atomically.
//!
//! Queries are never wrapped in a tokio timeout: dropping a query in flight leaks the pool's permit when the peer is
//! silently dead. `statement_timeout` bounds them at the server instead.

pub mod acme;
pub mod backends;
pub mod certificates;
pub mod dispatch;
pub mod drones;
pub mod events;
pub mod hot;
pub mod installation;
pub mod leases;
pub mod list;
pub mod proxies;
pub mod put_backs;
pub mod registrations;
pub mod releases;
pub mod turns;
pub mod warm_demand;
pub mod warm_pools;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use hot::Hot;

/// Connections for the statements of connects: enough that commits are written together.
const HOT_CONNECTIONS_MAX: usize = 16;
/// Connections for other requests.
const CONNECTIONS_MAX: u32 = 8;
/// Connections for background tasks, apart, so that user traffic cannot starve them.
const HOUSEKEEPING_CONNECTIONS_MAX: u32 = 3;
/// Connections for what drones and proxies report, apart for the same reason: a drone whose heartbeats wait behind
/// browsers looks dead.
const INTERNAL_CONNECTIONS_MAX: u32 = 4;
/// Connections for leases, apart for the same reason: one for the batch of renewals, one for the watch, and others in the
/// place of those on which a server has fallen silent.
const LEASE_CONNECTIONS_MAX: u32 = 8;
/// A request waits this long for a connection; then it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// A housekeeping task may wait longer: nobody waits for it.
const HOUSEKEEPING_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENT_TIMEOUT: &str = "5s";
/// A renewal waits no longer than this for a row that somebody else has.
const LEASE_LOCK_TIMEOUT: &str = "500ms";
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "10s";

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("the database did not answer as it should")]
    Query(#[from] sqlx::Error),
    /// It may be carried out all the same.
    #[error("the database has not answered in time")]
    Silent,
    /// The same for all who asked together.
    #[error("{0}")]
    Together(Arc<DbError>),
    #[error("the row {id} of {table} has an unreadable {column}")]
    Row { table: &'static str, column: &'static str, id: String },
}

impl DbError {
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Query(error) if is_broken(error))
    }
}

/// The pools of a controller, one for each kind of work that must not wait for another.
#[derive(Clone)]
pub struct Pools {
    pub hot: Arc<Hot>,
    pub requests: PgPool,
    pub internal: PgPool,
    pub housekeeping: PgPool,
    pub leases: PgPool,
}

impl Pools {
    /// Waits for what is under way, and ends the connections in order.
    pub async fn close(&self) {
        tokio::join!(
            self.hot.close(),
            self.requests.close(),
            self.internal.close(),
            self.housekeeping.close(),
            self.leases.close()
        );
    }
}

/// `test_before_acquire` is off where somebody waits: it costs a round trip on every request. A connection that died idle
/// fails one statement; a connect's first read is sent again ([`hot`]), other callers see "come back".
pub fn pools(options: &PgConnectOptions) -> Pools {
    let options = options.clone().application_name("jetway-controller").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
        // No statement here is worth compiling.
        ("jit", "off"),
    ]);
    // The statements of connects and events find each row by an index. A plan lasts as long as its connection, and one that was
    // made while the tables were empty must not read them from end to end when they have grown. Nor is it made anew for each execution,
    // as Postgres would where it thinks that it can see what an array holds: that takes longer than the statement.
    let by_index = options.clone().options([
        ("enable_seqscan", "off"),
        ("enable_mergejoin", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ]);
    let pool =
        |connections| PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    Pools {
        hot: Arc::new(Hot::new(by_index.clone(), HOT_CONNECTIONS_MAX, ACQUIRE_TIMEOUT)),
        requests: pool(CONNECTIONS_MAX)
            .min_connections(2)
            .test_before_acquire(false)
            .connect_lazy_with(options.clone()),
        internal: pool(INTERNAL_CONNECTIONS_MAX).test_before_acquire(false).connect_lazy_with(by_index),
        housekeeping: pool(HOUSEKEEPING_CONNECTIONS_MAX)
            .acquire_timeout(HOUSEKEEPING_ACQUIRE_TIMEOUT)
            .test_before_acquire(true)
            .connect_lazy_with(options.clone()),
        leases: pool(LEASE_CONNECTIONS_MAX)
            .test_before_acquire(false)
            .connect_lazy_with(options.options([("lock_timeout", LEASE_LOCK_TIMEOUT)])),
    }
}

/// The connection is gone, or the server is going or not back yet: a statement that changes nothing may be sent again on
/// another one.
pub fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        sqlx::Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref().unwrap_or_default();
            matches!(code, "57P01" | "57P02" | "57P03") || code.starts_with("08")
        }
        _ => false,
    }
}

/// The rows that can be read. One that cannot is logged and left out, so that it does not hold up the others.
fn readable<R, T>(rows: Vec<R>, read: impl Fn(R) -> Result<T, DbError>) -> Vec<T> {
    let logged = |error: &DbError| tracing::error!(%error, "a row is left out");
    rows.into_iter().filter_map(|row| read(row).inspect_err(logged).ok()).collect()
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

/// Our own types always become JSON; what does not is a fault of ours, and reads back as null. U+0000, which jsonb
/// refuses, becomes U+FFFD: an application's output may hold it, and must not keep its end from being stored.
fn to_json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    let mut json = serde_json::to_value(value).unwrap_or_default();
    without_nul(&mut json);
    json
}

fn without_nul(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::String(text) if text.contains('\0') => *text = storable(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(without_nul),
        serde_json::Value::Object(fields) => {
            if fields.keys().any(|name| name.contains('\0')) {
                *fields = std::mem::take(fields).into_iter().map(|(name, v)| (storable(&name), v)).collect();
            }
            fields.values_mut().for_each(without_nul);
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}

/// Text as Postgres can hold it.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod certificates_tests;
#[cfg(test)]
pub mod tests;
