//! A rate limit for log lines about events that outsiders cause: a few lines in each period, each
//! with the number of lines left out before it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Lines {
    most: u32,
    period: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    period_ends: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl Lines {
    /// `most` lines in each `period`.
    pub const fn new(most: u32, period: Duration) -> Self {
        Self { most, period, seen: Mutex::new(Seen { period_ends: None, told: 0, left_out: 0 }) }
    }

    /// `Some(left_out)`: log this event, and that so many before it were not logged.
    pub fn tell(&self) -> Option<u64> {
        self.tell_at(Instant::now())
    }

    fn tell_at(&self, now: Instant) -> Option<u64> {
        let mut seen = self.seen.lock();
        if seen.period_ends.is_none_or(|end| end <= now) {
            (seen.period_ends, seen.told) = (Some(now + self.period), 0);
        }
        if seen.told == self.most {
            seen.left_out += 1;
            return None;
        }
        seen.told += 1;
        Some(std::mem::take(&mut seen.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let (lines, start) = (Lines::new(2, Duration::from_secs(10)), Instant::now());
        let told = |second| {
            let told: Vec<_> =
                (0..1000).filter_map(|_| lines.tell_at(start + Duration::from_secs(second))).collect();
            told
        };
        assert_eq!(told(0), [0, 0]);
        assert!(told(9).is_empty());
        assert_eq!(told(10), [1998, 0]);
    }
}
