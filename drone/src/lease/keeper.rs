//! What keeps the lease honest where a clock or an order of things could cheat it: ends are written down before a new
//! term is asked for, and a host that was asleep is noticed.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::status::Status;
use tokio::time::{Instant, timeout};

use super::Lease;
use crate::agent::Agent;

/// A backend's task writes its end down at once; one that has not by then is stuck with the disk.
const CONDEMN_SECONDS_MAX: u64 = 5;
/// Timers stand still while the host sleeps; this look does not take longer to notice.
const SUSPEND_LOOK: Duration = Duration::from_secs(1);
const SUSPEND_MIN: Duration = Duration::from_millis(500);

/// Every backend whose tenure is over has that in its journal when this returns true. Asked before a new term is: an agent
/// that was killed right after that would find a deadline in the future, and nothing else would tell the next one.
pub async fn condemn(agent: &Agent) -> bool {
    let lost = |tenure| agent.lease.is_lost(tenure);
    let condemned: Vec<_> =
        agent.all_backends().into_iter().filter(|backend| backend.tenure.is_some_and(lost)).collect();
    if condemned.is_empty() {
        return true;
    }
    agent.lease.nudge();
    let all = async {
        for backend in &condemned {
            let mut follow = backend.follow();
            let _gone_with_its_end =
                follow.wait_for(|now| now.state.status() >= Status::HardTerminating).await;
        }
    };
    timeout(Duration::from_secs(CONDEMN_SECONDS_MAX), all).await.is_ok()
}

/// Until the process stops: wakes the backends' tasks after the host was asleep, because their own timers were, too.
pub async fn follow_suspends(lease: Arc<Lease>) {
    let mut last = (Instant::now(), lease.now());
    loop {
        tokio::time::sleep(SUSPEND_LOOK).await;
        let now = (Instant::now(), lease.now());
        let asleep = now.1.saturating_sub(last.1).saturating_sub(now.0 - last.0);
        if asleep > SUSPEND_MIN {
            tracing::info!(seconds = asleep.as_secs(), "the host was asleep");
            lease.nudge();
        }
        last = now;
    }
}
