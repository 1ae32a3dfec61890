//! A backend under the drone's lease: what its task does about its standing. Until when the lease holds is
//! [`crate::lease`]'s business; what init does when the agent is dead is init's.

use std::time::Duration;

use jetway_protocol::init::{SessionLease, ToInit};
use jetway_protocol::lease::Standing;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::Instant;

use super::actor::Actor;

/// Between looks whether a session may be handed over that was not admitted.
const CLAIM_AGAIN: Duration = Duration::from_millis(200);

impl Actor {
    fn wanted_grace(&self) -> Duration {
        Duration::from_secs(self.put.spec.stop_grace_seconds.into())
    }

    /// Asked at every wake, first of all. A stop that has begun is not taken back.
    pub(super) fn watch_lease(&mut self) {
        let Some(tenure) = self.tenure else { return };
        if self.status() == Status::Terminated {
            return;
        }
        match self.agent.lease.standing(tenure, self.wanted_grace()) {
            Standing::Held => {}
            Standing::Stop => self.stop(TerminationKind::Soft, EndReason::LeaseExpired),
            Standing::Gone => self.stop(TerminationKind::Hard, EndReason::LeaseExpired),
        }
    }

    /// False: the lease has just ended it, and there is nothing more to do.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.watch_lease();
        self.status() != Status::Terminated
    }

    /// The deadline may have come nearer: an init is asleep until the one it knows.
    pub(super) fn nudged(&mut self) {
        self.line.send(ToInit::LookAtLease);
        self.watch_lease();
    }

    pub(super) fn lease_changes_at(&self) -> Option<Instant> {
        let change = self.agent.lease.changes_in(self.tenure?, self.wanted_grace())?;
        // A deadline that is further away than the clock can say is none.
        Instant::now().checked_add(change)
    }

    /// Whether the session may be handed over now; otherwise this comes back until the lease is renewed or over.
    pub(super) fn is_admitted(&mut self) -> bool {
        let is_admitted = self.tenure.is_none_or(|tenure| self.agent.lease.admits(tenure));
        if !is_admitted {
            self.clocks.claim = Some(Instant::now() + CLAIM_AGAIN);
        }
        is_admitted
    }

    /// For init, which has the last word.
    pub(super) fn session_lease(&self) -> Option<SessionLease> {
        self.tenure.map(|_| SessionLease {
            boot_id: self.agent.boot_id,
            grace_ms: u64::try_from(self.agent.lease.grace(self.wanted_grace()).as_millis())
                .unwrap_or(u64::MAX),
            stop_signal: self.stop_signal(),
        })
    }
}
