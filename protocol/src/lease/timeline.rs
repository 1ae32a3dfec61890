//! Postgres' timeline, which every failover raises, in the numbers that must never be given twice.
//!
//! A standby that was not synchronous has lost the last steps of its sequences, too: a term or a fencing token that it gives may have
//! been given before. With the timeline in the high bits it is another number, and a higher one.

use std::time::Duration;

use super::LeaseTerms;

/// Bits of the sequence. What is above them, below 2^53 so that JavaScript can hold it, is the timeline's.
const SEQUENCE_BITS: u32 = 40;
const NUMBER_BITS: u32 = 53;

/// A term, or a fencing token. `None`: one of them has grown out of its bits.
pub fn number(timeline: u32, sequence: i64) -> Option<i64> {
    let fits = (0..1 << SEQUENCE_BITS).contains(&sequence) && timeline < 1 << (NUMBER_BITS - SEQUENCE_BITS);
    fits.then_some((i64::from(timeline) << SEQUENCE_BITS) | sequence)
}

/// The timeline on which a number was made.
pub fn timeline_of(number: i64) -> u32 {
    u32::try_from(number >> SEQUENCE_BITS).unwrap_or(0)
}

/// The timeline in what `pg_walfile_name(pg_current_wal_insert_lsn())` answers.
pub fn timeline_of_wal_file(name: &str) -> Option<u32> {
    let digits = name.get(..8).filter(|_| name.len() == 24)?;
    u32::from_str_radix(digits, 16).ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Since when one controller process has seen the present timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineWatch {
    seen: Option<(u32, Duration)>,
}

impl TimelineWatch {
    /// `now` is read after the answer of Postgres has come.
    pub fn observe(&mut self, now: Duration, timeline: u32) {
        if self.seen.is_none_or(|(seen, _)| seen != timeline) {
            self.seen = Some((timeline, now));
        }
    }

    /// The timeline that was seen for so long that every lease of an earlier one is over: absent keys may be granted on it.
    /// `longest` is the longest lease in use.
    pub fn outwaited(&self, now: Duration, longest: LeaseTerms) -> Option<u32> {
        let (timeline, since) = self.seen?;
        (now.saturating_sub(since) >= longest.watched_for()).then_some(timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_is_outwaited_from_when_it_was_first_seen() {
        let (mut watch, terms, seconds) =
            (TimelineWatch::default(), LeaseTerms::default(), Duration::from_secs);
        assert_eq!(watch.outwaited(seconds(9999), terms), None);
        for (now, timeline) in [(0, 1), (100, 2), (700, 2)] {
            watch.observe(seconds(now), timeline);
        }
        assert_eq!(watch.outwaited(seconds(759), terms), None);
        assert_eq!(watch.outwaited(seconds(760), terms), Some(2));
    }

    #[test]
    fn a_later_timeline_s_numbers_are_higher_and_none_comes_twice() {
        let last = (1 << SEQUENCE_BITS) - 1;
        assert!(number(2, 1).unwrap() > number(1, last).unwrap());
        assert_eq!(timeline_of(number(7, 5).unwrap()), 7);
        assert_eq!(number(8191, last), Some((1 << 53) - 1));
        for (timeline, sequence) in [(8192, 1), (1, 1 << 40), (1, -1)] {
            assert_eq!(number(timeline, sequence), None, "{timeline} {sequence}");
        }
        assert_eq!(timeline_of(99), 0, "from before timelines were in it");
    }

    #[test]
    fn a_wal_file_names_its_timeline() {
        for (name, expect) in [
            ("00000001000000000000000A", Some(1)),
            ("0000001F0000000000000001", Some(31)),
            ("00000001", None),
            ("0000000100000000000000zz", None),
            ("", None),
        ] {
            assert_eq!(timeline_of_wal_file(name), expect, "{name}");
        }
    }
}
