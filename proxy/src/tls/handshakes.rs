//! TLS handshakes: which certificate a client is shown, and the answer of TLS-ALPN-01 to an issuer.
//! The listener is in `accept::https`; certificates come from `files` and `ordered`.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::challenges::{Challenges, PROTOCOL};
use super::{Certificates, Shown, server_config};
use crate::io::socket::Socket;

/// How clients are greeted.
pub struct Handshakes {
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
    challenges: Option<Arc<Challenges>>,
}

/// A client whose handshake is over.
pub struct Greeted {
    pub stream: TlsStream<Socket>,
    /// `None`: it has named no host.
    pub shown: Option<Box<Shown>>,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

impl Handshakes {
    pub fn new(
        certificates: Arc<Certificates>,
        challenges: Option<Arc<Challenges>>,
    ) -> Result<Self, rustls::Error> {
        let config = Arc::new(server_config(certificates.clone())?);
        Ok(Self { certificates, config, challenges })
    }

    pub fn certificates(&self) -> Arc<Certificates> {
        self.certificates.clone()
    }

    /// `None`: it was an issuer, which has its answer.
    pub async fn accept(&self, socket: Socket) -> io::Result<Option<Greeted>> {
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
        let stream = begun.into_stream(self.config.clone()).await?;
        let shown = name.map(|name| Box::new(Shown::new(&name, self.certificates.shown(Some(&name)))));
        Ok(Some(Greeted { stream, shown }))
    }
}
