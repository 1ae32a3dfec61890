//! The way in by HTTPS, and those of whoever issues its certificates.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use jetway_service::lifecycle::Lifecycle;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpListener;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certificates::challenges::{Challenges, PROTOCOL};
use crate::certificates::dns::Responder;
use crate::certificates::{Certificates, Ordered, server_config};
use crate::controllers::Controllers;
use crate::installation::Known;
use crate::listener::{Door, Entrance};
use crate::serve::Https;
use crate::socket::Socket;
use crate::{Config, StartError, Tls, listener};

/// It listens, and nobody is let in yet.
pub struct Secured {
    listener: TcpListener,
    address: SocketAddr,
    handshakes: Handshakes,
}

impl Tls {
    /// What clients are told of it.
    pub(crate) fn told(&self) -> Https {
        let hsts = self.hsts.map(|seconds| HeaderValue::try_from(format!("max-age={seconds}")));
        Https { redirect: self.redirect, hsts: hsts.and_then(Result::ok) }
    }
}

/// The ways in that need certificates, and those of whoever issues them.
pub struct Ways {
    pub tls: Option<Secured>,
    pub tls_address: Option<SocketAddr>,
    pub dns_address: Option<SocketAddr>,
    pub challenges: Option<Arc<Challenges>>,
}

impl Ways {
    /// HTTPS waits for its clients to be let in; the DNS answers from here on.
    pub async fn open(
        config: &Config,
        controllers: Arc<Controllers>,
        known: &Known,
        lifecycle: &Lifecycle,
    ) -> Result<Self, StartError> {
        let shows_ordered = config.tls.as_ref().is_some_and(|tls| tls.ordered);
        let is_asked = shows_ordered || config.acme_dns.is_some();
        let challenges = is_asked.then(|| Challenges::new(controllers.clone()));
        let (secret, lifecycle_) = (config.secret.clone(), lifecycle.clone());
        let ordered = shows_ordered.then(|| Ordered::new(controllers, known.clone(), secret, lifecycle_));
        let tls = match &config.tls {
            Some(tls) => Some(Secured::open(tls, config.reuse_port, ordered, challenges.clone())?),
            None => None,
        };
        let mut dns_address = None;
        if let (Some(address), Some(challenges)) = (config.acme_dns, &challenges) {
            let responder = Responder::bind(address).await?;
            dns_address = Some(responder.address);
            responder.start(challenges.clone(), lifecycle);
        }
        let tls_address = tls.as_ref().map(|tls| tls.address);
        Ok(Self { tls, tls_address, dns_address, challenges })
    }
}

impl Secured {
    fn open(
        tls: &Tls,
        reuse_port: bool,
        ordered: Option<Arc<Ordered>>,
        challenges: Option<Arc<Challenges>>,
    ) -> Result<Self, StartError> {
        let certificates = Certificates::new(tls.certificates.clone(), ordered)?;
        let config = Arc::new(server_config(certificates.clone())?);
        let (listener, address) = listener(tls.listen, reuse_port)?;
        let handshakes = Handshakes { certificates, config, challenges };
        Ok(Self { listener, address, handshakes })
    }

    /// The same as through the other door, once the handshake is over.
    pub fn entrance(self, other: &Door) -> Entrance {
        let Self { listener, handshakes, .. } = self;
        let certificates = handshakes.certificates.clone();
        other.lifecycle.spawn_until_stopped(async move { certificates.follow().await });
        let mut door = other.clone();
        door.reception.tls = Some(Arc::new(handshakes));
        Entrance { listener, door: Arc::new(door) }
    }
}

/// How clients are greeted.
pub struct Handshakes {
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
    challenges: Option<Arc<Challenges>>,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

impl Handshakes {
    /// `None`: it was an issuer, who has seen what it came for.
    pub async fn accept(&self, socket: Socket) -> io::Result<Option<TlsStream<Socket>>> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let hello = begun.client_hello();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let is_issuer = hello.alpn().is_some_and(|mut protocols| protocols.any(|one| one == PROTOCOL));
        if let Some(challenges) = self.challenges.as_ref().filter(|_| is_issuer) {
            let host = name.and_then(|name| name.parse().ok());
            let shown = match &host {
                Some(host) => challenges.by_tls(host).await,
                None => None,
            };
            let shown =
                shown.ok_or_else(|| io::Error::other("an issuer asked for what nobody has ordered"))?;
            // There is nothing to say in it (RFC 8737 §3).
            begun.into_stream(shown).await?;
            return Ok(None);
        }
        self.certificates.prepare(name.as_deref()).await;
        begun.into_stream(self.config.clone()).await.map(Some)
    }
}
