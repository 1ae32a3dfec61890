//! Reaching Postgres at the start: what its URL says, what waiting can cure and what it cannot, and whether the server is
//! new enough. What is asked of it later is `db/`.

mod listener;

use std::str::FromStr;
use std::time::Duration;

use jetway_service::backoff::Backoff;
use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;

use listener::{hear, is_postgres, shown};

use crate::db::deadlines::STATEMENT;
use crate::db::installation::{self, Installation};
use crate::db::{Connection, DbError, is_broken};

/// A database that is starting, or failing over, is waited for this long.
pub const DATABASE_WAIT_MAX: Duration = Duration::from_secs(60);
/// As `server_version_num` has it.
const POSTGRES_MIN: i32 = 130_000;

/// Why there is no database to work with: one line each, that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("--db is not a Postgres URL like postgres://user@host/name: {0}")]
    Url(String),
    #[error("--db has a password, and --db-password-file has one, too; keep one of them")]
    TwoPasswords,
    #[error(
        "Postgres at {place} did not answer within {seconds} s ({reason}); check --db and that the server runs"
    )]
    Silent { place: String, seconds: u64, reason: String },
    #[error("what listens at {place} is not Postgres: it says {heard:?}; check --db")]
    NotPostgres { place: String, heard: String },
    #[error("no TLS with Postgres ({0}); check sslmode and sslrootcert in --db")]
    Tls(String),
    #[error("Postgres refuses: {0}; check the user, password and database name in --db")]
    Refuses(String),
    #[error("Postgres is version {0}; Jetway needs 13 or newer")]
    OldPostgres(String),
    #[error("the database could not be migrated ({0}); is it another program's?")]
    Migration(String),
}

/// From a libpq URL, and a password for one that has none.
pub fn options(url: &str, password: Option<&str>) -> Result<PgConnectOptions, DatabaseError> {
    let wrong = |reason: &str| DatabaseError::Url(reason.to_owned());
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "postgres" | "postgresql") {
        return Err(wrong("it must begin with postgres://"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| wrong(&root_cause(&error)))?;
    let Some(password) = password else { return Ok(options) };
    if parsed.password().is_some() || parsed.query_pairs().any(|(name, _)| name == "password") {
        return Err(DatabaseError::TwoPasswords);
    }
    Ok(options.password(password))
}

/// A connection, and with it a database that is new enough, migrated, and has an installation's id; waited for where waiting may
/// help, also where Postgres goes away in the middle.
pub async fn prepare(options: &PgConnectOptions, wait_max: Duration) -> Result<Installation, DatabaseError> {
    let mut waiting = Waiting::new(options, wait_max);
    loop {
        let mut connection = connect(options, &mut waiting).await?;
        match migrate(&mut connection).await {
            Ok(installation) => {
                let _closed_or_dropped = connection.close().await;
                return Ok(installation);
            }
            Err(NotPrepared::Lost(reason)) => waiting.a_while(reason).await?,
            Err(NotPrepared::Fault(error)) => return Err(error),
        }
    }
}

async fn connect(options: &PgConnectOptions, waiting: &mut Waiting<'_>) -> Result<Connection, DatabaseError> {
    loop {
        // One attempt has a deadline: a host that swallows packets must not take the whole wait.
        let reason = match Connection::open(options, STATEMENT).await {
            Ok(connection) => return Ok(connection),
            Err(error) => after_failure(options, error).await?,
        };
        waiting.a_while(reason).await?;
    }
}

/// One patience for all that a start asks of Postgres.
struct Waiting<'a> {
    options: &'a PgConnectOptions,
    wait_max: Duration,
    deadline: Instant,
    backoff: Backoff,
    said: bool,
}

impl<'a> Waiting<'a> {
    fn new(options: &'a PgConnectOptions, wait_max: Duration) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        Self { options, wait_max, deadline: Instant::now() + wait_max, backoff, said: false }
    }

    async fn a_while(&mut self, reason: String) -> Result<(), DatabaseError> {
        let (place, seconds) = (place(self.options), self.wait_max.as_secs());
        if Instant::now() >= self.deadline {
            return Err(DatabaseError::Silent { place, seconds, reason });
        }
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(reason, place, seconds, "Postgres does not answer yet; waiting");
        }
        self.backoff.wait().await;
        Ok(())
    }
}

/// Why to wait, or why not to.
async fn after_failure(options: &PgConnectOptions, error: sqlx::Error) -> Result<String, DatabaseError> {
    match error {
        sqlx::Error::Database(error) if is_starting(error.code().as_deref()) => {
            Ok(error.message().to_owned())
        }
        sqlx::Error::Database(error) => Err(DatabaseError::Refuses(error.message().to_owned())),
        sqlx::Error::Configuration(error) => Err(DatabaseError::Url(error.to_string())),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Ok(error.to_string())
        }
        sqlx::Error::Tls(error) => {
            let reason = error.to_string();
            listener_or(options, reason.clone()).await?;
            Err(DatabaseError::Tls(reason))
        }
        error => listener_or(options, root_cause(&error)).await,
    }
}

/// It answers, but not yet (or no longer) with sessions: shutting down, crashed, starting up, no free slot.
fn is_starting(code: Option<&str>) -> bool {
    matches!(code, Some("57P01" | "57P02" | "57P03" | "53300"))
}

/// The reason to wait, unless what listens there is something else. Waiting does not make a Postgres of it.
async fn listener_or(options: &PgConnectOptions, reason: String) -> Result<String, DatabaseError> {
    let Ok(heard) = hear(options).await else { return Ok(reason) };
    match is_postgres(&heard) {
        Some(true) => Ok(reason),
        Some(false) => Err(DatabaseError::NotPostgres { place: place(options), heard: shown(&heard) }),
        None => Ok(format!("it takes connections and says nothing ({reason})")),
    }
}

fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

fn root_cause(error: &sqlx::Error) -> String {
    jetway_service::client::root_cause(error)
}

enum NotPrepared {
    /// Postgres went away meanwhile; what was not committed is as it was.
    Lost(String),
    Fault(DatabaseError),
}

/// Migrates a database that is new enough, and reads the installation's id.
async fn migrate(connection: &mut Connection) -> Result<Installation, NotPrepared> {
    let (number, version): (i32, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(not_prepared)?;
    check_version(number, &version).map_err(NotPrepared::Fault)?;
    // Holds an advisory lock: of several controllers that start at once, one migrates and the others wait.
    // One that this version does not know is the next version's, which suits this one.
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.set_ignore_missing(true);
    connection.migrate(&migrations).await.map_err(not_prepared)?;
    installation::read_or_make(connection).await.map_err(|error| match error {
        DbError::Query(error) => not_prepared(error),
        DbError::Silent => NotPrepared::Lost(error.to_string()),
        other => NotPrepared::Fault(DatabaseError::Migration(other.to_string())),
    })
}

fn not_prepared(error: impl std::error::Error + 'static) -> NotPrepared {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(present) = cause {
        if present.downcast_ref::<sqlx::Error>().is_some_and(is_broken) {
            return NotPrepared::Lost(jetway_service::client::root_cause(present));
        }
        cause = present.source();
    }
    NotPrepared::Fault(DatabaseError::Migration(error.to_string()))
}

fn check_version(number: i32, version: &str) -> Result<(), DatabaseError> {
    if number < POSTGRES_MIN { Err(DatabaseError::OldPostgres(version.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Connection as _};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::{Database, eventually};

    #[test]
    fn a_url_that_is_none_says_so_and_shows_no_password() {
        for (url, expect) in [
            ("", "relative URL"),
            ("nonsense", "relative URL"),
            ("http://u:hunter2@h/n", "it must begin with postgres://"),
            ("postgres://u:hunter2@h:99999/n", "port"),
            ("postgres://u:hunter2@h/n?sslmode=nonsense", "nonsense"),
        ] {
            let said = options(url, None).unwrap_err().to_string();
            assert!(said.starts_with("--db is not a Postgres URL") && said.contains(expect), "{url}: {said}");
            assert!(!said.contains("hunter2") && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_password_from_a_file_is_for_a_url_without_one() {
        assert!(options("postgres://u@h/n", Some("p")).is_ok());
        assert!(options("postgres://u@localhost/n?host=/run", Some("p")).is_ok());
        for url in ["postgres://u:hunter2@h/n", "postgres://u@h/n?password=hunter2"] {
            let said = options(url, Some("p")).unwrap_err();
            assert!(matches!(said, DatabaseError::TwoPasswords) && !said.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn thirteen_is_new_enough() {
        assert!(check_version(130_000, "13.0").is_ok());
        let said = check_version(120_022, "12.22").unwrap_err().to_string();
        assert_eq!(said, "Postgres is version 12.22; Jetway needs 13 or newer");
    }

    /// Answers as HTTP servers do: some at once, others only when they have heard a line's end.
    async fn as_http(listener: &TcpListener, at_once: bool) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while stream.read_buf(&mut heard).await.is_ok_and(|n| n > 0)
                && !at_once
                && !heard.contains(&b'\n')
            {}
            let _hung_up = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    }

    #[tokio::test]
    async fn a_web_server_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (mode, at_once) in [("prefer", false), ("prefer", true), ("disable", true)] {
            let options = options(&format!("postgres://u@{address}/n?sslmode={mode}"), None).unwrap();
            let outcome = tokio::select! {
                () = as_http(&listener, at_once) => unreachable!("it serves on"),
                outcome = prepare(&options, Duration::from_secs(60)) => outcome,
            };
            let said = outcome.unwrap_err().to_string();
            assert!(
                said.contains("HTTP/1.1 400 Bad Request") && said.contains("not Postgres"),
                "{mode}: {said}"
            );
        }
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_waited_for_and_then_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let options = options(&format!("postgres://u@{address}/n"), None).unwrap();
        let started = Instant::now();
        let said = prepare(&options, Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(started.elapsed() >= Duration::from_millis(300));
        assert!(said.contains(&address.to_string()) && said.contains("refused"), "{said}");
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_not_waited_for() {
        let database = Database::new().await;
        let options = database.options().database("jetway_there_is_no_such_database");
        let said = prepare(&options, Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(said, DatabaseError::Refuses(_)), "{said}");
        prepare(&database.options(), Duration::from_secs(60)).await.unwrap();
    }

    /// As a restart of Postgres does: the session ends between two statements of the preparation.
    #[tokio::test]
    async fn a_postgres_that_goes_away_in_the_middle_is_waited_for() {
        let database = Database::new().await;
        let (options, mut other) = (database.options(), database.options().connect().await.unwrap());
        let mut held = other.begin().await.unwrap();
        sqlx::query("lock table _sqlx_migrations").execute(&mut *held).await.unwrap();
        let restarting = async {
            let waits = "select pid from pg_stat_activity
                         where datname = current_database() and wait_event_type = 'Lock'";
            let ask = async || {
                let mut looking = database.options().connect().await.unwrap();
                let pid: Option<i32> = sqlx::query_scalar(waits).fetch_optional(&mut looking).await.unwrap();
                looking.close().await.unwrap();
                pid
            };
            let pid = eventually("a preparation that waits", ask, Option::is_some).await;
            let end = "select pg_terminate_backend($1)";
            sqlx::query(end).bind(pid).execute(&mut *held).await.unwrap();
            held.rollback().await.unwrap();
        };
        let (prepared, ()) = tokio::join!(prepare(&options, Duration::from_secs(60)), restarting);
        prepared.unwrap();
        other.close().await.unwrap();
    }

    #[test]
    fn what_waiting_cures_is_told_from_what_it_does_not() {
        let reset = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let migrating = sqlx::migrate::MigrateError::Execute(reset());
        assert!(matches!(not_prepared(reset()), NotPrepared::Lost(_)));
        assert!(matches!(not_prepared(migrating), NotPrepared::Lost(_)));
        let changed = sqlx::migrate::MigrateError::VersionMismatch(1);
        assert!(matches!(not_prepared(changed), NotPrepared::Fault(_)));
    }
}
