//! The proxy: client connections, from the URL's token to the session's own process. It talks to drones; it never
//! talks to Postgres, and needs no controller to serve a URL that was handed out.
//!
//! In reading order: `listener` (accept, limits, the end; `workers` has the threads) → `arrival` (who comes, what it speaks; `forwarders`, `proxy_protocol`) →
//! `plain`, `http1`, `http2` (`streams`) → `serve` (one request) → `route`, `connection` (the token) → `attach` (may it enter, is it in
//! use) → `forward`, `headers`, `body`, `expect`, `upstream`, `doors` → `switch`, `upgrade`, `tunnel` (`frames`, `leaving`; `buffers`). `secured` and `certificates` are HTTPS' (`controllers`: who is asked for those that are ordered). `answer` makes whatever the
//! proxy says itself, `problem` says why.
//!
//! | task | woken by | does |
//! |---|---|---|
//! | listener | a connection; the stop | accepts; ends everything in order |
//! | client connection | its socket | serves its requests: HTTP/1.1 one after another, HTTP/2 side by side |
//! | request of HTTP/2 | its stream; its connection's end | one of them, to the last byte of its answer |
//! | answer of HTTP/2 | its end; the grant's end | lets go of the backend, though the client may not read |
//! | backend connection | its socket; its client's end; the grant's end | carries one client connection's requests |
//! | tunnel | its two sockets; the grant's end; the stop | carries bytes |
//! | attach stream | its socket; changed counts; timers | one a drone: asks, reports, hears of ends |
//! | certificates | a slow clock | reads anew what has changed |
//! | a certificate's host | a client's handshake | asks a controller whether there is a newer one |
//! | DNS | a question | answers it: what issuers ask for, and nothing else |
//! | registration | a timer | tells a controller that this proxy lives, learns the installation |

mod allowance;
mod answer;
mod arrival;
mod attach;
mod body;
mod buffers;
mod certificates;
mod connection;
mod controllers;
mod doors;
mod driven;
mod ending;
mod expect;
mod forward;
mod forwarders;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod headers;
mod http1;
mod http2;
mod installation;
mod leaving;
mod listener;
mod paced;
mod page;
mod plain;
mod problem;
mod proxy_protocol;
mod route;
mod secured;
mod seldom;
mod serve;
mod socket;
mod streams;
mod switch;
mod tasks;
mod tunnel;
mod upgrade;
mod upstream;
mod waiting;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use jetway_protocol::ids::{ClusterName, ProxyId};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_service::client::Client;
use jetway_service::clock;
use jetway_service::controllers::{BadUrl, urls};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::allowance::Allowances;
pub use crate::allowance::Share;
use crate::arrival::Reception;
use crate::attach::{Drones, Identity};
pub use crate::certificates::{Files, Unusable};
use crate::controllers::Controllers;
use crate::ending::Ending;
use crate::forwarders::Forwarders;
pub use crate::forwarders::{InvalidNetwork, Network};
use crate::installation::Registration;
use crate::listener::{Door, Entrance, Limits, Listener};
use crate::secured::{Secured, Ways};
use crate::serve::{HELD_MAX, Server};
use crate::upstream::Dialer;
use crate::workers::Workers;

/// How long a request is held while its backend starts, unless set.
pub const HOLD: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Config {
    /// Base URLs of controllers, or of one balancer before them.
    pub controllers: Vec<String>,
    /// Where clients come in. Port 0 picks one.
    pub listen: SocketAddr,
    /// For people.
    pub name: String,
    /// `None`: the controller's default.
    pub cluster: Option<ClusterName>,
    pub secret: Secret,
    /// How long a request is held while its backend starts.
    pub hold: Duration,
    /// Where `/` leads; without it, `/` is a 400.
    pub root_redirect: Option<String>,
    /// Whose word on a client's address, scheme and host is believed.
    pub trusted_forwarders: Vec<Network>,
    /// Connections from trusted forwarders begin with a PROXY header, version 1 or 2.
    pub proxy_protocol: bool,
    /// From the stop to the end of the last WebSocket. Zero: as soon as requests in flight have their answers.
    pub drain: Duration,
    /// What one client may take; forwarders are none.
    pub client: Share,
    /// What may be taken with one token.
    pub token: Share,
    /// The longest wait for the next piece of an HTTP/1.1 request's body.
    pub body_pause: Option<Duration>,
    pub tls: Option<Tls>,
    /// Where issuers of certificates ask by the DNS. Port 0 picks one.
    pub acme_dns: Option<SocketAddr>,
    /// HTML that every page for people begins with.
    pub brand: String,
    /// Others may listen on the same address, such as the process that takes this one's place.
    pub reuse_port: bool,
}

/// Where clients come in by HTTPS.
#[derive(Debug, Clone)]
pub struct Tls {
    pub listen: SocketAddr,
    /// The first is for whoever names no host, or one that none is for.
    pub certificates: Vec<Files>,
    /// Show what controllers have ordered, too.
    pub ordered: bool,
    /// Where those are sent who come by HTTP: the port that browsers know. `None`: they are served.
    pub redirect: Option<u16>,
    /// Seconds that browsers do not come by HTTP any more (RFC 6797).
    pub hsts: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    ControllerUrl(#[from] BadUrl),
    #[error("the root redirect is no URL; give one like https://example.org/ with --root-redirect-url")]
    RootRedirect,
    #[error(
        "--proxy-protocol without --trusted-forwarders: anybody could claim any address; name the balancers"
    )]
    NobodyTrusted,
    #[error(
        "cannot listen on {address}; choose another address with --listen (jetway dev: --proxy), port 0 for any"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(
        "cannot listen on {address} for the DNS; choose another address with --acme-dns-listen, and see that nothing else answers there"
    )]
    ListenDns { address: SocketAddr, source: std::io::Error },
    #[error("no HTTPS: {0}")]
    Certificates(#[from] Unusable),
    #[error("no HTTPS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot start a thread for clients")]
    Threads(#[source] std::io::Error),
    #[error("cannot tell which host this is; /proc must be mounted, and readable for this user")]
    Host(#[source] std::io::Error),
}

/// A proxy that runs.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// The same for HTTPS.
    pub tls_address: Option<SocketAddr>,
    /// The same for questions by the DNS.
    pub dns_address: Option<SocketAddr>,
    pub id: ProxyId,
    refused: watch::Receiver<Option<String>>,
}

impl Proxy {
    /// Returns when every controller has refused this proxy and none has taken it since its start: waiting changes
    /// nothing then, and it knows no URL that it could serve.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        match refused.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Starts a proxy. It listens when this returns; the controller is looked for in the background.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Proxy, StartError> {
    let controllers = urls(&config.controllers)?;
    let root_redirect = config.root_redirect.as_deref().map(HeaderValue::from_str).transpose();
    let root_redirect = root_redirect.map_err(|_| StartError::RootRedirect)?;
    if config.proxy_protocol && config.trusted_forwarders.is_empty() {
        return Err(StartError::NobodyTrusted);
    }
    let (listener, address) = listener(config.listen, config.reuse_port)?;
    let client = Client::new(config.secret.bearer(Purpose::ProxyToController));
    let (tell, known) = watch::channel(None);
    let asked = Arc::new(Controllers::new(controllers.clone(), client.clone()));
    let Ways { tls, tls_address, dns_address, challenges } =
        Ways::open(&config, asked, &known, &lifecycle).await?;
    let (tell_refused, refused) = watch::channel(None);
    let proxy = Proxy { address, tls_address, dns_address, id: ProxyId::random(), refused };

    let registration = Registration {
        controllers: controllers.clone(),
        client: client.clone(),
        secret: config.secret.clone(),
        proxy: proxy.id,
        name: config.name.clone(),
        cluster: config.cluster,
    };
    lifecycle.spawn_until_stopped(registration.run(tell, tell_refused));

    let bearer = config.secret.bearer(Purpose::ProxyToDrone);
    let (streams_stop, limits) = (CancellationToken::new(), Limits::draining_for(config.drain));
    let drones = Drones::new(Identity {
        proxy: proxy.id,
        name: config.name,
        boot_id: clock::boot_id().map_err(StartError::Host)?,
        netns: clock::network_namespace().map_err(StartError::Host)?,
        bearer: bearer.clone(),
        controllers,
        client,
        lifecycle: lifecycle.clone(),
        stop: streams_stop.clone(),
    });
    let allowances = Arc::new(Allowances::new(config.client, config.token));
    let server = Server {
        drones,
        known,
        hold: config.hold,
        root_redirect,
        held: Semaphore::new(HELD_MAX),
        allowances: allowances.clone(),
        body_pause: config.body_pause,
        brand: config.brand.into(),
        https: config.tls.as_ref().map(Tls::told).unwrap_or_default(),
        challenges,
    };
    lifecycle.spawn_until_stopped(async move { allowances.sweep().await });
    let dialer = Arc::new(Dialer { lifecycle: lifecycle.clone(), bearer });
    let door = Door {
        reception: Reception {
            forwarders: Forwarders::new(config.trusted_forwarders),
            proxy_protocol: config.proxy_protocol,
            tls: None,
        },
        server: Arc::new(server),
        dialer,
        lifecycle: lifecycle.clone(),
        ending: Arc::new(Ending::new(limits.spread)),
        limits,
    };
    open(listener, tls, door, streams_stop)?;
    Ok(proxy)
}

/// Begins to let clients in.
fn open(
    listener: TcpListener,
    tls: Option<Secured>,
    door: Door,
    streams_stop: CancellationToken,
) -> Result<(), StartError> {
    let (lifecycle, ending, limits) = (door.lifecycle.clone(), door.ending.clone(), door.limits);
    let workers = Workers::for_this_machine(&lifecycle).map_err(StartError::Threads)?;
    let secured = tls.map(|tls| tls.entrance(&door));
    let first = Entrance { listener, door: Arc::new(door) };
    let entrances = std::iter::once(first).chain(secured).collect();
    let tasks = lifecycle.clone();
    tasks.spawn(Listener { entrances, lifecycle, ending, limits, workers, streams_stop }.run());
    Ok(())
}

/// Connections that have come and are not accepted yet, at most, as far as the kernel allows them.
const BACKLOG: u32 = 4096;

fn listener(address: SocketAddr, reuse_port: bool) -> Result<(TcpListener, SocketAddr), StartError> {
    let listen_error = |source| StartError::Listen { address, source };
    let listener = listen(address, reuse_port).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    Ok((listener, address))
}

fn listen(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
