//! HTTPS of `jetway proxy` and the pages that people see there, as its flags say it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;

#[derive(Debug, Args)]
pub struct TlsArguments {
    /// Where browsers connect by HTTPS; whoever comes by HTTP is sent there
    #[arg(long, env = "JETWAY_TLS_LISTEN")]
    tls_listen: Option<SocketAddr>,
    /// Files with certificate chains in PEM, separated by commas; the first is for whoever names no host. A changed file is read anew
    #[arg(long = "tls-certificate", env = "JETWAY_TLS_CERTIFICATE", value_delimiter = ',', requires_all = ["tls_listen", "tls_keys"])]
    tls_certificates: Vec<PathBuf>,
    /// Files with their private keys in PEM, in the same order
    #[arg(long = "tls-key", env = "JETWAY_TLS_KEY", value_delimiter = ',')]
    tls_keys: Vec<PathBuf>,
    /// Show the certificates that controllers order (--acme-certificate, --acme-ask-url of jetway controller), and answer their issuer
    #[arg(long, env = "JETWAY_TLS_ACME", default_value_t = false, requires = "tls_listen", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_acme: bool,
    /// Where issuers ask by the DNS (dns-01), UDP and TCP: 0.0.0.0:53. Delegate _acme-challenge.HOST to it by an NS record
    #[arg(long, env = "JETWAY_ACME_DNS_LISTEN")]
    acme_dns_listen: Option<SocketAddr>,
    /// The port that browsers reach it at, where that is not the one of --tls-listen
    #[arg(long, env = "JETWAY_HTTPS_PORT", requires = "tls_listen")]
    https_port: Option<u16>,
    /// Send whoever comes by HTTP to HTTPS
    #[arg(long, env = "JETWAY_TLS_REDIRECT", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_redirect: bool,
    /// Seconds that browsers are to come by HTTPS alone (HSTS); 0: say nothing of it
    #[arg(long, env = "JETWAY_HSTS_SECONDS", default_value_t = 0)]
    hsts_seconds: u32,
}

impl TlsArguments {
    pub fn acme_dns(&self) -> Option<SocketAddr> {
        self.acme_dns_listen
    }

    pub fn read(self) -> anyhow::Result<Option<jetway_proxy::Tls>> {
        let Some(listen) = self.tls_listen else { return Ok(None) };
        let (certificates, keys) = (self.tls_certificates, self.tls_keys);
        if certificates.len() != keys.len() {
            bail!(
                "--tls-certificate names {} files and --tls-key {}: each needs the other",
                certificates.len(),
                keys.len()
            );
        }
        if certificates.is_empty() && !self.tls_acme {
            bail!(
                "--tls-listen needs certificates: name files with --tls-certificate and --tls-key, or say --tls-acme"
            );
        }
        let files = certificates.into_iter().zip(keys);
        let files = files.map(|(certificate, key)| jetway_proxy::Files { certificate, key }).collect();
        let port = self.https_port.unwrap_or(listen.port());
        Ok(Some(jetway_proxy::Tls {
            listen,
            certificates: files,
            ordered: self.tls_acme,
            redirect: self.tls_redirect.then_some(port),
            hsts: Some(self.hsts_seconds).filter(|seconds| *seconds > 0),
        }))
    }
}

/// Of a page's beginning; every page carries it.
const BRAND_BYTES_MAX: usize = 64 * 1024;

pub fn brand(file: Option<&Path>) -> anyhow::Result<String> {
    let Some(file) = file else { return Ok(String::new()) };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("--brand-file {} cannot be read", file.display()))?;
    ensure!(
        text.len() <= BRAND_BYTES_MAX,
        "--brand-file {} has more than {BRAND_BYTES_MAX} bytes",
        file.display()
    );
    Ok(text)
}
