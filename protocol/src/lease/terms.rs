//! How long a lease is, and what must hold between its parts.
//!
//! ```text
//! the drone's clock, from when the acknowledged renewal was sent:
//! 0 ........................ length - margin - grace .... length - margin
//!   renewals may come            stop signals                 gone
//!
//! the controller's clock, from when it first saw that renewal's number:
//! 0 ............................................................... length + margin
//!                                                                   the keys are free
//! ```
//!
//! *The trade-off.* A long lease outlives a long outage of Postgres or of all controllers, and makes a host's sudden death
//! block its keys for `length + margin` (until it boots again, or `forget` is said); a short lease the other way round.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Each clock runs within one part in so many of true time: chrony slews a clock by up to 83,333 ppm unless told
/// otherwise, the kernel's own discipline by 500, quartz is off by 100.
pub const CLOCK_RATE_PARTS: u32 = 12;
/// Longer than a database's failover.
pub const LENGTH_DEFAULT: Duration = Duration::from_secs(600);
/// Three heartbeats fit. Anything below two minutes is for tests: an application then has less than the usual grace.
pub const LENGTH_MIN: Duration = Duration::from_secs(6);
pub const LENGTH_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a kill may take, from the clock's deadline to "not running", on a machine that is busy.
const SLACK_MAX: Duration = Duration::from_secs(10);
/// Room for the usual grace beside it.
const MARGIN_USUAL: Duration = Duration::from_secs(20);
/// A short lease has no room for that.
const MARGIN_PARTS_SHORT: u32 = 6;
/// What two clocks may drift apart by is a part of the length; half the slack is added to each side.
const MARGIN_PARTS: u32 = 10;
/// So many heartbeats may be lost in a row before anything is stopped.
const HEARTBEATS_MIN: u32 = 4;

/// The length and margin of a drone's lease. `Deserialize` goes through the same check as [`LeaseTerms::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct LeaseTerms {
    length: Duration,
    margin: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTerms {
    #[error("a lease's length is a number of seconds, or of minutes or hours with an m or h, such as 10m")]
    NotADuration,
    #[error("a lease is {LENGTH_MIN:?} to {} h long, not {length:?}", LENGTH_MAX.as_secs() / 3600)]
    Length { length: Duration },
    #[error("a margin of {margin:?} does not suit a lease of {length:?}: {} would", Self::better(*length))]
    Margin { length: Duration, margin: Duration },
}

impl LeaseTerms {
    /// The margin that goes with a length: a tenth; but 20 s (10 for the usual grace, 10 for a slow kill) where there is room,
    /// and enough for two clocks in between.
    pub fn of_length(length: Duration) -> Result<Self, InvalidTerms> {
        Self::new(length, margin_of(length))
    }

    /// Holds for every value of this type: the drone's processes are gone a slack before any controller frees their keys,
    /// although its clock is as slow and the controller's as fast as is believed possible:
    /// `(length - margin) / (1 - rate) + slack <= (length + margin) / (1 + rate)`, rate = 1 / [`CLOCK_RATE_PARTS`].
    pub fn new(length: Duration, margin: Duration) -> Result<Self, InvalidTerms> {
        if length < LENGTH_MIN || length > LENGTH_MAX {
            return Err(InvalidTerms::Length { length });
        }
        let terms = Self { length, margin: margin.min(length) };
        if !terms.outlasts_two_clocks() || terms.margin * 4 > length {
            return Err(InvalidTerms::Margin { length, margin });
        }
        Ok(terms)
    }

    fn outlasts_two_clocks(self) -> bool {
        let (slow, fast) = (u128::from(CLOCK_RATE_PARTS - 1), u128::from(CLOCK_RATE_PARTS + 1));
        let parts = u128::from(CLOCK_RATE_PARTS);
        let gone = self.held_for().as_nanos() * parts * fast;
        let free = self.watched_for().as_nanos() * parts * slow;
        gone + self.slack().as_nanos() * slow * fast <= free
    }

    pub fn length(self) -> Duration {
        self.length
    }

    pub fn margin(self) -> Duration {
        self.margin
    }

    /// From sending the acknowledged renewal until the drone's keyed backends are gone, by its clock.
    pub fn held_for(self) -> Duration {
        self.length - self.margin
    }

    /// For so long one number is watched, by a controller's clock, before its drone's keys are free.
    pub fn watched_for(self) -> Duration {
        self.length + self.margin
    }

    /// Of two leases the one that is watched for longer.
    pub fn or_longer(self, other: Self) -> Self {
        if self.watched_for() > other.watched_for() { self } else { other }
    }

    /// What a kill may be late by.
    pub fn slack(self) -> Duration {
        SLACK_MAX.min(self.margin / 2)
    }

    /// The most that an application gets between stop signal and kill when its drone is cut off.
    pub fn grace_max(self) -> Duration {
        self.margin - self.slack()
    }

    /// A backend's own grace, as far as the margin has room for it.
    pub fn grace(self, wanted: Duration) -> Duration {
        wanted.min(self.grace_max())
    }

    /// The usual time between heartbeats, shortened where that many of them do not fit into the lease.
    pub fn heartbeat(self, usual: Duration) -> Duration {
        usual.min((self.held_for() - self.grace_max()) / HEARTBEATS_MIN)
    }

    /// The most that may lie between two ticks of a watch; more is a gap, and every watch begins anew.
    pub fn gap_max(self) -> Duration {
        self.margin
    }

    /// Too short for an outage that is worth surviving: said in the log at the start.
    pub fn is_for_tests(self) -> bool {
        self.grace_max() < Duration::from_secs(10)
    }
}

/// In whole milliseconds, as the wire has it.
fn margin_of(length: Duration) -> Duration {
    let for_clocks = length / CLOCK_RATE_PARTS + SLACK_MAX / 2;
    let wanted = (length / MARGIN_PARTS).max(for_clocks).max(MARGIN_USUAL).min(length / MARGIN_PARTS_SHORT);
    Duration::from_millis(u64::try_from(wanted.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

impl InvalidTerms {
    fn better(length: Duration) -> String {
        format!("{:?}", margin_of(length))
    }
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self { length: LENGTH_DEFAULT, margin: LENGTH_DEFAULT / MARGIN_PARTS }
    }
}

/// The setting: `600`, `600s`, `10m`, `1h`.
impl FromStr for LeaseTerms {
    type Err = InvalidTerms;

    fn from_str(text: &str) -> Result<Self, InvalidTerms> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let seconds = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(InvalidTerms::NotADuration),
        };
        let number: u32 = number.parse().map_err(|_| InvalidTerms::NotADuration)?;
        Self::of_length(Duration::from_secs(u64::from(number) * seconds))
    }
}

impl fmt::Display for LeaseTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a lease of {:?} with a margin of {:?}", self.length, self.margin)
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    length_ms: u64,
    margin_ms: u64,
}

impl TryFrom<Wire> for LeaseTerms {
    type Error = InvalidTerms;

    fn try_from(wire: Wire) -> Result<Self, InvalidTerms> {
        Self::new(Duration::from_millis(wire.length_ms), Duration::from_millis(wire.margin_ms))
    }
}

impl From<LeaseTerms> for Wire {
    fn from(terms: LeaseTerms) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { length_ms: ms(terms.length), margin_ms: ms(terms.margin) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_setting_and_what_follows_from_it() {
        for (text, length, margin, grace) in [
            ("600", 600_000, 60_000, 50_000),
            ("10m", 600_000, 60_000, 50_000),
            ("1h", 3_600_000, 360_000, 350_000),
            ("5m", 300_000, 30_000, 20_000),
            ("200", 200_000, 21_667, 11_667),
            ("120s", 120_000, 20_000, 10_000),
            ("12", 12_000, 2000, 1000),
            ("6", 6000, 1000, 500),
        ] {
            let terms: LeaseTerms = text.parse().unwrap();
            let found = [terms.length(), terms.margin(), terms.grace_max()].map(|part| part.as_millis());
            assert_eq!(found, [length, margin, grace], "{text}");
        }
        assert_eq!("10m".parse(), Ok(LeaseTerms::default()));
        assert!(!LeaseTerms::default().is_for_tests());
        assert!("1m".parse::<LeaseTerms>().unwrap().is_for_tests());
    }

    #[test]
    fn a_bad_setting_is_refused_in_one_line() {
        for bad in ["", "m", "-1", "5", "1d", "25h", "1.5m", "10 m", "99999999999999999999"] {
            let error = bad.parse::<LeaseTerms>().unwrap_err().to_string();
            assert!(error.starts_with("a lease") && !error.contains('\n'), "{error}");
        }
        let error = LeaseTerms::new(seconds(600), seconds(54)).unwrap_err().to_string();
        assert_eq!(
            error, "a margin of 54s does not suit a lease of 600s: 60s would",
            "too little for two clocks"
        );
        assert!(LeaseTerms::new(seconds(600), seconds(151)).is_err(), "nothing would be left");
        let wild = format!(r#"{{"length_ms":{0},"margin_ms":{0}}}"#, u64::MAX);
        assert!(serde_json::from_str::<LeaseTerms>(&wild).is_err());
    }

    #[test]
    fn heartbeats_fit_into_every_lease() {
        let usual = seconds(2);
        assert_eq!(LeaseTerms::default().heartbeat(usual), usual);
        let short = LeaseTerms::of_length(LENGTH_MIN).unwrap();
        assert!(short.heartbeat(usual) < usual && short.heartbeat(usual) > seconds(1));
    }

    proptest! {
        /// The inequality that the whole lease stands on, at both ends of what clocks are believed to do.
        #[test]
        fn who_is_cut_off_is_gone_before_its_keys_are_free(ms in 6_000u64..86_400_000) {
            let terms = LeaseTerms::of_length(Duration::from_millis(ms)).unwrap();
            let parts = f64::from(CLOCK_RATE_PARTS);
            let gone = terms.held_for().as_secs_f64() / (1.0 - 1.0 / parts);
            let free = terms.watched_for().as_secs_f64() / (1.0 + 1.0 / parts);
            prop_assert!(gone + terms.slack().as_secs_f64() <= free, "{gone} {free}");
            prop_assert!(terms.grace_max() + terms.slack() <= terms.margin());
            prop_assert!(terms.margin() < terms.held_for());
            let wire = serde_json::to_string(&terms).unwrap();
            let back = serde_json::from_str::<LeaseTerms>(&wire).unwrap();
            prop_assert_eq!(back.length(), terms.length());
        }
    }
}
