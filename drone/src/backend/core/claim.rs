//! Which of the things that are ready a backend starts with, and how its session is handed over: to
//! init, and to an application that runs already. Making what is not ready is `start`'s business,
//! keeping it ready `warm`'s.
//!
//! From the choice of a slot to the write on its line nothing is awaited: one append to the
//! journal, and the session.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use jetway_protocol::claim::{self, Fate, Handover, Next};
use jetway_protocol::init::ToInit;
use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event as Step;
use jetway_protocol::status::{EndReason, Status};
use jetway_protocol::timeline::StageName;
use jetway_protocol::warm::{ClaimRequest, Tier};

use super::line::{Line, SIGNALLED};
use super::{Action, Call, Claim, Core, SIGKILL, TakenSlot, session};
use crate::runtime::ContainerStatus;
use crate::runtime::init_line::INIT_SILENCE_MAX;
use crate::store::journal::{Place, Record};

/// Slots that may die under the claims of one backend before it is the backend's fault.
const SLOTS_LOST_MAX: u32 = 3;

impl Core {
    /// A hot slot or a parked one; otherwise one is made, in a namespace that was made ahead if
    /// there is one.
    pub(super) fn slot_taken(&mut self, taken: Result<Box<TakenSlot>, String>) {
        match taken {
            Ok(taken) => self.use_slot(*taken),
            Err(why) => {
                self.seat.why = vec![why];
                self.start_in_a_new_slot();
            }
        }
    }

    fn use_slot(&mut self, taken: TakenSlot) {
        let TakenSlot { slot, address, tier, image, hello, why } = taken;
        self.seat.unwritten = vec![
            Record::Slot { slot, address, sandbox: None, tier: Some(tier) },
            Record::Image { image: image.clone() },
        ];
        self.seat.place = Some(Place { slot, address, sandbox: None });
        (self.seat.image, self.seat.tier) = (Some(image), tier);
        self.seat.why = if why.is_empty() { Vec::new() } else { vec![why] };
        self.seat.address = Some(self.at_port(address.into()));
        self.seat.stage_start = self.now.wall;
        self.seat.is_new = true;
        self.line.go_on(hello, self.now.instant);
        self.hand_over();
    }

    /// Gives init its session as soon as init is on the line and the address is known. One that is
    /// not sent is sent when init is back.
    pub(super) fn hand_over(&mut self) {
        let next = claim::next(Handover {
            is_awaited: self.is_awaited(),
            is_admitted: self.is_awaited() && self.is_admitted(),
            is_journalled: self.session.claim != Claim::Parked,
        });
        match (next, self.cannot_keep_lease()) {
            (Next::Wait, _) => self.handed_over(true),
            (Next::Journal | Next::Send, Some(why)) => {
                self.fail(EndReason::Internal, why.to_owned());
                self.handed_over(true);
            }
            (Next::Journal, None) => self.write_claim(),
            (Next::Send, None) => self.give_session(),
        }
    }

    /// Its init is on the line and its application does not run.
    fn is_awaited(&self) -> bool {
        let is_there = self.seat.address.is_some() && self.line.hello.is_some();
        let is_over =
            self.status().is_ending() || self.ending.finish.is_some() || self.session.claim == Claim::Running;
        // Once it is the application, only the engine can tell of it: so the engine must know of
        // it.
        let must_be_known = self.put.spec.executable.init == InitMode::Exec && self.seat.is_starting;
        is_there && !is_over && !must_be_known
    }

    fn write_claim(&mut self) {
        let Some(hello) = self.line.hello.as_ref() else { return };
        let nonce = hello.nonce.clone();
        let mut records = std::mem::take(&mut self.seat.unwritten);
        records.push(Record::Claiming { nonce });
        self.act(Action::Claim(records));
    }

    pub(super) fn claimed(&mut self, written: Result<(), String>) {
        if let Err(why) = written {
            self.fail(EndReason::Internal, why);
            return self.handed_over(true);
        }
        self.session.nonce = self.line.hello.as_ref().map(|hello| hello.nonce.clone());
        self.session.claim = Claim::Given;
        self.clocks.look = None;
        self.clocks.start = Some(self.now.instant + self.start_timeout());
        if self.seat.is_starting {
            self.stage_until_now(StageName::Started, String::new());
        }
        self.give_session();
    }

    fn give_session(&mut self) {
        let Some(address) = self.seat.address else { return };
        let session = session::of(&self.id, &self.put, address, self.session_lease());
        self.act(Action::GiveSession(Box::new(session)));
    }

    /// `is_alive`: not so where the session was to be written on a line that is dead.
    pub(super) fn handed_over(&mut self, is_alive: bool) {
        if !std::mem::take(&mut self.seat.is_new) {
            return;
        }
        if !is_alive {
            self.let_go_of_slot();
            self.act(Action::TakeSlot);
        } else if self.status() < Status::Starting {
            self.step(Step::Start, None);
        }
    }

    pub(super) fn application_started(&mut self) {
        if self.session.claim == Claim::Running || self.status().is_ending() {
            return;
        }
        let Some(address) = self.seat.address else { return };
        self.session.claim = Claim::Running;
        self.stage_until_now(StageName::Claimed, self.tier_note());
        if self.status() < Status::Waiting {
            self.step(Step::Wait { address }, None);
        }
        self.check_from_here();
        if let (Some(key), Some(slot)) = (self.put.key.clone(), self.slot()) {
            self.act(Action::NameContainer(slot, key));
        }
    }

    /// Which tier served it, and why none that is faster.
    fn tier_note(&self) -> String {
        let (tier, why) = (self.seat.tier.as_str(), &self.seat.why);
        if why.is_empty() { tier.to_owned() } else { format!("{tier}: {}", why.join("; ")) }
    }

    /// The application runs already, and its session is news to it. One that is not told is ready
    /// as it is.
    pub(super) fn tell_application(&mut self, address: SocketAddr) {
        let hot = self.put.spec.executable.hot.as_ref();
        let Some((path, seconds)) =
            hot.and_then(|hot| Some((hot.claim_path.clone()?, hot.claim_timeout_seconds)))
        else {
            return self.became_ready();
        };
        let told = ClaimRequest {
            backend_id: self.id.clone(),
            fencing_token: self.put.fencing_token,
            key: self.put.key.clone(),
            static_token: self.put.static_token.clone(),
            env: session::environment(&self.id, &self.put),
        };
        // Names, numbers and sorted maps always are JSON.
        let session = Bytes::from(serde_json::to_vec(&told).unwrap_or_default());
        let patience = Duration::from_secs(seconds.into());
        self.call(Call::TellApplication { address, path, session, patience });
    }

    /// It was told of a key: if it did not say that it has taken it, it goes before anybody else
    /// may have that key.
    pub(super) fn was_told(&mut self, answer: Result<(), (EndReason, String)>) {
        if self.status() != Status::Waiting {
            return;
        }
        match answer {
            Ok(()) => self.became_ready(),
            Err((reason, message)) => self.fail(reason, message),
        }
    }

    /// The engine says that nothing runs: the end, unless a slot has died before it could take the
    /// session.
    pub(super) fn gone(&mut self, status: ContainerStatus, output: String, was_cut_off: bool) {
        match self.fate(&status) {
            Fate::NotBegun => self.use_another_slot(),
            // Its connections have ended with it, and what it said last is on its way.
            Fate::Doubtful if self.line.may_say_more(self.now.instant) => {
                self.call(Call::GoneLater { status, output });
            }
            Fate::Doubtful | Fate::Taken => match self.status_for_certain(status.clone()) {
                Some(status) => self.end(status, output, was_cut_off),
                None => self.call(Call::GoneLater { status, output }),
            },
        }
    }

    /// Whether the session was begun. Only a slot that was ready can be replaced.
    fn fate(&self, status: &ContainerStatus) -> Fate {
        let may_be_replaced = matches!(self.seat.tier, Tier::Hot | Tier::Parked)
            && self.ending.failure.is_none()
            && !self.status().is_ending()
            && self.seat.lost < SLOTS_LOST_MAX;
        if may_be_replaced {
            claim::fate(claim::Evidence {
                has_exited: matches!(status, ContainerStatus::Exited { .. }),
                is_adopted: self.doors.adopted,
                writes_ahead: self.line.writes_ahead(),
                was_mentioned: self.session.claim != Claim::Given,
                heard_all: self.line.has_heard_all(),
            })
        } else {
            Fate::Taken
        }
    }

    fn use_another_slot(&mut self) {
        tracing::warn!(backend = %self.id, key = self.key_name(), "a slot died before it took its session; another one is used");
        self.seat.lost += 1;
        self.ending.finish = None;
        self.let_go_of_slot();
        self.act(Action::TakeSlot);
    }

    /// An engine that was killed over a start may know nothing of it, or of the container, while
    /// init runs. Then init's word counts, and its silence.
    fn status_for_certain(&mut self, status: ContainerStatus) -> Option<ContainerStatus> {
        let is_connected = self.line.is_connected();
        let is_doubtful = match status {
            ContainerStatus::Created => true,
            ContainerStatus::Absent => is_connected,
            ContainerStatus::Running { .. } | ContainerStatus::Exited { .. } => false,
        };
        if self.session.claim == Claim::Parked || !is_doubtful {
            return Some(status);
        }
        let now = self.now.instant;
        let is_silent = self.line.silent_since.is_some_and(|since| now - since >= INIT_SILENCE_MAX);
        match self.session.exit_code {
            Some(code) if !is_connected => Some(ContainerStatus::Exited { code, oom_killed: false }),
            None if is_silent => {
                Some(ContainerStatus::Exited { code: SIGNALLED + SIGKILL, oom_killed: false })
            }
            _ => {
                self.tell_init(ToInit::Stop { signal: SIGKILL, grace_ms: 0 });
                None
            }
        }
    }

    /// Nothing ran in it for this backend, and nothing will.
    fn let_go_of_slot(&mut self) {
        if let Some(place) = self.seat.place.take() {
            self.act(Action::LetGo(place));
        }
        (self.session.claim, self.session.nonce, self.seat.address) = (Claim::Parked, None, None);
        (self.clocks.start, self.clocks.look, self.clocks.open_line) = (None, None, None);
        self.drop_line();
    }

    pub(super) fn drop_line(&mut self) {
        self.line = Line::default();
        self.act(Action::DropLine);
    }
}
