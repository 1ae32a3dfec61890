//! Which of the things that are ready a backend starts with, and how its session is handed over: to init, and to an application
//! that runs already. Making what is not ready is `start`'s business, keeping it ready `warm`'s.
//!
//! From the choice of a slot to the write on its line nothing is awaited: one append to the journal, and the session.

use std::time::Duration;

use bytes::Bytes;
use jetway_protocol::init::ToInit;
use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event;
use jetway_protocol::status::{EndReason, Status};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::StageName;
use jetway_protocol::warm::{ClaimRequest, Tier};
use tokio::time::Instant;

use super::actor::{Actor, Claim};
use super::engine::{self, SIGKILL};
use super::line::{Line, SIGNALLED, SILENCE_MAX};
use super::start::unwritten;
use super::{ready, session};
use crate::journal::{Place, Record};
use crate::runtime::ContainerStatus;
use crate::teardown;
use crate::warm::{self, ReadySlot, Taken};

/// Slots that may die under the claims of one backend before it is the backend's fault.
const SLOTS_LOST_MAX: u32 = 3;

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandedOver {
    /// Something is missing that may come, or the backend is about to end.
    NotNow,
    Sent,
    /// The line is dead, and nothing went out on it.
    NotSent,
}

impl Actor {
    pub(super) fn begin(&mut self) {
        warm::asked(&self.agent, &self.put.spec.executable);
        self.start_with_what_is_ready();
    }

    /// A hot slot, a parked one, a namespace that was made ahead, nothing: the first that serves.
    fn start_with_what_is_ready(&mut self) {
        loop {
            match warm::take_slot(&self.agent, &self.id, &self.put.spec.executable) {
                Ok(taken) => {
                    if self.use_slot(taken) {
                        return;
                    }
                }
                Err(why) => {
                    self.why = vec![why];
                    return self.start_in_a_new_slot();
                }
            }
        }
    }

    /// False: nobody could be given the session, and nothing was sent.
    fn use_slot(&mut self, taken: Taken) -> bool {
        let Taken { tier, slot, why } = taken;
        let ReadySlot { slot, address, image, line, hello, .. } = slot;
        let place = Place { slot, address, sandbox: None };
        self.unwritten = vec![
            Record::Slot { slot, address, sandbox: None, tier: Some(tier) },
            Record::Image { image: image.clone() },
        ];
        (self.place, self.image, self.tier) = (Some(place), Some(image), tier);
        self.why = if why.is_empty() { Vec::new() } else { vec![why] };
        self.address = Some(self.at_port(address.into()));
        self.stage_start = UnixMicros::now();
        self.line.go_on(line, hello);
        if self.hand_over() == HandedOver::NotSent {
            self.let_go_of_slot();
            return false;
        }
        if self.status() < Status::Starting {
            self.step(Event::Start, None);
        }
        true
    }

    pub(super) fn claim_if_possible(&mut self) {
        let _not_sent_is_sent_when_init_is_back = self.hand_over();
    }

    /// Gives init its session as soon as init is on the line and the address is known.
    fn hand_over(&mut self) -> HandedOver {
        let Some(address) = self.address else { return HandedOver::NotNow };
        let Some(hello) = self.line.hello.as_ref() else { return HandedOver::NotNow };
        if self.status().is_ending() || self.finish.is_some() || self.claim == Claim::Running {
            return HandedOver::NotNow;
        }
        // Once it is the application, only the engine can tell of it: so the engine must know of it.
        if self.put.spec.executable.init == InitMode::Exec && self.starting.is_some() {
            return HandedOver::NotNow;
        }
        let nonce = hello.nonce.clone();
        if !self.is_admitted() {
            return HandedOver::NotNow;
        }
        if let Some(why) = self.cannot_keep_lease() {
            self.fail(EndReason::Internal, why.to_owned());
            return HandedOver::NotNow;
        }
        if self.claim == Claim::Parked {
            // Before the session leaves: without this record, nothing ever ran here.
            let mut records = std::mem::take(&mut self.unwritten);
            records.push(Record::Claiming { nonce: nonce.clone() });
            if let Err(error) = self.journal.append_all(&records) {
                self.fail(EndReason::Internal, unwritten(&error));
                return HandedOver::NotNow;
            }
            self.nonce = Some(nonce);
            self.claim = Claim::Given;
            self.clocks.look = None;
            let patience = Duration::from_secs(self.put.spec.start_timeout_seconds.into());
            self.clocks.start = Some(Instant::now() + patience);
            if self.starting.is_some() {
                self.stage_until_now(StageName::Started, self.stage_start, "");
                self.stage_start = UnixMicros::now();
            }
        }
        let session = session::of(&self.id, &self.put, address, self.session_lease());
        if self.line.send(ToInit::Session(Box::new(session))) {
            HandedOver::Sent
        } else {
            HandedOver::NotSent
        }
    }

    pub(super) fn application_started(&mut self) {
        if self.claim == Claim::Running || self.status().is_ending() {
            return;
        }
        let Some(address) = self.address else { return };
        self.claim = Claim::Running;
        self.stage_until_now(StageName::Claimed, self.stage_start, &self.tier_note());
        self.stage_start = UnixMicros::now();
        if self.status() < Status::Waiting {
            self.step(Event::Wait { address }, None);
        }
        self.check_from_here();
    }

    /// Which tier served it, and why none that is faster.
    fn tier_note(&self) -> String {
        let tier = self.tier.as_str();
        if self.why.is_empty() { tier.to_owned() } else { format!("{tier}: {}", self.why.join("; ")) }
    }

    /// The application runs already, and its session is news to it. One that is not told is ready as it is.
    pub(super) fn tell_application(&mut self) {
        let Some(address) = self.address else { return };
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
        let told = Bytes::from(serde_json::to_vec(&told).unwrap_or_default());
        self.jobs.push(ready::tell(address, path, told, Duration::from_secs(seconds.into())));
    }

    /// It was told of a key: if it did not say that it has taken it, it goes before anybody else may have that key.
    pub(super) fn was_told(&mut self, answer: Result<(), (EndReason, String)>) {
        if self.status() != Status::Waiting {
            return;
        }
        match answer {
            Ok(()) => self.became_ready(),
            Err((reason, message)) => self.fail(reason, message),
        }
    }

    /// The engine says that nothing runs: the end, unless a slot has died before it could take the session.
    pub(super) fn gone(&mut self, status: ContainerStatus, output: String) {
        if !self.is_slot_lost() {
            return match self.status_for_certain(status.clone()) {
                Some(status) => self.end(status, output),
                None => self.jobs.push(engine::gone_later(status, output)),
            };
        }
        tracing::warn!(backend = %self.id, "a slot died before it took its session; another one is used");
        self.slots_lost += 1;
        self.finish = None;
        self.let_go_of_slot();
        self.start_with_what_is_ready();
    }

    /// An engine that was killed over a start may know nothing of it, or of the container, while init runs. Then init's word counts,
    /// and its silence.
    fn status_for_certain(&mut self, status: ContainerStatus) -> Option<ContainerStatus> {
        let is_connected = self.line.is_connected();
        let is_doubtful = match status {
            ContainerStatus::Created => true,
            ContainerStatus::Absent => is_connected,
            ContainerStatus::Running { .. } | ContainerStatus::Exited { .. } => false,
        };
        if self.claim == Claim::Parked || !is_doubtful {
            return Some(status);
        }
        let is_silent = self.line.silent_since.is_some_and(|since| since.elapsed() >= SILENCE_MAX);
        match self.exit_code {
            Some(code) if !is_connected => Some(ContainerStatus::Exited { code, oom_killed: false }),
            None if is_silent => {
                Some(ContainerStatus::Exited { code: SIGNALLED + SIGKILL, oom_killed: false })
            }
            _ => {
                self.line.send(ToInit::Stop { signal: SIGKILL, grace_ms: 0 });
                None
            }
        }
    }

    /// Init says that the application runs before anything else, and its line is read to the end: what was not said did not happen.
    fn is_slot_lost(&mut self) -> bool {
        while let Some(event) = self.line.heard_already() {
            self.heard(Some(event));
        }
        matches!(self.tier, Tier::Hot | Tier::Parked)
            && self.claim == Claim::Given
            && !self.adopted
            && !self.line.is_connected()
            && self.failure.is_none()
            && !self.status().is_ending()
            && self.put.spec.executable.init != InitMode::Exec
            && self.slots_lost < SLOTS_LOST_MAX
    }

    /// Nothing ran in it for this backend, and nothing will.
    fn let_go_of_slot(&mut self) {
        if let Some(place) = self.place.take() {
            teardown::unused(&self.agent, place);
        }
        (self.claim, self.nonce, self.address) = (Claim::Parked, None, None);
        (self.clocks.start, self.clocks.look, self.clocks.open_line) = (None, None, None);
        self.line = Line::default();
    }
}
