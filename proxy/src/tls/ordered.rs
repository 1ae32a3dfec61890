//! Certificates that controllers have ordered, asked for when the first client comes for a host and
//! kept from then on. One that is there is shown at once, while a controller is asked for a newer
//! one. Where no controller answers, the one before is shown on.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jetway_protocol::at_rest::AtRest;
use jetway_protocol::certificates::{Certificate, Given, HostName, Wanted};
use jetway_protocol::secret::Secret;
use jetway_service::backoff::jittered;
use jetway_service::controllers::Controllers;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::lines::Lines;
use parking_lot::Mutex;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::installation::Known;

/// A controller may wait this long for an order's end before it answers; a client's handshake waits
/// with it.
const WAIT: Duration = Duration::from_secs(15);
/// For the rest of the call.
const CALL_MAX: Duration = Duration::from_secs(18);
/// A host is asked about again after so long, where no controller says.
const UNANSWERED: Duration = Duration::from_secs(2);
/// Its answer is kept to this.
const ASK_AGAIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// Hosts that are remembered. Anybody can come for any; those without a certificate give way.
const HOSTS_MAX: usize = 20_000;
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A proxy that has just started learns its installation first.
const KNOWN_MAX: Duration = Duration::from_secs(10);
/// A host that no client came for.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Questions at a time, and in a second for hosts of which nothing is known: anybody can make names
/// up.
const QUESTIONS_MAX: usize = 64;
const UNKNOWN_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
static UNANSWERED_LINES: Lines = Lines::new(5, Duration::from_secs(30));

pub struct Ordered {
    hosts: DashMap<HostName, Arc<Host>>,
    controllers: Arc<Controllers>,
    known: Known,
    secret: Secret,
    questions: Semaphore,
    unknown: DefaultDirectRateLimiter,
    swept_at: Mutex<Option<Instant>>,
    lifecycle: Lifecycle,
}

#[derive(Debug)]
struct Host {
    name: HostName,
    seen: Mutex<Seen>,
    /// The holder asks; others wait for the answer.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Seen {
    shown: Option<(i64, Arc<CertifiedKey>)>,
    /// It is not asked again before.
    fresh_until: Instant,
    used_at: Instant,
}

impl Ordered {
    pub fn new(
        controllers: Arc<Controllers>,
        known: Known,
        secret: Secret,
        lifecycle: Lifecycle,
    ) -> Arc<Self> {
        let (hosts, questions) = (DashMap::new(), Semaphore::new(QUESTIONS_MAX));
        let unknown = RateLimiter::direct(Quota::per_second(UNKNOWN_PER_SECOND));
        Arc::new(Self {
            hosts,
            controllers,
            known,
            secret,
            questions,
            unknown,
            swept_at: Mutex::default(),
            lifecycle,
        })
    }

    /// Returns once there is a certificate, or a reason that there is none. Whoever names no host
    /// means the cluster's.
    pub async fn prepare(self: &Arc<Self>, name: Option<&str>) {
        let Some(host) = self.meant(name).and_then(|name| self.host(name)) else { return };
        if host.is_fresh() {
            return;
        }
        if host.shown().is_none() {
            let _turn = host.asking.lock().await;
            if !host.is_fresh() && self.unknown.check().is_ok() {
                self.ask(&host, WAIT).await;
            }
        } else if let Ok(turn) = host.asking.clone().try_lock_owned() {
            let ordered = self.clone();
            self.lifecycle.spawn_until_stopped(async move {
                ordered.ask(&host, Duration::ZERO).await;
                drop(turn);
            });
        }
    }

    pub fn shown(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let host = self.hosts.get(&self.meant(name)?).map(|entry| entry.value().clone())?;
        host.shown()
    }

    fn meant(&self, name: Option<&str>) -> Option<HostName> {
        match name {
            Some(name) => name.parse().ok(),
            None => {
                let known = self.known.borrow().clone()?;
                let cluster = known.cluster.as_str();
                cluster.split_once(':').map_or(cluster, |(host, _)| host).parse().ok()
            }
        }
    }

    /// `None`: too many are remembered.
    fn host(&self, name: HostName) -> Option<Arc<Host>> {
        if let Some(host) = self.hosts.get(&name).map(|entry| entry.value().clone()) {
            return Some(host);
        }
        if self.hosts.len() >= HOSTS_MAX && !self.has_made_room() {
            return None;
        }
        Some(self.hosts.entry(name.clone()).or_insert_with(|| Arc::new(Host::new(name))).clone())
    }

    /// Once in a while: a client that makes names up is not to keep the processor busy.
    fn has_made_room(&self) -> bool {
        let now = Instant::now();
        let mut swept_at = self.swept_at.lock();
        if swept_at.is_none_or(|swept_at| swept_at + SWEEP_EVERY <= now) {
            *swept_at = Some(now);
            self.hosts.retain(|_, host| host.is_to_be_kept());
        }
        self.hosts.len() < HOSTS_MAX
    }

    async fn ask(&self, host: &Host, wait: Duration) {
        // Without it no key can be opened.
        let mut known = self.known.clone();
        if timeout(KNOWN_MAX, known.wait_for(Option::is_some)).await.is_err() {
            return;
        }
        let Ok(_one_of_few) = self.questions.try_acquire() else { return };
        let wanted = Wanted {
            host: host.name.clone(),
            known: host.version(),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(0),
        };
        match self.controllers.post("/internal/certificates", &wanted, CALL_MAX).await {
            Ok(Given::Certificate(certificate)) => match self.open(&certificate) {
                Ok(pair) => {
                    tracing::info!(host = %host.name, certificate = certificate.id, version = certificate.version, "a certificate");
                    host.learns(Some((certificate.version, Arc::new(pair))), fresh(certificate.ask_again_ms));
                }
                Err(reason) => {
                    tracing::error!(host = %host.name, certificate = certificate.id, reason, "a certificate that cannot be used");
                    host.rests(fresh(certificate.ask_again_ms));
                }
            },
            Ok(Given::Unchanged { ask_again_ms }) => host.rests(fresh(ask_again_ms)),
            Ok(Given::Nothing { reason, ask_again_ms }) => {
                tracing::debug!(host = %host.name, reason, "no certificate");
                host.learns(None, fresh(ask_again_ms));
            }
            Err(error) => {
                if let Some(left_out) = UNANSWERED_LINES.tell() {
                    tracing::warn!(host = %host.name, %error, left_out, "no controller says which certificate to show");
                }
                host.rests(UNANSWERED);
            }
        }
    }

    fn open(&self, certificate: &Certificate) -> Result<CertifiedKey, String> {
        let installation = self.known.borrow().as_ref().map(|known| known.id);
        let installation = installation.ok_or("this proxy does not know its installation yet")?;
        let at_rest = AtRest::new(&self.secret, installation);
        let place = Certificate::place(&certificate.id);
        let key = at_rest.open(&place, &certificate.sealed_key).map_err(|error| error.to_string())?;
        pair(certificate.chain.as_bytes(), &key)
    }
}

impl Host {
    fn new(name: HostName) -> Self {
        let now = Instant::now();
        let seen = Mutex::new(Seen { shown: None, fresh_until: now, used_at: now });
        Self { name, seen, asking: Arc::default() }
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock())
    }

    fn is_fresh(&self) -> bool {
        let now = Instant::now();
        self.seen(|seen| {
            seen.used_at = now;
            now < seen.fresh_until
        })
    }

    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.seen(|seen| seen.shown.as_ref().map(|(_, pair)| pair.clone()))
    }

    fn version(&self) -> Option<i64> {
        self.seen(|seen| seen.shown.as_ref().map(|(version, _)| *version))
    }

    fn learns(&self, shown: Option<(i64, Arc<CertifiedKey>)>, fresh: Duration) {
        self.seen(|seen| (seen.shown, seen.fresh_until) = (shown, Instant::now() + fresh));
    }

    fn rests(&self, fresh: Duration) {
        self.seen(|seen| seen.fresh_until = Instant::now() + fresh);
    }

    fn is_to_be_kept(&self) -> bool {
        let now = Instant::now();
        self.seen(|seen| seen.shown.is_some() && now < seen.used_at + FORGOTTEN)
    }
}

fn fresh(ask_again_ms: u64) -> Duration {
    jittered(Duration::from_millis(ask_again_ms).clamp(*ASK_AGAIN.start(), *ASK_AGAIN.end()))
}

/// A chain and its key, in PEM, or the fault.
fn pair(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let pair = unchecked(chain, key)?;
    pair.keys_match().map_err(|error| error.to_string())?;
    Ok(pair)
}

/// The same, whether they belong together or not.
pub fn unchecked(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
    let key = any_supported_type(&key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(chain, key))
}
