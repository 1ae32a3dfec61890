//! The answers that prove control of a name to its issuer (RFC 8555 §8). Strangers can ask for them
//! too, so no question goes on to a controller: a task fetches the answers of all orders under way
//! twice a second, and questions are answered from memory. A name is denied only while that set is
//! young; an old set still gives the answers that are in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::certificates::{
    Challenge, HostName, PENDING_EVERY, PENDING_STANDS, Pending, PendingWanted,
};
use jetway_service::backoff::jittered;
use jetway_service::client::CallError;
use jetway_service::controllers::Controllers;
use jetway_service::silence::Silence;
use rustls::ServerConfig;
use rustls::sign::SingleCertAndKey;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::{builder, unchecked};

/// Below it are the answers of HTTP-01 (RFC 8555 §8.3).
pub const PATH: &str = "/.well-known/acme-challenge/";
/// The protocol that issuers alone name in a handshake (RFC 8737 §3).
pub const PROTOCOL: &[u8] = b"acme-tls/1";
/// Of each controller that is asked.
const CALL_MAX: Duration = Duration::from_secs(1);
/// A request or handshake waits this long for a young set.
const WAIT_MAX: Duration = Duration::from_secs(3);
const WAITING_MAX: usize = 32;
/// A token has 22 characters at least (RFC 8555 §8.3: 128 bits), and not many more.
const TOKEN_CHARS_MAX: usize = 256;
/// Answers to one challenge, at most.
const ANSWERS_MAX: usize = 16;

#[derive(Debug)]
pub struct Challenges {
    controllers: Arc<Controllers>,
    told: watch::Sender<PendingSet>,
    waiting: Semaphore,
}

/// The last set that a controller gave.
#[derive(Debug, Default)]
struct PendingSet {
    shown: HashMap<(Challenge, String), Vec<String>>,
    /// The set denies names until then. `None`: no controller has answered yet.
    stands_until: Option<Instant>,
}

/// The set is too old to deny a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown;

impl Challenges {
    pub fn new(controllers: Arc<Controllers>) -> Arc<Self> {
        Arc::new(Self { controllers, told: watch::Sender::default(), waiting: Semaphore::new(WAITING_MAX) })
    }

    /// For ever: fetches the set.
    pub async fn follow(&self) {
        let mut silence = Silence::default();
        loop {
            let asked_at = Instant::now();
            let next = asked_at + jittered(PENDING_EVERY);
            match self.fetch().await {
                Ok(pending) => {
                    silence.ends();
                    self.told.send_replace(PendingSet::of(pending, asked_at));
                }
                Err(error) if silence.is_to_be_told(Instant::now()) => {
                    tracing::warn!(%error, "no controller says what to show issuers of certificates");
                }
                Err(_) => {}
            }
            sleep_until(next).await;
        }
    }

    async fn fetch(&self) -> Result<Pending, CallError> {
        self.controllers.post("/internal/challenges/pending", &PendingWanted {}, CALL_MAX).await
    }

    /// The body for a token of HTTP-01.
    pub async fn by_http(&self, token: &str) -> Result<Option<String>, Unknown> {
        if !is_token(token) {
            return Ok(None);
        }
        Ok(self.waited_for(Challenge::Http01, token).await?.into_iter().next())
    }

    /// The texts of `_acme-challenge.<host>`, at once.
    pub fn by_dns(&self, host: &HostName) -> Result<Vec<String>, Unknown> {
        self.told.borrow().answers(Challenge::Dns01, host.as_str())
    }

    /// The configuration that the handshake goes on with.
    pub async fn by_tls(&self, host: &HostName) -> Option<Arc<ServerConfig>> {
        let shown = self.waited_for(Challenge::TlsAlpn01, host.as_str()).await.ok()?.into_iter().next()?;
        // Checked by nobody: what an issuer looks for is an extension that no other client would
        // stand.
        let pair = unchecked(shown.as_bytes(), shown.as_bytes()).ok()?;
        let only = Arc::new(SingleCertAndKey::from(pair));
        let mut config = builder().ok()?.with_cert_resolver(only);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Some(Arc::new(config))
    }

    async fn waited_for(&self, challenge: Challenge, name: &str) -> Result<Vec<String>, Unknown> {
        let said = self.told.borrow().answers(challenge, name);
        if said.is_ok() {
            return said;
        }
        let _one_of_few = self.waiting.try_acquire().map_err(|_| Unknown)?;
        let mut told = self.told.subscribe();
        let told = timeout(WAIT_MAX, told.wait_for(|told| told.answers(challenge, name).is_ok())).await;
        told.map_err(|_| Unknown)?.map_err(|_| Unknown)?.answers(challenge, name)
    }
}

impl PendingSet {
    fn of(pending: Pending, asked_at: Instant) -> Self {
        let mut shown: HashMap<_, Vec<String>> = HashMap::new();
        for one in pending.shown {
            let values = shown.entry((one.challenge, one.name)).or_default();
            if values.len() < ANSWERS_MAX {
                values.push(one.value);
            }
        }
        Self { shown, stands_until: Some(asked_at + PENDING_STANDS) }
    }

    /// An old answer is as good as a new one; an old denial is none.
    fn answers(&self, challenge: Challenge, name: &str) -> Result<Vec<String>, Unknown> {
        if let Some(values) = self.shown.get(&(challenge, name.to_owned())) {
            return Ok(values.clone());
        }
        let stands = self.stands_until.is_some_and(|until| Instant::now() < until);
        if stands { Ok(Vec::new()) } else { Err(Unknown) }
    }
}

/// The base64url alphabet.
fn is_token(text: &str) -> bool {
    (1..=TOKEN_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use jetway_protocol::certificates::Shown;

    use super::*;

    #[test]
    fn what_no_issuer_asks_for_is_no_question() {
        assert!(is_token("evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr_oA"));
        for wrong in ["", "a/b", "a b", "%2e", "a.b", "é", &"a".repeat(257)] {
            assert!(!is_token(wrong), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_is_given_and_an_old_denial_is_not() {
        let one = |value: &str| Shown {
            challenge: Challenge::Dns01,
            name: "a.example".to_owned(),
            value: value.to_owned(),
        };
        assert_eq!(PendingSet::default().answers(Challenge::Dns01, "a.example"), Err(Unknown));
        let told = PendingSet::of(Pending { shown: vec![one("second"), one("first")] }, Instant::now());
        let both = Ok(vec!["second".to_owned(), "first".to_owned()]);
        assert_eq!(told.answers(Challenge::Dns01, "a.example"), both);
        assert_eq!(told.answers(Challenge::Http01, "a.example"), Ok(Vec::new()));
        assert_eq!(told.answers(Challenge::Dns01, "b.example"), Ok(Vec::new()));
        tokio::time::advance(PENDING_STANDS).await;
        assert_eq!(told.answers(Challenge::Dns01, "a.example"), both);
        assert_eq!(told.answers(Challenge::Dns01, "b.example"), Err(Unknown));
        let many = Pending { shown: (0..100).map(|number| one(&number.to_string())).collect() };
        let told = PendingSet::of(many, Instant::now());
        assert_eq!(told.answers(Challenge::Dns01, "a.example").unwrap().len(), ANSWERS_MAX);
    }
}
