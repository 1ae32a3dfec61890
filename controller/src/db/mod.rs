//! Postgres: what should be, and what was. One file a table; plain functions on a connection, whose transaction is
//! the caller's. No decision is made here but those that only Postgres can make atomically.
//!
//! Every statement goes through [`connection::Connection`], which gives it a deadline; the values
//! are in [`deadlines`].

pub mod acme;
pub mod backends;
pub mod certificates;
pub mod connection;
pub mod deadlines;
pub mod dispatch;
pub mod drones;
pub mod ends;
pub mod events;
pub mod hosts;
pub mod installation;
pub mod leases;
pub mod list;
pub mod pool;
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

use sqlx::postgres::PgConnectOptions;

pub use connection::{Connection, is_broken};
use pool::{Generation, Limits, Pool};

/// Connections for the statements of connects: enough that commits are written together.
const HOT_CONNECTIONS_MAX: usize = 16;
/// Connections for other requests.
const CONNECTIONS_MAX: usize = 8;
/// Connections for background tasks, apart, so that user traffic cannot starve them.
const HOUSEKEEPING_CONNECTIONS_MAX: usize = 3;
/// Connections for what drones and proxies report, apart for the same reason: a drone whose heartbeats wait behind
/// browsers looks dead.
const INTERNAL_CONNECTIONS_MAX: usize = 4;
/// Connections for leases, apart for the same reason: one for the batch of renewals, one for the
/// watch, and a spare one.
const LEASE_CONNECTIONS_MAX: usize = 3;
/// A renewal waits no longer than this for a row that another transaction has locked.
const LEASE_LOCK_TIMEOUT: &str = "500ms";

#[derive(Debug, thiserror::Error)]
pub enum DbError {
    #[error("the database did not answer as it should")]
    Query(#[source] sqlx::Error),
    /// It may be carried out all the same.
    #[error("the database has not answered in time")]
    Silent,
    /// The same for all who asked together.
    #[error("{0}")]
    Together(Arc<DbError>),
    #[error("the row {id} of {table} has an unreadable {column}")]
    Row { table: &'static str, column: &'static str, id: String },
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        if connection::is_late(&error) { Self::Silent } else { Self::Query(error) }
    }
}

impl DbError {
    /// What changes nothing may be sent again, on another connection.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Query(error) => is_broken(error),
            Self::Together(_) | Self::Row { .. } => false,
        }
    }
}

/// The pools of a controller, one for each kind of work that must not wait for another.
#[derive(Clone)]
pub struct Pools {
    pub hot: Arc<Pool>,
    pub requests: Arc<Pool>,
    pub internal: Arc<Pool>,
    pub housekeeping: Arc<Pool>,
    pub leases: Arc<Pool>,
}

impl Pools {
    /// Ends the idle connections in order.
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

/// A connection is not tested before it is used: that costs a round trip on every request. One that
/// died idle fails one statement; a connect's first read is sent again, other callers see "come
/// back". `lease_deadline`: of a statement about leases.
pub fn pools(options: &PgConnectOptions, lease_deadline: Duration) -> Pools {
    let (short, long) = (deadlines::STATEMENT_AT_SERVER, deadlines::LONG_STATEMENT_AT_SERVER);
    let options = options.clone().application_name("jetway-controller").options([
        ("statement_timeout", deadlines::setting(short)),
        ("idle_in_transaction_session_timeout", deadlines::setting(deadlines::IDLE_IN_TRANSACTION_AT_SERVER)),
        // No statement here is worth compiling.
        ("jit", "off".to_owned()),
    ]);
    // The statements of connects and events find each row by an index. A plan lasts as long as its connection, and one that was
    // made while the tables were empty must not read them from end to end when they have grown. Nor is it made anew for each execution,
    // as Postgres would where it thinks that it can see what an array holds: that takes longer than the statement.
    let by_index = options.clone().options([
        ("enable_seqscan", "off"),
        ("enable_mergejoin", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ]);
    let patient = options.clone().options([("statement_timeout", deadlines::setting(long))]);
    let soon_locked = options.clone().options([("lock_timeout", LEASE_LOCK_TIMEOUT)]);
    let generation = Generation::default();
    let usual =
        Limits { connections: CONNECTIONS_MAX, wait: deadlines::CONNECT, deadline: deadlines::STATEMENT };
    let pool = |options, limits| Arc::new(Pool::new(options, limits, generation.clone()));
    Pools {
        hot: pool(by_index.clone(), Limits { connections: HOT_CONNECTIONS_MAX, ..usual }),
        requests: pool(options, usual),
        internal: pool(by_index, Limits { connections: INTERNAL_CONNECTIONS_MAX, ..usual }),
        housekeeping: pool(
            patient,
            Limits { connections: HOUSEKEEPING_CONNECTIONS_MAX, wait: deadlines::TASK_TURN, ..usual },
        ),
        leases: pool(
            soon_locked,
            Limits { connections: LEASE_CONNECTIONS_MAX, deadline: lease_deadline, ..usual },
        ),
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
mod hosts_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
pub mod tests;
