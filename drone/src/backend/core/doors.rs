//! Who may enter a backend, who waits for it, and who is in it: grants, asks and uses. How proxies
//! are connected is not this module's business.
//!
//! A stream is only compared here, and asked whether it is closed; what is said on it are actions.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use jetway_protocol::attach::{Entry, Outcome, Stage, ToProxy};
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{GrantId, ProxyId};
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{End, EndReason, Status};
use jetway_protocol::time::UnixMicros;
use tokio::time::Instant;

use super::{Action, Asking, Coming, Core, Door, Doors, ProxyWord};
use crate::books::streams::Stream;
use crate::grants::{Entered, Grants};
use crate::idle::{Idle, Verdict};
use crate::store::journal::Record;

/// A controller may still be delivering the grant that a client already uses, and goes on for so
/// long.
const GRANT_PATIENCE: Duration = Duration::from_secs(30);
/// A crowd's grants are looked at so long after they came, and then step by step.
pub const CROWD_PATIENCE: Duration = Duration::from_secs(30);
const CROWD_STEP: Duration = Duration::from_millis(100);
/// Grants that one message to a proxy takes back, at most.
const REVOKED_TOGETHER_MAX: usize = 1024;
/// Asks that wait for one backend, at most.
const WAITING_MAX: usize = 4096;

/// An ask without an answer yet.
#[derive(Debug, Clone)]
pub struct Waiting {
    asking: Asking,
    /// For asks whose grant is not known: until when it may come.
    until: Option<Instant>,
    /// Somebody looks at it, was told this, and hears of the next change.
    followed_from: Option<Told>,
    /// Somebody looks at it, or has.
    is_a_persons: bool,
}

impl Waiting {
    fn is(&self, stream: &Stream, ask: u64) -> bool {
        self.asking.stream.number() == stream.number() && self.asking.ask == ask
    }
}

/// What of a stage makes the next one news.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    status: Status,
    hint: Option<Hint>,
}

impl From<&Stage> for Told {
    fn from(stage: &Stage) -> Self {
        Self { status: stage.status, hint: stage.hint.clone() }
    }
}

impl Doors {
    pub(super) fn new(put: &PutBackend, grants: Grants) -> Self {
        let mut idle = Idle::new(&put.spec);
        if let Some(first) = put.grant.as_ref().filter(|first| grants.is_unused(first.id)) {
            idle.started_for(first.id);
        }
        Self { grants, idle, waiting: Vec::new(), told: HashSet::new(), adopted: false }
    }

    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        self.idle.verdict(now) == Verdict::Due
    }

    pub(super) fn gives_up_at(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|waiting| waiting.until).min()
    }

    /// Only those with a grant hold the backend: anybody could ask with one that was never given.
    fn count_waiting(&mut self) {
        let with_grant = self.waiting.iter().filter(|waiting| waiting.until.is_none());
        self.idle.set_waiting_asks(with_grant.count());
    }

    fn forget(&mut self, stream: &Stream, ask: u64) {
        self.waiting.retain(|waiting| !waiting.is(stream, ask));
        self.count_waiting();
    }

    fn forget_the_closed(&mut self) {
        self.waiting.retain(|waiting| !waiting.asking.stream.is_closed());
        self.count_waiting();
    }

    /// A proxy has its "ready", if it could be sent.
    fn let_in(&mut self, proxy: ProxyId, grant: GrantId, was_sent: bool) {
        if !was_sent {
            return;
        }
        self.told.insert(proxy);
        let spell = self.idle.answered(proxy, grant);
        self.grants.enter(grant, Entered { proxy, spell });
    }

    /// A proxy's present counts.
    fn uses(&mut self, proxy: ProxyId, uses: u32, connections: u32, now: Instant) {
        if uses > 0 {
            self.told.insert(proxy);
        }
        self.idle.uses(proxy, uses, connections, now);
    }
}

impl Core {
    pub(super) fn at_the_door(&mut self, event: Door) {
        let now = self.now.instant;
        match event {
            Door::GrantWritten(coming) => self.grant_written(coming),
            Door::Connected(grant) => {
                self.doors.idle.connected(grant, now);
                self.answer_waiting();
            }
            Door::Revoke(grants) => self.revoke(grants),
            Door::LetIn { proxy, grant, was_sent, is_a_persons } => {
                self.doors.let_in(proxy, grant, was_sent);
                if is_a_persons {
                    self.doors.idle.expected(grant, now);
                }
            }
            Door::MoreToTidy { again } => self.more_to_tidy(now + again),
        }
    }

    pub(super) fn proxy_says(&mut self, word: ProxyWord, is_outdated: bool) {
        match word {
            ProxyWord::Ask(asking) => self.ask(asking),
            ProxyWord::Follow { stream, ask } => self.follow(&stream, ask),
            ProxyWord::Forget { stream, ask } => self.doors.forget(&stream, ask),
            ProxyWord::Uses { stream, uses, connections } => {
                if !is_outdated {
                    self.doors.uses(stream.proxy, uses, connections, self.now.instant);
                }
                self.doors.forget_the_closed();
            }
            ProxyWord::StreamLost { stream, closed_at } => {
                if !is_outdated {
                    self.doors.idle.stream_lost(stream.proxy, closed_at);
                }
                self.doors.forget_the_closed();
            }
        }
    }

    /// What the journal has to have before this grant is added. `None`: it has it.
    pub fn coming(&self, grant: Grant, at: UnixMicros) -> Option<Coming> {
        let Doors { grants, idle, .. } = &self.doors;
        if grants.get(grant.id).is_some() {
            return None;
        }
        let going =
            grants.in_the_way_of(&grant, |held| idle.may_be_in_use(held.grant.id, held.used, &held.entered));
        Some(Coming { grant, at, going })
    }

    fn grant_written(&mut self, coming: Coming) {
        self.let_go_quietly(&coming.going);
        self.doors.grants.add(coming.grant, coming.at);
        if self.doors.grants.are_many() {
            self.clocks.crowd.get_or_insert(self.now.instant + CROWD_PATIENCE);
        }
    }

    fn more_to_tidy(&mut self, at: Instant) {
        let crowd = &mut self.clocks.crowd;
        *crowd = Some(crowd.map_or(at, |known| known.min(at)));
    }

    fn revoke(&mut self, gone: Vec<GrantId>) {
        if !gone.is_empty() {
            self.act(Action::Record(Record::Revoked { grants: gone.clone() }));
            self.let_go(&gone, &gone);
        }
    }

    /// Once a crowd has come in, or has not, its session needs no more memory than others.
    pub(super) fn clear_up_after_a_crowd(&mut self) {
        let Doors { grants, idle, .. } = &self.doors;
        let going = grants.left_over(|held| idle.may_be_in_use(held.grant.id, held.used, &held.entered));
        if !going.is_empty() {
            self.act(Action::Record(Record::Revoked { grants: going.clone() }));
            self.let_go_quietly(&going);
        }
        let patience = if going.is_empty() { CROWD_PATIENCE } else { CROWD_STEP };
        let more = !going.is_empty() || self.doors.grants.are_many();
        self.clocks.crowd = more.then(|| self.now.instant + patience);
        self.act(Action::Tidy { again: CROWD_STEP });
    }

    /// The journal has them no more. `known`: those that a proxy may have let somebody in with.
    fn let_go(&mut self, going: &[GrantId], known: &[GrantId]) {
        if going.is_empty() {
            return;
        }
        self.doors.grants.remove(going);
        going.iter().for_each(|grant| self.doors.idle.revoked(*grant));
        known.chunks(REVOKED_TOGETHER_MAX).for_each(|some| self.tell_revoked(some));
        self.refuse_without_grant();
    }

    /// Proxies need not know of those that were never used.
    fn let_go_quietly(&mut self, going: &[GrantId]) {
        let is_used = |grant: &GrantId| !self.doors.grants.is_unused(*grant);
        let used: Vec<GrantId> = going.iter().copied().filter(is_used).collect();
        self.let_go(going, &used);
    }

    fn ask(&mut self, asking: Asking) {
        if self.status().is_ending() {
            return self.refuse(&asking);
        }
        let known = self.doors.grants.get(asking.grant).is_some();
        if known && let BackendState::Ready { address } = self.life.state {
            return self.let_in(asking, address, false);
        }
        if !known && self.doors.grants.was_removed(asking.grant) {
            return self.answer(&asking, Outcome::NoGrant);
        }
        if self.doors.waiting.len() >= WAITING_MAX {
            // It comes back with a fresh stream; by then some of them have their answer.
            return self.act(Action::Close(asking.stream));
        }
        let until = (!known).then(|| self.now.instant + GRANT_PATIENCE);
        self.doors.waiting.push(Waiting { asking, until, followed_from: None, is_a_persons: false });
        self.doors.count_waiting();
    }

    fn follow(&mut self, stream: &Stream, ask: u64) {
        let stage = self.how_far();
        if let Some(waiting) = self.doors.waiting.iter_mut().find(|waiting| waiting.is(stream, ask)) {
            (waiting.followed_from, waiting.is_a_persons) = (Some(Told::from(&stage)), true);
            let stream = waiting.asking.stream.clone();
            self.act(Action::PushStage { stream, ask, stage });
        }
    }

    /// To whoever looks, once: whoever wants to hear more says so.
    pub(super) fn show_stage(&mut self) {
        if !self.doors.waiting.iter().any(|waiting| waiting.followed_from.is_some()) {
            return;
        }
        let stage = self.how_far();
        let now = Told::from(&stage);
        let hears = |waiting: &&mut Waiting| waiting.followed_from.as_ref().is_some_and(|told| *told != now);
        for waiting in self.doors.waiting.iter_mut().filter(hears) {
            waiting.followed_from = None;
            let (stream, ask) = (waiting.asking.stream.clone(), waiting.asking.ask);
            self.actions.push(Action::PushStage { stream, ask, stage: stage.clone() });
        }
    }

    fn how_far(&self) -> Stage {
        let elapsed = self.now.instant - self.seat.begun;
        Stage {
            status: self.status(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            usual_ms: None,
            hint: self.hint(),
        }
    }

    /// Answers whom it can: those with a grant, once the backend is ready; all others go on
    /// waiting.
    pub(super) fn answer_waiting(&mut self) {
        let ready = match self.life.state {
            BackendState::Ready { address } => Some(address),
            BackendState::Scheduled
            | BackendState::Loading
            | BackendState::Starting
            | BackendState::Waiting { .. }
            | BackendState::Terminating { .. }
            | BackendState::HardTerminating { .. }
            | BackendState::Terminated { .. } => None,
        };
        for mut waiting in std::mem::take(&mut self.doors.waiting) {
            let known = self.doors.grants.get(waiting.asking.grant).is_some();
            match ready.filter(|_| known) {
                Some(address) => self.let_in(waiting.asking, address, waiting.is_a_persons),
                None => {
                    waiting.until = waiting.until.filter(|_| !known);
                    self.doors.waiting.push(waiting);
                }
            }
        }
        self.doors.count_waiting();
    }

    /// A stop has begun: the next one is for them.
    pub(super) fn refuse_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.doors.waiting) {
            self.refuse(&waiting.asking);
        }
        self.doors.count_waiting();
    }

    /// It has ended.
    pub(super) fn tell_waiting(&mut self, end: &End) {
        for waiting in std::mem::take(&mut self.doors.waiting) {
            self.answer(&waiting.asking, Outcome::Ended { end: end.clone() });
        }
    }

    /// The grants that were waited for did not come.
    pub(super) fn give_up_waiting(&mut self) {
        let now = self.now.instant;
        self.answer_no_grant(|waiting, _| waiting.until.is_some_and(|until| until <= now));
    }

    /// Those who waited for a start with a grant that is gone now.
    fn refuse_without_grant(&mut self) {
        self.answer_no_grant(|waiting, grants| {
            waiting.until.is_none() && grants.get(waiting.asking.grant).is_none()
        });
    }

    fn answer_no_grant(&mut self, is_over: impl Fn(&Waiting, &Grants) -> bool) {
        let Doors { grants, waiting, .. } = &mut self.doors;
        let over: Vec<Waiting> = waiting.extract_if(.., |waiting| is_over(waiting, grants)).collect();
        over.iter().for_each(|waiting| self.answer(&waiting.asking, Outcome::NoGrant));
        self.doors.count_waiting();
    }

    fn let_in(&mut self, asking: Asking, address: SocketAddr, is_a_persons: bool) {
        let Some(grant) = self.doors.grants.get(asking.grant) else { return };
        let entry = Box::new(Entry {
            address,
            protocol: self.put.spec.executable.protocol,
            ports: self.put.spec.executable.ports.clone(),
            user: grant.user.clone(),
            auth: grant.auth.clone(),
            secret: grant.secret.clone(),
            subdomain: self.put.spec.subdomain.as_ref().map(ToString::to_string),
            linger_seconds: self.put.spec.linger_seconds,
            allowed_origins: grant.allowed_origins.clone(),
        });
        // Before the answer: the next agent must not take it for one that no proxy knows.
        if self.doors.grants.mark_used(asking.grant) {
            self.act(Action::Record(Record::Used { grant: asking.grant }));
        }
        self.act(Action::LetIn { asking, entry, is_a_persons });
    }

    fn tell_revoked(&mut self, grants: &[GrantId]) {
        let (backend, fencing_token) = (self.id.clone(), self.put.fencing_token);
        let grants = grants.to_vec();
        self.act(Action::TellProxies(ToProxy::Revoked { backend, fencing_token, grants }));
    }

    /// Its sockets may close before the engine confirms the end.
    pub(super) fn tell_ending(&mut self) {
        let (backend, fencing_token) = (self.id.clone(), self.put.fencing_token);
        let reason: Option<EndReason> = self.stop_reason();
        self.act(Action::TellProxies(ToProxy::Ending { backend, fencing_token, reason }));
    }

    fn refuse(&mut self, asking: &Asking) {
        let (status, reason) = (self.status(), self.stop_reason());
        self.answer(asking, Outcome::Stopping { status, reason });
    }

    fn answer(&mut self, asking: &Asking, outcome: Outcome) {
        let answer = ToProxy::Answer { ask: asking.ask, outcome };
        self.act(Action::Push(asking.stream.clone(), answer));
    }
}
