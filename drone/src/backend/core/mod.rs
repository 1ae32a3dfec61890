//! One backend on this drone, as pure decisions: requests, init's words, engine calls' answers and
//! clocks go in as [`Event`]s, [`Action`]s come out. It reads no clock and waits for nothing; the
//! loop (`actor`) carries the actions out.
//!
//! | event | what comes of it |
//! |---|---|
//! | put | a slot that is ready, else a sandbox, else a new container (`claim`, `start`) |
//! | an agent's start | goes on from what journal, init and engine say (`adopt`) |
//! | init is on the line, lease and address are there | the journal has the claim, then init the session (`claim`) |
//! | init's word, or its silence | running, ready, misplaced, about to end (`line`) |
//! | grants, asks, uses | answers to proxies, the idle clock (`doors`) |
//! | idle, lifetime, lease, a request | the stop signal first, everything else after it (`stop`) |
//! | an exit | proxies are told that it is ending; its reason stands until the engine has confirmed it (`stop`) |
//! | the engine says that nothing runs | another slot, or the end (`claim`, `ending`) |
//!
//! Some actions are questions ([`Action`] says which). The answer is an event that comes before the
//! next action is carried out. So a question is the last of its batch, or nothing behind it depends
//! on the answer.

mod adopt;
mod claim;
mod clocks;
mod doors;
mod ending;
mod event;
mod isolation;
mod life;
mod line;
mod session;
mod start;
mod stop;

#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::ids::{BackendId, BootId, FencingToken, ProxyId, SlotId};
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{EndReason, Status, StatusEntry, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
use jetway_protocol::warm::Tier;
use tokio::time::Instant;

use crate::grants::Grants;
use crate::idle::Idle;
use crate::lease::Tenure;
use crate::runtime::Image;
use crate::store::journal::{Place, Record, Remembered};
use clocks::{Clock, Clocks};
use doors::Waiting;
use line::Line;

pub use doors::CROWD_PATIENCE;
pub use event::{
    Action, Asking, Call, Coming, Done, Door, Event, Finish, Now, Parting, Progress, ProxyWord, SIGKILL,
    Snapshot, TakenSlot,
};

#[derive(Debug, Clone)]
pub struct Core {
    id: BackendId,
    put: Box<PutBackend>,
    /// Of the host.
    boot_id: BootId,
    /// `None`: nothing stops it for want of a lease.
    tenure: Option<Tenure>,
    life: Life,
    doors: Doors,
    seat: Seat,
    session: Session,
    line: Line,
    ending: Ending,
    clocks: Clocks,
    /// Of the event that is being handled.
    now: Now,
    /// What has been decided in it so far.
    actions: Vec<Action>,
}

/// What others are shown of it.
#[derive(Debug, Clone)]
struct Life {
    state: BackendState,
    history: Vec<StatusEntry>,
    timeline: Vec<Stage>,
    was_ready: bool,
}

/// Who may enter, and who is in.
#[derive(Debug, Clone)]
struct Doors {
    grants: Grants,
    idle: Idle,
    waiting: Vec<Waiting>,
    /// Proxies that may know the address.
    told: HashSet<ProxyId>,
    /// An agent before this one may have told others.
    adopted: bool,
}

/// Where it runs, or is to.
#[derive(Debug, Clone)]
struct Seat {
    place: Option<Place>,
    tier: Tier,
    /// Why nothing faster served it.
    why: Vec<String>,
    /// What the journal gets together with the claim.
    unwritten: Vec<Record>,
    /// It was ready and was taken just now: if its line is dead, another one is taken.
    is_new: bool,
    /// Slots that died under their claims.
    lost: u32,
    image: Option<Image>,
    address: Option<SocketAddr>,
    /// The engine's part of a start is under way.
    is_starting: bool,
    /// When the backend was put, or found by this agent.
    begun: Instant,
    /// When the stage that is under way began.
    stage_start: UnixMicros,
}

/// What init has of it.
#[derive(Debug, Clone)]
struct Session {
    claim: Claim,
    /// Of the init that was given it.
    nonce: Option<String>,
    listening_elsewhere: Vec<SocketAddr>,
    /// As init said it.
    exit_code: Option<i32>,
}

/// How far the application is bound to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Nothing runs for this backend yet; whatever container there is may be thrown away.
    Parked,
    /// The session was handed over; init has said nothing of it.
    Given,
    /// Init has it, and has not said that the application runs.
    Taken,
    Running,
}

#[derive(Debug, Default, Clone)]
struct Ending {
    finish: Option<Finish>,
    /// What went wrong, where the end is not a stop.
    failure: Option<(EndReason, String)>,
    /// The stop signal went out.
    signalled: bool,
}

impl Core {
    pub fn new(remembered: Remembered, boot_id: BootId, tenure: Option<Tenure>, now: Now) -> Self {
        let lifetime = remembered.put.spec.lifetime_limit_seconds.map(|limit| {
            // Wall-clock stamps only say how much of it has passed; the deadline itself is this
            // process's time.
            let passed = Duration::from_micros(now.wall.since(remembered.put_at));
            now.instant + Duration::from_secs(limit.into()).saturating_sub(passed)
        });
        Self {
            doors: Doors::new(&remembered.put, remembered.grants),
            seat: Seat::new(remembered.place, remembered.tier, remembered.image, now),
            session: Session::new(remembered.nonce),
            life: Life {
                state: remembered.state,
                was_ready: remembered.history.iter().any(|entry| entry.status == Status::Ready),
                history: remembered.history,
                timeline: remembered.timeline,
            },
            id: remembered.id,
            put: remembered.put,
            boot_id,
            tenure,
            line: Line::default(),
            ending: Ending::default(),
            clocks: Clocks { lifetime, ..Clocks::default() },
            now,
            actions: Vec::new(),
        }
    }

    /// What this event makes necessary, in order.
    pub fn on(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.now = now;
        match event {
            Event::Begin => self.act(Action::TakeSlot),
            Event::Resume { proxies_back_by } => self.resume(proxies_back_by),
            Event::ResumeAfterBoot => self.resume_after_a_boot(),
            Event::Time => self.do_what_is_due(),
            Event::LookAtLease => self.look_at_lease(),
            Event::Nudged => self.nudged(),
            Event::Stop { kind, reason } => self.stop(kind, reason),
            Event::Look => self.clocks.look = Some(self.now.instant),
            Event::FirstByte(stage) => self.first_byte(stage),
            Event::Heard(event) => self.heard(event),
            Event::LineLost => self.line_lost(),
            Event::LineOpened => self.line.set(self.now.instant),
            Event::Progressed(progress) => self.progressed(progress),
            Event::Done(done) => self.done(done),
            Event::SignalSent(sent) => self.signal_written(sent),
            Event::SlotTaken(taken) => self.slot_taken(taken),
            Event::SandboxTaken(sandbox) => self.sandbox_taken(sandbox),
            Event::PlaceMade(made) => self.place_made(made),
            Event::Claimed(written) => self.claimed(written),
            Event::SessionSent(sent) => self.handed_over(sent),
            Event::StartStopped { may_exist } => self.start_stopped(may_exist),
            Event::Door(event) => self.at_the_door(event),
            Event::Proxy { word, is_outdated } => self.proxy_says(word, is_outdated),
        }
        std::mem::take(&mut self.actions)
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// About the slot that the backend has now. Once it has another one, the answer is dropped.
    fn call(&mut self, call: Call) {
        let slot = self.slot();
        self.act(Action::Call(slot, call));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Gone { status, output, was_cut_off } => self.gone(status, output, was_cut_off),
            Done::Looked(found) => self.looked(found),
            Done::Signalled(sent) => self.signalled_through_the_engine(sent),
            Done::LineNotOpened(error) => self.line_not_opened(&error),
            Done::Reachable => self.became_ready(),
            Done::Told(answer) => self.was_told(answer),
        }
    }

    /// The proxies that let a client of this backend in: they may know its address.
    pub fn told(&self) -> impl Iterator<Item = ProxyId> + '_ {
        self.doors.told.iter().copied()
    }

    /// An agent before this one may have told others.
    pub fn is_adopted(&self) -> bool {
        self.doors.adopted
    }

    /// Returns with the first thing that needs an action: whether the next one is due may depend on
    /// how that goes.
    fn do_what_is_due(&mut self) {
        if self.status() == Status::Terminated {
            return;
        }
        let now = self.now.instant;
        self.look_at_lease();
        if self.actions.is_empty() {
            self.give_up_waiting();
        }
        if self.actions.is_empty() && self.status() == Status::Ready && self.doors.is_idle(now) {
            // Nothing is awaited between here and the write to init's line.
            self.stop(TerminationKind::Soft, EndReason::Idle);
        }
        while self.actions.is_empty()
            && let Some(clock) = self.clocks.take_due(now)
        {
            self.ran_out(clock);
        }
    }

    fn ran_out(&mut self, clock: Clock) {
        match clock {
            Clock::Lifetime => self.stop(TerminationKind::Soft, EndReason::Lifetime),
            Clock::Start => self.start_timed_out(),
            Clock::Signal => self.signal_through_the_engine(),
            Clock::Grace => self.stop(TerminationKind::Hard, EndReason::External),
            Clock::Look => self.look(),
            Clock::Claim => self.hand_over(),
            Clock::OpenLine => self.open_line(),
            Clock::Crowd => self.clear_up_after_a_crowd(),
        }
    }

    /// When [`Event::Time`] has something to do. The lease has a clock of its own.
    pub fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let idle = self.idle_until(now);
        [self.clocks.next(), idle, self.doors.gives_up_at()].into_iter().flatten().min()
    }

    pub fn status(&self) -> Status {
        self.life.state.status()
    }

    pub fn id(&self) -> &BackendId {
        &self.id
    }

    pub fn put(&self) -> &PutBackend {
        &self.put
    }

    pub fn fencing_token(&self) -> FencingToken {
        self.put.fencing_token
    }

    /// For the log.
    pub fn key_name(&self) -> Option<&str> {
        self.put.key.as_ref().map(|key| key.name.as_str())
    }

    pub fn slot(&self) -> Option<SlotId> {
        self.seat.place.map(|place| place.slot)
    }

    pub fn grants(&self) -> &Grants {
        &self.doors.grants
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(self.put.spec.stop_grace_seconds.into())
    }

    fn start_timeout(&self) -> Duration {
        Duration::from_secs(self.put.spec.start_timeout_seconds.into())
    }
}

impl Seat {
    fn new(place: Option<Place>, tier: Tier, image: Option<Image>, now: Now) -> Self {
        Self {
            place,
            tier,
            why: Vec::new(),
            unwritten: Vec::new(),
            is_new: false,
            lost: 0,
            image,
            address: None,
            is_starting: false,
            begun: now.instant,
            stage_start: now.wall,
        }
    }
}

impl Session {
    fn new(nonce: Option<String>) -> Self {
        Self { claim: Claim::Parked, nonce, listening_elsewhere: Vec::new(), exit_code: None }
    }
}
