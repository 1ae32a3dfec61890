//! From a spec to a running application: what the backend's task does with what the engine's part reports, and the claim.
//! The engine's part is a task of its own (`start_task`), so that a stop never waits for it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jetway_protocol::ids::SlotId;
use jetway_protocol::init::ToInit;
use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Claim};
use super::engine::Finish;
use super::start_task::StartTask;
use super::{ready, session};
use crate::journal::Record;
use crate::runtime::{ContainerStatus, Image, InitLine};

/// Steps that the engine's task reports before the backend's task has read them.
const PROGRESS_MAX: usize = 8;

/// The engine's part of a start, under way.
pub struct Starting {
    stopped: CancellationToken,
    /// Set before the container is asked for.
    may_exist: Arc<AtomicBool>,
    progress: mpsc::Receiver<Progress>,
}

pub enum Progress {
    Image(Image),
    Line(InitLine),
    Created(Stage),
    Started(IpAddr, Stage),
    /// It ran and has ended, while the engine could not be reached.
    Ended,
    Failed(EndReason, String),
    /// The engine could not be reached for as long as a start may take.
    Unreachable(String),
    /// The task ended without a word: nothing more will come.
    Over,
}

impl Starting {
    pub async fn next(starting: &mut Option<Self>) -> Progress {
        match starting {
            Some(starting) => starting.progress.recv().await.unwrap_or(Progress::Over),
            None => std::future::pending().await,
        }
    }

    /// Tells the task to stop; true: a container may be there or come.
    pub fn stop(&self) -> bool {
        self.stopped.cancel();
        self.may_exist.load(Ordering::SeqCst)
    }
}

impl Actor {
    pub(super) fn begin(&mut self) {
        self.start_in_a_new_slot();
    }

    /// What an earlier try left in the place of before goes first.
    pub(super) fn start_in_a_new_slot(&mut self) {
        if self.status() < Status::Loading {
            self.step(Event::Load, None);
        }
        let taken = {
            let mut addresses = self.agent.addresses();
            addresses.take(Instant::now()).map(|address| (address, addresses.cursor()))
        };
        let (address, cursor) = match taken {
            Ok(taken) => taken,
            Err(error) => return self.fail(EndReason::CreateFailed, error.to_string()),
        };
        if let Err(error) = self.agent.data_dir.save_address_cursor(cursor) {
            tracing::warn!(%error, "the address cursor cannot be kept");
        }
        let slot = SlotId::random();
        if let Err(error) = self.journal.append(&Record::Slot { slot, address }) {
            self.agent.addresses().give_back(address);
            return self.fail(EndReason::Internal, unwritten(&error));
        }
        self.agent.slots.insert(slot, self.id.clone());
        let leftover = self.place.replace((slot, address));
        self.spawn_start(slot, address, leftover);
    }

    fn spawn_start(&mut self, slot: SlotId, address: Ipv4Addr, leftover: Option<(SlotId, Ipv4Addr)>) {
        let (sender, progress) = mpsc::channel(PROGRESS_MAX);
        let stopped = CancellationToken::new();
        let may_exist = Arc::new(AtomicBool::new(false));
        let task = StartTask {
            agent: self.agent.clone(),
            slot,
            address,
            leftover,
            backend: self.id.clone(),
            executable: self.put.spec.executable.clone(),
            give_up: self.begun + Duration::from_secs(self.put.spec.start_timeout_seconds.into()),
            stopped: stopped.clone(),
            may_exist: may_exist.clone(),
            progress: sender,
        };
        self.starting = Some(Starting { stopped, may_exist, progress });
        self.agent.lifecycle.spawn_until_stopped(task.run());
    }

    pub(super) fn progressed(&mut self, progress: Progress) {
        match progress {
            Progress::Image(image) => self.image_is_there(image),
            Progress::Line(line) => self.line.set(line),
            Progress::Created(stage) => {
                self.stage(stage);
                self.stage_start = UnixMicros::now();
            }
            Progress::Started(address, stage) => {
                self.starting = None;
                // Init was on the line before the engine had answered: the container has been running since then.
                if !self.timeline.iter().any(|known| known.stage == StageName::Started) {
                    self.stage(stage);
                }
                // Init may have been quicker than the engine's answer; then it has its session already.
                if self.claim == Claim::Parked {
                    self.stage_start = UnixMicros::now();
                    self.address = Some(self.at_port(address));
                }
                self.claim_if_possible();
                if !self.line.is_connected() {
                    self.clocks.look = Some(Instant::now() + super::line::SILENCE_MAX);
                    self.line.silent_since = Some(Instant::now());
                }
            }
            Progress::Ended => {
                self.starting = None;
                self.finish(Finish::Await);
            }
            Progress::Failed(reason, message) => self.fail(reason, message),
            // Its init is on the line and has its session: nothing of it needs the engine now.
            Progress::Unreachable(_) if self.claim != Claim::Parked => {
                self.starting = None;
                self.clocks.look = Some(Instant::now());
            }
            Progress::Unreachable(message) => self.fail(EndReason::StartTimeout, message),
            // An agent that stops drops its tasks in any order: then this one is no news.
            Progress::Over if self.agent.lifecycle.is_stopping() => self.starting = None,
            Progress::Over => self.fail(EndReason::Internal, "the start broke off".to_owned()),
        }
    }

    fn image_is_there(&mut self, image: Image) {
        if let Some((bytes, took)) = image.pulled {
            let length_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            let start = UnixMicros(UnixMicros::now().0.saturating_sub_unsigned(length_us));
            self.stage(Stage { stage: StageName::Pulled, start, length_us, note: format!("{bytes} bytes") });
        }
        self.record(&Record::Image { image: image.clone() });
        self.image = Some(image);
        if self.status() < Status::Starting {
            self.step(Event::Start, None);
        }
        if let (None, Some((_, address))) = (&self.put.spec.executable.network_name, self.place) {
            self.address = Some(self.at_port(IpAddr::V4(address)));
        }
    }

    pub(super) fn at_port(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.put.spec.executable.port)
    }

    /// Hands the session over as soon as init is on the line and the address is known.
    pub(super) fn claim_if_possible(&mut self) {
        let Some(address) = self.address else { return };
        let Some(hello) = self.line.hello.as_ref() else { return };
        if self.status().is_ending() || self.finish.is_some() || self.claim == Claim::Running {
            return;
        }
        let nonce = hello.nonce.clone();
        if !self.is_admitted() {
            return;
        }
        if let Some(why) = self.cannot_keep_lease() {
            return self.fail(EndReason::Internal, why.to_owned());
        }
        if self.claim == Claim::Parked {
            // Before the session leaves: without this record, nothing ever ran here.
            if let Err(error) = self.journal.append(&Record::Claiming { nonce: nonce.clone() }) {
                return self.fail(EndReason::Internal, unwritten(&error));
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
        self.line.send(ToInit::Session(Box::new(session)));
    }

    pub(super) fn application_started(&mut self) {
        if self.claim == Claim::Running || self.status().is_ending() {
            return;
        }
        let Some(address) = self.address else { return };
        self.claim = Claim::Running;
        self.stage_until_now(StageName::Claimed, self.stage_start, "cold");
        self.stage_start = UnixMicros::now();
        if self.status() < Status::Waiting {
            self.step(Event::Wait { address }, None);
        }
        self.check_from_here();
    }

    /// Where init cannot say "ready", or the spec wants more than a listening socket.
    pub(super) fn check_from_here(&mut self) {
        let executable = &self.put.spec.executable;
        let Some(address) = self.address else { return };
        if let Some(path) = &executable.ready_http_path {
            self.jobs.push(ready::answers_http(address, path.clone()));
        } else if executable.init == InitMode::Exec {
            self.jobs.push(ready::accepts_connections(address));
        }
    }

    pub(super) fn init_says_ready(&mut self) {
        if self.put.spec.executable.ready_http_path.is_none() {
            self.became_ready();
        }
    }

    pub(super) fn became_ready(&mut self) {
        if self.status() != Status::Waiting {
            return;
        }
        self.clocks.start = None;
        self.was_ready = true;
        self.listening_elsewhere.clear();
        self.stage_until_now(StageName::Ready, self.stage_start, "");
        self.idle.ready(Instant::now());
        self.step(Event::BecameReady, None);
        self.answer_waiting();
    }

    pub(super) fn start_timed_out(&mut self) {
        let elsewhere = !self.listening_elsewhere.is_empty();
        let reason = if elsewhere { EndReason::ListeningElsewhere } else { EndReason::StartTimeout };
        self.stop(TerminationKind::Hard, reason);
    }

    /// The start cannot succeed: whatever was made goes, and the end says why.
    pub(super) fn fail(&mut self, reason: EndReason, message: String) {
        let may_exist = self.starting.take().is_none_or(|starting| starting.stop()) && self.place.is_some();
        self.failure.get_or_insert((reason, message));
        if self.claim != Claim::Parked {
            self.finish(Finish::Kill);
        } else if may_exist {
            self.finish(Finish::Remove);
        } else {
            self.end(ContainerStatus::Absent, String::new());
        }
    }
}

fn unwritten(error: &std::io::Error) -> String {
    format!("the drone's journal cannot be written: {error}")
}
