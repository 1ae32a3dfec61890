//! What was asked for and what was served, by kind: the numbers from which a controller learns. Pure.

use std::collections::{HashMap, VecDeque};

use jetway_protocol::warm::{KINDS_MAX, Kind, KindLoad};
use tokio::time::{Duration, Instant};

/// Kinds that are remembered: beyond it, those go that nobody has asked for lately.
const REMEMBERED_MAX: usize = 4 * KINDS_MAX;
/// Claims whose replacement is waited for, at most.
const CLAIMS_MAX: usize = 1024;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.3;
/// Of an error's text, as it is shown.
const ERROR_CHARS_MAX: usize = 300;

#[derive(Default)]
pub struct Book {
    kinds: HashMap<Kind, Entry>,
    /// Counts questions, so that the last ones are known.
    asked: u64,
}

#[derive(Default)]
struct Entry {
    asked: u64,
    claimed: u64,
    make: Average,
    replenish: Average,
    unused: Duration,
    error: String,
    last_asked: u64,
    /// When slots were claimed that nothing has replaced yet.
    claims: VecDeque<Instant>,
}

/// Of milliseconds, the newest weighing most.
#[derive(Default, Clone, Copy)]
struct Average(Option<f64>);

impl Average {
    fn add(&mut self, took: Duration) {
        let ms = took.as_secs_f64() * 1000.0;
        self.0 = Some(self.0.map_or(ms, |before| before + NEWEST * (ms - before)));
    }

    /// At least 1 once anything was measured: 0 is "never".
    fn ms(self) -> u32 {
        self.0.map_or(0, |ms| {
            u32::try_from(Duration::from_secs_f64(ms.max(1.0) / 1000.0).as_millis()).unwrap_or(u32::MAX)
        })
    }
}

/// What is there of a kind now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Present {
    pub target: u32,
    pub ready: u32,
    pub making: u32,
    /// Of those that are ready: how long they have waited, added up.
    pub waited: Duration,
}

impl Book {
    pub fn asked(&mut self, kind: &Kind) {
        self.asked += 1;
        let asked = self.asked;
        let entry = self.entry(kind);
        (entry.asked, entry.last_asked) = (entry.asked + 1, asked);
    }

    pub fn claimed(&mut self, kind: &Kind, waited: Duration, now: Instant) {
        let entry = self.entry(kind);
        entry.claimed += 1;
        entry.unused += waited;
        if entry.claims.len() < CLAIMS_MAX {
            entry.claims.push_back(now);
        }
    }

    pub fn made(&mut self, kind: &Kind, took: Duration, now: Instant) {
        let entry = self.entry(kind);
        entry.make.add(took);
        entry.error.clear();
        if let Some(claimed) = entry.claims.pop_front() {
            entry.replenish.add(now - claimed);
        }
    }

    pub fn failed(&mut self, kind: &Kind, error: &str) {
        self.entry(kind).error = error.chars().take(ERROR_CHARS_MAX).collect();
    }

    /// It was ready for so long, and nobody used it.
    pub fn unused(&mut self, kind: &Kind, waited: Duration) {
        self.entry(kind).unused += waited;
    }

    /// What is to replace claims is not made any more.
    pub fn forget_claims(&mut self, kind: &Kind) {
        if let Some(entry) = self.kinds.get_mut(kind) {
            entry.claims.clear();
        }
    }

    /// Kinds with targets first, then those asked for most recently.
    pub fn load(&self, present: &HashMap<Kind, Present>) -> Vec<KindLoad> {
        let mut kinds: Vec<&Kind> = self.kinds.keys().chain(present.keys()).collect();
        kinds.sort();
        kinds.dedup();
        let rank = |kind: &Kind| {
            let is_target = present.get(kind).is_some_and(|present| present.target > 0);
            (is_target, self.kinds.get(kind).map_or(0, |entry| entry.last_asked))
        };
        kinds.sort_by_key(|kind| std::cmp::Reverse(rank(kind)));
        kinds.truncate(KINDS_MAX);
        let nothing = Entry::default();
        let load = |kind: &Kind| {
            let entry = self.kinds.get(kind).unwrap_or(&nothing);
            let present = present.get(kind).copied().unwrap_or_default();
            let unused = (entry.unused + present.waited).as_millis();
            KindLoad {
                kind: kind.clone(),
                target: present.target,
                ready: present.ready,
                making: present.making,
                asked: entry.asked,
                claimed: entry.claimed,
                make_ms: entry.make.ms(),
                unused_ms: u64::try_from(unused).unwrap_or(u64::MAX),
                replenish_ms: entry.replenish.ms(),
                error: entry.error.clone(),
            }
        };
        kinds.into_iter().map(load).collect()
    }

    fn entry(&mut self, kind: &Kind) -> &mut Entry {
        if self.kinds.len() >= REMEMBERED_MAX && !self.kinds.contains_key(kind) {
            let oldest = self.kinds.iter().min_by_key(|(_, entry)| entry.last_asked);
            if let Some(oldest) = oldest.map(|(kind, _)| kind.clone()) {
                self.kinds.remove(&oldest);
            }
        }
        self.kinds.entry(kind.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::spec::Executable;
    use jetway_protocol::warm::SlotTier;

    use super::*;

    fn kind(image: &str) -> Kind {
        Kind::of(SlotTier::Parked, &Executable::of_image(image)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_tells_hits_times_and_waste() {
        let (mut book, kind, now) = (Book::default(), kind("a"), Instant::now());
        let ms = Duration::from_millis;
        for _ in 0..3 {
            book.asked(&kind);
        }
        book.claimed(&kind, ms(500), now);
        book.made(&kind, ms(200), now + ms(700));
        book.unused(&kind, ms(30));
        book.failed(&kind, "no room");
        let present = Present { target: 2, ready: 1, making: 1, waited: ms(70) };
        let load = book.load(&HashMap::from([(kind.clone(), present)]));
        let expect = KindLoad {
            kind: kind.clone(),
            target: 2,
            ready: 1,
            making: 1,
            asked: 3,
            claimed: 1,
            make_ms: 200,
            unused_ms: 600,
            replenish_ms: 700,
            error: "no room".to_owned(),
        };
        assert_eq!(load, [expect]);
        book.made(&kind, ms(100), now);
        let load = book.load(&HashMap::new());
        assert_eq!((load[0].make_ms, load[0].replenish_ms, load[0].error.as_str()), (170, 700, ""));
    }

    #[test]
    fn it_is_bounded_and_forgets_what_nobody_asks_for() {
        let mut book = Book::default();
        let all: Vec<Kind> = (0..REMEMBERED_MAX + 10).map(|n| kind(&format!("i{n}"))).collect();
        all.iter().for_each(|kind| book.asked(kind));
        assert_eq!(book.kinds.len(), REMEMBERED_MAX);
        assert!(!book.kinds.contains_key(&all[0]));
        let present = HashMap::from([(all[20].clone(), Present { target: 1, ..Present::default() })]);
        let load = book.load(&present);
        assert_eq!((load.len(), &load[0].kind, &load[1].kind), (KINDS_MAX, &all[20], all.last().unwrap()));
    }
}
