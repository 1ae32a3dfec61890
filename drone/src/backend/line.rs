//! The backend's side of the line to its init: what init says and when it is silent. The protocol of the line itself
//! is the runtime's.

use std::time::Duration;

use jetway_protocol::init::{FromInit, Hello, SessionState, ToInit};
use jetway_protocol::spec::InitMode;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::Instant;

use super::actor::{Actor, Claim};
use super::adopt::REDIAL_PATIENCE;
use super::engine::{self, Finish};
use crate::journal::Place;
use crate::runtime::{ContainerStatus, InitLine, LineEvent, RuntimeError};

/// Init redials within 250 ms; a line that is silent for longer is worth a look at the container.
const SILENCE_BEFORE_LOOK: Duration = Duration::from_millis(500);
/// A container that runs, is not paused and has no init on the line for this long is killed.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// As an engine tells of a process that a signal ended.
pub const SIGNALLED: i32 = 128;
/// Between tries of calls that the engine did not answer.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Line {
    line: Option<InitLine>,
    pub hello: Option<Hello>,
    /// Since when init is not on the line; `None` while it is.
    pub silent_since: Option<Instant>,
}

impl Line {
    pub fn set(&mut self, line: InitLine) {
        self.line = Some(line);
        self.hello = None;
        self.silent_since = Some(Instant::now());
    }

    /// That of a slot whose init has been on the line.
    pub fn go_on(&mut self, line: InitLine, hello: Option<Hello>) {
        self.line = Some(line);
        self.silent_since = hello.is_none().then(Instant::now);
        self.hello = hello;
    }

    /// Whether there is a socket of ours for init to come to.
    pub fn is_open(&self) -> bool {
        self.line.is_some()
    }

    pub fn is_connected(&self) -> bool {
        self.line.is_some() && self.hello.is_some()
    }

    /// Never waits: false means that init is not on the line, or does not read.
    pub fn send(&self, message: ToInit) -> bool {
        self.is_connected() && self.line.as_ref().is_some_and(|line| line.commands.try_send(message).is_ok())
    }

    /// What came before this moment and was not read.
    pub fn heard_already(&mut self) -> Option<LineEvent> {
        self.line.as_mut()?.events.try_recv().ok()
    }

    /// `None`: the runtime gave the line up.
    pub async fn next(&mut self) -> Option<LineEvent> {
        match &mut self.line {
            Some(line) => line.events.recv().await,
            None => std::future::pending().await,
        }
    }
}

impl Actor {
    pub(super) fn heard(&mut self, event: Option<LineEvent>) {
        match event {
            Some(LineEvent::Connected(hello)) => self.connected(hello),
            Some(LineEvent::Message(message)) => self.message(message),
            Some(LineEvent::Disconnected) => {
                self.line.hello = None;
                self.line_fell_silent();
            }
            None => {
                self.line = Line::default();
                self.line_fell_silent();
                self.clocks.open_line = Some(Instant::now() + AGAIN);
            }
        }
    }

    fn line_fell_silent(&mut self) {
        let now = Instant::now();
        self.line.silent_since.get_or_insert(now);
        self.clocks.look = Some(now + SILENCE_BEFORE_LOOK);
    }

    fn connected(&mut self, hello: Hello) {
        self.line.silent_since = None;
        if let Some(starting) = &self.starting {
            starting.init_came();
        }
        let session = hello.session.clone();
        let is_same_init = self.nonce.as_ref().is_none_or(|nonce| *nonce == hello.nonce);
        self.line.hello = Some(hello);
        if self.tenure.is_some() && session.is_some() {
            // It may have been away when the deadline came nearer.
            self.line.send(ToInit::LookAtLease);
        }
        match session {
            Some(session) if is_same_init && self.is_ours(&session) => self.session_reported(&session),
            None if is_same_init => self.claim_if_possible(),
            // Another process than the one that was claimed: the container was restarted, or is somebody else's.
            _ => self.lose("the container's init is not the one that took this session"),
        }
        if self.status() == Status::Terminating && self.claim != Claim::Parked {
            self.signal_again();
        }
    }

    fn is_ours(&self, session: &SessionState) -> bool {
        session.backend == self.id && session.fencing_token == self.put.fencing_token
    }

    fn session_reported(&mut self, session: &SessionState) {
        if session.pid.is_none() {
            return self.finish(Finish::Await);
        }
        self.application_started();
        if session.ready.is_some() {
            self.init_says_ready();
        }
        if session.lease_over {
            // Its stop signal went out while no agent was there to say so.
            self.stop(TerminationKind::Soft, EndReason::LeaseExpired);
        }
    }

    fn message(&mut self, message: FromInit) {
        match message {
            FromInit::Started { .. } => self.application_started(),
            FromInit::Ready { .. } => self.init_says_ready(),
            FromInit::ListeningElsewhere { addresses, .. } => self.listening_elsewhere = addresses,
            FromInit::StartFailed { message, .. } => {
                self.failure.get_or_insert((EndReason::ExitedBeforeReady, message));
                self.finish(Finish::Await);
            }
            FromInit::LeaseOver { .. } => {
                let message = "the drone's lease was over before it was started".to_owned();
                self.failure.get_or_insert((EndReason::LeaseExpired, message));
                self.finish(Finish::Await);
            }
            FromInit::Exited { code, signal, .. } => {
                self.exit_code = code.or(signal.map(|signal| SIGNALLED + signal));
                self.finish(Finish::Await);
            }
            FromInit::Refused { taken_by, .. } => self.lose(&format!("the container belongs to {taken_by}")),
            // Of a slot's life before its session.
            FromInit::AheadStarted { .. } | FromInit::AheadReady { .. } | FromInit::AheadFailed { .. } => {}
            FromInit::Hello(_) | FromInit::Pong => {}
        }
    }

    /// The process that was this backend's cannot be reached any more: whatever is in its place goes.
    fn lose(&mut self, message: &str) {
        self.failure.get_or_insert((EndReason::Lost, message.to_owned()));
        self.finish(Finish::Kill);
    }

    pub(super) fn open_line(&mut self) {
        if let Some(Place { slot, .. }) = self.place {
            self.jobs.push(engine::open_line(self.agent.clone(), slot, self.nonce.clone()));
        }
    }

    pub(super) fn line_opened(&mut self, line: Result<InitLine, RuntimeError>) {
        match line {
            Ok(line) => self.line.set(line),
            Err(error) => {
                tracing::warn!(backend = %self.id, %error, "the line to init cannot be opened yet");
                self.clocks.open_line = Some(Instant::now() + AGAIN);
            }
        }
    }

    pub(super) fn look(&mut self) {
        if let Some(Place { slot, .. }) = self.place
            && self.finish.is_none()
            && self.starting.is_none()
        {
            self.jobs.push(engine::look(self.agent.clone(), slot));
        }
    }

    pub(super) fn looked(&mut self, found: Result<ContainerStatus, RuntimeError>) {
        let now = Instant::now();
        match found {
            Ok(ContainerStatus::Running { paused, .. }) => self.judge_silence(paused, now),
            // An engine that was killed over its start may have forgotten it: init's word counts.
            Ok(ContainerStatus::Created) if self.claim != Claim::Parked => self.judge_silence(false, now),
            Ok(_) => self.finish(Finish::Await),
            Err(error) => {
                tracing::warn!(backend = %self.id, %error, "the engine does not say whether the container runs");
                self.clocks.look = Some(now + AGAIN);
            }
        }
    }

    /// An init that was given its session, that runs, and that is not on the line has become the application.
    fn judge_exec_silence(&mut self, since: Instant, paused: bool, now: Instant) {
        if self.claim != Claim::Given {
            return;
        }
        let patience = since + REDIAL_PATIENCE;
        if paused || !self.line.is_open() {
            self.line.silent_since = Some(now);
            self.clocks.look = Some(now + AGAIN);
        } else if now < patience {
            self.clocks.look = Some(patience);
        } else {
            self.application_started();
        }
    }

    /// A silent init cannot take a stop or keep a lease; only a paused one has an excuse.
    fn judge_silence(&mut self, paused: bool, now: Instant) {
        let exec = self.put.spec.executable.init == InitMode::Exec && self.claim != Claim::Parked;
        let Some(since) = self.line.silent_since else { return };
        if exec {
            return self.judge_exec_silence(since, paused, now);
        }
        let patience = since + SILENCE_MAX;
        // A paused init cannot come, and without a socket of ours none can.
        if paused || !self.line.is_open() {
            self.line.silent_since = Some(now);
            self.clocks.look = Some(now + SILENCE_MAX);
        } else if now < patience {
            self.clocks.look = Some(patience);
        } else {
            self.failure
                .get_or_insert((EndReason::Lost, "its init did not answer for 10 seconds".to_owned()));
            self.finish(Finish::Kill);
        }
    }
}
