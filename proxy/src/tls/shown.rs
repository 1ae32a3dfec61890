//! The certificate that the client of one TLS connection was shown, and so the hosts that it may
//! ask for there. A browser sends requests for several hosts over one HTTP/2 connection where its
//! certificate is for all of them (RFC 9113 §9.1.1); any other host is a 421 (RFC 9110 §15.5.20).

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use crate::route::hosts::split_port;

/// A handshake in which the client has named its host.
pub struct Shown {
    /// In lower case.
    named: Box<str>,
    /// `None`: none was to be had.
    pair: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("named", &self.named).finish_non_exhaustive()
    }
}

impl Shown {
    pub fn new(named: &str, pair: Option<Arc<CertifiedKey>>) -> Self {
        Self { named: named.into(), pair }
    }

    /// Whether a request for this Host may come over the connection: the handshake has named it, or
    /// the certificate is for it too.
    pub fn is_for(&self, host: &str) -> bool {
        let name = split_port(host).0;
        name == &*self.named || self.pair.as_ref().is_some_and(|pair| is_certified(name, pair))
    }
}

/// Whether a certificate is for this name.
pub fn is_certified(name: &str, pair: &CertifiedKey) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    let first = pair.cert.first().and_then(|first| ParsedCertificate::try_from(first).ok());
    first.is_some_and(|certificate| verify_server_name(&certificate, &name).is_ok())
}
