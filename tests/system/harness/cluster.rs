//! A cluster as browsers meet it in production: HTTPS at a domain of two labels, so that its sessions are siblings of one
//! site. Chromium is told where the names lead and which certificate to trust; no name is looked up.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::browser::Browser;
use super::processes::free_port;
use super::{Options, Role};

/// No public suffix: its sessions share a site.
pub const CLUSTER: &str = "sessions.test";

/// Its certificate, and the port of its proxy's HTTPS. Its files go with it.
pub struct Cluster {
    pub directory: PathBuf,
    pub tls_port: u16,
}

impl Cluster {
    pub fn prepare() -> anyhow::Result<Self> {
        let name = format!("jetway-cluster-{}", uuid::Uuid::new_v4().simple());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory)?;
        Ok(Self { directory, tls_port: free_port()? })
    }

    /// The proxy shows a certificate of files: for the cluster and all names of one label below it.
    pub fn with_files(&self) -> anyhow::Result<Options> {
        let (certificate, key) = (self.path("cluster.pem"), self.path("cluster.key"));
        let names = format!("subjectAltName=DNS:{CLUSTER},DNS:*.{CLUSTER}");
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=cluster", "-addext", &names])
            .args(["-out", &certificate, "-keyout", &key])
            .output()
            .context("openssl")?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(self.options().with(Role::Proxy, &["--tls-certificate", &certificate, "--tls-key", &key]))
    }

    /// Without a certificate yet.
    pub fn options(&self) -> Options {
        let listen = format!("127.0.0.1:{}", self.tls_port);
        Options { cluster: Some(CLUSTER.to_owned()), ..Options::default() }
            .with(Role::Proxy, &["--tls-listen", &listen])
    }

    /// Of the certificate of files.
    pub fn trusted(&self) -> anyhow::Result<String> {
        public_key(Path::new(&self.path("cluster.pem")))
    }

    /// Chromium that reaches the cluster, and each of `others` at its port. It trusts what `trusted` has signed, or is.
    pub async fn browser(&self, trusted: &str, others: &[(&str, u16)]) -> anyhow::Result<Browser> {
        let own = [(CLUSTER, self.tls_port), ("*.sessions.test", self.tls_port)];
        let names = own.iter().chain(others);
        let rules: Vec<_> = names.map(|(name, port)| format!("MAP {name} 127.0.0.1:{port}")).collect();
        let flags = [
            format!("--host-resolver-rules={}", rules.join(",")),
            format!("--ignore-certificate-errors-spki-list={trusted}"),
            // A test's own names are of plain HTTP where they say so.
            "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable".to_owned(),
        ];
        Browser::start_with(&self.directory, &flags).await
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.directory);
    }
}

/// Of a certificate in PEM: the SHA-256 of its public key, in base64, as Chromium takes it.
pub fn public_key(certificate: &Path) -> anyhow::Result<String> {
    let command = "openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform der | \
                   openssl dgst -sha256 -binary | openssl base64 -A";
    let output =
        Command::new("sh").args(["-c", command, "sh"]).arg(certificate).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.len() == 44, "{} has no public key: {text:?}", certificate.display());
    Ok(text)
}
