//! What a backend's task does when it begins with a journal: find out from init and the engine how things are, and go
//! on from there. The lifetime that is left is counted from the journal's stamp; a start or a grace begins anew.

use std::time::Duration;

use jetway_protocol::attach::GRACE_AFTER_START_SECONDS;
use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::spec::InitMode;
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{EndReason, Status};
use tokio::time::Instant;

use super::Snapshot;
use super::actor::{Actor, Claim};
use super::engine::Finish;
use super::line::SILENCE_MAX;

/// Init redials within 250 ms: a signal through the engine before that could be a second one.
pub const REDIAL_PATIENCE: Duration = Duration::from_millis(400);

impl Actor {
    pub(super) fn resume(&mut self) {
        self.adopted = true;
        let until = self.agent.started + Duration::from_secs(GRACE_AFTER_START_SECONDS);
        self.idle.adopted(self.grants.any_used(), until);
        match self.state.clone() {
            BackendState::Scheduled | BackendState::Loading | BackendState::Starting => self.resume_start(),
            BackendState::Waiting { address } | BackendState::Ready { address } => {
                self.address = Some(address);
                self.resume_running();
            }
            BackendState::Terminating { .. } => self.resume_stop(),
            BackendState::HardTerminating { .. } if self.nonce.is_none() => self.finish(Finish::Remove),
            BackendState::HardTerminating { .. } => {
                self.claim = Claim::Running;
                self.finish(Finish::Kill);
            }
            BackendState::Terminated { .. } => {}
        }
    }

    /// Nothing of an earlier boot runs, and it must never run again: its key may have been given away.
    pub(super) fn resume_after_a_boot(&mut self) {
        self.adopted = true;
        if self.nonce.is_some() {
            self.claim = Claim::Running;
        }
        self.failure.get_or_insert((EndReason::Lost, "its host was booted anew".to_owned()));
        self.finish(Finish::Kill);
    }

    /// Without a claim in the journal nothing ran for this backend: a new slot is the simplest way on.
    fn resume_start(&mut self) {
        if self.nonce.is_some() {
            let at = self.place.map(|place| self.at_port(place.address.into()));
            self.address = at.filter(|_| self.put.spec.executable.network_name.is_none());
            if self.address.is_some() {
                self.claim = Claim::Given;
                return self.find_it();
            }
            // On a network that is not ours only the engine knows the address, and it was not written down yet.
            self.claim = Claim::Running;
            let message = "the agent was restarted while it started".to_owned();
            return self.fail(EndReason::Internal, message);
        }
        self.start_in_a_new_slot();
    }

    fn resume_running(&mut self) {
        self.claim = Claim::Running;
        if self.status() == Status::Ready {
            self.idle.ready(Instant::now());
        } else {
            self.check_from_here();
        }
        self.find_it();
    }

    /// Asks init and the engine. Whoever is silent for ten seconds has lost.
    fn find_it(&mut self) {
        if self.status() < Status::Ready {
            let patience = Duration::from_secs(self.put.spec.start_timeout_seconds.into());
            self.clocks.start = Some(Instant::now() + patience);
        }
        self.line.silent_since = Some(Instant::now());
        self.open_line();
        self.look();
        // An init that has become its application is not on the line any more, but one that waits for it soon is.
        let exec = self.put.spec.executable.init == InitMode::Exec;
        let patience = if exec && self.claim == Claim::Given { REDIAL_PATIENCE } else { SILENCE_MAX };
        self.clocks.look = Some(Instant::now() + patience);
    }

    fn resume_stop(&mut self) {
        if self.nonce.is_none() {
            return self.finish(Finish::Remove);
        }
        self.claim = Claim::Running;
        let grace = Duration::from_secs(self.put.spec.stop_grace_seconds.into());
        self.clocks.grace = Some(Instant::now() + grace);
        self.clocks.signal = Some(Instant::now() + REDIAL_PATIENCE);
        self.find_it();
    }

    /// Statuses that no controller is known to have go out again.
    pub(super) fn tell_what_is_unacknowledged(&self, snapshot: &Snapshot) {
        for entry in &snapshot.history {
            if Some(entry.status) > self.acknowledged {
                self.agent.outbox.push(BackendEvent {
                    backend: self.id.clone(),
                    fencing_token: self.put.fencing_token,
                    entry: entry.clone(),
                    timeline: snapshot.timeline.clone(),
                });
            }
        }
    }
}
