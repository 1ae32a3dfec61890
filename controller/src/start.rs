//! From a configuration to a running controller: checks what can be wrong, waits for Postgres, migrates, listens.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use jetway_protocol::ids::{ClusterName, InstallationId};
use jetway_protocol::lease::LeaseTerms;
use jetway_protocol::secret::Secret;
use jetway_service::clock;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::server::{self, Limits};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::acme::{self, Acme, InvalidAcme};
use crate::app::{Access, App, CONNECTS_MAX, Settings, Shared};
use crate::database::{self, DATABASE_WAIT_MAX, DatabaseError};
use crate::db::{self, Pools};
use crate::http::access::host_of_this_machine;
use crate::lease::statement_deadline;
use crate::{http, tasks};

/// Characters of an API key, at least.
const API_KEY_CHARS_MIN: usize = 16;
/// For so long a host stays its key's after its session's end, by default: browsers keep its cookies
/// and service workers beyond that.
pub const HOST_HOLD: Duration = Duration::from_secs(24 * 3600);
/// At the end, for the connections to Postgres to be closed in order. One that is silent keeps no process from ending.
const POOLS_CLOSE: Duration = Duration::from_secs(2);

/// Streams, connects and reports, and as many again; idle ones are kept longer than the usual balancer keeps its own.
const LIMITS: Limits = Limits { connections: 16 * 1024, head: Duration::from_secs(75) };

pub struct Config {
    /// A libpq URL; a Unix socket is `postgres://user@localhost/name?host=/directory`.
    pub db: String,
    /// The password, for a URL that has none.
    pub db_password: Option<String>,
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
    /// What a drone's lease is from its next registration on. `None`: drones have none, and sessions outlive any outage.
    pub lease: Option<LeaseTerms>,
    /// Whether slots are kept ready for kinds that are asked for, declared or not.
    pub warm_learn: bool,
    /// Certificates that are ordered. `None`: none are.
    pub acme: Option<acme::Config>,
    /// How long a host of a session in the host form stays its key's after the session's end.
    pub host_hold: Duration,
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
        "the API key is shorter than {API_KEY_CHARS_MIN} characters; use a longer one (for example the output of: openssl rand -hex 32)"
    )]
    ShortKey,
    #[error(
        "the API key has characters that no header carries; use letters, digits and signs of ASCII, without spaces"
    )]
    UnusableKey,
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("cannot listen on {address}: {source}; is another controller running there?")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Acme(#[from] InvalidAcme),
    #[error("the public URL must be like https://host: {0}")]
    PublicUrl(String),
    #[error("stopped before the start was complete")]
    Stopped,
}

pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Controller, StartError> {
    if let Some(key) = &config.api_key {
        check_api_key(key)?;
    }
    if !config.listen.ip().is_loopback() && config.api_key.is_none() && !config.insecure {
        return Err(StartError::NeedsKey(config.listen));
    }
    let public_url = config.public_url.as_deref().map(check_public_url).transpose()?;
    let acme = config.acme.map(Acme::new).transpose()?;
    let options = database::options(&config.db, config.db_password.as_deref())?;

    // The address first: where it is taken, nothing else needs to be tried.
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| StartError::Listen { address: config.listen, source })?;
    let address =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;

    let installation = tokio::select! {
        installation = database::prepare(&options, DATABASE_WAIT_MAX) => installation?,
        () = lifecycle.stopping() => return Err(StartError::Stopped),
    };

    let access = access(config.api_key, config.listen, config.insecure, public_url.as_deref());
    let pools = db::pools(&options, statement_deadline(config.lease));
    let settings = Settings {
        cluster: config.cluster,
        secret: config.secret,
        access,
        public_url: public_url.unwrap_or_else(|| format!("http://{address}")),
        lease: config.lease,
        warm_learn: config.warm_learn,
        acme,
        host_hold: config.host_hold,
        lifecycle,
    };
    let id = installation.id;
    let app = Shared::new(pools.clone(), installation, settings);
    if let Err(error) = app.fleet.refresh(&app.pools.housekeeping).await {
        tracing::warn!(%error, "the table of drones could not be read yet");
    }
    // So that this controller knows the timeline before it answers.
    if let Err(error) = tasks::watch(&app).tick(clock::boot_time).await {
        tracing::warn!(%error, "the watch of the drones' leases could not begin yet");
    }
    tasks::start(&app);
    serve(&app, pools, listener, http::router(&app, config.extra_routes));
    Ok(Controller { address, installation: id })
}

fn check_api_key(key: &str) -> Result<(), StartError> {
    if key.chars().count() < API_KEY_CHARS_MIN {
        Err(StartError::ShortKey)
    } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err(StartError::UnusableKey)
    } else {
        Ok(())
    }
}

fn check_public_url(given: &str) -> Result<String, StartError> {
    let url = given.trim_end_matches('/').to_ascii_lowercase();
    // A user and password in it would be shown to every browser; they are not repeated here, either.
    let shown = given.rsplit_once('@').map_or(given, |(_, host)| host);
    let wrong = || StartError::PublicUrl(shown.escape_debug().to_string());
    let (scheme, host) = url.split_once("://").ok_or_else(wrong)?;
    // Url knows ports and hosts, and mends what it can; the other parser refuses what was mended.
    let fine = matches!(scheme, "http" | "https")
        && !host.contains(['/', '@'])
        && !host.ends_with(':')
        && host.parse::<::http::uri::Authority>().is_ok()
        && reqwest::Url::parse(&url).is_ok();
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
        let _none_is_left = app_.connects.permits.acquire_many(CONNECTS_MAX).await;
        let _closed_or_silent = timeout(POOLS_CLOSE, pools.close()).await;
    });
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

    #[test]
    fn a_public_url_is_a_scheme_a_host_and_perhaps_a_port() {
        for (given, url) in [
            ("https://Jetway.example/", "https://jetway.example"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(check_public_url(given).unwrap(), url);
        }
        for wrong in [
            "",
            "nonsense",
            "jetway.example",
            "ftp://h",
            "https://",
            "https://h:",
            "https://h:99999",
            "https://h/base",
            "https://a b",
            "https://me:hunter2@h",
            "http://h\nx",
        ] {
            let said = check_public_url(wrong).unwrap_err().to_string();
            assert!(!said.contains("hunter2") && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn an_api_key_is_long_enough_and_fits_a_header() {
        assert!(check_api_key("0123456789abcdef").is_ok());
        for wrong in [
            "",
            "short",
            "0123456789abcde",
            "0123456789 abcdef",
            "0123456789abcdef\u{e9}",
            "0123456789abcde\n",
        ] {
            assert!(check_api_key(wrong).is_err(), "{wrong:?}");
        }
    }
}
