//! From a spec to a container with an init that waits: what the backend's task does with what the engine's part reports. That
//! part is a task of its own (`start_task`), so that a stop never waits for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jetway_protocol::ids::SlotId;
use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use jetway_protocol::warm::Tier;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Claim};
use super::engine::Finish;
use super::line::Line;
use super::ready;
use super::start_task::StartTask;
use crate::journal::{Place, Record};
use crate::runtime::{ContainerStatus, Image, InitLine};
use crate::teardown;
use crate::warm::{self, Sandbox};

/// Steps that the engine's task reports before the backend's task has read them.
const PROGRESS_MAX: usize = 8;

/// The engine's part of a start, under way.
pub struct Starting {
    stopped: CancellationToken,
    /// Set before the container is asked for.
    may_exist: Arc<AtomicBool>,
    init_came: Arc<AtomicBool>,
    progress: mpsc::Receiver<Progress>,
}

pub enum Progress {
    Image(Image),
    Line(InitLine),
    Created(Stage),
    Started(IpAddr, Stage),
    /// It ran and has ended, while the engine could not be reached.
    Ended,
    /// The engine was lost over its start, and knows nothing of it: it may run or not.
    Forgotten,
    /// The namespace is gone; nothing has run.
    SandboxGone,
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

    pub fn init_came(&self) {
        self.init_came.store(true, Ordering::SeqCst);
    }

    /// Tells the task to stop; true: a container may be there or come.
    pub fn stop(&self) -> bool {
        self.stopped.cancel();
        self.may_exist.load(Ordering::SeqCst)
    }
}

impl Actor {
    /// In a namespace that was made ahead, if there is one. What an earlier try left in the place of before goes first.
    pub(super) fn start_in_a_new_slot(&mut self) {
        let is_ours = self.put.spec.executable.network_name.is_none();
        let sandbox = if is_ours { warm::take_sandbox(&self.agent, &self.id) } else { None };
        if is_ours && sandbox.is_none() {
            self.why.push("no sandbox was ready".to_owned());
        }
        self.start_in(sandbox);
    }

    fn start_in(&mut self, sandbox: Option<Sandbox>) {
        if self.status() < Status::Loading {
            self.step(Event::Load, None);
        }
        let address = match sandbox.map_or_else(|| self.agent.take_address(), |sandbox| Ok(sandbox.address)) {
            Ok(address) => address,
            Err(error) => return self.fail(EndReason::CreateFailed, error.to_string()),
        };
        self.tier = if sandbox.is_some() { Tier::Sandbox } else { Tier::Cold };
        let place = Place { slot: SlotId::random(), address, sandbox: sandbox.map(|sandbox| sandbox.id) };
        let (slot, tier) = (place.slot, Some(self.tier));
        if let Err(error) = self.journal.append(&Record::Slot { slot, address, sandbox: place.sandbox, tier })
        {
            match place.sandbox {
                Some(sandbox) => teardown::unused_sandbox(&self.agent, sandbox, address),
                None => self.agent.addresses().give_back(address),
            }
            return self.fail(EndReason::Internal, unwritten(&error));
        }
        self.agent.slots.insert(slot, self.id.clone());
        let leftover = self.place.replace(place);
        self.spawn_start(place, leftover);
    }

    fn spawn_start(&mut self, place: Place, leftover: Option<Place>) {
        let (sender, progress) = mpsc::channel(PROGRESS_MAX);
        let stopped = CancellationToken::new();
        let [may_exist, init_came] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let task = StartTask {
            agent: self.agent.clone(),
            place,
            leftover,
            backend: self.id.clone(),
            executable: self.put.spec.executable.clone(),
            give_up: self.begun + Duration::from_secs(self.put.spec.start_timeout_seconds.into()),
            stopped: stopped.clone(),
            may_exist: may_exist.clone(),
            init_came: init_came.clone(),
            progress: sender,
        };
        self.starting = Some(Starting { stopped, may_exist, init_came, progress });
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
            Progress::SandboxGone => {
                (self.starting, self.line) = (None, Line::default());
                self.why.push("its sandbox was gone".to_owned());
                self.start_in(None);
            }
            Progress::Failed(reason, message) => self.fail(reason, message),
            // Its init is on the line and has its session: nothing of it needs the engine now.
            Progress::Unreachable(_) | Progress::Forgotten if self.claim != Claim::Parked => {
                self.starting = None;
                self.clocks.look = Some(Instant::now());
            }
            Progress::Unreachable(message) => self.fail(EndReason::StartTimeout, message),
            // Without its line and its directory, whatever runs there ends by itself.
            Progress::Forgotten => {
                (self.starting, self.line) = (None, Line::default());
                self.why.push("the engine was lost over its start".to_owned());
                self.start_in_a_new_slot();
            }
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
        if let (None, Some(place)) = (&self.put.spec.executable.network_name, self.place) {
            self.address = Some(self.at_port(IpAddr::V4(place.address)));
        }
    }

    pub(super) fn at_port(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.put.spec.executable.port)
    }

    /// Where init cannot say "ready", or the spec wants more than a listening socket.
    pub(super) fn check_from_here(&mut self) {
        if self.tier == Tier::Hot {
            return self.tell_application();
        }
        let executable = &self.put.spec.executable;
        let Some(address) = self.address else { return };
        if let Some(path) = &executable.ready_http_path {
            self.jobs.push(ready::answers_http(address, path.clone()));
        } else if executable.init == InitMode::Exec {
            self.jobs.push(ready::accepts_connections(address));
        }
    }

    pub(super) fn init_says_ready(&mut self) {
        // A hot one was ready before, and is so again once it knows its session.
        if self.tier != Tier::Hot && self.put.spec.executable.ready_http_path.is_none() {
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
        self.agent.usual.took(&self.put.spec.executable.image, self.begun.elapsed());
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

pub(super) fn unwritten(error: &std::io::Error) -> String {
    format!("the drone's journal cannot be written: {error}")
}
