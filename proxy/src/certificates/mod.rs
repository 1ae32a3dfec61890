//! The certificates that clients are shown: from `files`, and those that controllers have ordered (`ordered`). Whoever issues those
//! wants to see something of us first (`challenges`): by HTTP, in a handshake, or by the DNS (`dns`).

pub mod challenges;
pub mod dns;
mod files;
mod ordered;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, server};

use self::files::FromFiles;
pub use self::files::{Files, Unusable};
pub use self::ordered::{Ordered, unchecked};

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

    /// For ever: takes what has changed in the files.
    pub async fn follow(&self) {
        self.files.follow().await;
    }

    /// Returns once it is known what is shown for a name, where that takes a question.
    pub async fn prepare(&self, name: Option<&str>) {
        let Some(ordered) = &self.ordered else { return };
        if self.named(name).is_none() {
            ordered.prepare(name).await;
        }
    }

    fn named(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = ServerName::try_from(name?).ok()?;
        self.files.named(&name)
    }
}

impl ResolvesServerCert for Certificates {
    /// The first file that is for this name, then what was ordered for it, then the first file.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        let ordered = || self.ordered.as_ref().and_then(|ordered| ordered.shown(name));
        self.named(name).or_else(ordered).or_else(|| self.files.first())
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
