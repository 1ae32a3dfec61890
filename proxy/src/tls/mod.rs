//! The certificates that clients are shown: from `files`, and those that controllers have ordered
//! (`ordered`). `handshakes` shows them; a connection remembers the one of its own (`shown`).
//! Issuers first look for an answer to a challenge (`challenges`): by HTTP, in a handshake, or by
//! the DNS (`dns`, `responder`).

pub mod challenges;
mod dns;
mod files;
pub mod handshakes;
mod ordered;
pub mod responder;
mod shown;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::crypto::ring::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, server};

use self::files::FromFiles;
pub use self::files::{Files, Unusable};
pub use self::ordered::{Ordered, unchecked};
pub use self::shown::Shown;

/// All that a client may be shown.
pub struct Certificates {
    files: FromFiles,
    /// `None`: there are files, and nothing else.
    ordered: Option<Arc<Ordered>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    pub fn new(files: Vec<Files>, ordered: Option<Arc<Ordered>>) -> Result<Arc<Self>, Unusable> {
        Ok(Arc::new(Self { files: FromFiles::read(files)?, ordered }))
    }

    /// For ever: takes changed files.
    pub async fn follow(&self) {
        self.files.follow().await;
    }

    /// Returns once the certificate for a name is known, where that takes a question.
    pub async fn prepare(&self, name: Option<&str>) {
        let Some(ordered) = &self.ordered else { return };
        if self.named(name).is_none() {
            ordered.prepare(name).await;
        }
    }

    fn named(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        self.files.named(name?)
    }

    /// What a client that names this host is shown: the first file that is for it, then what was
    /// ordered for it, then the first file.
    pub fn shown(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let ordered = || self.ordered.as_ref().and_then(|ordered| ordered.shown(name));
        self.named(name).or_else(ordered).or_else(|| self.files.first())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown(hello.server_name())
    }
}

/// TLS 1.2 and 1.3, HTTP/2 where the client has it, and sessions that are resumed by tickets.
pub fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, rustls::Error> {
    let mut config = builder()?.with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

pub fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, server::WantsServerCert>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(builder.with_safe_default_protocol_versions()?.with_no_client_auth())
}
