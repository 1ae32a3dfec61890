//! Certificates by ACME (RFC 8555): what an operator has said of them, and one order from its beginning to the chain.
//!
//! `names` what a certificate is for; `client` how the issuer is talked to; `account` who we are there; `order` one order;
//! `issued` what came of it; `renewal` when the next one is due; `failure` what an issuer's no means; `hook` who may have one on
//! demand. When orders are made is `tasks/certificates`' business. Nothing here is in the path of a session.

mod account;
mod client;
mod failure;
pub mod hook;
mod issued;
mod names;
mod order;
pub mod renewal;

use std::sync::Arc;

use arc_swap::ArcSwap;
use jetway_protocol::at_rest::AtRest;
use jetway_protocol::certificates::Challenge;
use jetway_service::tls::NoCa;
use reqwest::Url;
use tokio::sync::Notify;

use crate::db::certificates::Counts;
use crate::db::pool::Pool;

pub use self::client::Issuer;
pub use self::failure::Failure;
pub use self::hook::Hook;
pub use self::issued::Issued;
pub use self::names::{InvalidNames, Names};
pub use self::order::ORDER_MAX;

/// What an operator says of certificates.
#[derive(Clone)]
pub struct Config {
    /// The issuer: the URL of its directory (RFC 8555 §7.1.1).
    pub directory: String,
    /// An address that the issuer may write to.
    pub contact: Option<String>,
    pub external_account: Option<ExternalAccount>,
    /// CA certificates in PEM that the issuer's own is checked against; `None`: this machine's.
    pub ca: Option<Vec<u8>>,
    pub certificates: Vec<Names>,
    /// For names without a wildcard; one with a wildcard has DNS-01 alone.
    pub challenge: Challenge,
    /// Who is asked whether a host may have a certificate on demand. `None`: there are none on demand.
    pub ask_url: Option<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// The account with somebody that an issuer wants a new account to be bound to (RFC 8555 §7.3.4).
#[derive(Clone)]
pub struct ExternalAccount {
    pub key_id: String,
    pub key: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum InvalidAcme {
    #[error("--acme-directory must be an https URL, such as https://acme-v02.api.letsencrypt.org/directory")]
    Directory,
    #[error("--acme-ca-certificate: {0}")]
    Ca(#[from] NoCa),
    #[error("--acme-contact must be an e-mail address")]
    Contact,
    #[error("--acme-ask-url must be an http or https URL; it is asked with ?domain=HOST behind it")]
    AskUrl,
    #[error(
        "certificates on demand (--acme-ask-url) are for names in other people's DNS, so --acme-challenge must be http-01 or tls-alpn-01"
    )]
    OnDemandByDns,
}

/// As every task and request shares it.
pub struct Acme {
    pub config: Config,
    /// The ids of the certificates that operators have named.
    pub configured: Vec<String>,
    pub issuer: Issuer,
    pub hook: Option<Hook>,
    /// "Look now" for the task that orders.
    pub nudge: Notify,
    /// Wakes those who wait for a certificate that this process has ordered.
    pub news: Notify,
    /// As they were when this controller last looked; for metrics.
    pub counts: ArcSwap<Counts>,
}

impl Acme {
    pub fn new(config: Config) -> Result<Arc<Self>, InvalidAcme> {
        let url = |text: &str| Url::parse(text).ok().filter(Url::has_host);
        if url(&config.directory).is_none_or(|url| url.scheme() != "https") {
            return Err(InvalidAcme::Directory);
        }
        if config.contact.as_deref().is_some_and(|contact| !is_address(contact)) {
            return Err(InvalidAcme::Contact);
        }
        let hook = match &config.ask_url {
            None => None,
            Some(_) if config.challenge == Challenge::Dns01 => return Err(InvalidAcme::OnDemandByDns),
            Some(text) => {
                let url = url(text).filter(|url| matches!(url.scheme(), "http" | "https"));
                Some(Hook::new(url.ok_or(InvalidAcme::AskUrl)?))
            }
        };
        let issuer = Issuer::new(config.ca.as_deref())?;
        let configured = config.certificates.iter().map(Names::id).collect();
        let (nudge, news) = (Notify::new(), Notify::new());
        Ok(Arc::new(Self { config, configured, issuer, hook, nudge, news, counts: ArcSwap::default() }))
    }

    /// How control over a certificate's names is shown.
    pub fn challenge(&self, names: &Names) -> Challenge {
        if names.has_wildcard() { Challenge::Dns01 } else { self.config.challenge }
    }
}

/// What an order needs: the issuer, and where the account and the answers are kept.
pub struct Orders {
    pub acme: Arc<Acme>,
    pub db: Arc<Pool>,
    pub at_rest: Arc<AtRest>,
}

fn is_address(text: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
    text.split_once('@').is_some_and(|(name, host)| is_plain(name) && is_plain(host) && !host.contains('@'))
        && !text.contains([',', '?', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            directory: "https://acme.example/dir".into(),
            contact: Some("ops@example.com".into()),
            external_account: None,
            ca: None,
            certificates: vec!["a.example+*.a.example".parse().unwrap(), "b.example".parse().unwrap()],
            challenge: Challenge::Http01,
            ask_url: None,
        }
    }

    #[test]
    fn what_cannot_work_is_said_at_the_start() {
        let acme = Acme::new(config()).unwrap();
        assert_eq!(acme.configured, ["a.example+*.a.example", "b.example"]);
        let challenges: Vec<_> = acme.config.certificates.iter().map(|names| acme.challenge(names)).collect();
        assert_eq!(challenges, [Challenge::Dns01, Challenge::Http01]);
        for (wrong, sign) in [
            (Config { directory: "http://acme.example/dir".into(), ..config() }, "--acme-directory"),
            (Config { directory: "acme".into(), ..config() }, "--acme-directory"),
            (Config { ca: Some(b"no PEM".to_vec()), ..config() }, "--acme-ca-certificate"),
            (Config { contact: Some("mailto:a@b".into()), ..config() }, "--acme-contact"),
            (Config { contact: Some("nobody".into()), ..config() }, "--acme-contact"),
            (Config { ask_url: Some("ftp://a/".into()), ..config() }, "--acme-ask-url"),
            (
                Config { ask_url: Some("http://a/".into()), challenge: Challenge::Dns01, ..config() },
                "on demand",
            ),
        ] {
            let said = Acme::new(wrong).map(drop).unwrap_err().to_string();
            assert!(said.contains(sign), "{said}");
        }
    }
}
