//! One drone as its proxy sees it: admitted grants, waiting requests, open uses.
//!
//! Requests and tunnels call in here from their own tasks; the locks are held for a few lines and
//! never across an await. `stream` keeps the WebSocket.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::{Entry, Outcome, Stage, ToDrone};
use jetway_protocol::ids::{DroneId, GrantId};
use jetway_protocol::status::{End, EndReason};
use jetway_protocol::time::UnixMicros;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::{Admission, DialVia, NotAdmitted};
use super::gate::{Closed, Gate, ended_seen};
use super::ledger::BackendKey;
use super::outbox::Notices;
use super::state::{Admitted, Ask, Stages, State, Stream, ask_message};

/// Requests that may wait for one backend. A page's parts, many times over.
const ASKS_PER_BACKEND_MAX: u32 = 512;
/// Backends of which the first byte is remembered as told.
const FIRST_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub struct Drone {
    pub id: DroneId,
    state: Mutex<State>,
    pub(super) notices: Arc<Notices>,
}

enum Begun {
    Admitted(Admission),
    Asked(Waiting, oneshot::Receiver<Result<Admission, NotAdmitted>>),
}

/// A waiting ask; dropping it forgets the ask.
struct Waiting {
    drone: Arc<Drone>,
    ask: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.drone.forget(self.ask);
    }
}

impl Drone {
    pub fn new(id: DroneId, address: String) -> Self {
        Self { id, state: Mutex::new(State::new(address)), notices: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Lets a request through, at once where the drone need not be asked, else when it has
    /// answered; at most `hold`. `stages` hears the start's stages.
    pub async fn enter(
        self: &Arc<Self>,
        key: &BackendKey,
        grant: GrantId,
        hold: Duration,
        stages: Option<&Stages>,
    ) -> Result<Admission, NotAdmitted> {
        let (waiting, answer) = match self.begin(key, grant)? {
            Begun::Admitted(admission) => return Ok(admission),
            Begun::Asked(waiting, answer) => (waiting, answer),
        };
        if let Some(stages) = stages {
            self.follow(waiting.ask, stages.clone());
        }
        let answer = tokio::time::timeout(hold, answer).await;
        let drone_answers = self.state().stream.is_some();
        drop(waiting);
        match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(NotAdmitted::Retired),
            Err(_) => Err(NotAdmitted::TimedOut { drone_answers }),
        }
    }

    fn begin(self: &Arc<Self>, key: &BackendKey, grant: GrantId) -> Result<Begun, NotAdmitted> {
        let now = Instant::now();
        let mut state = self.state();
        if state.retired {
            return Err(NotAdmitted::Retired);
        }
        state.last_used = now;
        if let Some(admission) = state.admit_again(self, key, grant, now) {
            let must_wake = state.must_wake();
            drop(state);
            if must_wake {
                self.notices.wake.notify_one();
            }
            return Ok(Begun::Admitted(admission));
        }
        if state.ledger.asks(key) >= ASKS_PER_BACKEND_MAX {
            return Err(NotAdmitted::Busy);
        }
        let (reply, answer) = oneshot::channel();
        let ask = state.ask(key, grant, Some(reply));
        if state.stream.is_some() {
            self.notices.tell(ask_message(ask, key, grant));
        }
        drop(state);
        Ok(Begun::Asked(Waiting { drone: self.clone(), ask }, answer))
    }

    fn follow(&self, ask: u64, stages: Stages) {
        let mut state = self.state();
        let Some(asked) = state.asks.get_mut(&ask) else { return };
        asked.stages = Some(stages);
        let backend = asked.key.backend.clone();
        // A stream that is not there yet begins with it.
        let is_heard = state.stream.is_some();
        drop(state);
        if is_heard {
            self.notices.tell(ToDrone::Follow { ask, backend });
        }
    }

    pub(super) fn staged(&self, ask: u64, stage: Stage) {
        if let Some(stages) = self.state().asks.get(&ask).and_then(|asked| asked.stages.as_ref()) {
            stages.send_replace(Some(stage));
        }
    }

    fn forget(&self, ask: u64) {
        let mut state = self.state();
        let Some(forgotten) = state.asks.remove(&ask) else { return };
        state.ledger.ask_ends(&forgotten.key);
        let told = state.stream.is_some();
        drop(state);
        if told {
            // Before the news that the wake brings: an answer on its way counts as a use until
            // then.
            self.notices.tell(ToDrone::Forget { ask, backend: Some(forgotten.key.backend) });
        }
    }

    /// Whether the drone has said on the stream that stands that this grant may enter. Without that,
    /// an earlier admission's address may be another session's by now: it must not be dialled.
    pub fn vouches_for(&self, key: &BackendKey, grant: GrantId) -> bool {
        self.entry(key, grant).is_some()
    }

    /// What it has said there of the grant.
    pub fn entry(&self, key: &BackendKey, grant: GrantId) -> Option<Arc<Entry>> {
        self.state().vouched(key, grant, Instant::now()).map(|(admitted, _)| admitted.entry.clone())
    }

    /// Another admission, where the stream of the first is gone: it may be long ago, if an idle
    /// upstream kept the request and then broke, and only a drone that is there knows whose the
    /// address is now.
    pub async fn enter_again(
        self: &Arc<Self>,
        key: &BackendKey,
        grant: GrantId,
        hold: Duration,
    ) -> Result<Option<Admission>, NotAdmitted> {
        if self.vouches_for(key, grant) {
            return Ok(None);
        }
        self.enter(key, grant, hold, None).await.map(Some)
    }

    /// When the stream falls, if nothing more is answered on it.
    pub(super) fn falls_at(&self) -> Option<Instant> {
        self.state().stream.as_ref().map(Stream::falls_at)
    }

    /// The drone has answered the ping of `sent_at`.
    pub(super) fn answered_ping(&self, sent_at: Instant) {
        if let Some(stream) = &mut self.state().stream {
            stream.answered(sent_at);
        }
    }

    pub(super) fn end(&self, key: &BackendKey, linger: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        state.ledger.end(key, linger, now);
        state.urgent |= state.ledger.is_urgent(key, now);
        state.last_used = now;
        let must_wake = state.must_wake();
        drop(state);
        if must_wake {
            self.notices.wake.notify_one();
        }
    }

    /// The first byte of a backend, told once.
    pub fn first_byte(&self, key: &BackendKey, start: UnixMicros, length: Duration) {
        let mut state = self.state();
        if state.first_bytes.contains(key) {
            return;
        }
        if state.first_bytes.len() >= FIRST_BYTES_MAX {
            state.first_bytes.clear();
        }
        state.first_bytes.insert(key.clone());
        drop(state);
        self.notices.tell(ToDrone::FirstByte {
            backend: key.backend.clone(),
            fencing_token: key.fencing_token,
            start,
            length_us: u64::try_from(length.as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// A newer token may know a newer address.
    pub fn hint(&self, address: &str) {
        let mut state = self.state();
        if state.stream.is_none() && state.address != address {
            address.clone_into(&mut state.address);
        }
    }

    pub(super) fn address(&self) -> String {
        self.state().address.clone()
    }

    /// The report in the first message of a new stream.
    pub(super) fn hello(&self) -> Vec<jetway_protocol::attach::Uses> {
        let mut state = self.state();
        let all = state.ledger.take_all(Instant::now());
        state.told_of_news = false;
        drop(state);
        self.notices.outbox().begin_stream();
        all
    }

    /// The stream stands, counted from when its first message was sent: everything that waits is
    /// asked, and whether what is open may stay so.
    pub(super) fn connected(&self, door: DialVia, sent_at: Instant) {
        let mut state = self.state();
        for question in state.begin_stream(Stream::new(door, sent_at)) {
            self.notices.tell(question);
        }
    }

    pub(super) fn disconnected(&self) {
        self.state().end_stream();
    }

    pub(super) fn answered(self: &Arc<Self>, ask: u64, outcome: Outcome) {
        let mut state = self.state();
        let Some(Ask { key, grant, reply, .. }) = state.asks.remove(&ask) else { return };
        let admission = match outcome {
            Outcome::Ready(entry) => Ok(state.admit(self, &key, grant, *entry, reply.is_some())),
            Outcome::Ended { end } => Err(NotAdmitted::Ended(end)),
            Outcome::Unknown => Err(NotAdmitted::Unknown),
            Outcome::NoGrant => Err(NotAdmitted::Revoked),
            Outcome::Stopping { reason, .. } => Err(NotAdmitted::Stopping(reason)),
        };
        state.ledger.ask_ends(&key);
        state.urgent |= state.ledger.is_urgent(&key, Instant::now());
        drop(state);
        match &admission {
            Err(NotAdmitted::Ended(end)) => {
                self.close_all(&key, end);
            }
            Err(NotAdmitted::Revoked) => self.revoked(&key, &[grant]),
            _ => {}
        }
        // A client that has gone by now drops its admission here, outside of the lock.
        if let (Some(reply), Some(admission)) = (reply, admission.transpose()) {
            let _client_has_gone = reply.send(admission);
        }
        self.notices.wake.notify_one();
    }

    pub(super) fn ended(&self, key: &BackendKey, end: &End) {
        let known = self.close_all(key, end);
        // What closes since an earlier word of the same end says so itself, when the last of it is
        // gone.
        if !known && !self.state().closes(key) {
            self.notices.tell(ended_seen(key));
        }
    }

    /// Closes all uses of a backend. False: the backend was not known here.
    fn close_all(&self, key: &BackendKey, end: &End) -> bool {
        let mut state = self.state();
        state.ledger.remove(key);
        state.first_bytes.remove(key);
        let backend = state.backends.remove(key);
        if let Some(backend) = &backend {
            backend.presence.set_ended();
            state.closing.insert(key.clone(), Arc::downgrade(&backend.presence));
        }
        let waiting: Vec<u64> =
            state.asks.iter().filter(|(_, ask)| ask.key == *key).map(|(id, _)| *id).collect();
        let waiting: Vec<Ask> = waiting.iter().filter_map(|id| state.asks.remove(id)).collect();
        drop(state);
        for reply in waiting.into_iter().filter_map(|ask| ask.reply) {
            let _client_has_gone = reply.send(Err(NotAdmitted::Ended(end.clone())));
        }
        let Some(backend) = backend else { return false };
        for admitted in backend.grants.values() {
            admitted.gate.close(Closed::Ended(end.clone()));
        }
        true
    }

    /// The backend will end: connections that close by then close because of that.
    pub(super) fn ending(&self, key: &BackendKey, reason: Option<EndReason>) {
        self.state().gates(key).for_each(|gate| gate.ends(reason));
    }

    /// The backend is about to be stopped: WebSockets are told, the rest of what is open sees its
    /// end.
    pub(super) fn leave(&self, key: &BackendKey) {
        self.state().gates(key).for_each(Gate::leave);
    }

    pub(super) fn revoked(&self, key: &BackendKey, grants: &[GrantId]) {
        let mut state = self.state();
        let Some(backend) = state.backends.get_mut(key) else { return };
        let revoked: Vec<Admitted> = grants.iter().filter_map(|grant| backend.grants.remove(grant)).collect();
        drop(state);
        for admitted in revoked {
            admitted.gate.close(Closed::Revoked);
        }
    }

    /// Takes the notices and the counts that should go out. The notices go first.
    pub(super) fn take_news(&self) -> Vec<ToDrone> {
        let mut state = self.state();
        let news = state.ledger.take_news(Instant::now());
        (state.urgent, state.told_of_news) = (false, false);
        let notices = self.notices.outbox().take();
        drop(state);
        notices.into_iter().chain(news.into_iter().map(ToDrone::Uses)).collect()
    }

    /// Whether news wait that should go out at once; `None`: there are none at all.
    pub(super) fn news(&self) -> Option<bool> {
        let mut state = self.state();
        let notices = !self.notices.outbox().is_empty();
        let news = (notices || state.ledger.has_news()).then_some(notices || state.urgent);
        state.told_of_news = news.is_some();
        news
    }

    pub(super) fn next_linger(&self) -> Option<Instant> {
        self.state().ledger.next_linger()
    }

    /// Forgets backends that nothing uses, and says whether the whole drone has been unused for
    /// `limit`.
    pub(super) fn sweep(&self, limit: Duration) -> bool {
        let (_dropped_without_the_lock, idle) = self.state().sweep(limit);
        idle
    }
}
