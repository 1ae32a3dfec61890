//! What a backend does when it begins with a journal: find out from init and the engine how things
//! are, and go on from there. The lifetime that is left is counted from the journal's stamp; a
//! start or a grace begins anew.

use jetway_protocol::spec::InitMode;
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{EndReason, Status};
use tokio::time::Instant;

use super::line::REDIAL_PATIENCE;
use super::{Claim, Core, Finish};
use crate::runtime::init_line::INIT_SILENCE_MAX;

impl Core {
    pub(super) fn resume(&mut self, proxies_back_by: Instant) {
        self.doors.adopted = true;
        self.doors.idle.adopted(self.doors.grants.any_used(), proxies_back_by);
        match self.life.state.clone() {
            BackendState::Scheduled | BackendState::Loading | BackendState::Starting => self.resume_start(),
            BackendState::Waiting { address } | BackendState::Ready { address } => {
                self.seat.address = Some(address);
                self.resume_running();
            }
            BackendState::Terminating { .. } => self.resume_stop(),
            BackendState::HardTerminating { .. } if self.session.nonce.is_none() => {
                self.finish(Finish::Remove)
            }
            BackendState::HardTerminating { .. } => {
                self.session.claim = Claim::Running;
                self.finish(Finish::Kill);
            }
            BackendState::Terminated { .. } => {}
        }
    }

    /// Nothing of an earlier boot runs, and it must never run again: its key may have been given
    /// away.
    pub(super) fn resume_after_a_boot(&mut self) {
        self.doors.adopted = true;
        if self.session.nonce.is_some() {
            self.session.claim = Claim::Running;
        }
        self.ending.failure.get_or_insert((EndReason::Lost, "its host was booted anew".to_owned()));
        self.finish(Finish::Kill);
    }

    /// Without a claim in the journal nothing ran for this backend: a new slot is the simplest way
    /// on.
    fn resume_start(&mut self) {
        if self.session.nonce.is_some() {
            let at = self.seat.place.map(|place| self.at_port(place.address.into()));
            self.seat.address = at.filter(|_| self.put.spec.executable.network_name.is_none());
            if self.seat.address.is_some() {
                self.session.claim = Claim::Given;
                return self.find_it();
            }
            // On a network that is not ours only the engine knows the address, and it was not
            // written down yet.
            self.session.claim = Claim::Running;
            let message = "the agent was restarted while it started".to_owned();
            return self.fail(EndReason::Internal, message);
        }
        self.start_in_a_new_slot();
    }

    fn resume_running(&mut self) {
        self.session.claim = Claim::Running;
        if self.status() == Status::Ready {
            self.doors.idle.ready(self.now.instant);
        } else {
            self.check_from_here();
        }
        self.find_it();
    }

    /// Asks init and the engine. An init that is silent for [`INIT_SILENCE_MAX`] has lost it.
    fn find_it(&mut self) {
        if self.status() < Status::Ready {
            self.clocks.start = Some(self.now.instant + self.start_timeout());
        }
        self.line.silent_since = Some(self.now.instant);
        self.open_line();
        self.look();
        // An init that has become its application is not on the line any more, but one that waits
        // for it soon is.
        let exec = self.put.spec.executable.init == InitMode::Exec;
        let patience =
            if exec && self.session.claim == Claim::Given { REDIAL_PATIENCE } else { INIT_SILENCE_MAX };
        self.clocks.look = Some(self.now.instant + patience);
    }

    fn resume_stop(&mut self) {
        if self.session.nonce.is_none() {
            return self.finish(Finish::Remove);
        }
        self.session.claim = Claim::Running;
        self.clocks.grace = Some(self.now.instant + self.stop_grace());
        self.clocks.signal = Some(self.now.instant + REDIAL_PATIENCE);
        self.find_it();
    }
}
