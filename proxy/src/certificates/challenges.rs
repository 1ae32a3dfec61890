//! What an issuer asks for to see that a name is ours (RFC 8555 §8). Any proxy may be asked; a controller knows the answer. Anybody can
//! ask, too, so there are only so many questions at a time.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::certificates::{Challenge, ChallengeAnswers, ChallengeWanted, HostName};
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::sync::Semaphore;

use super::{builder, unchecked};
use crate::controllers::Controllers;

/// Below it are the answers of HTTP-01 (RFC 8555 §8.3).
pub const PATH: &str = "/.well-known/acme-challenge/";
/// What an issuer says in a handshake (RFC 8737 §3), and nobody else.
pub const PROTOCOL: &[u8] = b"acme-tls/1";
const CALL_MAX: Duration = Duration::from_secs(3);
const QUESTIONS_MAX: usize = 32;
/// A token has 22 characters at least (RFC 8555 §8.3: 128 bits), and not many more.
const TOKEN_CHARS_MAX: usize = 256;

#[derive(Debug)]
pub struct Challenges {
    controllers: Arc<Controllers>,
    questions: Semaphore,
}

/// Nobody can say now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

impl Challenges {
    pub fn new(controllers: Arc<Controllers>) -> Arc<Self> {
        Arc::new(Self { controllers, questions: Semaphore::new(QUESTIONS_MAX) })
    }

    /// The body for a token of HTTP-01.
    pub async fn by_http(&self, token: &str) -> Result<Option<String>, Unknown> {
        if !is_token(token) {
            return Ok(None);
        }
        Ok(self.answers(Challenge::Http01, token).await?.into_iter().next())
    }

    /// The texts of `_acme-challenge.<host>`.
    pub async fn by_dns(&self, host: &HostName) -> Result<Vec<String>, Unknown> {
        self.answers(Challenge::Dns01, host.as_str()).await
    }

    /// What the handshake goes on with.
    pub async fn by_tls(&self, host: &HostName) -> Option<Arc<ServerConfig>> {
        let shown = self.answers(Challenge::TlsAlpn01, host.as_str()).await.ok()?.into_iter().next()?;
        // Checked by nobody: what an issuer looks for is an extension that no other client would stand.
        let pair = unchecked(shown.as_bytes(), shown.as_bytes()).ok()?;
        let only = Arc::new(SingleCertAndKey::from(pair));
        let mut config = builder().ok()?.with_cert_resolver(only);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Some(Arc::new(config))
    }

    async fn answers(&self, challenge: Challenge, name: &str) -> Result<Vec<String>, Unknown> {
        let _one_of_few = self.questions.try_acquire().map_err(|_| Unknown)?;
        let wanted = ChallengeWanted { challenge, name: name.to_owned() };
        let answered = self.controllers.post("/internal/challenges", &wanted, CALL_MAX).await;
        let ChallengeAnswers { values } = answered.map_err(|error| {
            tracing::warn!(challenge = challenge.as_str(), name, %error, "no controller says what to show an issuer");
            Unknown
        })?;
        Ok(values)
    }
}

/// The base64url alphabet.
fn is_token(text: &str) -> bool {
    (1..=TOKEN_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_issuer_asks_for_is_no_question() {
        assert!(is_token("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"));
        for wrong in ["", "a/b", "a b", "%2e", "a.b", "é", &"a".repeat(257)] {
            assert!(!is_token(wrong), "{wrong}");
        }
    }
}
