//! A backend under the drone's lease: what it does about its standing. Until when the lease holds
//! is [`crate::lease`]'s business; what init does when the agent is dead is init's.

use std::time::Duration;

use jetway_protocol::init::{SessionLease, ToInit};
use jetway_protocol::lease::Standing;
use jetway_protocol::status::{EndReason, Status, TerminationKind};

use super::{Action, Core};

/// Between looks whether a session may be handed over that was not admitted.
const CLAIM_AGAIN: Duration = Duration::from_millis(200);
const OWN_KERNEL: &str = "this runtime has a kernel of its own, and a session in it cannot be ended at the lease's end while \
                          the drone is down: say on_isolation \"keep\"";

impl Core {
    /// First of all, at every wake. A stop that has begun is not taken back.
    pub(super) fn look_at_lease(&mut self) {
        if self.status() == Status::Terminated {
            return;
        }
        match self.now.lease.map_or(Standing::Held, |lease| lease.standing) {
            Standing::Held => {}
            Standing::Stop => self.stop(TerminationKind::Soft, EndReason::LeaseExpired),
            Standing::Gone => self.stop(TerminationKind::Hard, EndReason::LeaseExpired),
        }
    }

    /// The deadline may have come nearer: an init is asleep until the one it knows.
    pub(super) fn nudged(&mut self) {
        self.tell_init(ToInit::LookAtLease);
    }

    /// Writes on the line, if init is there.
    pub(super) fn tell_init(&mut self, message: ToInit) {
        if self.line.is_connected() {
            self.act(Action::Tell(message));
        }
    }

    /// Whether the session may be handed over now; otherwise this comes back until the lease is
    /// renewed or over.
    pub(super) fn is_admitted(&mut self) -> bool {
        let is_admitted = self.now.lease.is_none_or(|lease| lease.admits);
        if !is_admitted {
            self.clocks.claim = Some(self.now.instant + CLAIM_AGAIN);
        }
        is_admitted
    }

    /// Why no session under the lease may be handed over to the init that is on the line: it cannot
    /// compare clocks with this agent, so nothing in its container would have the last word. An
    /// installation without a lease has no such end.
    pub(super) fn cannot_keep_lease(&self) -> Option<&'static str> {
        let is_leased = self.now.lease.is_some_and(|lease| lease.is_kept);
        (is_leased && self.has_own_kernel()).then_some(OWN_KERNEL)
    }

    fn has_own_kernel(&self) -> bool {
        self.line.hello.as_ref().is_some_and(|hello| hello.boot_id != Some(self.boot_id))
    }

    /// For init, which has the last word.
    pub(super) fn session_lease(&self) -> Option<SessionLease> {
        self.now.lease.filter(|_| !self.has_own_kernel()).map(|lease| SessionLease {
            boot_id: self.boot_id,
            grace_ms: u64::try_from(lease.grace.as_millis()).unwrap_or(u64::MAX),
            stop_signal: self.stop_signal(),
        })
    }
}
