//! Certificates from files, read again when those change. A new one that cannot be used is said to
//! be so, and the one before goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jetway_service::backoff::jittered;
use parking_lot::RwLock;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use tokio::time::sleep;

use super::shown::is_certified;

/// Between looks at the files. Whoever renews a certificate does so days before the end of the old
/// one.
const LOOK: Duration = Duration::from_secs(5);
/// Of a file. A chain has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where one certificate is: a chain in PEM, the server's own first, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{0} is larger than any certificate; is it the right file?")]
    TooLarge(PathBuf),
    #[error("{path} holds no certificate in PEM: {reason}")]
    NoCertificate { path: PathBuf, reason: String },
    #[error("{path} holds no private key in PEM: {reason}")]
    NoKey { path: PathBuf, reason: String },
    #[error("the key in {key} is not that of the certificate in {certificate}: {reason}")]
    NotAPair { certificate: PathBuf, key: PathBuf, reason: String },
}

/// One that can be shown.
#[derive(Debug)]
struct FilePair {
    /// The files' content, by which a change is known.
    read: (Vec<u8>, Vec<u8>),
    pair: Arc<CertifiedKey>,
}

#[derive(Debug)]
pub struct FromFiles {
    files: Vec<Files>,
    shown: RwLock<Vec<Arc<FilePair>>>,
}

impl FromFiles {
    /// Reads all of them: one that is unusable at the start is an operator's mistake.
    pub fn read(files: Vec<Files>) -> Result<Self, Unusable> {
        let shown = files.iter().map(FilePair::read).collect::<Result<_, _>>()?;
        Ok(Self { files, shown: RwLock::new(shown) })
    }

    /// For ever: takes changed files.
    pub async fn follow(&self) {
        loop {
            sleep(jittered(LOOK)).await;
            self.look();
        }
    }

    fn look(&self) {
        let before = self.shown();
        let after: Vec<_> =
            self.files.iter().zip(&before).map(|(files, before)| newer(files, before)).collect();
        if !after.iter().zip(&before).all(|(after, before)| Arc::ptr_eq(after, before)) {
            *self.shown.write() = after;
        }
    }

    fn shown(&self) -> Vec<Arc<FilePair>> {
        self.shown.read().clone()
    }

    /// The first that is for this name.
    pub fn named(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read();
        shown.iter().find(|shown| is_certified(name, &shown.pair)).map(|shown| shown.pair.clone())
    }

    pub fn first(&self) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read();
        shown.first().map(|shown| shown.pair.clone())
    }
}

/// The new content of a pair, if that can be used; else the one before.
fn newer(files: &Files, before: &Arc<FilePair>) -> Arc<FilePair> {
    match bytes_of(files) {
        Ok(read) if read == before.read => before.clone(),
        Ok(read) => match FilePair::of(files, read) {
            Ok(shown) => {
                tracing::info!(certificate = %files.certificate.display(), "a new certificate");
                Arc::new(shown)
            }
            // Of a pair, one file may have been written before the other.
            Err(reason) => kept(before, &reason),
        },
        Err(reason) => kept(before, &reason),
    }
}

fn kept(before: &Arc<FilePair>, reason: &Unusable) -> Arc<FilePair> {
    tracing::warn!(%reason, "the certificate before is shown");
    before.clone()
}

fn bytes_of(files: &Files) -> Result<(Vec<u8>, Vec<u8>), Unusable> {
    let read = |path: &Path| {
        let unreadable = |source| Unusable::Unreadable { path: path.into(), source };
        if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
            return Err(Unusable::TooLarge(path.into()));
        }
        std::fs::read(path).map_err(unreadable)
    };
    Ok((read(&files.certificate)?, read(&files.key)?))
}

impl FilePair {
    fn read(files: &Files) -> Result<Arc<Self>, Unusable> {
        Self::of(files, bytes_of(files)?).map(Arc::new)
    }

    fn of(files: &Files, read: (Vec<u8>, Vec<u8>)) -> Result<Self, Unusable> {
        let no_certificate =
            |reason: String| Unusable::NoCertificate { path: files.certificate.clone(), reason };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&read.0)
            .collect::<Result<_, _>>()
            .map_err(|error| no_certificate(error.to_string()))?;
        let first = chain.first().ok_or_else(|| no_certificate("there is none".to_owned()))?;
        ParsedCertificate::try_from(first).map_err(|error| no_certificate(error.to_string()))?;
        let no_key = |reason: String| Unusable::NoKey { path: files.key.clone(), reason };
        let key = PrivateKeyDer::from_pem_slice(&read.1).map_err(|error| no_key(error.to_string()))?;
        let key = any_supported_type(&key).map_err(|error| no_key(error.to_string()))?;
        let pair = CertifiedKey::new(chain, key);
        pair.keys_match().map_err(|error| Unusable::NotAPair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self { read, pair: Arc::new(pair) })
    }
}
