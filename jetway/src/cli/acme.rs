//! Certificates that `jetway controller` orders, as its flags say it.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD};
use jetway_controller::acme::{Config, ExternalAccount, Names};
use jetway_protocol::certificates::Challenge;
use jetway_service::secrets::Source;

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

#[derive(Debug, Args)]
pub struct AcmeArguments {
    /// Order a certificate (ACME) for a host, and renew it: example.com. Several names in one certificate are joined by '+', as in
    /// example.com+*.example.com; several certificates are separated by commas. Proxies show them with --tls-acme
    #[arg(
        long = "acme-certificate",
        env = "JETWAY_ACME_CERTIFICATE",
        value_delimiter = ',',
        value_name = "NAMES"
    )]
    acme_certificates: Vec<Names>,
    /// Order a certificate for any host that a client comes to, if this URL answers 2xx to GET URL?domain=HOST
    #[arg(long, env = "JETWAY_ACME_ASK_URL")]
    acme_ask_url: Option<String>,
    /// I agree to the terms of service of the issuer
    #[arg(long, env = "JETWAY_ACME_AGREE_TERMS", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    acme_agree_terms: bool,
    /// The issuer: the URL of its directory
    #[arg(long, env = "JETWAY_ACME_DIRECTORY", default_value = LETS_ENCRYPT)]
    acme_directory: String,
    /// An e-mail address that the issuer may write to
    #[arg(long, env = "JETWAY_ACME_CONTACT")]
    acme_contact: Option<String>,
    /// How control over names is shown: http-01, tls-alpn-01 or dns-01. Names with a wildcard always have dns-01
    #[arg(long, env = "JETWAY_ACME_CHALLENGE", default_value = "http-01")]
    acme_challenge: Challenge,
    /// CA certificates in PEM for the issuer's own server, where this machine does not know them
    #[arg(long, env = "JETWAY_ACME_CA_CERTIFICATE")]
    acme_ca_certificate: Option<PathBuf>,
    /// The key id of an account with the issuer that ours is bound to (external account binding)
    #[arg(long, env = "JETWAY_ACME_EAB_KEY_ID")]
    acme_eab_key_id: Option<String>,
    /// Its MAC key, in base64url, as the issuer gives it. Better in a file
    #[arg(long, env = "JETWAY_ACME_EAB_KEY", hide_env_values = true, requires = "acme_eab_key_id")]
    acme_eab_key: Option<String>,
    /// A file with that key
    #[arg(long, env = "JETWAY_ACME_EAB_KEY_FILE", requires = "acme_eab_key_id")]
    acme_eab_key_file: Option<PathBuf>,
}

impl AcmeArguments {
    /// `None`: no certificates are ordered.
    pub fn read(self) -> anyhow::Result<Option<Config>> {
        if self.acme_certificates.is_empty() && self.acme_ask_url.is_none() {
            return Ok(None);
        }
        ensure!(
            self.acme_agree_terms,
            "certificates are ordered only after you have read the terms of service of {} and say so with --acme-agree-terms",
            self.acme_directory
        );
        let (text, file) = (self.acme_eab_key.as_deref(), self.acme_eab_key_file.as_deref());
        let key = Source { variable: "JETWAY_ACME_EAB_KEY", text, file }.read()?;
        let external_account = match (self.acme_eab_key_id, key) {
            (None, _) => None,
            (Some(key_id), Some(key)) => Some(ExternalAccount { key_id, key: eab_key(&key)? }),
            (Some(_), None) => anyhow::bail!("--acme-eab-key-id needs the key, too: --acme-eab-key-file"),
        };
        let ca = self.acme_ca_certificate.map(|file| {
            std::fs::read(&file)
                .with_context(|| format!("--acme-ca-certificate {} cannot be read", file.display()))
        });
        Ok(Some(Config {
            directory: self.acme_directory,
            contact: self.acme_contact,
            external_account,
            ca: ca.transpose()?,
            certificates: self.acme_certificates,
            challenge: self.acme_challenge,
            ask_url: self.acme_ask_url,
        }))
    }
}

/// Issuers give it in base64url; some in the other alphabet, some padded.
fn eab_key(text: &str) -> anyhow::Result<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let key = BASE64URL_NOPAD.decode(text.as_bytes()).or_else(|_| BASE64_NOPAD.decode(text.as_bytes()));
    key.ok()
        .filter(|key| !key.is_empty())
        .context("the EAB key is not base64url; copy it as the issuer shows it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_key_is_read_in_either_alphabet() {
        for text in ["-_8B", "+/8B", " -_8B\n"] {
            assert_eq!(eab_key(text).unwrap(), [0xfb, 0xff, 0x01], "{text}");
        }
        assert_eq!(eab_key("AQ==").unwrap(), [1]);
        for wrong in ["", "=", "not a key", "a"] {
            assert!(eab_key(wrong).is_err(), "{wrong}");
        }
    }
}
