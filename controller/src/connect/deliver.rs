//! Grants whose drone did not take them at once: the caller has its URL, so they are offered for a while. A revocation
//! that this controller handles meanwhile ends it, as far as that can be known here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_service::backoff::Backoff;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::offer::{Offered, offer_once};
use crate::app::App;
use crate::db::backends::LiveBackend;
use crate::drone::CALL_DEADLINE;

/// How long a grant is offered.
const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// Under way at once. Further connects are told to come back, rather than given a URL that may never open.
const DELIVERIES_MAX: usize = 4096;

pub struct Deliveries {
    permits: Arc<Semaphore>,
    under_way: Mutex<Vec<UnderWay>>,
}

struct UnderWay {
    grant: GrantId,
    backend: BackendId,
    user: Option<String>,
    revoked: CancellationToken,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(DELIVERIES_MAX)), under_way: Mutex::default() }
    }
}

impl Deliveries {
    /// Nothing more is offered to the backend for this user.
    pub fn give_up(&self, backend: &BackendId, user: &str) {
        for one in self.lock().iter() {
            if one.backend == *backend && one.user.as_deref() == Some(user) {
                one.revoked.cancel();
            }
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// False: too many are under way.
pub fn deliver_later(app: &App, live: &LiveBackend, grant: &Grant) -> bool {
    let Ok(permit) = app.deliveries.permits.clone().try_acquire_owned() else { return false };
    let revoked = CancellationToken::new();
    app.deliveries.lock().push(UnderWay {
        grant: grant.id,
        backend: live.id.clone(),
        user: grant.user.clone(),
        revoked: revoked.clone(),
    });
    let (app_, live, grant) = (app.clone(), live.clone(), grant.clone());
    app.lifecycle.spawn(async move {
        let _one_of_many = permit;
        let app = app_;
        // Nothing is under way here that a revocation would have to wait for: it may be dropped anywhere.
        let _delivered_or_revoked = revoked.run_until_cancelled(deliver(&app, &live, &grant)).await;
        app.deliveries.lock().retain(|one| one.grant != grant.id || one.backend != live.id);
    });
    true
}

async fn deliver(app: &App, live: &LiveBackend, grant: &Grant) {
    let deadline = Instant::now() + DELIVERY_MAX;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    while Instant::now() < deadline {
        tokio::select! {
            // A last attempt where the controller stops: nobody else knows of the grant.
            () = app.lifecycle.stopping() => {}
            () = backoff.wait() => {}
        }
        // The term and address of now, not of then.
        let drone = app.fleet.by_id(live.drone.id).map_or(live.drone.clone(), |drone| drone.reach());
        match offer_once(app, &drone, &live.id, live.fencing_token, grant, CALL_DEADLINE).await {
            Offered::Taken(_) | Offered::Gone => return,
            Offered::Refused(message) => {
                tracing::warn!(backend = %live.id, drone = %drone.name, message, "a grant was refused");
                return;
            }
            Offered::Unknown | Offered::NotYet if app.lifecycle.is_stopping() => break,
            Offered::Unknown | Offered::NotYet => {}
        }
    }
    tracing::warn!(backend = %live.id, drone = %live.drone.name, "a grant could not be delivered");
}
