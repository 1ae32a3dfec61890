//! Numbers: percentiles of samples, and rounds in which everybody who is compared has a turn. Where samples come from is
//! not its business.

use std::time::Duration;

/// Milliseconds, unless said otherwise.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    pub fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that this share of the samples does not exceed (nearest rank). `None` without samples.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    pub fn median(&self) -> Option<f64> {
        self.percentile(0.5)
    }

    pub fn worst(&self) -> Option<f64> {
        self.percentile(1.0)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// The median of one number a round; rounds without it are left out.
pub fn median_of(rounds: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    rounds.into_iter().flatten().collect::<Samples>().median()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_were_seen() {
        let hundred: Samples = (1..=100).rev().map(f64::from).collect();
        let found = [0.0, 0.5, 0.99, 1.0].map(|share| hundred.percentile(share));
        assert_eq!(found, [1.0, 50.0, 99.0, 100.0].map(Some));
        assert_eq!(Samples::default().median(), None);
        assert_eq!([3.0, 1.0].into_iter().collect::<Samples>().median(), Some(1.0));
    }

    #[test]
    fn a_round_without_a_number_is_left_out() {
        assert_eq!(median_of([Some(3.0), None, Some(1.0), Some(2.0)]), Some(2.0));
        assert_eq!(median_of([None]), None);
    }
}
