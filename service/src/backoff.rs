//! Exponential backoff with full jitter, and jitter for whatever is periodic.

use std::time::Duration;

use rand::Rng;

#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempt: 0 }
    }

    /// The next wait: random between half and the whole of first × 2^attempt, at most `max`.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    pub async fn wait(&mut self) {
        let wait = self.next_wait();
        tokio::time::sleep(wait).await;
    }
}

/// `period` ± 10 %, so that many processes do not tick together.
pub fn jittered(period: Duration) -> Duration {
    period.mul_f64(rand::rng().random_range(0.9..=1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_stay() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        for attempt in 0..200 {
            let wait = backoff.next_wait();
            assert!(wait <= Duration::from_millis(100), "attempt {attempt}: {wait:?}");
            if attempt > 5 {
                assert!(wait >= Duration::from_millis(50));
            }
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(10));
    }
}
