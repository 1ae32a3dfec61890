//! How a backend is stopped: the signal first, everything else after it; a grace; then SIGKILL, until the engine says
//! that nothing runs. Why it is stopped is the caller's.

use std::time::Duration;

use jetway_protocol::init::ToInit;
use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event;
use jetway_protocol::status::{End, EndReason, Status, TerminationKind};
use tokio::time::Instant;

use super::actor::{Actor, Claim};
use super::engine::{self, Finish};
use crate::journal::Place;
use crate::runtime::{ContainerStatus, RuntimeError};

/// Init off the line for this long: the signal goes through the engine, which takes some 20 ms.
const LINE_PATIENCE: Duration = Duration::from_millis(100);
const SIGTERM: i32 = 15;

impl Actor {
    /// Repeating it changes nothing; a hard stop hurries a soft one.
    pub(super) fn stop(&mut self, kind: TerminationKind, reason: EndReason) {
        let event = Event::Stop { kind, reason };
        if self.state.clone().next(event.clone()).is_err() {
            return;
        }
        let graceful = kind == TerminationKind::Soft && self.claim != Claim::Parked;
        if graceful && self.finish.is_none() {
            self.signal();
        }
        // A hard stop after a soft one keeps the first reason.
        let reason = self.stop_reason().unwrap_or(reason);
        self.step(event, Some(announced(reason, kind)));
        self.clocks.lifetime = None;
        self.clocks.start = None;
        if graceful {
            let grace = Duration::from_secs(self.put.spec.stop_grace_seconds.into());
            self.clocks.grace = Some(Instant::now() + grace);
        } else if self.claim == Claim::Parked {
            self.throw_away();
        } else {
            self.finish(Finish::Kill);
        }
        // Who waits for a start that failed is told how it ended, not that a stop is under way.
        if !matches!(reason, EndReason::StartTimeout | EndReason::ListeningElsewhere) {
            self.refuse_waiting();
        }
    }

    pub(super) fn stop_reason(&self) -> Option<EndReason> {
        self.history.iter().find_map(|entry| entry.end.as_ref()).map(|end| end.reason)
    }

    /// Nothing ran: what was made, or is being made, only has to go.
    pub(super) fn throw_away(&mut self) {
        let may_exist = self.starting.take().is_none_or(|starting| starting.stop()) && self.place.is_some();
        if may_exist {
            self.finish(Finish::Remove);
        } else {
            self.end(ContainerStatus::Absent, String::new());
        }
    }

    /// The image's stop signal, once.
    fn signal(&mut self) {
        let grace_ms = u64::from(self.put.spec.stop_grace_seconds) * 1000;
        if self.line.send(ToInit::Stop { signal: self.stop_signal(), grace_ms }) {
            self.signalled = true;
        } else if self.put.spec.executable.init == InitMode::Exec {
            self.signal_through_the_engine();
        } else {
            self.clocks.signal = Some(Instant::now() + LINE_PATIENCE);
        }
    }

    /// Init is back on the line, and may not have heard of the stop: repeating it there changes nothing.
    pub(super) fn signal_again(&mut self) {
        let stopping: Option<bool> =
            self.line.hello.as_ref().and_then(|hello| hello.session.as_ref()).map(|session| session.stopping);
        if stopping == Some(true) {
            self.clocks.signal = None;
            self.signalled = true;
        } else if stopping == Some(false)
            && (self.clocks.signal.take().is_some() || self.signalled || self.adopted)
        {
            self.signal();
        }
    }

    pub(super) fn signal_through_the_engine(&mut self) {
        if let Some(Place { slot, .. }) = self.place {
            self.signalled = true;
            self.jobs.push(engine::signal(self.agent.clone(), slot, self.stop_signal()));
        }
    }

    pub(super) fn signal_sent(&mut self, sent: Result<(), RuntimeError>) {
        if let Err(error) = sent {
            tracing::warn!(backend = %self.id, %error, "the stop signal could not be sent");
        }
        // Without init on the line, only the engine can say that it has gone.
        if !self.line.is_connected() {
            self.clocks.look = Some(Instant::now() + LINE_PATIENCE);
        }
    }

    pub(super) fn stop_signal(&self) -> i32 {
        self.image.as_ref().map_or(SIGTERM, |image| image.stop_signal)
    }

    /// Brings the end about. A kill may overtake a wait; the first to see the end reports it.
    pub(super) fn finish(&mut self, how: Finish) {
        let Some(Place { slot, .. }) = self.place else {
            return self.end(ContainerStatus::Absent, String::new());
        };
        if self.status() == Status::Terminated || (self.finish.is_some() && how != Finish::Kill) {
            return;
        }
        if self.finish == Some(Finish::Kill) {
            return;
        }
        self.finish = Some(how);
        self.clocks.look = None;
        let want_output = !self.was_ready;
        self.jobs.push(engine::finish(self.agent.clone(), slot, how, want_output));
    }
}

/// What is known of an end when the stop begins.
fn announced(reason: EndReason, kind: TerminationKind) -> End {
    End {
        reason,
        kind: Some(kind),
        exit_code: None,
        oom_killed: false,
        message: String::new(),
        output: String::new(),
    }
}
