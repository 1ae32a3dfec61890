//! The uses of each backend of one drone through this proxy, and the counts that the drone has not
//! been told yet.
//!
//! Pure: time comes in as an argument. `stream` sends, `drone` admits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use jetway_protocol::attach::Uses;
use jetway_protocol::ids::{BackendId, FencingToken};
use tokio::time::Instant;

/// One run of one backend. Grants and uses belong to it, never to the id alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendKey {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
}

/// Of the number alone: no two runs share one, and every request looks its backend up several
/// times.
impl Hash for BackendKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fencing_token.hash(state);
    }
}

#[derive(Debug, Default)]
struct Tally {
    /// Open upgraded connections and requests in flight.
    connections: u32,
    linger_until: Option<Instant>,
    /// Where it stands in [`Ledger::lingers`]: not after its end.
    linger_noted: Option<Instant>,
    /// Asks on the way. Their answers count as a use over there, so "0" must not overtake them.
    asks: u32,
    /// The counts that the drone was last told. `None`: it may believe something of its own.
    reported: Option<(u32, u32)>,
}

impl Tally {
    fn uses(&self, now: Instant) -> (u32, u32) {
        let lingers = self.linger_until.is_some_and(|until| until > now);
        (self.connections.saturating_add(u32::from(lingers)), self.connections)
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    backends: HashMap<BackendKey, Tally>,
    lingers: BTreeSet<(Instant, BackendKey)>,
    dirty: HashSet<BackendKey>,
}

impl Ledger {
    /// A connection or request begins.
    pub fn begin(&mut self, key: &BackendKey) {
        let tally = match self.backends.get_mut(key) {
            Some(tally) => tally,
            None => self.backends.entry(key.clone()).or_default(),
        };
        tally.connections = tally.connections.saturating_add(1);
        self.is_news(key);
    }

    fn is_news(&mut self, key: &BackendKey) {
        if !self.dirty.contains(key) {
            self.dirty.insert(key.clone());
        }
    }

    /// It ends. `linger`: it was a plain request, which goes on counting for so long.
    pub fn end(&mut self, key: &BackendKey, linger: Option<Duration>, now: Instant) {
        let Some(tally) = self.backends.get_mut(key) else { return };
        tally.connections = tally.connections.saturating_sub(1);
        let until = linger.filter(|linger| !linger.is_zero()).and_then(|linger| now.checked_add(linger));
        if let Some(until) = until.filter(|until| tally.linger_until.is_none_or(|before| *until > before)) {
            tally.linger_until = Some(until);
            if tally.linger_noted.is_none() {
                tally.linger_noted = Some(until);
                self.lingers.insert((until, key.clone()));
            }
        }
        self.is_news(key);
    }

    pub fn ask_begins(&mut self, key: &BackendKey) {
        let tally = self.backends.entry(key.clone()).or_default();
        tally.asks = tally.asks.saturating_add(1);
    }

    /// An ask was answered or given up. Either way the drone may count a use that we must confirm
    /// or take back.
    pub fn ask_ends(&mut self, key: &BackendKey) {
        let Some(tally) = self.backends.get_mut(key) else { return };
        tally.asks = tally.asks.saturating_sub(1);
        tally.reported = None;
        self.dirty.insert(key.clone());
    }

    pub fn asks(&self, key: &BackendKey) -> u32 {
        self.backends.get(key).map_or(0, |tally| tally.asks)
    }

    /// Uses and, of these, connections.
    pub fn uses(&self, key: &BackendKey, now: Instant) -> (u32, u32) {
        self.backends.get(key).map_or((0, 0), |tally| tally.uses(now))
    }

    /// The backend has ended: nothing of it counts any more.
    pub fn remove(&mut self, key: &BackendKey) {
        if let Some(noted) = self.backends.remove(key).and_then(|tally| tally.linger_noted) {
            self.lingers.remove(&(noted, key.clone()));
        }
        self.dirty.remove(key);
    }

    /// Ends the lingers whose time has come.
    pub fn expire(&mut self, now: Instant) {
        while let Some((until, _)) = self.lingers.first() {
            if *until > now {
                return;
            }
            let Some((_, key)) = self.lingers.pop_first() else { return };
            let Some(tally) = self.backends.get_mut(&key) else { continue };
            // Requests since then have moved it.
            tally.linger_until = tally.linger_until.filter(|until| *until > now);
            tally.linger_noted = tally.linger_until;
            match tally.linger_until {
                Some(later) => drop(self.lingers.insert((later, key))),
                None => drop(self.dirty.insert(key)),
            }
        }
    }

    pub fn next_linger(&self) -> Option<Instant> {
        self.lingers.first().map(|(until, _)| *until)
    }

    pub fn has_news(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether what is to be reported of this backend cannot wait: the last use is over, or the
    /// drone must be told what its answer has become.
    pub fn is_urgent(&self, key: &BackendKey, now: Instant) -> bool {
        self.backends.get(key).is_some_and(|tally| {
            let (uses, _) = tally.uses(now);
            uses == 0 && tally.asks == 0 && tally.reported.is_none_or(|(reported, _)| reported != 0)
        })
    }

    /// The counts to tell the drone now, each backend once. They count as told.
    pub fn take_news(&mut self, now: Instant) -> Vec<Uses> {
        self.expire(now);
        let mut news = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(tally) = self.backends.get_mut(&key) else { continue };
            let counts = tally.uses(now);
            if counts.0 == 0 && tally.asks > 0 {
                // The ask's end makes it dirty again.
                continue;
            }
            if tally.reported != Some(counts) {
                tally.reported = Some(counts);
                news.push(report(&key, counts));
            }
        }
        news
    }

    /// All open uses, for a stream that begins: a backend that is not in it counts as closed.
    pub fn take_all(&mut self, now: Instant) -> Vec<Uses> {
        self.expire(now);
        self.dirty.clear();
        let mut all = Vec::new();
        for (key, tally) in &mut self.backends {
            let counts = tally.uses(now);
            tally.reported = Some(counts);
            if counts.0 > 0 {
                all.push(report(key, counts));
            }
        }
        all
    }

    /// Forgets backends without uses, asks and news for which `unused` says so too.
    pub fn sweep(&mut self, now: Instant, unused: impl Fn(&BackendKey) -> bool) -> Vec<BackendKey> {
        let idle = |(key, tally): (&BackendKey, &Tally)| {
            let quiet = tally.uses(now) == (0, 0) && tally.asks == 0 && !self.dirty.contains(key);
            (quiet && unused(key)).then(|| key.clone())
        };
        let swept: Vec<BackendKey> = self.backends.iter().filter_map(idle).collect();
        for key in &swept {
            self.remove(key);
        }
        swept
    }

    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}

fn report(key: &BackendKey, (uses, connections): (u32, u32)) -> Uses {
    Uses { backend: key.backend.clone(), fencing_token: key.fencing_token, uses, connections }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> BackendKey {
        BackendKey { backend: name.parse().unwrap(), fencing_token: FencingToken(1) }
    }

    fn news(ledger: &mut Ledger, now: Instant) -> Vec<(u32, u32)> {
        ledger.take_news(now).into_iter().map(|uses| (uses.uses, uses.connections)).collect()
    }

    const LINGER: Duration = Duration::from_secs(10);

    #[test]
    fn a_plain_request_lingers_and_an_upgraded_connection_does_not() {
        let (mut ledger, key, start) = (Ledger::default(), key("a"), Instant::now());
        ledger.begin(&key);
        assert_eq!(news(&mut ledger, start), [(1, 1)]);
        ledger.end(&key, Some(LINGER), start);
        assert!(!ledger.is_urgent(&key, start), "still in use");
        assert_eq!(news(&mut ledger, start), [(1, 0)]);

        ledger.begin(&key);
        assert_eq!(news(&mut ledger, start), [(2, 1)]);
        ledger.end(&key, None, start + LINGER / 2);
        assert_eq!(news(&mut ledger, start + LINGER / 2), [(1, 0)], "the page's linger goes on");
        assert_eq!(ledger.next_linger(), Some(start + LINGER));
        assert_eq!(news(&mut ledger, start + LINGER), [(0, 0)]);
        assert_eq!(ledger.next_linger(), None);
        assert_eq!(news(&mut ledger, start + LINGER), []);

        ledger.begin(&key);
        ledger.end(&key, None, start + LINGER);
        assert!(
            !ledger.is_urgent(&key, start + LINGER),
            "begun and ended before it was told: nothing to tell"
        );
        ledger.begin(&key);
        assert_eq!(news(&mut ledger, start + LINGER), [(1, 1)]);
        ledger.end(&key, None, start + LINGER);
        assert!(ledger.is_urgent(&key, start + LINGER));
        assert_eq!(news(&mut ledger, start + LINGER), [(0, 0)]);
    }

    #[test]
    fn a_zero_does_not_overtake_an_ask() {
        let (mut ledger, key, now) = (Ledger::default(), key("a"), Instant::now());
        ledger.begin(&key);
        assert_eq!(news(&mut ledger, now), [(1, 1)]);
        ledger.ask_begins(&key);
        ledger.end(&key, None, now);
        assert!(!ledger.is_urgent(&key, now));
        assert_eq!(news(&mut ledger, now), []);
        ledger.ask_ends(&key);
        assert_eq!(news(&mut ledger, now), [(0, 0)], "the client of the ask has gone");
    }

    #[test]
    fn an_answered_ask_is_confirmed_even_when_the_count_is_as_before() {
        let (mut ledger, key, now) = (Ledger::default(), key("a"), Instant::now());
        for _ in 0..2 {
            ledger.ask_begins(&key);
            ledger.begin(&key);
            ledger.ask_ends(&key);
            assert_eq!(news(&mut ledger, now), [(1, 1)]);
            ledger.end(&key, None, now);
            assert_eq!(news(&mut ledger, now), [(0, 0)]);
        }
    }

    #[test]
    fn a_new_stream_is_told_everything_once() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.begin(&key("a"));
        ledger.begin(&key("b"));
        ledger.end(&key("b"), Some(LINGER), now);
        ledger.begin(&key("c"));
        ledger.end(&key("c"), None, now);
        let mut all: Vec<_> =
            ledger.take_all(now).into_iter().map(|u| (u.backend.to_string(), u.uses)).collect();
        all.sort();
        assert_eq!(all, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
        assert_eq!(news(&mut ledger, now), []);
        assert_eq!(ledger.sweep(now, |_| true), [key("c")]);
    }

    #[test]
    fn what_has_ended_is_not_counted_below_zero() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.begin(&key("a"));
        ledger.end(&key("a"), Some(LINGER), now);
        ledger.begin(&key("a"));
        ledger.remove(&key("a"));
        ledger.end(&key("a"), Some(LINGER), now);
        assert!(ledger.is_empty());
        assert_eq!(ledger.next_linger(), None);
        assert_eq!(news(&mut ledger, now), []);
    }

    proptest! {
        /// Whatever happens, once all is over and the lingers have run out, the drone's last word
        /// is 0.
        #[test]
        fn the_last_word_is_zero(steps in proptest::collection::vec((0u8..5, 0u64..12_000), 0..60)) {
            let (mut ledger, key) = (Ledger::default(), key("a"));
            let (mut now, mut open, mut told) = (Instant::now(), 0, 0);
            for (step, wait) in steps {
                now += Duration::from_millis(wait);
                match step {
                    0 | 1 => { ledger.begin(&key); open += 1; }
                    2 if open > 0 => { ledger.end(&key, Some(LINGER), now); open -= 1; }
                    3 if open > 0 => { ledger.end(&key, None, now); open -= 1; }
                    _ => for uses in ledger.take_news(now) { told = uses.uses; },
                }
                prop_assert_eq!(ledger.uses(&key, now).1, open);
            }
            for _ in 0..open { ledger.end(&key, Some(LINGER), now); }
            for uses in ledger.take_news(now + LINGER) { told = uses.uses; }
            prop_assert_eq!(told, 0);
            prop_assert_eq!(ledger.next_linger(), None);
        }
    }
}
