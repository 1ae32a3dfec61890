//! Proxy → controller: which certificate a host's clients are to be shown, and what those who issue certificates want to see of us
//! (ACME, RFC 8555). HTTP with JSON bodies, with the proxy's bearer credential.
//!
//! | method, path | body | 200 |
//! |---|---|---|
//! | `POST /internal/certificates` | [`Wanted`] | [`Given`] |
//! | `POST /internal/challenges/pending` | [`PendingWanted`] | [`Pending`] |
//! | `POST /internal/challenges` | [`ChallengeWanted`] | [`ChallengeAnswers`] |
//!
//! A proxy fetches the answers of all orders under way twice a second, and answers issuers and
//! strangers from that set. It denies a name only while its set is younger than [`PENDING_STANDS`].
//! An order commits its answers, waits [`PENDING_EVERYWHERE`], and then tells the issuer to look:
//! by then no proxy denies them. Proxies of the version before ask for each name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub host: HostName,
    /// The version that the proxy has.
    #[serde(default)]
    pub known: Option<i64>,
    /// So long the controller may wait for one that is on order.
    #[serde(default)]
    pub wait_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    Certificate(Certificate),
    /// What the proxy has is the newest.
    Unchanged {
        ask_again_ms: u64,
    },
    Nothing {
        reason: String,
        ask_again_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Names it in Postgres, and is what its key was sealed for.
    pub id: String,
    pub version: i64,
    /// In PEM, the server's own first.
    pub chain: String,
    /// The private key in PEM, sealed ([`crate::at_rest`]) for [`Certificate::place`]: it travels as it is kept.
    #[serde(with = "base64")]
    pub sealed_key: Vec<u8>,
    /// Whether there is a newer one.
    pub ask_again_ms: u64,
}

impl Certificate {
    pub fn place(id: &str) -> String {
        format!("certificates/{id}")
    }
}

/// How control over a name is shown (RFC 8555 §8, RFC 8737).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Challenge {
    #[serde(rename = "http-01")]
    Http01,
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[serde(rename = "dns-01")]
    Dns01,
}

impl Challenge {
    pub fn as_str(self) -> &'static str {
        match self {
            Challenge::Http01 => "http-01",
            Challenge::TlsAlpn01 => "tls-alpn-01",
            Challenge::Dns01 => "dns-01",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be http-01, tls-alpn-01 or dns-01")]
pub struct NoChallenge;

impl FromStr for Challenge {
    type Err = NoChallenge;

    fn from_str(text: &str) -> Result<Self, NoChallenge> {
        let all = [Challenge::Http01, Challenge::TlsAlpn01, Challenge::Dns01];
        all.into_iter().find(|challenge| challenge.as_str() == text).ok_or(NoChallenge)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeWanted {
    pub challenge: Challenge,
    /// What it is asked for by: the token of HTTP-01, the host of the others.
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeAnswers {
    /// HTTP-01: the body. DNS-01: the texts. TLS-ALPN-01: a certificate and its key, in PEM.
    pub values: Vec<String>,
}

/// Between two fetches of a proxy.
pub const PENDING_EVERY: Duration = Duration::from_millis(500);
/// A proxy's set is good for denials so long, counted from the fetch's start.
pub const PENDING_STANDS: Duration = Duration::from_secs(2);
/// A controller shares one read of Postgres so long, counted from the read's start.
pub const PENDING_READ: Duration = Duration::from_millis(250);
/// From the commit of an answer until no proxy denies it.
pub const PENDING_EVERYWHERE: Duration = Duration::from_millis(2500);

/// It has no fields yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingWanted {}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// All of it, the newest first.
    pub shown: Vec<Shown>,
}

/// One answer to one challenge. A host and its wildcard have one each, under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub challenge: Challenge,
    /// HTTP-01: the token. The others: the host.
    pub name: String,
    /// HTTP-01: the body. DNS-01: the text. TLS-ALPN-01: a certificate and its key, in PEM.
    pub value: String,
}

/// A name of the DNS that a certificate can be for: lower case, no dot at its end, at least two labels, no address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct HostName(String);

/// RFC 1035 §2.3.4, as text.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a host name like app.example.com")]
pub struct NoHostName;

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a wildcard certificate that covers it is for.
    pub fn wildcard(&self) -> Option<String> {
        self.0
            .split_once('.')
            .filter(|(_, parent)| parent.contains('.'))
            .map(|(_, parent)| format!("*.{parent}"))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = NoHostName;

    fn from_str(text: &str) -> Result<Self, NoHostName> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let last = text.rsplit('.').next().unwrap_or_default();
        let is_name = text.len() <= NAME_BYTES_MAX
            && text.contains('.')
            && text.split('.').all(is_label)
            // RFC 3696 §2: no top-level domain is a number, and so no address is a name.
            && !last.bytes().all(|byte| byte.is_ascii_digit());
        if is_name { Ok(Self(text)) } else { Err(NoHostName) }
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl<'de> Deserialize<'de> for HostName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_what_a_certificate_can_be_for() {
        for (given, name, wildcard) in [
            ("App.Example.com", "app.example.com", Some("*.example.com")),
            ("example.com.", "example.com", None),
            ("a-1.b.xn--p1ai", "a-1.b.xn--p1ai", Some("*.b.xn--p1ai")),
            ("1.2.example", "1.2.example", Some("*.2.example")),
        ] {
            let parsed: HostName = given.parse().unwrap();
            assert_eq!((parsed.as_str(), parsed.wildcard().as_deref()), (name, wildcard), "{given}");
        }
        let long = format!("{}.example", "a".repeat(64));
        let longer = format!("{}.example", ["a".repeat(60).as_str(); 5].join("."));
        for wrong in [
            "",
            ".",
            "..",
            "localhost",
            "a..b",
            ".a.b",
            "-a.example",
            "a-.example",
            "a_b.example",
            "*.example.com",
            "127.0.0.1",
            "a.b.1",
            "[::1]",
            "a b.example",
            "a.example/x",
            "a.example:443",
            "é.example",
            "a.example\0",
            &long,
            &longer,
        ] {
            assert_eq!(wrong.parse::<HostName>(), Err(NoHostName), "{wrong:?}");
        }
    }

    #[test]
    fn no_proxy_denies_a_name_after_the_orders_wait() {
        // Clocks may run 1/12 apart.
        let old_at_most = (PENDING_STANDS + PENDING_READ) * 13 / 12;
        assert!(old_at_most <= PENDING_EVERYWHERE, "{old_at_most:?}");
        // One fetch can fail and the next one take a second, and the proxy's set is still good.
        assert!(PENDING_EVERY * 2 + Duration::from_secs(1) <= PENDING_STANDS);
        let json = r#"{"shown":[{"challenge":"dns-01","name":"a.example","value":"v"}]}"#;
        let pending: Pending = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&pending).unwrap(), json);
    }

    #[test]
    fn what_is_given_keeps_its_form() {
        let (id, chain) = ("a.example".into(), "PEM".into());
        let certificate = Certificate { id, version: 3, chain, sealed_key: vec![1, 255], ask_again_ms: 9 };
        for (given, json) in [
            (
                Given::Certificate(certificate),
                r#"{"certificate":{"id":"a.example","version":3,"chain":"PEM","sealed_key":"Af8=","ask_again_ms":9}}"#,
            ),
            (Given::Unchanged { ask_again_ms: 7 }, r#"{"unchanged":{"ask_again_ms":7}}"#),
            (
                Given::Nothing { reason: "r".into(), ask_again_ms: 5 },
                r#"{"nothing":{"reason":"r","ask_again_ms":5}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&given).unwrap(), json);
            assert_eq!(serde_json::from_str::<Given>(json).unwrap(), given);
        }
        let wanted: Wanted = serde_json::from_str(r#"{"host":"A.example","later":1}"#).unwrap();
        assert_eq!(wanted, Wanted { host: "a.example".parse().unwrap(), known: None, wait_ms: 0 });
        assert!(serde_json::from_str::<Wanted>(r#"{"host":"1.2.3.4"}"#).is_err());
        let challenge = ChallengeWanted { challenge: Challenge::TlsAlpn01, name: "n".into() };
        assert_eq!(serde_json::to_string(&challenge).unwrap(), r#"{"challenge":"tls-alpn-01","name":"n"}"#);
        assert_eq!("dns-01".parse(), Ok(Challenge::Dns01));
        assert_eq!("dns".parse::<Challenge>(), Err(NoChallenge));
    }
}
