//! What arrives of one kind, estimated from the counters in drones' heartbeats. Pure: what is seen and what time it is come from
//! outside, and the state is kept in Postgres between two looks, so any controller may look next.
//!
//! The rate is the larger of a fast and a slow exponentially weighted average (5 s and 60 s). The slow one has a one-sided
//! confidence bound on it, so that few arrivals do not make it too small. The fast one is carried ahead by its trend, for the time
//! until a new number of slots is made, and takes on at once what cannot be chance. Where counts vary more than Poisson's,
//! the peakedness says by how much. Nothing is wanted of a kind that was asked for only once, or not for ten minutes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::slots_for;
use crate::db::warm_demand;

pub type DemandRow = warm_demand::DemandRow<Demand>;

/// Seconds that the fast and the slow average remember.
const FAST: f64 = 5.0;
const SLOW: f64 = 60.0;
/// Less than this was not watched long enough to be divided by.
const WATCHED_MIN: f64 = 2.0;
/// A rate that was seen for a shorter time than this is not taken on at once.
const SURGE_SECONDS_MIN: f64 = 0.5;
/// Of the slow average's upper bound: one-sided 95 %.
const CONFIDENCE: f64 = 1.645;
/// A kind that nobody has asked for in this time is cold.
pub const COLD_AFTER_MS: i64 = 10 * 60 * 1000;
/// Counters that are first seen within this time after a kind was noted are where counting begins: what they counted before is not
/// new. An agent that comes later counts from its own start.
const BEGINNING_MS: i64 = 10_000;
/// An agent that was silent for longer does not come back: its counter need not be kept.
const FORGOTTEN_MS: i64 = 24 * 3600 * 1000;
/// From an arrival until drones have heard of a new number: a heartbeat, the controller's next look, and the message.
const REACTION: f64 = 3.0;
/// Where several drones have slots, the one that is chosen may not be the one that has: what is known of them is this old.
const SPREAD: f64 = 0.5;
/// Until a slot of the kind has been made somewhere.
const MAKE_MS_UNKNOWN: u32 = 1000;
/// Seconds of a window in which arrivals are counted for the peakedness, at least.
const WINDOW: f64 = 4.0;
/// Windows that the peakedness remembers, and the least that say something.
const WINDOWS: f64 = 30.0;
const WINDOWS_MIN: f64 = 5.0;
/// Twice the spread of the estimate where the truth is 1: less than that is chance.
const PEAKEDNESS_NOISE: f64 = 0.5;
const PEAKEDNESS_MAX: f64 = 50.0;
/// A smaller number must have sufficed for this long before slots are given up.
const LOWER_AFTER_MS: i64 = 20_000;

/// An agent's counter as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Seen {
    asked: u64,
    /// When its heartbeat was written: milliseconds of Postgres' clock.
    at: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    counted: BTreeMap<Uuid, Seen>,
    noted: i64,
    /// Since it was noted; its noting was one.
    arrivals: u64,
    last_arrival: i64,
    /// Seconds in which the pool was watched, and the averages, which began at 0.
    watched: f64,
    fast: f64,
    slow: f64,
    /// The window that is open: arrivals and seconds; the last whole one.
    window: (f64, f64),
    last_window: Option<(f64, f64)>,
    windows: f64,
    peakedness: f64,
    pub make_ms: u32,
    /// What drones were told, in all.
    pub slots: u32,
    /// Since when less would have sufficed, and the most that was needed since.
    lower: Option<(i64, u32)>,
}

/// One agent's word on the kind.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub agent: Uuid,
    pub asked: u64,
    pub at: i64,
}

impl Demand {
    /// A kind that was asked for the first time.
    pub fn noted(now: i64) -> Self {
        Self { arrivals: 1, last_arrival: now, ..Self::declared(now) }
    }

    /// A kind that nobody has asked for yet.
    pub fn declared(now: i64) -> Self {
        Self {
            counted: BTreeMap::new(),
            noted: now,
            arrivals: 0,
            last_arrival: now,
            watched: 0.0,
            fast: 0.0,
            slow: 0.0,
            window: (0.0, 0.0),
            last_window: None,
            windows: 0.0,
            peakedness: 1.0,
            make_ms: 0,
            slots: 0,
            lower: None,
        }
    }

    /// Takes in what every agent of the pool that is heard of says, with 0 where it says nothing of the kind. Repeating it changes
    /// nothing. True: there were arrivals, or an agent is new; that must be kept. Quiet seconds need not be.
    pub fn observe(&mut self, now: i64, reports: &[Report]) -> bool {
        let (mut arrivals, mut seconds, mut is_new) = (0, 0.0, false);
        for report in reports {
            match self.counted.get_mut(&report.agent) {
                Some(seen) if report.at > seen.at => {
                    arrivals += report.asked.saturating_sub(seen.asked);
                    seconds += as_seconds(report.at - seen.at);
                    *seen = Seen { asked: report.asked, at: report.at };
                }
                Some(_) => {}
                // What was counted before the kind was noted is in the first heartbeat after that.
                None if report.at <= self.noted => {}
                None => {
                    if now - self.noted > BEGINNING_MS {
                        arrivals += report.asked;
                    }
                    self.counted.insert(report.agent, Seen { asked: report.asked, at: report.at });
                    is_new = true;
                }
            }
        }
        self.counted.retain(|_, seen| now - seen.at < FORGOTTEN_MS);
        if arrivals > 0 {
            self.arrivals += arrivals;
            self.last_arrival = now;
        }
        // Each agent sees its share of the arrivals: what all of them saw in their seconds is what the pool saw in the mean of these.
        let agents = reports.iter().filter(|report| self.counted.contains_key(&report.agent)).count();
        if agents > 0 {
            self.weigh(as_float(arrivals), seconds / as_float(agents as u64));
        }
        arrivals > 0 || is_new
    }

    fn weigh(&mut self, arrivals: f64, seconds: f64) {
        if seconds <= 0.0 {
            // An agent that is new here: what it has counted stands with the next seconds.
            self.window.0 += arrivals;
            return;
        }
        let expected = self.fast().max(self.slow()) * seconds;
        let rate = arrivals / seconds;
        let was_watched = self.watched;
        self.watched += seconds;
        for (average, memory) in [(&mut self.fast, FAST), (&mut self.slow, SLOW)] {
            let kept = (-seconds / memory).exp();
            *average = *average * kept + rate * (1.0 - kept);
        }
        let peakedness = self.peakedness();
        let chance = expected + 3.0 * (expected * peakedness).sqrt() + 2.0;
        let is_long = was_watched > 0.0 && seconds >= SURGE_SECONDS_MIN;
        if is_long && arrivals > chance && rate > self.fast() {
            self.fast = rate * filled(self.watched, FAST);
        }
        self.count(arrivals, seconds);
    }

    /// Of two windows one after the other, (a - b)² / (a + b) is 1 on average where arrivals are Poisson's, whatever their rate, and
    /// the bunches' size where they come in bunches.
    fn count(&mut self, arrivals: f64, seconds: f64) {
        self.window = (self.window.0 + arrivals, self.window.1 + seconds);
        if self.window.1 < WINDOW {
            return;
        }
        let this = std::mem::take(&mut self.window);
        if let Some(last) = self.last_window.replace(this) {
            let rate = (this.0 + last.0) / (this.1 + last.1);
            if rate > 0.0 {
                let apart = this.0 / this.1 - last.0 / last.1;
                let sample = apart * apart / (rate * (1.0 / this.1 + 1.0 / last.1));
                self.windows = (self.windows + 1.0).min(WINDOWS);
                self.peakedness += (sample - self.peakedness) / self.windows;
            }
        }
    }

    fn fast(&self) -> f64 {
        corrected(self.fast, self.watched, FAST)
    }

    fn slow(&self) -> f64 {
        corrected(self.slow, self.watched, SLOW)
    }

    pub fn peakedness(&self) -> f64 {
        if self.windows < WINDOWS_MIN {
            return 1.0;
        }
        (self.peakedness - PEAKEDNESS_NOISE).clamp(1.0, PEAKEDNESS_MAX)
    }

    /// Arrivals a second, as they are to be prepared for.
    pub fn rate(&self) -> f64 {
        let fast = self.fast();
        let trend = (fast - self.slow()).max(0.0) / (SLOW - FAST);
        let ahead = fast + trend * (REACTION + as_seconds(self.make_ms.into()));
        ahead.max(upper(self.slow(), 2.0 * SLOW * filled(self.watched, SLOW)))
    }

    /// Seconds until a slot that was given away has been replaced. Drones replace at once, so no heartbeat is in it.
    pub fn lead(&self, drones: usize) -> f64 {
        let make_ms = if self.make_ms == 0 { MAKE_MS_UNKNOWN } else { self.make_ms };
        as_seconds(make_ms.into()) + if drones > 1 { SPREAD } else { 0.0 }
    }

    pub fn is_cold(&self, now: i64) -> bool {
        now - self.last_arrival >= COLD_AFTER_MS
    }

    /// How many slots are to be ready or in the making. More at once; less only when less has sufficed for a while, and nothing as
    /// soon as it is cold. True: something changed that must be kept.
    pub fn size(&mut self, now: i64, target: f64, (min, max): (u32, u32), drones: usize) -> bool {
        let before = (self.slots, self.lower);
        let is_wanted = self.arrivals > 1 && !self.is_cold(now);
        let needed =
            if is_wanted { slots_for(self.rate(), self.lead(drones), self.peakedness(), target) } else { 0 };
        let needed = needed.clamp(min, max.max(min));
        (self.slots, self.lower) = match self.lower {
            _ if needed >= self.slots || !is_wanted => (needed, None),
            None => (self.slots, Some((now, needed))),
            Some((since, most)) if now - since >= LOWER_AFTER_MS => (most.max(needed), None),
            Some((since, most)) => (self.slots, Some((since, most.max(needed)))),
        };
        // A moving "most needed" is known again at the next look.
        self.slots != before.0 || self.lower.map(|lower| lower.0) != before.1.map(|lower| lower.0)
    }

    pub fn last_arrival(&self) -> i64 {
        self.last_arrival
    }
}

/// How much of an average's memory has been filled: it began at 0.
fn filled(watched: f64, memory: f64) -> f64 {
    1.0 - (-watched.max(WATCHED_MIN) / memory).exp()
}

fn corrected(average: f64, watched: f64, memory: f64) -> f64 {
    average / filled(watched, memory)
}

/// The upper bound of a rate that was seen for `seconds` (the score interval for Poisson's).
fn upper(rate: f64, seconds: f64) -> f64 {
    if seconds <= 0.0 {
        return 0.0;
    }
    let z = CONFIDENCE;
    rate + z * z / (2.0 * seconds) + z * (rate / seconds + z * z / (4.0 * seconds * seconds)).sqrt()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a few minutes")]
fn as_seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts 2^52 arrivals")]
fn as_float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: Uuid = Uuid::from_u128(1);

    fn report(asked: u64, at: i64) -> Report {
        Report { agent: AGENT, asked, at }
    }

    #[test]
    fn a_heartbeat_counts_once_and_a_new_agent_counts_anew() {
        let mut demand = Demand::noted(1000);
        demand.observe(1500, &[report(40, 900)]);
        assert_eq!(demand.counted.len(), 0, "it may not have the arrival that was noted");
        assert!(demand.observe(2500, &[report(41, 2000)]), "where counting begins must be kept");
        assert_eq!(demand.arrivals, 1);
        assert!(demand.observe(4500, &[report(43, 4000)]));
        let once = demand.clone();
        assert!(!demand.observe(4600, &[report(43, 4000)]));
        assert_eq!(demand, once);
        assert_eq!(demand.arrivals, 3);
        demand.observe(6500, &[report(43, 6000)]);
        assert!((demand.rate() - 0.5).abs() < 1.0, "{}", demand.rate());
        let new = Report { agent: Uuid::from_u128(2), asked: 5, at: 60_000 };
        demand.observe(60_500, &[new]);
        assert_eq!(demand.arrivals, 8);
        demand.observe(62_500, &[Report { asked: 3, at: 62_000, ..new }]);
        assert_eq!(demand.arrivals, 8, "a counter that falls says nothing");
    }

    #[test]
    fn quiet_seconds_may_be_taken_in_at_once_or_one_by_one() {
        let begun = || {
            let mut demand = Demand::noted(0);
            demand.observe(1000, &[report(1, 1000)]);
            demand.observe(3000, &[report(9, 3000)]);
            demand
        };
        let (mut one_by_one, mut at_once) = (begun(), begun());
        for second in 4..64 {
            one_by_one.observe(second * 1000, &[report(9, second * 1000)]);
        }
        at_once.observe(63_000, &[report(9, 63_000)]);
        assert!((one_by_one.rate() - at_once.rate()).abs() < 1e-9);
    }

    #[test]
    fn once_is_not_enough_and_ten_minutes_are_the_end() {
        let mut demand = Demand::noted(0);
        let learned = (0, 100);
        demand.observe(2000, &[report(1, 2000)]);
        demand.size(2000, 0.99, learned, 1);
        assert_eq!(demand.slots, 0, "it was asked for once");
        demand.observe(4000, &[report(2, 4000)]);
        demand.size(4000, 0.99, learned, 1);
        assert!(demand.slots > 0);
        demand.observe(COLD_AFTER_MS, &[report(2, COLD_AFTER_MS)]);
        demand.size(COLD_AFTER_MS, 0.99, learned, 1);
        assert!(demand.slots > 0 && !demand.is_cold(COLD_AFTER_MS));
        let end = 4000 + COLD_AFTER_MS;
        assert!(demand.is_cold(end) && demand.size(end, 0.99, learned, 1));
        assert_eq!(demand.slots, 0);
        demand.size(end, 0.99, (8, 64), 1);
        assert_eq!(demand.slots, 8, "what was declared stays");
    }

    #[test]
    fn more_at_once_less_after_a_while() {
        let mut demand = Demand::noted(0);
        (demand.arrivals, demand.make_ms) = (100, 500);
        (demand.watched, demand.fast, demand.slow) = (1e6, 10.0, 10.0);
        assert!(demand.size(0, 0.99, (0, 100), 1));
        let high = demand.slots;
        (demand.fast, demand.slow) = (0.0, 0.1);
        assert!(demand.size(1000, 0.99, (0, 100), 1));
        assert!(!demand.size(2000, 0.99, (0, 100), 1), "nothing to keep while it waits");
        assert_eq!(demand.slots, high);
        demand.size(1000 + LOWER_AFTER_MS, 0.99, (0, 100), 1);
        assert!(demand.slots < high && demand.slots > 0);
        demand.fast = 10.0;
        demand.size(2000 + LOWER_AFTER_MS, 0.99, (0, 100), 1);
        assert!(demand.slots >= high);
    }

    #[test]
    fn bunches_are_noticed_and_chance_is_not() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        for (bunch, least, most) in [(1_u64, 1.0, 1.5), (10, 4.0, 20.0)] {
            let (mut demand, mut asked) = (Demand::noted(0), 0);
            let rate = 2.0 / as_float(bunch);
            for beat in 1..500_i64 {
                for _ in 0..20 {
                    asked += if random.random_bool(rate / 10.0) { bunch } else { 0 };
                }
                demand.observe(beat * 2000, &[report(asked, beat * 2000)]);
            }
            let peakedness = demand.peakedness();
            assert!((least..most).contains(&peakedness), "bunches of {bunch}: {peakedness}");
        }
    }
}
