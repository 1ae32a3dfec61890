//! Reaching Postgres at the start: what its URL says, what waiting can cure and what it cannot, and whether the server is
//! new enough. What is asked of it later is `db/`.

use std::str::FromStr;
use std::time::Duration;

use jetway_protocol::ids::InstallationId;
use jetway_service::backoff::Backoff;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::db::installation;
use crate::start::StartError;

/// A database that is starting, or failing over, is waited for this long.
pub const DATABASE_WAIT_MAX: Duration = Duration::from_secs(60);
/// One attempt; a host that swallows packets must not take the whole wait.
const DATABASE_ATTEMPT: Duration = Duration::from_secs(5);
/// As `server_version_num` has it.
const POSTGRES_MIN: i32 = 130_000;
/// For each step of a look at what listens there.
const LOOK_STEP: Duration = Duration::from_secs(1);
/// An `SSLRequest` (PostgreSQL, 55.7 Message Formats): its length, and the code 1234 5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// From a libpq URL, and a password for one that has none.
pub fn options(url: &str, password: Option<&str>) -> Result<PgConnectOptions, StartError> {
    let wrong = |reason: &str| StartError::DatabaseUrl(reason.to_owned());
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(parsed.scheme(), "postgres" | "postgresql") {
        return Err(wrong("it must begin with postgres://"));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| wrong(&root_cause(&error)))?;
    let Some(password) = password else { return Ok(options) };
    if parsed.password().is_some() || parsed.query_pairs().any(|(name, _)| name == "password") {
        return Err(StartError::TwoPasswords);
    }
    Ok(options.password(password))
}

/// A connection, waited for where waiting may help.
pub async fn connect(options: &PgConnectOptions, wait_max: Duration) -> Result<PgConnection, StartError> {
    let deadline = Instant::now() + wait_max;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    let mut said = false;
    loop {
        let reason = match timeout(DATABASE_ATTEMPT, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => after_failure(options, error).await?,
            Err(_) => {
                let reason = format!("no answer in {} s", DATABASE_ATTEMPT.as_secs());
                listener_or(options, reason).await?
            }
        };
        if Instant::now() >= deadline {
            let (place, seconds) = (place(options), wait_max.as_secs());
            return Err(StartError::NoDatabase { place, seconds, reason });
        }
        if !said {
            let (place, seconds) = (place(options), wait_max.as_secs());
            tracing::warn!(reason, place, seconds, "Postgres does not answer yet; waiting");
            said = true;
        }
        backoff.wait().await;
    }
}

/// Why to wait, or why not to.
async fn after_failure(options: &PgConnectOptions, error: sqlx::Error) -> Result<String, StartError> {
    match error {
        sqlx::Error::Database(error) if is_starting(error.code().as_deref()) => {
            Ok(error.message().to_owned())
        }
        sqlx::Error::Database(error) => Err(StartError::DatabaseRefuses(error.message().to_owned())),
        sqlx::Error::Configuration(error) => Err(StartError::DatabaseUrl(error.to_string())),
        sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Ok(error.to_string())
        }
        sqlx::Error::Tls(error) => {
            let reason = error.to_string();
            listener_or(options, reason.clone()).await?;
            Err(StartError::DatabaseTls(reason))
        }
        error => listener_or(options, root_cause(&error)).await,
    }
}

/// It answers, but not yet (or no longer) with sessions: shutting down, crashed, starting up, no free slot.
fn is_starting(code: Option<&str>) -> bool {
    matches!(code, Some("57P01" | "57P02" | "57P03" | "53300"))
}

/// The reason to wait, unless what listens there is something else. Waiting does not make a Postgres of it.
async fn listener_or(options: &PgConnectOptions, reason: String) -> Result<String, StartError> {
    let Ok(heard) = hear(options).await else { return Ok(reason) };
    match is_postgres(&heard) {
        Some(true) => Ok(reason),
        Some(false) => Err(StartError::NotPostgres { place: place(options), heard: shown(&heard) }),
        None => Ok(format!("it takes connections and says nothing ({reason})")),
    }
}

/// The first words of what listens there. Many servers wait for a line's end before they complain, so they get one;
/// Postgres has answered by then.
async fn hear(options: &PgConnectOptions) -> std::io::Result<Vec<u8>> {
    if options.get_socket().is_some() {
        return Err(std::io::ErrorKind::Unsupported.into());
    }
    let connect = TcpStream::connect((options.get_host(), options.get_port()));
    let mut stream = timeout(LOOK_STEP, connect).await??;
    let mut heard = vec![0; 64];
    let mut n = 0;
    for say in [&SSL_REQUEST[..], b"\r\n\r\n"] {
        stream.write_all(say).await?;
        if let Ok(read) = timeout(LOOK_STEP, stream.read(&mut heard)).await {
            n = read?;
            break;
        }
    }
    heard.truncate(n);
    Ok(heard)
}

/// `None`: it said nothing. An `SSLRequest` is answered with one letter, or with an error message.
fn is_postgres(heard: &[u8]) -> Option<bool> {
    match heard {
        [] => None,
        [b'S' | b'N'] => Some(true),
        // The length of an error message is below 64 kB: HTTP's and others' letters would make it a huge one.
        [b'E', 0, 0, ..] => Some(true),
        _ => Some(false),
    }
}

fn shown(heard: &[u8]) -> String {
    let line = heard.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    line.escape_ascii().to_string()
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

/// Migrates a database that is new enough, and reads the installation's id.
pub async fn prepare(connection: &mut PgConnection) -> Result<InstallationId, StartError> {
    let migration = |error: String| StartError::Migration(error);
    let (number, version): (i32, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| migration(error.to_string()))?;
    check_version(number, &version)?;
    // Holds an advisory lock: of several controllers that start at once, one migrates and the others wait.
    // One that this version does not know is the next version's, which suits this one.
    sqlx::migrate!("../migrations")
        .set_ignore_missing(true)
        .run(&mut *connection)
        .await
        .map_err(|error| migration(error.to_string()))?;
    installation::read_or_make(connection).await.map_err(|error| migration(error.to_string()))
}

fn check_version(number: i32, version: &str) -> Result<(), StartError> {
    if number < POSTGRES_MIN { Err(StartError::OldPostgres(version.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::Database;

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
            assert!(matches!(said, StartError::TwoPasswords) && !said.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn what_listens_there_is_told_by_its_first_bytes() {
        for (heard, expect) in [
            (&b""[..], None),
            (b"S", Some(true)),
            (b"N", Some(true)),
            (b"E\0\0\0\x60SFATAL\0", Some(true)),
            (b"HTTP/1.1 400 Bad Request\r\n", Some(false)),
            (b"SSH-2.0-OpenSSH\r\n", Some(false)),
            (b"\x4a\0\0\0\x0a8.0.36", Some(false)),
            (b"-ERR unknown command", Some(false)),
            (b"Error", Some(false)),
        ] {
            assert_eq!(is_postgres(heard), expect, "{}", heard.escape_ascii());
        }
        assert_eq!(shown(b"HTTP/1.1 400\r\nx: y"), "HTTP/1.1 400");
        assert_eq!(shown(b"\x1b[2J\xff"), "\\x1b[2J\\xff");
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
                outcome = connect(&options, Duration::from_secs(60)) => outcome,
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
        let said = connect(&options, Duration::from_millis(300)).await.unwrap_err().to_string();
        assert!(started.elapsed() >= Duration::from_millis(300));
        assert!(said.contains(&address.to_string()) && said.contains("refused"), "{said}");
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_not_waited_for() {
        let database = Database::new().await;
        let options = database.options().database("jetway_there_is_no_such_database");
        let said = connect(&options, Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(said, StartError::DatabaseRefuses(_)), "{said}");
        let mut connection = connect(&database.options(), Duration::from_secs(60)).await.unwrap();
        prepare(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}
