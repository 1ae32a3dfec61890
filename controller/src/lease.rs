//! What this controller knows of leases: its own watches, the timeline, and heartbeats that wait for their batch. No state
//! that another replica needs; the specification is `protocol::lease`. Statements are `db/leases.rs`'s, the times at
//! which anything runs `tasks/`'s.

use std::collections::HashMap;
use std::time::Duration;

use jetway_protocol::ids::DroneId;
use jetway_protocol::lease::{LeaseTerms, Seat, TimelineWatch, Watches};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

use crate::db::deadlines::STATEMENT;
use crate::db::leases::{Renewal, Turn};

/// Heartbeats that wait for their batch. More at once means that Postgres does not answer.
const WAITING_MAX: usize = 4096;

pub struct Leases {
    /// What a drone gets that registers. `None`: no lease.
    pub terms: Option<LeaseTerms>,
    /// This process, in the table of controllers.
    pub controller: Uuid,
    /// "Look now" for the task that ends what is known to be dead.
    pub release_nudge: Notify,
    watching: Mutex<Watching>,
    waiting: mpsc::Sender<Waiting>,
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
}

/// A heartbeat, and who waits for its answer.
pub struct Waiting {
    pub renewal: Renewal,
    pub reply: oneshot::Sender<Answer>,
    /// Batches in which its row was somebody else's.
    pub tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Renewed {
        draining: bool,
    },
    /// Its term is over.
    TermOver,
    /// Postgres did not take it, or a later one was before it: it does not count.
    NotNow,
}

#[derive(Debug, Default)]
struct Watching {
    watches: Watches,
    /// When the last tick had its answer.
    last_tick: Option<Duration>,
    timeline: TimelineWatch,
    settled: Option<u32>,
    /// The longest gap between two ticks, by the shortest lease that was read.
    gap_max: Option<Duration>,
    held: usize,
    /// Since when each drone's number has been the same, as far as this process has watched.
    unchanged: HashMap<DroneId, (Seat, Duration)>,
    interruptions: u64,
    ended: u64,
    /// For how long an absent key is not granted yet.
    unsettled_for: Duration,
}

/// What a tick asks for.
#[derive(Debug, Default, PartialEq)]
pub struct Orders {
    pub expired: Vec<(DroneId, Seat)>,
    /// From now on absent keys may be granted on this timeline.
    pub settle: Option<u32>,
}

/// For operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    pub timeline: Option<u32>,
    pub is_settled: bool,
    pub is_synchronous: bool,
    pub last_tick: Option<Duration>,
    pub held: usize,
    pub interruptions: u64,
    pub ended: u64,
}

/// The deadline of a statement about leases: short enough for others in its place before a short
/// lease is over.
pub fn statement_deadline(terms: Option<LeaseTerms>) -> Duration {
    terms.map_or(STATEMENT, |terms| STATEMENT.min(terms.held_for() / 4))
}

impl Leases {
    pub fn new(terms: Option<LeaseTerms>) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        Self {
            terms,
            controller: Uuid::new_v4(),
            release_nudge: Notify::new(),
            watching: Mutex::default(),
            waiting,
            receiver: Mutex::new(Some(receiver)),
        }
    }

    /// The answer comes once the renewal is in Postgres, or is not. `None`: too many wait.
    pub fn renew(&self, renewal: Renewal) -> Option<oneshot::Receiver<Answer>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.try_send(Waiting { renewal, reply, tries: 0 }).ok()?;
        Some(answer)
    }

    /// For the one task that writes the batches.
    pub fn take_receiver(&self) -> Option<mpsc::Receiver<Waiting>> {
        self.receiver.lock().take()
    }

    /// Some read or write of Postgres has failed: what was watched until now proves nothing.
    pub fn interrupted(&self) {
        let mut watching = self.lock();
        watching.watches.interrupted();
        watching.unchanged.clear();
        watching.interruptions += 1;
    }

    /// One tick's answer, and the time that was read after it came.
    pub fn observe(&self, now: Duration, turn: &Turn) -> Orders {
        self.lock().observe(now, turn, self.terms)
    }

    pub fn has_ended_one(&self) {
        self.lock().ended += 1;
    }

    /// That Postgres writes, as the watch has last seen it.
    pub fn timeline(&self) -> Option<u32> {
        self.lock().timeline.present()
    }

    /// How long an absent key is not granted yet, as far as this process knows.
    pub fn unsettled_for(&self) -> Duration {
        self.lock().unsettled_for
    }

    /// For how long a drone's seat has been the same, as far as this process has watched.
    pub fn unchanged_for(&self, drone: DroneId, now: Duration) -> Option<Duration> {
        self.lock().unchanged.get(&drone).map(|(_, since)| now.saturating_sub(*since))
    }

    /// Between two ticks at most.
    pub fn gap_max(&self) -> Duration {
        let read = self.lock().gap_max;
        read.or(self.terms.map(LeaseTerms::gap_max)).unwrap_or(Duration::MAX)
    }

    pub fn shown(&self) -> Shown {
        let watching = self.lock();
        Shown {
            timeline: watching.timeline.present(),
            is_settled: watching.settled.is_some() && watching.timeline.present() == watching.settled,
            is_synchronous: watching.timeline.is_synchronous(),
            last_tick: watching.last_tick,
            held: watching.held,
            interruptions: watching.interruptions,
            ended: watching.ended,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock()
    }
}

impl Watching {
    fn observe(&mut self, now: Duration, turn: &Turn, own: Option<LeaseTerms>) -> Orders {
        let reading = &turn.reading;
        if self.timeline.observe(now, reading.timeline, turn.synchronous) {
            tracing::warn!(
                timeline = reading.timeline,
                "Postgres writes another timeline: it has failed over"
            );
        }
        (self.settled, self.last_tick) = (Some(turn.settled), Some(now));
        self.held = reading.drones.len();
        let terms = || reading.drones.iter().map(|(_, _, terms)| *terms).chain(own);
        let gap_max = terms().map(LeaseTerms::gap_max).min().unwrap_or(Duration::MAX);
        self.gap_max = Some(gap_max);
        let expired = self.watches.tick(now, gap_max, reading);

        let before = std::mem::take(&mut self.unchanged);
        self.unchanged = reading
            .drones
            .iter()
            .map(|(drone, seat, _)| {
                let since =
                    before.get(drone).filter(|(same, _)| same == seat).map_or(now, |(_, since)| *since);
                (*drone, (*seat, since))
            })
            .collect();

        let is_new = turn.settled != reading.timeline;
        let longest = terms().map(LeaseTerms::watched_for).max();
        let wait = self.timeline.unsettled_for(now, longest);
        self.unsettled_for = if is_new { wait } else { Duration::ZERO };
        Orders { expired, settle: (is_new && wait.is_zero()).then_some(reading.timeline) }
    }
}
