//! Who may enter a backend, who waits for it, and who is in it: grants, asks and uses. How proxies are connected is not
//! this module's business.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jetway_protocol::attach::{Entry, Outcome, Stage, ToProxy};
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::GrantId;
use jetway_protocol::state::BackendState;
use jetway_protocol::status::Status;
use jetway_protocol::time::UnixMicros;
use tokio::time::Instant;

use super::Asking;
use super::actor::Actor;
use crate::grants::{Entered, Full};
use crate::journal::Record;
use crate::streams::Stream;

/// A controller may still be delivering the grant that a client already uses, and goes on for so long.
const GRANT_PATIENCE: Duration = Duration::from_secs(30);
/// Asks that wait for one backend, at most.
const WAITING_MAX: usize = 4096;

/// Why a grant was not added.
#[derive(Debug, thiserror::Error)]
pub enum NotAdded {
    #[error("the grant cannot be written to the journal")]
    Journal(#[from] io::Error),
    #[error(transparent)]
    Full(#[from] Full),
}

/// An ask without an answer yet.
#[derive(Debug)]
pub struct Waiting {
    pub asking: Asking,
    /// For asks whose grant is not known: until when it may come.
    pub until: Option<Instant>,
    /// Somebody looks at it, was told this, and hears of the next change.
    pub followed_from: Option<Status>,
    /// Somebody looks at it, or has.
    pub is_a_persons: bool,
}

impl Actor {
    /// The journal has it before the answer says so.
    pub(super) fn add_grant(&mut self, grant: Grant) -> Result<Status, NotAdded> {
        let status = self.status();
        if status.is_ending() {
            return Ok(status);
        }
        let id = grant.id;
        if self.grants.get(id).is_none() {
            let at = UnixMicros::now();
            let idle = &self.idle;
            let evicted = self.grants.evictable(Instant::now(), |held, used, entered| {
                idle.may_be_in_use(held.id, used, entered)
            })?;
            self.journal.append(&Record::Grant { grant: grant.clone(), at })?;
            if let Some(oldest) = evicted {
                self.record(&Record::Revoked { grants: vec![oldest] });
                self.grants.remove(&[oldest]);
                self.tell_revoked(&[oldest]);
                self.refuse_without_grant();
            }
            self.grants.add(grant, at);
        }
        self.idle.connected(id, Instant::now());
        self.answer_waiting();
        Ok(status)
    }

    /// How many grants are gone.
    pub(super) fn revoke(&mut self, user: &str) -> u32 {
        let gone = self.grants.of_user(user);
        if !gone.is_empty() {
            self.record(&Record::Revoked { grants: gone.clone() });
            self.grants.remove(&gone);
            gone.iter().for_each(|grant| self.idle.revoked(*grant));
            self.tell_revoked(&gone);
            self.refuse_without_grant();
        }
        u32::try_from(gone.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn ask(&mut self, asking: Asking) {
        if self.status().is_ending() {
            return refuse(&asking, self.status());
        }
        let known = self.grants.get(asking.grant).is_some();
        if known && let BackendState::Ready { address } = self.state {
            return self.let_in(&asking, address);
        }
        if !known && self.grants.was_removed(asking.grant) {
            return answer_no_grant(&asking);
        }
        if self.waiting.len() >= WAITING_MAX {
            // It comes back with a fresh stream; by then some of them have their answer.
            asking.stream.close();
            return;
        }
        let until = (!known).then(|| Instant::now() + GRANT_PATIENCE);
        self.waiting.push(Waiting { asking, until, followed_from: None, is_a_persons: false });
        self.count_waiting();
    }

    pub(super) fn forget(&mut self, stream: &Stream, ask: u64) {
        self.waiting
            .retain(|waiting| waiting.asking.stream.number() != stream.number() || waiting.asking.ask != ask);
        self.count_waiting();
    }

    pub(super) fn follow(&mut self, stream: &Stream, ask: u64) {
        let stage = self.how_far();
        let mut asked = self.waiting.iter_mut();
        let asked = asked
            .find(|waiting| waiting.asking.stream.number() == stream.number() && waiting.asking.ask == ask);
        if let Some(waiting) = asked {
            (waiting.followed_from, waiting.is_a_persons) = (Some(stage.status), true);
            tell_stage(&waiting.asking, stage);
        }
    }

    /// To whoever looks, once: whoever wants to hear more says so.
    pub(super) fn show_stage(&mut self) {
        let status = self.status();
        let hears = |waiting: &Waiting| waiting.followed_from.is_some_and(|told| told != status);
        if !self.waiting.iter().any(hears) {
            return;
        }
        let stage = self.how_far();
        for waiting in self.waiting.iter_mut().filter(|waiting| hears(waiting)) {
            waiting.followed_from = None;
            tell_stage(&waiting.asking, stage);
        }
    }

    fn how_far(&self) -> Stage {
        let whole = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let usual = self.agent.usual.of(&self.put.spec.executable.image);
        Stage { status: self.status(), elapsed_ms: whole(self.begun.elapsed()), usual_ms: usual.map(whole) }
    }

    pub(super) fn uses(&mut self, stream: &Stream, uses: u32, connections: u32) {
        if !self.agent.streams.is_outdated(stream) {
            if uses > 0 {
                self.told.insert(stream.proxy);
            }
            self.idle.uses(stream.proxy, uses, connections, Instant::now());
        }
        self.forget_the_closed();
    }

    pub(super) fn stream_lost(&mut self, stream: &Stream, closed_at: Instant) {
        if !self.agent.streams.is_outdated(stream) {
            self.idle.stream_lost(stream.proxy, closed_at);
        }
        self.forget_the_closed();
    }

    /// Answers whom it can: those with a grant, once the backend is ready; all others go on waiting.
    pub(super) fn answer_waiting(&mut self) {
        let ready = match self.state {
            BackendState::Ready { address } => Some(address),
            _ => None,
        };
        for mut waiting in std::mem::take(&mut self.waiting) {
            let known = self.grants.get(waiting.asking.grant).is_some();
            match ready.filter(|_| known) {
                Some(address) => {
                    self.let_in(&waiting.asking, address);
                    if waiting.is_a_persons {
                        self.idle.expected(waiting.asking.grant, Instant::now());
                    }
                }
                None => {
                    waiting.until = waiting.until.filter(|_| !known);
                    self.waiting.push(waiting);
                }
            }
        }
        self.count_waiting();
    }

    /// A stop has begun: the next one is for them.
    pub(super) fn refuse_waiting(&mut self) {
        let status = self.status();
        self.waiting.drain(..).for_each(|waiting| refuse(&waiting.asking, status));
        self.count_waiting();
    }

    /// The grants that were waited for did not come.
    pub(super) fn give_up_waiting(&mut self, now: Instant) {
        let over = |waiting: &mut Waiting| waiting.until.is_some_and(|until| until <= now);
        self.waiting.extract_if(.., over).for_each(|waiting| answer_no_grant(&waiting.asking));
        self.count_waiting();
    }

    /// Those who waited for a start with a grant that is gone now.
    fn refuse_without_grant(&mut self) {
        let grants = &self.grants;
        let gone =
            |waiting: &mut Waiting| waiting.until.is_none() && grants.get(waiting.asking.grant).is_none();
        self.waiting.extract_if(.., gone).for_each(|waiting| answer_no_grant(&waiting.asking));
        self.count_waiting();
    }

    fn let_in(&mut self, asking: &Asking, address: SocketAddr) {
        let Some(grant) = self.grants.get(asking.grant) else { return };
        let entry = Entry {
            address,
            protocol: self.put.spec.executable.protocol,
            ports: self.put.spec.executable.ports.clone(),
            user: grant.user.clone(),
            auth: grant.auth.clone(),
            secret: grant.secret.clone(),
            subdomain: self.put.spec.subdomain.as_ref().map(ToString::to_string),
            linger_seconds: self.put.spec.linger_seconds,
            allowed_origins: grant.allowed_origins.clone(),
        };
        let proxy = asking.stream.proxy;
        let answer = ToProxy::Answer { ask: asking.ask, outcome: Outcome::Ready(Box::new(entry)) };
        if !asking.stream.push(answer) {
            return;
        }
        self.told.insert(proxy);
        let spell = self.idle.answered(proxy, asking.grant);
        self.grants.enter(asking.grant, Entered { proxy, spell });
        if self.grants.mark_used(asking.grant) {
            self.record(&Record::Used { grant: asking.grant });
        }
    }

    fn tell_revoked(&self, grants: &[GrantId]) {
        let proxies =
            if self.adopted { self.agent.streams.proxies() } else { self.told.iter().copied().collect() };
        for proxy in proxies {
            let (backend, fencing_token) = (self.id.clone(), self.put.fencing_token);
            self.agent
                .streams
                .push(proxy, ToProxy::Revoked { backend, fencing_token, grants: grants.to_vec() });
        }
    }

    fn forget_the_closed(&mut self) {
        self.waiting.retain(|waiting| !waiting.asking.stream.is_closed());
        self.count_waiting();
    }

    /// Only those with a grant hold the backend: anybody could ask with one that nobody gave.
    fn count_waiting(&mut self) {
        self.idle.set_waiting_asks(self.waiting.iter().filter(|waiting| waiting.until.is_none()).count());
    }
}

fn tell_stage(asking: &Asking, stage: Stage) {
    asking.stream.push(ToProxy::Stage { ask: asking.ask, stage });
}

fn answer_no_grant(asking: &Asking) {
    asking.stream.push(ToProxy::Answer { ask: asking.ask, outcome: Outcome::NoGrant });
}

fn refuse(asking: &Asking, status: Status) {
    asking.stream.push(ToProxy::Answer { ask: asking.ask, outcome: Outcome::Stopping { status } });
}
