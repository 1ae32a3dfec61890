//! Something does not answer: the operator hears of it at once, and then now and then, not with every try.

use std::time::Duration;

use tokio::time::Instant;

/// Between two lines about the same silence.
const TELL_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Silence {
    tell_at: Option<Instant>,
}

impl Silence {
    /// Whether this failed try is one to tell of.
    pub fn is_to_be_told(&mut self, now: Instant) -> bool {
        let due = self.tell_at.is_none_or(|tell_at| tell_at <= now);
        if due {
            self.tell_at = Some(now + TELL_AGAIN);
        }
        due
    }

    /// It answers. True: there was a silence, and it was told.
    pub fn ends(&mut self) -> bool {
        self.tell_at.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_at_once_and_then_now_and_then() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let told_in = |silence: &mut Silence, seconds: std::ops::Range<u64>| {
            seconds
                .filter(|second| silence.is_to_be_told(start + Duration::from_secs(*second)))
                .collect::<Vec<_>>()
        };
        assert!(!silence.ends());
        assert_eq!(told_in(&mut silence, 0..100), [0, 30, 60, 90]);
        assert!(silence.ends());
        assert_eq!(told_in(&mut silence, 100..110), [100]);
    }
}
