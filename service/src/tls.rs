//! TLS of the calls that we make. Certificates are checked against this machine's CA certificates, which are read when
//! the first https connection needs them: a machine without any, as an image that holds nothing but our executable,
//! can do everything but https, and a call over plain http does not pay for what it does not use.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// Nothing to check a server's certificate against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine has no CA certificates to check https with: install ca-certificates, or name a bundle in SSL_CERT_FILE"
)]
pub struct NoCaCertificates;

/// TLS needs a provider before its first use; a second call changes nothing.
pub fn install_crypto() {
    let _already_installed = ring::default_provider().install_default();
}

/// For a client that may meet https. Reads no file.
pub fn client_config() -> ClientConfig {
    client_config_with(read_ca_certificates)
}

/// A file with CA certificates that holds none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it holds no CA certificate in PEM: {0}")]
pub struct NoCa(String);

/// For a client that trusts the CA certificates in `pem`, and no others.
pub fn client_config_trusting(pem: &[u8]) -> Result<ClientConfig, NoCa> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| NoCa(error.to_string()))?;
        roots.add(certificate).map_err(|error| NoCa(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(NoCa("there is none".to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions of TLS need");
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

type Read = fn(Arc<CryptoProvider>) -> Option<Verifier>;

fn client_config_with(read: Read) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(LateVerifier { provider: provider.clone(), read, verifier: OnceLock::new() });
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions of TLS need")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR`, else where distributions keep them.
fn read_ca_certificates(provider: Arc<CryptoProvider>) -> Option<Verifier> {
    Verifier::new(provider).inspect_err(|error| tracing::debug!(%error, "CA certificates")).ok()
}

/// The platform's verifier, made when it is first asked. It decides; nothing is decided here.
#[derive(Debug)]
struct LateVerifier {
    provider: Arc<CryptoProvider>,
    read: Read,
    verifier: OnceLock<Option<Verifier>>,
}

impl LateVerifier {
    fn verifier(&self) -> Result<&Verifier, rustls::Error> {
        let verifier = self.verifier.get_or_init(|| (self.read)(self.provider.clone()));
        verifier.as_ref().ok_or_else(|| rustls::Error::Other(OtherError(Arc::new(NoCaCertificates))))
    }
}

impl ServerCertVerifier for LateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier()?.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(read: Read) -> Result<ServerCertVerified, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let verifier = LateVerifier { provider, read, verifier: OnceLock::new() };
        assert!(!verifier.supported_verify_schemes().is_empty(), "known without certificates");
        let name = ServerName::try_from("localhost").unwrap();
        verifier.verify_server_cert(&CertificateDer::from(vec![0_u8; 8]), &[], &name, &[], UnixTime::now())
    }

    #[test]
    fn without_ca_certificates_https_says_what_is_missing() {
        let config = client_config_with(|_| panic!("nothing is read before it is needed"));
        assert!(config.alpn_protocols.is_empty());
        let error = asked(|_| None).unwrap_err();
        assert!(error.to_string().contains(&NoCaCertificates.to_string()), "{error}");
    }

    #[test]
    fn with_ca_certificates_they_decide() {
        let one_root = |provider| Verifier::new(provider).ok();
        if let Err(rustls::Error::Other(_)) = asked(one_root) {
            // This machine has none; what is said then is the other test's.
            return;
        }
        assert!(matches!(asked(one_root), Err(rustls::Error::InvalidCertificate(_))));
    }
}
