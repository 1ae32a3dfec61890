//! Postgres' timeline, which every failover raises, in the numbers that must never be given twice.
//!
//! A standby that was not synchronous has lost the last steps of its sequences, too: a term or a fencing token that it gives may have
//! been given before. With the timeline in the high bits it is another number, and a higher one.

use std::time::Duration;

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

/// What one controller process has seen of the timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineWatch {
    present: Option<u32>,
    since: Duration,
    is_synchronous: bool,
    /// The last that was seen of the timeline before was that it waited for a standby: nothing was
    /// lost with it.
    lost_nothing: bool,
}

impl TimelineWatch {
    /// `now` is read after the answer of Postgres has come. True: Postgres has failed over since
    /// the last one.
    pub fn observe(&mut self, now: Duration, timeline: u32, is_synchronous: bool) -> bool {
        let has_changed = self.present.is_some_and(|present| present != timeline);
        if self.present != Some(timeline) {
            // What the new primary says of standbys is no word about the old one.
            self.lost_nothing = has_changed && self.is_synchronous;
            (self.present, self.since) = (Some(timeline), now);
        }
        self.is_synchronous = is_synchronous;
        has_changed
    }

    pub fn present(&self) -> Option<u32> {
        self.present
    }

    pub fn is_synchronous(&self) -> bool {
        self.is_synchronous
    }

    /// For how long no absent key may be granted yet: a drone whose registration was lost is in no
    /// table, and has outlived its lease once the longest in use is over. `longest`: for how long
    /// that one is watched; `None` where there is no lease.
    pub fn unsettled_for(&self, now: Duration, longest: Option<Duration>) -> Duration {
        match longest {
            Some(longest) if !self.lost_nothing => self.since.saturating_add(longest).saturating_sub(now),
            Some(_) | None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseTerms;

    #[test]
    fn a_timeline_is_outwaited_from_when_it_was_first_seen() {
        let (mut watch, seconds) = (TimelineWatch::default(), Duration::from_secs);
        let longest = Some(LeaseTerms::default().watched_for());
        for (now, timeline, has_changed) in [(0, 1, false), (100, 2, true), (700, 2, false)] {
            assert_eq!(watch.observe(seconds(now), timeline, false), has_changed, "{now}");
        }
        assert_eq!(watch.unsettled_for(seconds(759), longest), seconds(1));
        assert_eq!(watch.unsettled_for(seconds(760), longest), Duration::ZERO);
        assert_eq!(watch.unsettled_for(seconds(100), None), Duration::ZERO, "without a lease");
    }

    #[test]
    fn a_synchronous_primary_has_lost_nothing() {
        let (mut watch, seconds) = (TimelineWatch::default(), Duration::from_secs);
        let longest = Some(seconds(60));
        watch.observe(seconds(0), 1, true);
        assert_eq!(watch.unsettled_for(seconds(0), longest), seconds(60), "what was before is not known");
        watch.observe(seconds(10), 2, false);
        assert_eq!(watch.unsettled_for(seconds(10), longest), Duration::ZERO);
        watch.observe(seconds(20), 3, true);
        assert_eq!(watch.unsettled_for(seconds(20), longest), seconds(60), "2 waited for no standby");
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
