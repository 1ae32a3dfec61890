//! The controller's side: a lease is over only after this very process has watched one number, unchanged and without a
//! break, for the lease's length and margin by its own clock.
//!
//! The watch of every drone begins anew with the process, after a gap in its ticks, after any failed read or write of
//! Postgres, and when Postgres' timeline changes. So an outage always leaves each drone a full lease to renew.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::LeaseTerms;
use crate::ids::{DroneId, Term};

/// What a renewal changes: one registration of one drone, and its latest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Seat {
    pub term: Term,
    pub renewal: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The number was new: its drone has been heard of since the last look.
    Alive,
    /// Unchanged since then, by this process's clock.
    Watching { since: Duration },
    /// Unchanged for long enough. The statement that ends the lease names this seat.
    Expired { seat: Seat },
}

/// The watch of one drone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    seen: Option<(Seat, Duration)>,
}

impl Watch {
    /// `now` is read after the answer of Postgres has come; `terms` are the row's.
    pub fn observe(&mut self, now: Duration, seat: Seat, terms: LeaseTerms) -> Verdict {
        match self.seen {
            Some((seen, since)) if seen == seat => {
                if now.saturating_sub(since) >= terms.watched_for() {
                    Verdict::Expired { seat }
                } else {
                    Verdict::Watching { since }
                }
            }
            Some(_) | None => {
                self.seen = Some((seat, now));
                Verdict::Alive
            }
        }
    }

    pub fn interrupted(&mut self) {
        self.seen = None;
    }
}

/// One tick's answer: Postgres' timeline, and each drone whose lease is not over.
#[derive(Debug, Clone)]
pub struct Reading {
    pub timeline: u32,
    pub drones: Vec<(DroneId, Seat, LeaseTerms)>,
}

/// The watches of one controller process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Watches {
    last_tick: Option<Duration>,
    timeline: Option<u32>,
    drones: BTreeMap<DroneId, Watch>,
}

impl Watches {
    /// The drones whose lease may be ended. `gap_max` is the least [`LeaseTerms::gap_max`] that is in use.
    pub fn tick(&mut self, now: Duration, gap_max: Duration, reading: &Reading) -> Vec<(DroneId, Seat)> {
        let gap = self.last_tick.is_some_and(|last| now.saturating_sub(last) > gap_max);
        if gap || self.timeline != Some(reading.timeline) {
            self.interrupted();
        }
        (self.last_tick, self.timeline) = (Some(now), Some(reading.timeline));
        let mut before = std::mem::take(&mut self.drones);
        let mut expired = Vec::new();
        for (id, seat, terms) in &reading.drones {
            let mut watch = before.remove(id).unwrap_or_default();
            if let Verdict::Expired { seat } = watch.observe(now, *seat, *terms) {
                expired.push((*id, seat));
            }
            self.drones.insert(*id, watch);
        }
        expired
    }

    /// A read or write of Postgres has failed, whoever's it was.
    pub fn interrupted(&mut self) {
        self.drones.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn seat(renewal: i64) -> Seat {
        Seat { term: Term(1), renewal }
    }

    #[test]
    fn only_a_number_that_was_watched_all_the_time_expires() {
        let (mut watch, terms) = (Watch::default(), LeaseTerms::default());
        let mut look = |now, renewal| watch.observe(seconds(now), seat(renewal), terms);
        assert_eq!(look(5, 1), Verdict::Alive);
        assert_eq!(look(664, 1), Verdict::Watching { since: seconds(5) });
        assert_eq!(look(665, 1), Verdict::Expired { seat: seat(1) });
        assert_eq!(look(665, 2), Verdict::Alive);
        assert_eq!(look(1324, 2), Verdict::Watching { since: seconds(665) });
        watch.interrupted();
        assert_eq!(watch.observe(seconds(1325), seat(2), terms), Verdict::Alive);
    }

    #[test]
    fn gaps_failures_and_timelines_begin_every_watch_anew() {
        let terms = LeaseTerms::default();
        let drone = DroneId(Uuid::from_u128(1));
        let run = |break_at: u64, how: &dyn Fn(&mut Watches, &mut u32) -> bool| {
            let (mut watches, mut timeline) = (Watches::default(), 1);
            (0..2000).step_by(5).find(|now| {
                if *now == break_at && !how(&mut watches, &mut timeline) {
                    return false;
                }
                let reading = Reading { timeline, drones: vec![(drone, seat(1), terms)] };
                !watches.tick(seconds(*now), seconds(7), &reading).is_empty()
            })
        };
        assert_eq!(run(5000, &|_, _| true), Some(660));
        assert_eq!(run(600, &|_, _| false), Some(1265), "a tick is missing");
        let failed = |watches: &mut Watches, _: &mut u32| {
            watches.interrupted();
            true
        };
        assert_eq!(run(600, &failed), Some(1260));
        let promoted = |_: &mut Watches, timeline: &mut u32| {
            *timeline = 2;
            true
        };
        assert_eq!(run(600, &promoted), Some(1260));
    }

    #[test]
    fn a_drone_that_leaves_the_table_is_forgotten() {
        let (mut watches, terms) = (Watches::default(), LeaseTerms::default());
        let with = Reading { timeline: 1, drones: vec![(DroneId(Uuid::from_u128(1)), seat(1), terms)] };
        let without = Reading { timeline: 1, drones: Vec::new() };
        let gap = seconds(10_000);
        assert!(watches.tick(seconds(0), gap, &with).is_empty());
        assert!(watches.tick(seconds(600), gap, &without).is_empty());
        assert!(watches.tick(seconds(700), gap, &with).is_empty(), "its watch begins anew");
    }

    proptest! {
        /// Whatever is seen and missed: an expired number was the only one seen for the whole time.
        #[test]
        fn expired_means_watched(looks in proptest::collection::vec((0u64..400, 0i64..3, any::<bool>()), 0..40)) {
            let (mut watch, terms) = (Watch::default(), LeaseTerms::default());
            let (mut now, mut same_since) = (Duration::ZERO, None);
            for (step, renewal, failed) in looks {
                now += seconds(step);
                if failed {
                    watch.interrupted();
                    same_since = None;
                }
                let since = match same_since {
                    Some((number, since)) if number == renewal => since,
                    _ => now,
                };
                same_since = Some((renewal, since));
                let expired = matches!(watch.observe(now, seat(renewal), terms), Verdict::Expired { .. });
                prop_assert_eq!(expired, now - since >= terms.watched_for());
            }
        }
    }
}
