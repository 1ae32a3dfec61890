//! A proxy's configuration, and the errors of its start.

use std::net::SocketAddr;
use std::time::Duration;

use jetway_protocol::ids::ClusterName;
use jetway_protocol::secret::Secret;
use jetway_service::controllers::BadUrl;

use crate::limits::shares::Share;
use crate::peer::forwarders::Network;
use crate::tls::{Files, Unusable};

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
    /// Networks whose word on a client's address, scheme and host is believed.
    pub trusted_forwarders: Vec<Network>,
    /// Connections from trusted forwarders begin with a PROXY header, version 1 or 2.
    pub proxy_protocol: bool,
    /// From the stop to the end of the last WebSocket. Zero: as soon as requests in flight have
    /// their answers.
    pub drain: Duration,
    /// The share of one client; forwarders are none.
    pub client: Share,
    /// The share of one token.
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
    /// The first is for clients that name no host, or one that none is for.
    pub certificates: Vec<Files>,
    /// Show certificates that controllers have ordered, too.
    pub ordered: bool,
    /// The port to which requests by HTTP are sent, as browsers know it. `None`: they are served.
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
