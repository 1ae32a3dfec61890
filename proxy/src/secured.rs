//! The way in by HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderValue;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Certificates, server_config};
use crate::listener::{Door, Entrance};
use crate::serve::Https;
use crate::{StartError, Tls, listener};

/// It listens, and nobody is let in yet.
pub struct Secured {
    listener: TcpListener,
    pub address: SocketAddr,
    certificates: Arc<Certificates>,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// What clients are told of it.
    pub(crate) fn told(&self) -> Https {
        let hsts = self.hsts.map(|seconds| HeaderValue::try_from(format!("max-age={seconds}")));
        Https { redirect: self.redirect, hsts: hsts.and_then(Result::ok) }
    }
}

impl Secured {
    pub fn open(tls: &Tls, reuse_port: bool) -> Result<Self, StartError> {
        let certificates = Certificates::read(tls.certificates.clone())?;
        let acceptor = TlsAcceptor::from(Arc::new(server_config(certificates.clone())?));
        let (listener, address) = listener(tls.listen, reuse_port)?;
        Ok(Self { listener, address, certificates, acceptor })
    }

    /// The same as through the other door, once the handshake is over.
    pub fn entrance(self, other: &Door) -> Entrance {
        let Self { listener, certificates, acceptor, .. } = self;
        other.lifecycle.spawn_until_stopped(async move { certificates.follow().await });
        let mut door = other.clone();
        door.reception.tls = Some(acceptor);
        Entrance { listener, door: Arc::new(door) }
    }
}
