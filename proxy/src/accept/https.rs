//! The listener for HTTPS, and the sockets for the issuers of its certificates.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use jetway_service::controllers::Controllers;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;

use crate::accept::bind::bind;
use crate::accept::listener::{Door, Entrance};
use crate::config::{Config, StartError, Tls};
use crate::installation::Known;
use crate::request::server::Https;
use crate::tls::challenges::Challenges;
use crate::tls::handshakes::Handshakes;
use crate::tls::responder::Responder;
use crate::tls::{Certificates, Ordered};

/// It listens, and no client is let in yet.
pub struct HttpsListener {
    listener: TcpListener,
    address: SocketAddr,
    handshakes: Handshakes,
}

impl Tls {
    /// The part that clients are told.
    pub(crate) fn told(&self) -> Https {
        let hsts = self.hsts.map(|seconds| HeaderValue::try_from(format!("max-age={seconds}")));
        Https { redirect: self.redirect, hsts: hsts.and_then(Result::ok) }
    }
}

/// The sockets that need certificates, and those for their issuers.
pub struct TlsEndpoints {
    pub tls: Option<HttpsListener>,
    pub tls_address: Option<SocketAddr>,
    pub dns_address: Option<SocketAddr>,
    pub challenges: Option<Arc<Challenges>>,
}

impl TlsEndpoints {
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
        if let Some(challenges) = challenges.clone() {
            lifecycle.spawn_until_stopped(async move { challenges.follow().await });
        }
        let (secret, lifecycle_) = (config.secret.clone(), lifecycle.clone());
        let ordered = shows_ordered.then(|| Ordered::new(controllers, known.clone(), secret, lifecycle_));
        let tls = match &config.tls {
            Some(tls) => Some(HttpsListener::open(tls, config.reuse_port, ordered, challenges.clone())?),
            None => None,
        };
        let mut dns_address = None;
        if let (Some(address), Some(challenges)) = (config.acme_dns, &challenges) {
            let failed = |source| StartError::ListenDns { address, source };
            let responder = Responder::bind(address).await.map_err(failed)?;
            dns_address = Some(responder.address);
            responder.start(challenges.clone(), lifecycle);
        }
        let tls_address = tls.as_ref().map(|tls| tls.address);
        Ok(Self { tls, tls_address, dns_address, challenges })
    }
}

impl HttpsListener {
    fn open(
        tls: &Tls,
        reuse_port: bool,
        ordered: Option<Arc<Ordered>>,
        challenges: Option<Arc<Challenges>>,
    ) -> Result<Self, StartError> {
        let certificates = Certificates::new(tls.certificates.clone(), ordered)?;
        let handshakes = Handshakes::new(certificates, challenges)?;
        let (listener, address) = bind(tls.listen, reuse_port)?;
        Ok(Self { listener, address, handshakes })
    }

    /// The same as through the other door, once the handshake is over.
    pub fn entrance(self, other: &Door) -> Entrance {
        let Self { listener, handshakes, .. } = self;
        let certificates = handshakes.certificates();
        other.lifecycle.spawn_until_stopped(async move { certificates.follow().await });
        let mut door = other.clone();
        door.acceptor.tls = Some(Arc::new(handshakes));
        Entrance { listener, door: Arc::new(door) }
    }
}
