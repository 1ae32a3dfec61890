//! How a backend is stopped: the signal first, everything else after it; a grace; then SIGKILL,
//! until the engine says that nothing runs. Why it is stopped is the caller's.

use std::time::Duration;

use jetway_protocol::spec::InitMode;
use jetway_protocol::state::Event as Step;
use jetway_protocol::status::{End, EndReason, EndedBy, Status, TerminationKind};

use super::{Action, Call, Claim, Core, Finish};
use crate::runtime::{ContainerStatus, RuntimeError};

/// Init off the line for this long: the signal goes through the engine, which takes some 20 ms.
const LINE_PATIENCE: Duration = Duration::from_millis(100);
const SIGTERM: i32 = 15;

impl Core {
    /// Repeating it changes nothing; a hard stop hurries a soft one.
    pub(super) fn stop(&mut self, kind: TerminationKind, reason: EndReason) {
        if self.has_ended_by_itself() && reason.ended_by() == EndedBy::Drone {
            if kind == TerminationKind::Hard {
                self.finish(Finish::Kill);
            }
            return;
        }
        let step = Step::Stop { kind, reason };
        if self.life.state.clone().next(step.clone()).is_err() {
            return;
        }
        let graceful = kind == TerminationKind::Soft && self.session.claim != Claim::Parked;
        if graceful && self.ending.finish.is_none() {
            self.signal();
        }
        // A hard stop after a soft one keeps the first reason.
        let reason = self.stop_reason().unwrap_or(reason);
        self.step(step, Some(announced(reason, kind)));
        self.tell_ending();
        self.clocks.lifetime = None;
        self.clocks.start = None;
        if graceful {
            self.clocks.grace = Some(self.now.instant + self.stop_grace());
        } else if self.session.claim == Claim::Parked {
            return self.throw_away();
        } else {
            self.finish(Finish::Kill);
        }
        self.refuse_after_a_stop();
    }

    /// A stop is under way: those that wait are told so. Of a start that failed they are told how
    /// it ended.
    pub(super) fn refuse_after_a_stop(&mut self) {
        if self.stop_reason().is_some_and(|reason| reason.ended_by() != EndedBy::Start) {
            self.refuse_waiting();
        }
    }

    /// Its application has exited, or never began, and the engine has not confirmed it yet: that is
    /// why it ends.
    fn has_ended_by_itself(&self) -> bool {
        self.ending.finish.is_some() && self.stop_reason().is_none()
    }

    pub(super) fn stop_reason(&self) -> Option<EndReason> {
        self.life.history.iter().find_map(|entry| entry.end.as_ref()).map(|end| end.reason)
    }

    /// The image's stop signal, once.
    fn signal(&mut self) {
        if self.line.is_connected() {
            let grace_ms = u64::from(self.put.spec.stop_grace_seconds) * 1000;
            self.act(Action::Signal { signal: self.stop_signal(), grace_ms });
        } else {
            self.signal_otherwise();
        }
    }

    pub(super) fn signal_written(&mut self, sent: bool) {
        if sent {
            self.ending.signalled = true;
        } else if self.is_stopping_by_init() != Some(true) {
            self.signal_otherwise();
        }
    }

    /// The line takes nothing.
    fn signal_otherwise(&mut self) {
        if self.put.spec.executable.init == InitMode::Exec {
            self.signal_through_the_engine();
        } else {
            self.clocks.signal = Some(self.now.instant + LINE_PATIENCE);
        }
    }

    /// As init said when it came on the line.
    fn is_stopping_by_init(&self) -> Option<bool> {
        let hello = self.line.hello.as_ref()?;
        hello.session.as_ref().map(|session| session.stopping)
    }

    /// Init is back on the line, and may not have heard of the stop: repeating it there changes
    /// nothing.
    pub(super) fn signal_again(&mut self) {
        let stopping = self.is_stopping_by_init();
        if stopping == Some(true) {
            self.clocks.signal = None;
            self.ending.signalled = true;
        } else if stopping == Some(false)
            && (self.clocks.signal.take().is_some() || self.ending.signalled || self.doors.adopted)
        {
            self.signal();
        }
    }

    pub(super) fn signal_through_the_engine(&mut self) {
        if self.seat.place.is_some() {
            self.ending.signalled = true;
            self.call(Call::Signal(self.stop_signal()));
        }
    }

    pub(super) fn signalled_through_the_engine(&mut self, sent: Result<(), RuntimeError>) {
        if let Err(error) = sent {
            tracing::warn!(backend = %self.id, key = self.key_name(), %error, "the stop signal could not be sent");
        }
        // Without init on the line, only the engine can say that it has gone.
        if !self.line.is_connected() {
            self.clocks.look = Some(self.now.instant + LINE_PATIENCE);
        }
    }

    pub(super) fn stop_signal(&self) -> i32 {
        self.seat.image.as_ref().map_or(SIGTERM, |image| image.stop_signal)
    }

    /// Brings the end about. A kill may overtake a wait; the first to see the end reports it.
    pub(super) fn finish(&mut self, how: Finish) {
        if self.seat.place.is_none() {
            return self.end(ContainerStatus::Absent, String::new(), false);
        }
        if self.status() == Status::Terminated || (self.ending.finish.is_some() && how != Finish::Kill) {
            return;
        }
        if self.ending.finish == Some(Finish::Kill) {
            return;
        }
        if self.stop_reason().is_none() {
            self.tell_ending();
        }
        self.ending.finish = Some(how);
        self.clocks.look = None;
        self.call(Call::Finish { how, want_output: !self.life.was_ready });
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
