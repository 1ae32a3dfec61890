//! The issuer: Let's Encrypt's own test server, `pebble`, and the DNS that it asks (`pebble-challtestsrv`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::eventually;
use crate::harness::processes::{Process, free_port};

/// What differs from test to test.
#[derive(Clone)]
pub struct Settings {
    /// Of the certificates that it issues.
    pub seconds: u64,
    /// Wants accounts bound to this key of its customer's.
    pub binding: Option<(&'static str, &'static str)>,
    /// Where it looks for what it has asked for.
    pub http_port: u16,
    pub tls_port: u16,
    /// `None`: a DNS in which every name is this machine's.
    pub dns_port: Option<u16>,
}

pub struct Issuer {
    directory: PathBuf,
    settings: Settings,
    pub port: u16,
    management: u16,
    pebble: Option<Process>,
    dns: Option<(u16, Process)>,
    http: reqwest::Client,
}

impl Issuer {
    pub async fn start(directory: &Path, settings: Settings) -> anyhow::Result<Self> {
        certificate(directory)?;
        let pem = std::fs::read(directory.join("issuer.pem"))?;
        let http = jetway_service::client::builder_trusting(&pem)?.build()?;
        let dns = if settings.dns_port.is_some() { None } else { Some(start_dns(directory)?) };
        let (port, management) = (free_port()?, free_port()?);
        let mut issuer =
            Self { directory: directory.into(), settings, port, management, pebble: None, dns, http };
        issuer.begin().await?;
        Ok(issuer)
    }

    pub fn directory_url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// Whom the issuer's own server is known by.
    pub fn ca(&self) -> PathBuf {
        self.directory.join("issuer.pem")
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// It forgets everything: pebble keeps nothing on a disk.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        if let Some(mut pebble) = self.pebble.take() {
            pebble.stop(Signal::SIGKILL).await?;
        }
        Ok(())
    }

    pub async fn begin(&mut self) -> anyhow::Result<()> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let keys: Value = match self.settings.binding {
            Some((id, key)) => json!({ id: key }),
            None => json!({}),
        };
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": at("issuer.pem"),
            "privateKey": at("issuer.key"),
            "httpPort": self.settings.http_port,
            "tlsPort": self.settings.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.settings.binding.is_some(),
            "externalAccountMACKeys": keys,
            "certificateValidityPeriod": self.settings.seconds,
        }});
        std::fs::write(self.directory.join("pebble.json"), config.to_string())?;
        let dns = self.settings.dns_port.or(self.dns.as_ref().map(|(port, _)| *port));
        let mut pebble = Command::new("pebble");
        pebble
            .args(["-config", &at("pebble.json"), "-dnsserver"])
            .arg(format!("127.0.0.1:{}", dns.context("a DNS")?))
            // It says no to a good nonce now and then, so that nobody forgets that issuers may.
            .envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "3"), ("PEBBLE_AUTHZREUSE", "0")]);
        let started = Process::start(&self.directory.join("pebble.log"), &mut pebble);
        self.pebble = Some(started.context("pebble: scripts/setup --test installs it")?);
        eventually("pebble answers", Duration::from_secs(20), async || {
            let answer =
                self.http.get(self.directory_url()).send().await.map_err(|error| format!("{error:?}"))?;
            if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
        })
        .await
    }

    /// Orders that it took.
    pub fn orders(&self) -> anyhow::Result<usize> {
        let log = std::fs::read_to_string(self.directory.join("pebble.log"))?;
        Ok(log.matches("Added order").count())
    }

    pub async fn root(&self) -> anyhow::Result<CertificateDer<'static>> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let pem = self.http.get(url).send().await?.error_for_status()?.bytes().await?;
        Ok(CertificateDer::from_pem_slice(&pem)?)
    }

    /// What it signs with, as a file.
    pub async fn intermediate(&self) -> anyhow::Result<PathBuf> {
        let url = format!("https://127.0.0.1:{}/intermediates/0", self.management);
        let pem = self.http.get(url).send().await?.error_for_status()?.bytes().await?;
        let file = self.directory.join("intermediate.pem");
        std::fs::write(&file, pem)?;
        Ok(file)
    }

    /// A client that trusts this issuer comes for a host; returns the certificate that it was shown.
    pub async fn visit(&self, port: u16, host: &str) -> anyhow::Result<Vec<u8>> {
        self.visit_trusting(self.root().await?, port, host).await
    }

    /// The same while it is away.
    pub async fn visit_trusting(
        &self,
        root: CertificateDer<'static>,
        port: u16,
        host: &str,
    ) -> anyhow::Result<Vec<u8>> {
        let mut roots = RootCertStore::empty();
        roots.add(root)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        Ok(shown.context("a certificate")?.to_vec())
    }

    /// The same, as soon as there is one that it trusts.
    pub async fn visited(&self, port: u16, host: &str, deadline: Duration) -> anyhow::Result<Vec<u8>> {
        eventually(&format!("{host} at {port}"), deadline, async || {
            self.visit(port, host).await.map_err(|error| format!("{error:#}"))
        })
        .await
    }
}

/// Every name is this machine's.
pub fn start_dns(directory: &Path) -> anyhow::Result<(u16, Process)> {
    let (port, management) = (free_port()?, free_port()?);
    let mut command = Command::new("pebble-challtestsrv");
    command.args([
        "-defaultIPv4",
        "127.0.0.1",
        "-defaultIPv6",
        "",
        "-http01",
        "",
        "-https01",
        "",
        "-tlsalpn01",
        "",
    ]);
    command.arg("-dns01").arg(format!("127.0.0.1:{port}"));
    command.arg("-management").arg(format!("127.0.0.1:{management}"));
    let started = Process::start(&directory.join("dns.log"), &mut command);
    Ok((port, started.context("pebble-challtestsrv: scripts/setup --test installs it with pebble")?))
}

/// For the issuer's own server.
fn certificate(directory: &Path) -> anyhow::Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=issuer", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=CA:FALSE", "-out"])
        .arg(directory.join("issuer.pem"))
        .arg("-keyout")
        .arg(directory.join("issuer.key"))
        .output()
        .context("openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
