//! Who has a session's host, as controllers say: above all where a person goes whose way ends there
//! (`return_url`). Strangers can ask for any host, so an answer is kept, a denial too, and made-up
//! names share a small number of questions; a host that had an answer is asked about beside them.
//! Where no controller answers, the answer before stands.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use jetway_protocol::controller_api::HostOwner;
use jetway_service::backoff::jittered;
use jetway_service::client::{CallError, Client};
use jetway_service::controllers::is_to_be_asked_elsewhere;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::lines::Lines;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::shares::ClientKey;

/// A person waits so long for where to go.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// And one question is over before, so that its end is noted.
const ASK_MAX: Duration = Duration::from_millis(1500);
/// An answer is asked for again after so long, a denial after so long, and after no answer at all.
const OWNED: Duration = Duration::from_secs(30);
const DENIED: Duration = Duration::from_secs(10);
const UNANSWERED: Duration = Duration::from_secs(2);
/// An owner is forgotten so long after the last question.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);
/// Hosts that are remembered; those without an owner give way. An owner's URL has 2 KiB at most.
const HOSTS_MAX: usize = 20_000;
/// A host name (RFC 1035 §2.3.4) and a port.
const HOST_BYTES_MAX: usize = 260;
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Questions at a time, and in a second about hosts that have no owner as far as is known: in all,
/// and of one client.
const QUESTIONS_MAX: usize = 64;
const UNKNOWN_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).unwrap();
const UNKNOWN_OF_ONE_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).unwrap();
const UNKNOWN_OF_ONE_AT_ONCE: NonZeroU32 = NonZeroU32::new(20).unwrap();
static UNANSWERED_LINES: Lines = Lines::new(5, Duration::from_secs(30));

pub struct Owners {
    hosts: DashMap<Box<str>, Arc<KnownHost>>,
    controllers: Vec<String>,
    client: Client,
    /// The controller that is asked first.
    first: AtomicUsize,
    questions: Semaphore,
    unknown: DefaultDirectRateLimiter,
    unknown_of_one: DefaultKeyedRateLimiter<ClientKey>,
}

#[derive(Debug)]
struct KnownHost {
    seen: Mutex<Seen>,
    /// The holder asks; others wait for the answer.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Seen {
    owner: Owner,
    /// It is not asked again before.
    fresh_until: Instant,
    used_at: Instant,
}

/// A controller's word on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// None has answered.
    Unknown,
    Nobody,
    Owned(Arc<HostOwner>),
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

impl Owners {
    /// `controllers`: URLs without a slash at their ends. Hosts without questions are forgotten until
    /// the process stops.
    pub fn start(controllers: Vec<String>, client: Client, lifecycle: &Lifecycle) -> Arc<Self> {
        let of_one = Quota::per_second(UNKNOWN_OF_ONE_PER_SECOND).allow_burst(UNKNOWN_OF_ONE_AT_ONCE);
        let owners = Arc::new(Self {
            hosts: DashMap::new(),
            controllers,
            client,
            first: AtomicUsize::new(0),
            questions: Semaphore::new(QUESTIONS_MAX),
            unknown: RateLimiter::direct(Quota::per_second(UNKNOWN_PER_SECOND)),
            unknown_of_one: RateLimiter::keyed(of_one),
        });
        let swept = owners.clone();
        lifecycle.spawn_until_stopped(async move { swept.sweep().await });
        owners
    }

    /// `base`: a host that tokens are bound to. `asker`: whose share of questions it is.
    pub async fn of(&self, base: &str, asker: Option<ClientKey>) -> Owner {
        let Some(host) = self.host(base) else { return Owner::Unknown };
        if let Some(owner) = host.fresh() {
            return owner;
        }
        let asked = timeout(WAIT_MAX, async {
            let _turn = host.asking.lock().await;
            if host.fresh().is_none() && self.may_ask(&host, asker) {
                self.ask(base, &host).await;
            }
        });
        let _in_time = asked.await;
        host.owner()
    }

    /// `None`: it is no host, or too many are remembered.
    fn host(&self, base: &str) -> Option<Arc<KnownHost>> {
        if let Some(host) = self.hosts.get(base).map(|entry| entry.value().clone()) {
            return Some(host);
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte);
        if base.len() > HOST_BYTES_MAX || !base.bytes().all(fits) || self.hosts.len() >= HOSTS_MAX {
            return None;
        }
        Some(self.hosts.entry(base.into()).or_insert_with(|| Arc::new(KnownHost::new())).clone())
    }

    /// The share of all strangers is asked first: a client that is refused there has spent none of
    /// its own.
    fn may_ask(&self, host: &KnownHost, asker: Option<ClientKey>) -> bool {
        matches!(host.owner(), Owner::Owned(_))
            || (self.unknown.check().is_ok()
                && asker.is_none_or(|asker| self.unknown_of_one.check_key(&asker).is_ok()))
    }

    async fn ask(&self, base: &str, host: &KnownHost) {
        let is_known = matches!(host.owner(), Owner::Owned(_));
        let _one_of_few = match self.questions.try_acquire() {
            Ok(one) => Some(one),
            // Strangers do not hold up the way back of those who have one.
            Err(_) if is_known => None,
            Err(_) => return,
        };
        let answer = timeout(ASK_MAX, self.answer(base)).await;
        match answer.unwrap_or_else(|_| Err(CallError::TimedOut { url: "the controllers".to_owned() })) {
            Ok(owner) => host.learns(Owner::Owned(Arc::new(owner)), OWNED),
            Err(CallError::Refused { status: 404, .. }) => host.learns(Owner::Nobody, DENIED),
            Err(error) => {
                // Those who wait now are told what was known before.
                host.rests(UNANSWERED);
                unanswered(base, &error);
            }
        }
    }

    /// One controller after another. The error is the last one's, or one that stands everywhere.
    async fn answer(&self, base: &str) -> Result<HostOwner, CallError> {
        let path = format!("/internal/hosts/{}", base.replace(':', "%3A"));
        let first = self.first.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let at = first.wrapping_add(tried);
            let Some(controller) = self.controllers.get(at % self.controllers.len().max(1)) else {
                let reason = "no controller is configured".to_owned();
                return Err(CallError::NotSent { url: path, reason });
            };
            let url = format!("{controller}{path}");
            match self.client.get(&url, ASK_MAX).await {
                Err(error) if is_to_be_asked_elsewhere(&error) => {
                    tried += 1;
                    if tried >= self.controllers.len() {
                        // A 404 of something else is no denial.
                        return Err(match error {
                            CallError::Refused { url, body, .. } => {
                                CallError::Unreadable { url, reason: body }
                            }
                            error => error,
                        });
                    }
                }
                answer => {
                    self.first.store(at, Ordering::Relaxed);
                    return answer;
                }
            }
        }
    }

    async fn sweep(&self) {
        loop {
            sleep(jittered(SWEEP_EVERY)).await;
            let now = Instant::now();
            self.hosts.retain(|_, host| host.is_to_be_kept(now));
            self.unknown_of_one.retain_recent();
            self.unknown_of_one.shrink_to_fit();
        }
    }
}

fn unanswered(base: &str, error: &CallError) {
    if let Some(left_out) = UNANSWERED_LINES.tell() {
        tracing::warn!(host = base, %error, left_out, "no controller says who has a host");
    }
}

impl KnownHost {
    fn new() -> Self {
        let now = Instant::now();
        let seen = Seen { owner: Owner::Unknown, fresh_until: now, used_at: now };
        Self { seen: Mutex::new(seen), asking: tokio::sync::Mutex::default() }
    }

    fn fresh(&self) -> Option<Owner> {
        let now = Instant::now();
        let mut seen = self.seen.lock();
        seen.used_at = now;
        (now < seen.fresh_until).then(|| seen.owner.clone())
    }

    fn owner(&self) -> Owner {
        self.seen.lock().owner.clone()
    }

    fn learns(&self, owner: Owner, fresh: Duration) {
        let mut seen = self.seen.lock();
        (seen.owner, seen.fresh_until) = (owner, Instant::now() + jittered(fresh));
    }

    fn rests(&self, fresh: Duration) {
        self.seen.lock().fresh_until = Instant::now() + fresh;
    }

    fn is_to_be_kept(&self, now: Instant) -> bool {
        let seen = self.seen.lock();
        match seen.owner {
            Owner::Owned(_) => now < seen.used_at + FORGOTTEN,
            Owner::Nobody | Owner::Unknown => now < seen.fresh_until,
        }
    }
}
