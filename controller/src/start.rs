//! From a configuration to a running controller: checks what can be wrong, waits for Postgres, migrates, listens.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use jetway_protocol::ids::{ClusterName, InstallationId};
use jetway_protocol::secret::Secret;
use jetway_service::backoff::Backoff;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::server::{self, Limits};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::app::{Access, App, CONNECTS_MAX, Settings, Shared};
use crate::db::{self, Pools, installation};
use crate::http::access::host_of_this_machine;
use crate::{http, tasks};

/// A database that is starting, or failing over, is waited for this long.
const DATABASE_WAIT_MAX: Duration = Duration::from_secs(60);
/// One attempt; a host that swallows packets must not take the whole wait.
const DATABASE_ATTEMPT: Duration = Duration::from_secs(5);
/// As `server_version_num` has it.
const POSTGRES_MIN: i32 = 130_000;

/// Streams, connects and reports, and as many again; idle ones are kept longer than the usual balancer keeps its own.
const LIMITS: Limits = Limits { connections: 16 * 1024, head: Duration::from_secs(75) };

pub struct Config {
    /// A libpq URL; a Unix socket is `postgres://user@localhost/name?host=/directory`.
    pub db: String,
    pub listen: SocketAddr,
    /// The default cluster: the host and port by which browsers reach the proxies.
    pub cluster: ClusterName,
    pub secret: Secret,
    /// Needed off loopback: `/ctrl` then wants it as a bearer.
    pub api_key: Option<String>,
    /// Off loopback without a key. Somebody must have said so.
    pub insecure: bool,
    /// What `status_url` begins with; by default the bound address.
    pub public_url: Option<String>,
    /// Routes of the embedding process, served beside ours.
    pub extra_routes: Option<Router>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("cluster", &self.cluster)
            .field("public_url", &self.public_url)
            .finish_non_exhaustive()
    }
}

/// A controller that answers. Stopping the lifecycle it was started with ends it.
#[derive(Debug, Clone)]
pub struct Controller {
    pub address: SocketAddr,
    pub installation: InstallationId,
}

/// One line each, that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{0} is reachable from other machines, so /ctrl needs a key: set JETWAY_API_KEY, listen on 127.0.0.1, or say --insecure"
    )]
    NeedsKey(SocketAddr),
    #[error(
        "the API key is shorter than 16 characters; use a longer one (for example the output of: openssl rand -hex 32)"
    )]
    ShortKey,
    #[error("--db is not a Postgres URL like postgres://user@host/name: {0}")]
    DatabaseUrl(String),
    #[error("Postgres did not answer within {} s ({reason}); check --db and that the server runs", DATABASE_WAIT_MAX.as_secs())]
    NoDatabase { reason: String },
    #[error("Postgres refuses: {0}; check the user, password and database name in --db")]
    DatabaseRefuses(String),
    #[error("Postgres is version {0}; Jetway needs 13 or newer")]
    OldPostgres(String),
    #[error("the database could not be migrated ({0}); is it another program's, or a newer Jetway's?")]
    Migration(String),
    #[error("cannot listen on {address}: {source}; is another controller running there?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the public URL must be like https://host: {0}")]
    PublicUrl(String),
    #[error("stopped before the start was complete")]
    Stopped,
}

pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Controller, StartError> {
    if config.api_key.as_ref().is_some_and(|key| key.len() < 16) {
        return Err(StartError::ShortKey);
    }
    if !config.listen.ip().is_loopback() && config.api_key.is_none() && !config.insecure {
        return Err(StartError::NeedsKey(config.listen));
    }
    let public_url = config.public_url.as_deref().map(check_public_url).transpose()?;
    let options =
        PgConnectOptions::from_str(&config.db).map_err(|error| StartError::DatabaseUrl(error.to_string()))?;

    // The address first: where it is taken, nothing else needs to be tried.
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Listen { address: config.listen, source })?;
    let address =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;

    let mut connection = tokio::select! {
        connection = wait_for_postgres(&options) => connection?,
        () = lifecycle.stopping() => return Err(StartError::Stopped),
    };
    let installation = prepare(&mut connection).await?;
    let _closed_or_dropped = connection.close().await;

    let access = access(config.api_key, config.listen, config.insecure, public_url.as_deref());
    let pools = db::pools(&options);
    let settings = Settings {
        cluster: config.cluster,
        secret: config.secret,
        access,
        public_url: public_url.unwrap_or_else(|| format!("http://{address}")),
        lifecycle,
    };
    let app = Shared::new(pools.clone(), installation, settings);
    if let Err(error) = app.fleet.refresh(&app.housekeeping).await {
        tracing::warn!(%error, "the table of drones could not be read yet");
    }
    tasks::start(&app);
    serve(&app, pools, listener, http::router(&app, config.extra_routes));
    Ok(Controller { address, installation })
}

fn check_public_url(url: &str) -> Result<String, StartError> {
    let url = url.trim_end_matches('/').to_ascii_lowercase();
    let wrong = || StartError::PublicUrl(url.clone());
    let (scheme, host) = url.split_once("://").ok_or_else(wrong)?;
    let fine = matches!(scheme, "http" | "https")
        && !host.contains('/')
        && host.parse::<::http::uri::Authority>().is_ok();
    if fine { Ok(url) } else { Err(wrong()) }
}

/// Who may use `/ctrl`. A public URL of another host says that strangers come through it: on loopback without a key that
/// host opens nothing, unless the operator has said so.
fn access(api_key: Option<String>, listen: SocketAddr, insecure: bool, public_url: Option<&str>) -> Access {
    if let Some(key) = api_key {
        return Access::Key(key);
    }
    if !listen.ip().is_loopback() {
        return Access::Open;
    }
    let public_host = public_url.and_then(|url| {
        if insecure { url.split_once("://").map(|(_, host)| host) } else { host_of_this_machine(url) }
    });
    Access::Loopback { public_host: public_host.map(str::to_owned) }
}

/// Answers until the lifecycle stops; then requests in flight are finished, and the pools closed.
fn serve(app: &App, pools: Pools, listener: TcpListener, router: Router) {
    let server = server::serve(listener, router, LIMITS, &app.lifecycle);
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let _ended = server.await;
        // Connects whose client has gone meanwhile, and who finish what they have begun.
        let _none_is_left = app_.connects.acquire_many(CONNECTS_MAX).await;
        pools.close().await;
    });
}

async fn wait_for_postgres(options: &PgConnectOptions) -> Result<PgConnection, StartError> {
    let deadline = Instant::now() + DATABASE_WAIT_MAX;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
    let mut said = false;
    loop {
        let reason = match tokio::time::timeout(DATABASE_ATTEMPT, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(sqlx::Error::Database(error))) if !is_starting(error.as_ref()) => {
                return Err(StartError::DatabaseRefuses(error.message().to_owned()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} s", DATABASE_ATTEMPT.as_secs()),
        };
        if Instant::now() >= deadline {
            return Err(StartError::NoDatabase { reason });
        }
        if !said {
            tracing::warn!(
                reason,
                seconds = DATABASE_WAIT_MAX.as_secs(),
                "Postgres does not answer yet; waiting"
            );
            said = true;
        }
        backoff.wait().await;
    }
}

/// It answers, but not yet (or no longer) with sessions: starting up, shutting down, no free slot.
fn is_starting(error: &dyn sqlx::error::DatabaseError) -> bool {
    matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P03" | "53300"))
}

async fn prepare(connection: &mut PgConnection) -> Result<InstallationId, StartError> {
    let migration = |error: String| StartError::Migration(error);
    let (number, version): (i32, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| migration(error.to_string()))?;
    if number < POSTGRES_MIN {
        return Err(StartError::OldPostgres(version));
    }
    // Holds an advisory lock: of several controllers that start at once, one migrates and the others wait.
    sqlx::migrate!("../migrations")
        .run(&mut *connection)
        .await
        .map_err(|error| migration(error.to_string()))?;
    installation::read_or_make(connection).await.map_err(|error| migration(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_public_host_opens_ctrl_only_to_a_key_or_where_that_was_said() {
        let listen: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let host = |insecure, url: Option<&str>| match access(None, listen, insecure, url) {
            Access::Loopback { public_host } => public_host,
            other => panic!("{other:?}"),
        };
        assert_eq!(host(false, Some("https://jetway.example")), None);
        assert_eq!(host(true, Some("https://jetway.example")), Some("jetway.example".into()));
        assert_eq!(host(false, Some("http://localhost:8888")), Some("localhost:8888".into()));
        assert_eq!(host(false, None), None);
        let key = access(Some("k".into()), listen, false, Some("https://jetway.example"));
        assert!(matches!(key, Access::Key(_)));
    }
}
