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
const OWN_KERNEL: &str = "this runtime has a kernel of its own, and a session in it cannot be ended at the lease's end while \
                          the drone is down: say on_isolation \"keep\"";

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

    /// Why no session under the lease may be handed over to the init that is on the line: it cannot compare clocks with this
    /// agent, so nobody in its container would have the last word. An installation without a lease has no such end.
    pub(super) fn cannot_keep_lease(&self) -> Option<&'static str> {
        let is_leased = self.tenure.is_some() && self.agent.lease.terms().is_some();
        (is_leased && self.has_own_kernel()).then_some(OWN_KERNEL)
    }

    fn has_own_kernel(&self) -> bool {
        self.line.hello.as_ref().is_some_and(|hello| hello.boot_id != Some(self.agent.boot_id))
    }

    /// For init, which has the last word.
    pub(super) fn session_lease(&self) -> Option<SessionLease> {
        self.tenure.filter(|_| !self.has_own_kernel()).map(|_| SessionLease {
            boot_id: self.agent.boot_id,
            grace_ms: u64::try_from(self.agent.lease.grace(self.wanted_grace()).as_millis())
                .unwrap_or(u64::MAX),
            stop_signal: self.stop_signal(),
        })
    }
}
