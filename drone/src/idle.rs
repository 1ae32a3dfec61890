//! When a backend counts as unused for long enough to be stopped: a pure clockwork that is told of connects, uses and
//! lost streams, and answers "due" or "look again then". It knows nothing of engines, sockets or journals.
//!
//! | who says so | what it does |
//! |---|---|
//! | a connect added a grant | holds the backend until that grant is first used, at most [`HOLD_SECONDS`] |
//! | ready | holds it for each grant that was given before, for `first_connection_seconds` |
//! | a waiting ask | holds it |
//! | a proxy's uses | in use while any proxy's count is above 0 |
//! | a lost attach stream | its uses count as closed when the grace is over |
//! | an agent's start | nobody knows what is in use until proxies are back, or the grace is over |
//!
//! `max_idle_seconds` counts from the last close. Until somebody has come it counts from
//! `first_connection_seconds` after ready or the last connect, whichever is later. Of several
//! holds, the one that ends last counts. Without `max_idle_seconds` there is no idle end at all.

#[cfg(test)]
mod hold_tests;
mod holds;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jetway_protocol::attach::ENTRY;
use jetway_protocol::ids::{GrantId, ProxyId};
use jetway_protocol::spec::BackendSpec;
use tokio::time::Instant;

use crate::grants::Entered;
use holds::Holds;

/// How long a connect to a live key holds its backend for a client that has not come yet.
pub const HOLD_SECONDS: u64 = 30;

#[derive(Debug, Clone)]
pub struct Idle {
    max_idle: Option<Duration>,
    first_connection: Duration,
    ready_at: Option<Instant>,
    last_connect: Option<Instant>,
    somebody_came: bool,
    last_close: Option<Instant>,
    waiting_asks: usize,
    holds: Holds,
    /// Grants that were given before ready: their clients may come from then on.
    early: HashSet<GrantId>,
    proxies: HashMap<ProxyId, InUse>,
    /// Counts the spells of use so far.
    spells: u64,
    /// After an agent's start: until then, proxies that have not come back may have it in use.
    unknown_until: Option<Instant>,
}

#[derive(Debug, Default, Clone)]
struct InUse {
    uses: u32,
    connections: u32,
    /// From the first use of this proxy until it has none.
    spell: u64,
    /// The stream broke; this is when the uses count as closed.
    closed_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Stop it now.
    Due,
    /// Nothing to do before that moment, or before something is reported.
    Wait(Option<Instant>),
}

impl Idle {
    pub fn new(spec: &BackendSpec) -> Self {
        Self {
            max_idle: spec.max_idle_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            first_connection: Duration::from_secs(spec.first_connection_seconds.into()),
            ready_at: None,
            last_connect: None,
            somebody_came: false,
            last_close: None,
            waiting_asks: 0,
            holds: Holds::default(),
            early: HashSet::new(),
            proxies: HashMap::new(),
            spells: 0,
            unknown_until: None,
        }
    }

    /// An agent took over a backend that ran before it: proxies have until `until` to say what they have open.
    pub fn adopted(&mut self, somebody_came: bool, until: Instant) {
        self.somebody_came = somebody_came;
        self.unknown_until = Some(until);
    }

    pub fn ready(&mut self, now: Instant) {
        self.ready_at.get_or_insert(now);
        for grant in self.early.drain() {
            self.holds.add(grant, now + self.first_connection);
        }
    }

    /// The connect that started the backend gave out this grant; its client is on the way.
    pub fn started_for(&mut self, grant: GrantId) {
        self.early.insert(grant);
    }

    /// A connect gave out this grant; its client is on the way.
    pub fn connected(&mut self, grant: GrantId, now: Instant) {
        self.last_connect = Some(now);
        self.holds.add(grant, now + Duration::from_secs(HOLD_SECONDS));
        if self.ready_at.is_none() {
            self.early.insert(grant);
        }
    }

    /// Whoever waited with this grant and was told of the start is about to come in, by another request.
    pub fn expected(&mut self, grant: GrantId, now: Instant) {
        self.holds.add(grant, now + ENTRY);
    }

    pub fn revoked(&mut self, grant: GrantId) {
        self.holds.remove(grant);
        self.early.remove(&grant);
    }

    pub fn set_waiting_asks(&mut self, count: usize) {
        self.waiting_asks = count;
    }

    /// An ask was answered with "ready": a use, until the proxy's next word. Returns its spell.
    pub fn answered(&mut self, proxy: ProxyId, grant: GrantId) -> u64 {
        self.holds.remove(grant);
        let entry = self.in_use(proxy);
        entry.uses = entry.uses.max(1);
        entry.closed_at = None;
        entry.spell
    }

    /// Whether a client with this grant may be in, or on its way, by all that is known. `entered`: when it came in.
    pub fn may_be_in_use(&self, grant: GrantId, used: bool, entered: &[Entered]) -> bool {
        // An agent before this one let it in, and did not write down where.
        let unknown =
            used && entered.is_empty() && !(self.proxies.is_empty() && self.unknown_until.is_none());
        let is_in = |one: &Entered| self.proxies.get(&one.proxy).is_some_and(|now| now.spell == one.spell);
        let is_on_its_way = self.holds.has(grant) || self.early.contains(&grant);
        unknown || is_on_its_way || entered.iter().any(is_in)
    }

    /// A proxy's absolute counts, as of now.
    pub fn uses(&mut self, proxy: ProxyId, uses: u32, connections: u32, now: Instant) {
        if uses > 0 {
            let entry = self.in_use(proxy);
            (entry.uses, entry.connections, entry.closed_at) = (uses, connections, None);
        } else {
            self.close(proxy, now);
        }
    }

    /// The attach stream broke; what the proxy has open counts until `closed_at`.
    pub fn stream_lost(&mut self, proxy: ProxyId, closed_at: Instant) {
        if let Some(entry) = self.proxies.get_mut(&proxy) {
            entry.closed_at.get_or_insert(closed_at);
        }
    }

    /// Open WebSockets and requests in flight, over all proxies.
    pub fn connections(&self) -> u32 {
        self.proxies.values().fold(0, |sum, entry| sum.saturating_add(entry.connections))
    }

    pub fn verdict(&mut self, now: Instant) -> Verdict {
        self.forget_what_is_over(now);
        let (Some(max_idle), Some(ready_at)) = (self.max_idle, self.ready_at) else {
            return Verdict::Wait(None);
        };
        if self.waiting_asks > 0 || !self.proxies.is_empty() {
            return Verdict::Wait(self.proxies.values().filter_map(|entry| entry.closed_at).min());
        }
        if let Some(until) = self.unknown_until {
            return Verdict::Wait(Some(until));
        }
        let from = match self.last_close {
            Some(close) => close,
            None => ready_at.max(self.last_connect.unwrap_or(ready_at)) + self.first_connection,
        };
        let due = (from + max_idle).max(self.holds.last().unwrap_or(from));
        if now >= due { Verdict::Due } else { Verdict::Wait(Some(due)) }
    }

    fn forget_what_is_over(&mut self, now: Instant) {
        self.holds.forget_until(now);
        let over: Vec<(ProxyId, Instant)> = self
            .proxies
            .iter()
            .filter_map(|(proxy, entry)| entry.closed_at.filter(|at| *at <= now).map(|at| (*proxy, at)))
            .collect();
        for (proxy, at) in over {
            self.close(proxy, at);
        }
        if let Some(until) = self.unknown_until.filter(|until| *until <= now) {
            self.unknown_until = None;
            if self.somebody_came {
                self.last_close = Some(self.last_close.map_or(until, |close| close.max(until)));
            }
        }
    }

    fn in_use(&mut self, proxy: ProxyId) -> &mut InUse {
        self.somebody_came = true;
        self.proxies.entry(proxy).or_insert_with(|| {
            self.spells += 1;
            InUse { spell: self.spells, ..InUse::default() }
        })
    }

    /// Only the close of something that was open starts the clock.
    fn close(&mut self, proxy: ProxyId, at: Instant) {
        if self.proxies.remove(&proxy).is_some() && self.proxies.is_empty() {
            self.last_close = Some(self.last_close.map_or(at, |close| close.max(at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::Executable;
    use uuid::Uuid;

    use super::*;

    pub const GRANT: GrantId = GrantId(7);

    pub fn idle(max_idle: Option<u32>) -> (Idle, Instant) {
        let mut spec = BackendSpec::of(Executable::of_image("image"));
        spec.max_idle_seconds = max_idle;
        (Idle::new(&spec), Instant::now())
    }

    pub fn proxy(n: u128) -> ProxyId {
        ProxyId(Uuid::from_u128(n))
    }

    pub fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn zero_means_at_once_after_the_last_close() {
        let (mut idle, now) = idle(Some(0));
        idle.ready(now);
        idle.answered(proxy(1), GRANT);
        assert_eq!(idle.verdict(now + seconds(500)), Verdict::Wait(None));
        idle.uses(proxy(2), 3, 2, now);
        idle.uses(proxy(1), 0, 0, now + seconds(501));
        assert_eq!(idle.verdict(now + seconds(501)), Verdict::Wait(None), "the other proxy has it open");
        assert_eq!(idle.connections(), 2);
        idle.uses(proxy(2), 0, 0, now + seconds(502));
        assert_eq!(idle.verdict(now + seconds(502)), Verdict::Due);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_came_counts_from_ready_and_from_the_last_connect() {
        let (mut idle, now) = idle(Some(5));
        assert_eq!(idle.verdict(now + seconds(900)), Verdict::Wait(None), "not ready, not idle");
        idle.ready(now);
        assert_eq!(idle.verdict(now), Verdict::Wait(Some(now + seconds(35))));
        idle.connected(GRANT, now + seconds(20));
        assert_eq!(idle.verdict(now + seconds(40)), Verdict::Wait(Some(now + seconds(55))));
        assert_eq!(idle.verdict(now + seconds(55)), Verdict::Due);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connect_holds_until_its_grant_is_used_but_not_for_ever() {
        let (mut idle, now) = idle(Some(0));
        idle.ready(now);
        idle.answered(proxy(1), GrantId(1));
        idle.connected(GRANT, now);
        idle.uses(proxy(1), 0, 0, now + seconds(1));
        assert_eq!(idle.verdict(now + seconds(2)), Verdict::Wait(Some(now + seconds(30))));
        idle.answered(proxy(1), GRANT);
        idle.uses(proxy(1), 0, 0, now + seconds(3));
        assert_eq!(idle.verdict(now + seconds(3)), Verdict::Due);

        idle.connected(GrantId(9), now + seconds(3));
        assert_eq!(idle.verdict(now + seconds(32)), Verdict::Wait(Some(now + seconds(33))));
        assert_eq!(idle.verdict(now + seconds(33)), Verdict::Due);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_connects_the_last_unused_one_counts_whatever_order_they_are_used_in() {
        let (mut idle, now) = idle(Some(0));
        idle.ready(now);
        for n in 0..5 {
            idle.connected(GrantId(n), now + seconds(n));
        }
        // Said again, it holds anew.
        idle.connected(GrantId(1), now + seconds(5));
        let close = |idle: &mut Idle, at| idle.uses(proxy(1), 0, 0, now + seconds(at));
        for (used, holds_until) in [(3, 35), (1, 34), (4, 32), (0, 32)] {
            idle.answered(proxy(1), GrantId(used));
            close(&mut idle, 6);
            assert!(!idle.may_be_in_use(GrantId(used), false, &[]));
            assert_eq!(idle.verdict(now + seconds(6)), Verdict::Wait(Some(now + seconds(holds_until))));
        }
        assert!(idle.may_be_in_use(GrantId(2), false, &[]));
        assert_eq!(idle.verdict(now + seconds(32)), Verdict::Due);
        assert!(!idle.may_be_in_use(GrantId(2), false, &[]), "its time is over");
        assert!(idle.holds.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn without_max_idle_it_never_ends() {
        let (mut idle, now) = idle(None);
        idle.ready(now);
        assert_eq!(idle.verdict(now + seconds(1_000_000)), Verdict::Wait(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_stream_counts_as_closed_only_after_its_grace() {
        let (mut idle, now) = idle(Some(1));
        idle.ready(now);
        idle.uses(proxy(1), 1, 1, now);
        idle.stream_lost(proxy(1), now + seconds(10));
        assert_eq!(idle.verdict(now + seconds(9)), Verdict::Wait(Some(now + seconds(10))));
        idle.uses(proxy(1), 1, 1, now + seconds(9));
        assert_eq!(idle.verdict(now + seconds(99)), Verdict::Wait(None), "it came back");
        idle.stream_lost(proxy(1), now + seconds(110));
        assert_eq!(idle.verdict(now + seconds(110)), Verdict::Wait(Some(now + seconds(111))));
        assert_eq!(idle.verdict(now + seconds(111)), Verdict::Due);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_agents_start_nothing_is_idle_before_the_grace_is_over() {
        let (mut idle, now) = idle(Some(0));
        idle.adopted(true, now + seconds(30));
        idle.ready(now);
        assert_eq!(idle.verdict(now + seconds(29)), Verdict::Wait(Some(now + seconds(30))));
        assert_eq!(idle.verdict(now + seconds(30)), Verdict::Due);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_may_be_in_use_for_as_long_as_its_proxy_is_not_without_uses() {
        let (mut idle, now) = idle(Some(0));
        idle.ready(now);
        idle.connected(GRANT, now);
        assert!(idle.may_be_in_use(GRANT, false, &[]), "its client is on the way");
        let entered = [Entered { proxy: proxy(1), spell: idle.answered(proxy(1), GRANT) }];
        idle.uses(proxy(1), 2, 2, now);
        assert!(idle.may_be_in_use(GRANT, true, &entered));
        assert!(!idle.may_be_in_use(GrantId(8), false, &[]));
        assert!(idle.may_be_in_use(GrantId(8), true, &[]), "an agent before this one let it in");
        idle.uses(proxy(1), 0, 0, now);
        idle.uses(proxy(1), 1, 1, now);
        assert!(!idle.may_be_in_use(GRANT, true, &entered), "what is open now came later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_ask_holds() {
        let (mut idle, now) = idle(Some(0));
        idle.ready(now);
        idle.set_waiting_asks(1);
        assert_eq!(idle.verdict(now + seconds(500)), Verdict::Wait(None));
        idle.set_waiting_asks(0);
        assert_eq!(idle.verdict(now + seconds(500)), Verdict::Due);
        // A person's request may have been given up as it was answered: they come in by the next.
        idle.answered(proxy(1), GRANT);
        idle.expected(GRANT, now + seconds(500));
        idle.uses(proxy(1), 0, 0, now + seconds(500));
        assert_eq!(idle.verdict(now + seconds(501)), Verdict::Wait(Some(now + seconds(505))));
        assert_eq!(idle.verdict(now + seconds(505)), Verdict::Due);
    }
}
