//! The state of one drone's backends: admitted grants and their stream, waiting asks. Only ever
//! touched under the lock of `drone`; nothing here waits or talks.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jetway_protocol::attach::{DEADLINE_SECONDS, Entry, Stage, ToDrone, stands};
use jetway_protocol::ids::GrantId;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::admission::{Admission, DialVia, NotAdmitted, Using};
use super::drone::Drone;
use super::gate::{Gate, Presence};
use super::ledger::{BackendKey, Ledger};

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) backends: HashMap<BackendKey, Backend>,
    /// Backends that have ended and are not gone from here yet.
    pub(super) closing: HashMap<BackendKey, Weak<Presence>>,
    pub(super) asks: HashMap<u64, Ask>,
    pub(super) next_ask: u64,
    /// The stream that stands, if one does.
    pub(super) stream: Option<Stream>,
    /// Counts streams, so that a grant seen on an earlier one is known to need a new ask.
    pub(super) generation: u64,
    /// Where the newest token said the drone is.
    pub(super) address: String,
    pub(super) first_bytes: HashSet<BackendKey>,
    pub(super) last_used: Instant,
    /// News that cannot wait for others to go with them.
    pub(super) urgent: bool,
    /// The stream's task knows that there are others.
    pub(super) told_of_news: bool,
    pub(super) retired: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    door: DialVia,
    /// When that was sent which the drone has answered last.
    answered_from: Instant,
}

impl Stream {
    pub(super) fn new(door: DialVia, answered_from: Instant) -> Self {
        Self { door, answered_from }
    }

    /// The drone may have taken the stream for broken since, and may give addresses away before
    /// long. Each caller looks at the clock: after a process stood still, others may run before
    /// the stream's own task does.
    pub(super) fn stands(&self, now: Instant) -> bool {
        stands(now.saturating_duration_since(self.answered_from))
    }

    pub(super) fn answered(&mut self, sent_at: Instant) {
        self.answered_from = self.answered_from.max(sent_at);
    }

    pub(super) fn falls_at(&self) -> Instant {
        self.answered_from + Duration::from_secs(DEADLINE_SECONDS)
    }
}

#[derive(Debug)]
pub(super) struct Backend {
    pub(super) presence: Arc<Presence>,
    pub(super) grants: HashMap<GrantId, Admitted>,
}

impl Backend {
    /// Nothing is open under its grants, nor closing under those that were taken back.
    pub(super) fn is_unused(&self) -> bool {
        self.grants.values().all(|admitted| Arc::strong_count(&admitted.gate) == 1)
            && Arc::strong_count(&self.presence) == 1 + self.grants.len()
    }
}

#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) entry: Arc<Entry>,
    pub(super) gate: Arc<Gate>,
    pub(super) generation: u64,
}

/// Hears how far the start is that an ask waits for.
pub type Stages = watch::Sender<Option<Stage>>;

#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: BackendKey,
    pub(super) grant: GrantId,
    /// Absent: no request waits; the ask is whether open uses may stay open.
    pub(super) reply: Option<oneshot::Sender<Result<Admission, NotAdmitted>>>,
    /// For a waiting page.
    pub(super) stages: Option<Stages>,
}

impl State {
    pub(super) fn new(address: String) -> Self {
        Self {
            ledger: Ledger::default(),
            backends: HashMap::new(),
            closing: HashMap::new(),
            asks: HashMap::new(),
            next_ask: 0,
            stream: None,
            generation: 0,
            address,
            first_bytes: HashSet::new(),
            last_used: Instant::now(),
            urgent: false,
            told_of_news: false,
            retired: false,
        }
    }

    /// Whether the stream's task is to be woken for the latest news.
    pub(super) fn must_wake(&mut self) -> bool {
        let knows = std::mem::replace(&mut self.told_of_news, true);
        self.urgent || !knows
    }

    /// The way without a question: the stream stands, the backend is in use, the grant was seen on
    /// this stream.
    pub(super) fn admit_again(
        &mut self,
        drone: &Arc<Drone>,
        key: &BackendKey,
        grant: GrantId,
        now: Instant,
    ) -> Option<Admission> {
        if self.ledger.uses(key, now).0 == 0 {
            return None;
        }
        let (admitted, door) = self.vouched(key, grant, now)?;
        let (entry, gate, door) = (admitted.entry.clone(), admitted.gate.clone(), door.clone());
        self.ledger.begin(key);
        let using = Using::new(drone, key, &gate);
        Some(Admission { entry, gate, door, using })
    }

    /// The drone's answer for the grant, on the stream that stands.
    pub(super) fn vouched(
        &self,
        key: &BackendKey,
        grant: GrantId,
        now: Instant,
    ) -> Option<(&Admitted, &DialVia)> {
        let stream = self.stream.as_ref().filter(|stream| stream.stands(now))?;
        let admitted = self.backends.get(key)?.grants.get(&grant)?;
        (admitted.generation == self.generation).then_some((admitted, &stream.door))
    }

    /// Of everything that is open on a backend.
    pub(super) fn gates(&self, key: &BackendKey) -> impl Iterator<Item = &Gate> {
        let grants = self.backends.get(key).into_iter().flat_map(|backend| backend.grants.values());
        grants.map(|admitted| &*admitted.gate)
    }

    /// Whether something of a backend that has ended is still open here.
    pub(super) fn closes(&self, key: &BackendKey) -> bool {
        self.closing.get(key).is_some_and(|presence| presence.strong_count() > 0)
    }

    pub(super) fn ask(
        &mut self,
        key: &BackendKey,
        grant: GrantId,
        reply: Option<oneshot::Sender<Result<Admission, NotAdmitted>>>,
    ) -> u64 {
        let ask = self.next_ask;
        self.next_ask += 1;
        self.ledger.ask_begins(key);
        self.asks.insert(ask, Ask { key: key.clone(), grant, reply, stages: None });
        ask
    }

    /// The stream stands. Gives the questions to begin it with: what waits, and whether what is
    /// open may stay so.
    pub(super) fn begin_stream(&mut self, stream: Stream) -> Vec<ToDrone> {
        self.generation += 1;
        self.stream = Some(stream);
        let mut rechecks = Vec::new();
        for (key, backend) in &mut self.backends {
            backend.grants.retain(|_, admitted| Arc::strong_count(&admitted.gate) > 1);
            rechecks.extend(backend.grants.keys().map(|grant| (key.clone(), *grant)));
        }
        for (key, grant) in rechecks {
            self.ask(&key, grant, None);
        }
        let mut questions = Vec::new();
        for (ask, asked) in &self.asks {
            questions.push(ask_message(*ask, &asked.key, asked.grant));
            if asked.stages.is_some() {
                questions.push(ToDrone::Follow { ask: *ask, backend: asked.key.backend.clone() });
            }
        }
        questions
    }

    pub(super) fn end_stream(&mut self) {
        self.stream = None;
        let rechecks: Vec<u64> =
            self.asks.iter().filter(|(_, ask)| ask.reply.is_none()).map(|(id, _)| *id).collect();
        for id in rechecks {
            if let Some(ask) = self.asks.remove(&id) {
                self.ledger.ask_ends(&ask.key);
            }
        }
    }

    /// Takes out the backends that nothing uses, and says whether the whole drone has been unused
    /// for `limit`.
    pub(super) fn sweep(&mut self, limit: Duration) -> (Vec<Backend>, bool) {
        let now = Instant::now();
        for backend in self.backends.values_mut() {
            backend.grants.retain(|_, admitted| {
                Arc::strong_count(&admitted.gate) > 1 || admitted.generation == self.generation
            });
        }
        self.closing.retain(|_, presence| presence.strong_count() > 0);
        let unused = |key: &BackendKey| self.backends.get(key).is_none_or(Backend::is_unused);
        let swept = self.ledger.sweep(now, unused);
        let mut dropped = Vec::new();
        for key in swept {
            dropped.extend(self.backends.remove(&key));
        }
        let idle =
            self.ledger.is_empty() && self.asks.is_empty() && now.duration_since(self.last_used) >= limit;
        self.retired |= idle;
        (dropped, idle)
    }

    /// Notes a `ready`; `for_client`: and begins the use that it was asked for.
    pub(super) fn admit(
        &mut self,
        drone: &Arc<Drone>,
        key: &BackendKey,
        grant: GrantId,
        entry: Entry,
        for_client: bool,
    ) -> Option<Admission> {
        let backend = self.backends.entry(key.clone()).or_insert_with(|| Backend {
            presence: Arc::new(Presence::new(drone.notices.clone(), key.clone())),
            grants: HashMap::new(),
        });
        let entry = Arc::new(entry);
        let generation = self.generation;
        let admitted = backend.grants.entry(grant).or_insert_with(|| Admitted {
            entry: entry.clone(),
            gate: Arc::new(Gate::new(backend.presence.clone())),
            generation,
        });
        (admitted.entry, admitted.generation) = (entry.clone(), generation);
        let gate = admitted.gate.clone();
        if !for_client {
            return None;
        }
        let door = self.stream.as_ref()?.door.clone();
        self.ledger.begin(key);
        let using = Using::new(drone, key, &gate);
        Some(Admission { entry, gate, door, using })
    }
}

pub(super) fn ask_message(ask: u64, key: &BackendKey, grant: GrantId) -> ToDrone {
    ToDrone::Ask { ask, backend: key.backend.clone(), fencing_token: key.fencing_token, grant }
}
