//! From a spec to a container with an init that waits: what the backend does with what the engine's
//! part reports. That part is a task of its own (`start_task`), so that a stop never waits for it.

use std::net::{IpAddr, SocketAddr};

use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event as Step;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use jetway_protocol::warm::Tier;

use super::{Action, Call, Claim, Core, Finish, Progress};
use crate::runtime::init_line::INIT_SILENCE_MAX;
use crate::runtime::{ContainerStatus, Image};
use crate::store::journal::{Place, Record};
use crate::warm::Sandbox;

impl Core {
    /// In a namespace that was made ahead, if there is one. What an earlier try left in the place
    /// of before goes first.
    pub(super) fn start_in_a_new_slot(&mut self) {
        if self.put.spec.executable.network_name.is_none() {
            self.act(Action::TakeSandbox);
        } else {
            self.start_in(None);
        }
    }

    pub(super) fn sandbox_taken(&mut self, sandbox: Option<Sandbox>) {
        if sandbox.is_none() {
            self.seat.why.push("no sandbox was ready".to_owned());
        }
        self.start_in(sandbox);
    }

    fn start_in(&mut self, sandbox: Option<Sandbox>) {
        if self.status() < Status::Loading {
            self.step(Step::Load, None);
        }
        self.act(Action::MakePlace(sandbox));
    }

    pub(super) fn place_made(&mut self, made: Result<Place, (EndReason, String)>) {
        let place = match made {
            Ok(place) => place,
            Err((reason, message)) => return self.fail(reason, message),
        };
        self.seat.tier = place.tier();
        if let Some(leftover) = self.seat.place.replace(place) {
            // Nothing of the session ran there, so the start does not wait for an engine that
            // cannot remove it.
            self.act(Action::LetGo(leftover));
        }
        self.seat.is_starting = true;
        let give_up = self.seat.begun + self.start_timeout();
        self.act(Action::Start { place, give_up });
    }

    pub(super) fn progressed(&mut self, progress: Progress) {
        match progress {
            Progress::Image(image) => self.image_is_there(image),
            Progress::Created(stage) => {
                self.stage(stage);
                self.seat.stage_start = self.now.wall;
            }
            Progress::Started(address, stage) => self.container_started(address, stage),
            Progress::Ended => {
                self.drop_start();
                self.finish(Finish::Await);
            }
            Progress::SandboxGone => {
                self.start_anew("its sandbox was gone");
                self.start_in(None);
            }
            Progress::Failed(reason, message) => self.fail(reason, message),
            // Its init is on the line and has its session: nothing of it needs the engine now.
            Progress::Unreachable(_) | Progress::Forgotten if self.session.claim != Claim::Parked => {
                self.drop_start();
                self.clocks.look = Some(self.now.instant);
            }
            Progress::Unreachable(message) => self.fail(EndReason::StartTimeout, message),
            // Without its line and its directory, whatever runs there ends by itself.
            Progress::Forgotten => {
                self.start_anew("the engine was lost over its start");
                self.start_in_a_new_slot();
            }
            Progress::Over { agent_stops: true } => self.drop_start(),
            Progress::Over { agent_stops: false } => {
                self.fail(EndReason::Internal, "the start broke off".to_owned());
            }
        }
    }

    fn container_started(&mut self, address: IpAddr, stage: Stage) {
        self.drop_start();
        // Init was on the line before the engine had answered: the container has been running since
        // then.
        if !self.has_stage(StageName::Started) {
            self.stage(stage);
        }
        // Init may have been quicker than the engine's answer; then it has its session already.
        if self.session.claim == Claim::Parked {
            self.seat.stage_start = self.now.wall;
            self.seat.address = Some(self.at_port(address));
        }
        self.hand_over();
        if !self.line.is_connected() {
            self.clocks.look = Some(self.now.instant + INIT_SILENCE_MAX);
            self.line.silent_since = Some(self.now.instant);
        }
    }

    /// Nothing that the task of the start reports counts any more.
    fn drop_start(&mut self) {
        self.seat.is_starting = false;
        self.act(Action::DropStart);
    }

    fn start_anew(&mut self, why: &str) {
        self.drop_start();
        self.drop_line();
        self.seat.why.push(why.to_owned());
    }

    fn image_is_there(&mut self, image: Image) {
        if let Some((bytes, took)) = image.pulled {
            let length_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let start = UnixMicros(self.now.wall.0.saturating_sub_unsigned(length_us));
            // Not every engine says how much came.
            let note = if bytes > 0 { format!("{bytes} bytes") } else { String::new() };
            self.stage(Stage { stage: StageName::Pulled, start, length_us, note });
        }
        self.act(Action::Record(Record::Image { image: image.clone() }));
        self.seat.image = Some(image);
        if self.status() < Status::Starting {
            self.step(Step::Start, None);
        }
        if let (None, Some(place)) = (&self.put.spec.executable.network_name, self.seat.place) {
            self.seat.address = Some(self.at_port(IpAddr::V4(place.address)));
        }
    }

    pub(super) fn at_port(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.put.spec.executable.port)
    }

    /// Where init cannot say "ready", or the spec wants more than a listening socket.
    pub(super) fn check_from_here(&mut self) {
        let executable = &self.put.spec.executable;
        let Some(address) = self.seat.address else { return };
        if self.seat.tier == Tier::Hot {
            self.tell_application(address);
        } else if let Some(path) = &executable.ready_http_path {
            let path = path.clone();
            self.call(Call::AwaitHttp(address, path));
        } else if executable.init == InitMode::Exec {
            self.call(Call::AwaitPort(address));
        }
    }

    pub(super) fn init_says_ready(&mut self) {
        // A hot one was ready before, and is so again once it knows its session.
        if self.seat.tier != Tier::Hot && self.put.spec.executable.ready_http_path.is_none() {
            return self.became_ready();
        }
        if !self.session.listening_elsewhere.is_empty() {
            self.session.listening_elsewhere.clear();
            self.show();
        }
    }

    pub(super) fn became_ready(&mut self) {
        if self.status() != Status::Waiting {
            return;
        }
        self.clocks.start = None;
        self.life.was_ready = true;
        self.session.listening_elsewhere.clear();
        self.stage_until_now(StageName::Ready, String::new());
        self.act(Action::Took(self.now.instant - self.seat.begun));
        self.doors.idle.ready(self.now.instant);
        self.step(Step::BecameReady, None);
        self.answer_waiting();
    }

    pub(super) fn start_timed_out(&mut self) {
        let elsewhere = self.hint().is_some();
        let reason = if elsewhere { EndReason::ListeningElsewhere } else { EndReason::StartTimeout };
        self.stop(TerminationKind::Hard, reason);
    }

    /// The start cannot succeed: whatever was made goes, and the end says why.
    pub(super) fn fail(&mut self, reason: EndReason, message: String) {
        self.ending.failure.get_or_insert((reason, message));
        self.throw_away();
    }

    /// What was made, or is being made, only has to go.
    pub(super) fn throw_away(&mut self) {
        if self.seat.is_starting {
            self.act(Action::StopStart);
        } else {
            self.start_stopped(true);
        }
    }

    /// `may_exist`: a container may be there or come.
    pub(super) fn start_stopped(&mut self, may_exist: bool) {
        self.seat.is_starting = false;
        if self.session.claim != Claim::Parked {
            self.finish(Finish::Kill);
        } else if may_exist && self.seat.place.is_some() {
            self.finish(Finish::Remove);
        } else {
            self.end(ContainerStatus::Absent, String::new(), false);
        }
        self.refuse_after_a_stop();
    }
}
