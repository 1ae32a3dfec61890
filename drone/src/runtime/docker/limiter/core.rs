//! How many calls the engine is given at once, and whose is next: pure decisions, time passed in.
//!
//! The limit is learned as TCP Vegas learns a window (L. Brakmo, L. Peterson: "TCP Vegas: End to End Congestion Avoidance on a
//! Global Internet", IEEE JSAC 13 (8), 1995). An engine that works on `limit` calls at once and takes `latency` for each, where
//! alone it would take `base`, has `limit × (1 − base ÷ latency)` calls too many: they wait in the engine, and slow down
//! those that went first. Once a round of calls, the limit goes up by one where fewer than [`EXCESS_MIN`] wait, and down by
//! one where more than [`EXCESS_MAX`] do. A call that the engine failed halves it, as TCP does for a loss.
//!
//! Kinds of calls take different times, so each has a base of its own: what it took lately while hardly anything else was under
//! way (measured under load, the base would grow with the limit, and the limit with the base). Vegas takes the least, because a
//! packet's way is always the same; calls differ, the more so the more of them are compared, so it is medians here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Calls that should wait in the engine, so that it is never idle while there is work, and no more than that.
pub const EXCESS_MIN: f64 = 1.0;
pub const EXCESS_MAX: f64 = 3.0;
pub const LIMIT_MIN: usize = 1;
pub const LIMIT_MAX: usize = 32;
/// Samples of one round, at least: one odd call decides nothing.
const ROUND_MIN: usize = 4;
/// A call was hardly disturbed if at most so many, itself included, were under way when it began and when it ended.
const UNDISTURBED: usize = 2;
/// Undisturbed calls of a kind that its base is the median of.
const BASE_SAMPLES: usize = 32;
/// Starts are under way, or were within this time: then whatever nobody waits for holds back.
pub const CALM: Duration = Duration::from_secs(1);
/// Removals at once while starts are under way.
pub const REMOVALS_BUSY: usize = 2;
/// And otherwise, at least: an agent that stops has many to remove, and nothing else to do.
const REMOVALS_CALM: usize = 4;

/// Who waits for a call, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A session's start.
    Start,
    /// A slot or a sandbox that will be needed later.
    Ahead,
    /// Beside the limit, but for a few at once.
    Removal,
}

/// Calls of one kind take about the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Create,
    Start,
    StartJoined,
    Sandbox,
}

/// Lower is earlier. A container's start has the turn of its making: a session that is half made goes before those that are not
/// begun.
pub type Turn = u64;

/// How a call went. What the engine refused, and what nobody waited for to its end, says nothing of its load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    Took(Call, Duration),
    Failed,
    Nothing,
}

/// `W`: whatever tells the one who waits.
pub struct Core<W> {
    limit: usize,
    under_way: [usize; 3],
    waiting: [BTreeMap<(Turn, u64), W>; 3],
    /// Orders those that have the same turn.
    asked: u64,
    last_start: Option<Instant>,
    round: Round,
    bases: BTreeMap<Call, VecDeque<Duration>>,
    failures: u64,
}

#[derive(Default)]
struct Round {
    samples: usize,
    /// Of each call's latency to its base.
    ratios: Vec<f64>,
    has_failed: bool,
    /// The limit was reached, so what was measured says something about more.
    was_full: bool,
}

impl<W> Core<W> {
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.clamp(LIMIT_MIN, LIMIT_MAX),
            under_way: [0; 3],
            waiting: [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()],
            asked: 0,
            last_start: None,
            round: Round::default(),
            bases: BTreeMap::new(),
            failures: 0,
        }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn under_way(&self, class: Class) -> usize {
        self.under_way[class as usize]
    }

    pub fn waiting(&self, class: Class) -> usize {
        self.waiting[class as usize].len()
    }

    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// The next turn, after all that were given before.
    pub fn next_turn(&mut self) -> Turn {
        self.asked += 1;
        self.asked
    }

    /// Queues; [`Core::admit`] says when it is its turn. The key is for [`Core::forget`].
    pub fn ask(&mut self, class: Class, turn: Turn, who: W) -> (Turn, u64) {
        let key = (turn, self.next_turn());
        self.waiting[class as usize].insert(key, who);
        key
    }

    /// It does not wait any more.
    pub fn forget(&mut self, class: Class, key: (Turn, u64)) {
        self.waiting[class as usize].remove(&key);
    }

    /// Whoever may begin now, and how many are under way with it.
    pub fn admit(&mut self, now: Instant) -> Option<(Class, W, usize)> {
        let class = [Class::Start, Class::Ahead, Class::Removal]
            .into_iter()
            .find(|class| self.waiting(*class) > 0 && self.has_room(*class, now))?;
        let (_, who) = self.waiting[class as usize].pop_first()?;
        self.under_way[class as usize] += 1;
        if class == Class::Start {
            self.last_start = Some(now);
        }
        let together = self.limited();
        self.round.was_full |= together >= self.limit;
        Some((class, who, together))
    }

    /// `together`: what [`Core::admit`] said of it.
    pub fn done(&mut self, class: Class, together: usize, outcome: Outcome, now: Instant) {
        let together = together.max(self.limited());
        self.under_way[class as usize] -= 1;
        match class {
            Class::Removal => return,
            Class::Start => self.last_start = Some(now),
            Class::Ahead => {}
        }
        match outcome {
            Outcome::Took(call, latency) => {
                let base = self.base(call, latency, together);
                let ratio = latency.as_secs_f64() / base.as_secs_f64().max(f64::EPSILON);
                self.round.ratios.push(ratio.max(f64::EPSILON));
                self.round.samples += 1;
            }
            Outcome::Failed => {
                self.failures += 1;
                self.round.has_failed = true;
                self.round.samples += 1;
            }
            Outcome::Nothing => {}
        }
        if self.round.samples >= self.limit.max(ROUND_MIN) {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let Round { mut ratios, has_failed, was_full, .. } = std::mem::take(&mut self.round);
        if has_failed {
            self.limit = (self.limit / 2).max(LIMIT_MIN);
            return;
        }
        ratios.sort_unstable_by(f64::total_cmp);
        let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(1.0);
        let excess = self.limit as f64 * (1.0 - 1.0 / ratio);
        if excess > EXCESS_MAX {
            self.limit = (self.limit - 1).max(LIMIT_MIN);
        } else if excess < EXCESS_MIN && was_full {
            self.limit = (self.limit + 1).min(LIMIT_MAX);
        }
        self.round.was_full = self.limited() >= self.limit;
    }

    /// What a call of this kind takes when it is not disturbed; the first one that is seen stands in for it.
    fn base(&mut self, call: Call, latency: Duration, together: usize) -> Duration {
        let samples = self.bases.entry(call).or_default();
        if together <= UNDISTURBED || samples.is_empty() {
            samples.push_back(latency);
            if samples.len() > BASE_SAMPLES {
                samples.pop_front();
            }
        }
        let mut sorted: Vec<Duration> = samples.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(latency)
    }

    fn has_room(&self, class: Class, now: Instant) -> bool {
        let is_busy = self.is_busy(now);
        match class {
            Class::Start => self.limited() < self.limit,
            Class::Ahead => {
                let share = if is_busy { (self.limit / 2).max(1) } else { self.limit };
                self.limited() < self.limit && self.under_way(Class::Ahead) < share
            }
            Class::Removal => {
                let share = if is_busy { REMOVALS_BUSY } else { self.limit.max(REMOVALS_CALM) };
                self.under_way(Class::Removal) < share
            }
        }
    }

    fn limited(&self) -> usize {
        self.under_way(Class::Start) + self.under_way(Class::Ahead)
    }

    fn is_busy(&self, now: Instant) -> bool {
        let lately = self.last_start.is_some_and(|at| now.saturating_duration_since(at) < CALM);
        lately || self.waiting(Class::Start) > 0 || self.under_way(Class::Start) > 0
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
