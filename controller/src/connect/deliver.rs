//! Grants whose drone did not take them at once. The callers have their URLs, so the grants are
//! offered again for a while: one task a drone, oldest first, many in one exchange. A revocation
//! that this controller handles meanwhile ends it for its grants, as far as that can be known here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::drone_api::GrantTo;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, DroneId};
use jetway_service::backoff::Backoff;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::silence::Silence;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::offer::{Offered, Offers};
use crate::db::backends::LiveBackend;
use crate::db::drones::DroneRef;
use crate::drone::CALL_DEADLINE;
use crate::fleet::Fleet;

/// How long a grant is offered.
const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// Grants that wait for one drone, at most: a crowd of some seconds, about 20 MB. For one more the
/// oldest goes: its caller was told that the drone had not answered, and may connect again.
const WAITING_MAX: usize = 32 * 1024;
/// Grants in one exchange.
const TOGETHER_MAX: usize = 64;

#[derive(Default)]
pub struct Deliveries {
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    to_drones: HashMap<DroneId, Waiting>,
    /// When each was told last: a crowd meets them thousands of times.
    refusals: Silence,
    undelivered: Silence,
    given_up: Silence,
}

/// What waits for one drone, and the exchange that is under way.
#[derive(Default)]
struct Waiting {
    grants: VecDeque<Delivery>,
    exchange: CancellationToken,
}

#[derive(Clone)]
struct Delivery {
    grant: GrantTo,
    until: Instant,
}

/// The next ones, of so many that wait.
struct Exchange {
    grants: Vec<Delivery>,
    waiting: usize,
    /// One of them was revoked.
    ends: CancellationToken,
}

enum Came {
    /// The drone has not answered, or is not ready for them.
    NotYet,
    /// So many need no more deliveries.
    Done(usize),
}

impl Deliveries {
    /// Nothing more is offered to the backend for this user. What is under way for others is begun
    /// again.
    pub fn give_up(&self, backend: &BackendId, user: &str) {
        let mut inside = self.lock();
        for waiting in inside.to_drones.values_mut() {
            let before = waiting.grants.len();
            let is_theirs =
                |one: &GrantTo| one.backend == *backend && one.grant.user.as_deref() == Some(user);
            waiting.grants.retain(|one| !is_theirs(&one.grant));
            if waiting.grants.len() < before {
                waiting.exchange.cancel();
            }
        }
    }

    /// True where nothing waited for the drone: then there is no task yet.
    fn add(&self, drone: &DroneRef, delivery: Delivery) -> bool {
        let mut inside = self.lock();
        let Inside { to_drones, given_up, .. } = &mut *inside;
        let is_new = !to_drones.contains_key(&drone.id);
        let waiting = to_drones.entry(drone.id).or_default();
        if waiting.grants.len() >= WAITING_MAX {
            waiting.grants.pop_front();
            if given_up.is_to_be_told(Instant::now()) {
                tracing::warn!(drone = %drone.name, "{WAITING_MAX} grants wait for a drone: the oldest are given up");
            }
        }
        waiting.grants.push_back(delivery);
        is_new
    }

    /// `None`: nothing waits, and the next one that comes begins anew.
    fn next(&self, drone: &DroneRef, now: Instant) -> Option<Exchange> {
        let mut inside = self.lock();
        let Inside { to_drones, undelivered, .. } = &mut *inside;
        let waiting = to_drones.get_mut(&drone.id)?;
        let before = waiting.grants.len();
        waiting.grants.retain(|one| one.until > now);
        if waiting.grants.len() < before && undelivered.is_to_be_told(now) {
            tracing::warn!(drone = %drone.name, "a drone did not take grants for {DELIVERY_MAX:?}: they are given up");
        }
        if waiting.grants.is_empty() {
            to_drones.remove(&drone.id);
            return None;
        }
        waiting.exchange = CancellationToken::new();
        Some(Exchange {
            grants: waiting.grants.iter().take(TOGETHER_MAX).cloned().collect(),
            waiting: waiting.grants.len(),
            ends: waiting.exchange.clone(),
        })
    }

    /// They need no more deliveries; the others that were asked for go to the end.
    fn done(&self, drone: &DroneRef, asked: &[Delivery], is_done: &[bool]) {
        let mut inside = self.lock();
        let Some(waiting) = inside.to_drones.get_mut(&drone.id) else { return };
        let said: HashMap<_, bool> =
            asked.iter().map(|one| one.grant.grant.id).zip(is_done.iter().copied()).collect();
        let mut again = Vec::new();
        waiting.grants.retain(|one| match said.get(&one.grant.grant.id) {
            None => true,
            Some(true) => false,
            Some(false) => {
                again.push(one.clone());
                false
            }
        });
        waiting.grants.extend(again);
    }

    pub fn note_refusal(&self, backend: &BackendId, drone: &DroneRef, message: &str) {
        if self.lock().refusals.is_to_be_told(Instant::now()) {
            tracing::warn!(%backend, drone = %drone.name, message, "a grant was refused");
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lock().to_drones.values().map(|waiting| waiting.grants.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock()
    }
}

/// Gives grants to drones: at once, or later where a drone does not take them at once.
pub struct Grants {
    pub offers: Offers,
    pub deliveries: Deliveries,
    fleet: Arc<Fleet>,
    lifecycle: Lifecycle,
}

impl Grants {
    pub fn new(offers: Offers, fleet: Arc<Fleet>, lifecycle: Lifecycle) -> Arc<Self> {
        Arc::new(Self { offers, deliveries: Deliveries::default(), fleet, lifecycle })
    }

    pub fn deliver_later(self: &Arc<Self>, live: &LiveBackend, grant: &Grant) {
        let grant =
            GrantTo { backend: live.id.clone(), fencing_token: live.fencing_token, grant: grant.clone() };
        let drone = live.drone.clone();
        if self.deliveries.add(&drone, Delivery { grant, until: Instant::now() + DELIVERY_MAX }) {
            let grants = self.clone();
            self.lifecycle.spawn(async move { grants.deliver_all(drone).await });
        }
    }

    async fn deliver_all(&self, drone: DroneRef) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            tokio::select! {
                // A last attempt where the controller stops: nobody else knows of the grants.
                () = self.lifecycle.stopping() => {}
                () = backoff.wait() => {}
            }
            // Those of one backend may be in vain, and others wait behind them.
            let mut in_vain = 0;
            loop {
                let Some(exchange) = self.deliveries.next(&drone, Instant::now()) else { return };
                // Nothing is under way here that a revocation would have to wait for: it may be
                // dropped anywhere.
                match exchange.ends.run_until_cancelled(self.deliver(&drone, &exchange.grants)).await {
                    // Once more, without those that were revoked.
                    None => continue,
                    Some(Came::Done(1..)) => {
                        backoff.reset();
                        in_vain = 0;
                        continue;
                    }
                    Some(Came::Done(0)) => in_vain += exchange.grants.len(),
                    Some(Came::NotYet) => in_vain = exchange.waiting,
                }
                if in_vain >= exchange.waiting {
                    break;
                }
            }
            if self.lifecycle.is_stopping() {
                return;
            }
        }
    }

    async fn deliver(&self, drone: &DroneRef, some: &[Delivery]) -> Came {
        // The term and address of now, not of then.
        let drone = self.fleet.by_id(drone.id).map_or(drone.clone(), |drone| drone.reach());
        let grants: Vec<GrantTo> = some.iter().map(|one| one.grant.clone()).collect();
        let offered = self.offers.send(&drone, grants, CALL_DEADLINE).await;
        let is_done: Vec<bool> = offered
            .iter()
            .zip(some)
            .map(|(offered, one)| match offered {
                Some(Offered::Taken(_) | Offered::Gone) => true,
                Some(Offered::Refused(message)) => {
                    self.deliveries.note_refusal(&one.grant.backend, &drone, message);
                    true
                }
                Some(Offered::Unknown | Offered::NotYet) | None => false,
            })
            .collect();
        self.deliveries.done(&drone, some, &is_done);
        if offered.iter().all(|one| matches!(one, Some(Offered::NotYet) | None)) {
            return Came::NotYet;
        }
        Came::Done(is_done.iter().filter(|is_done| **is_done).count())
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{FencingToken, GrantId, Term};
    use uuid::Uuid;

    use super::*;

    fn drone() -> DroneRef {
        let name = "one".parse().unwrap();
        DroneRef { id: DroneId(Uuid::nil()), name, term: Term(1), advertise: "127.0.0.1:1".to_owned() }
    }

    fn delivery(id: u64, user: &str) -> Delivery {
        let grant = Grant {
            id: GrantId(id),
            user: Some(user.to_owned()),
            auth: "{}".to_owned(),
            secret: String::new(),
            allowed_origins: Vec::new(),
        };
        let grant = GrantTo { backend: "b".parse().unwrap(), fencing_token: FencingToken(1), grant };
        Delivery { grant, until: Instant::now() + DELIVERY_MAX }
    }

    fn ids(exchange: &Exchange) -> Vec<u64> {
        exchange.grants.iter().map(|one| one.grant.grant.id.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_oldest_goes() {
        let (deliveries, drone) = (Deliveries::default(), drone());
        for id in 0..WAITING_MAX as u64 + 2 {
            assert_eq!(deliveries.add(&drone, delivery(id, "ann")), id == 0);
        }
        assert_eq!(deliveries.count(), WAITING_MAX);
        let next = deliveries.next(&drone, Instant::now()).unwrap();
        assert_eq!((ids(&next)[0], next.grants.len(), next.waiting), (2, TOGETHER_MAX, WAITING_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn the_undelivered_go_behind_the_others_and_away_in_time() {
        let (deliveries, drone) = (Deliveries::default(), drone());
        for id in 0..66 {
            deliveries.add(&drone, delivery(id, "ann"));
        }
        let first = deliveries.next(&drone, Instant::now()).unwrap();
        deliveries.done(&drone, &first.grants, &std::array::from_fn::<_, TOGETHER_MAX, _>(|n| n != 5));
        assert_eq!(ids(&deliveries.next(&drone, Instant::now()).unwrap()), [64, 65, 5]);
        assert!(deliveries.next(&drone, Instant::now() + DELIVERY_MAX).is_none());
        assert!(deliveries.add(&drone, delivery(99, "ann")), "and then anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_revocation_takes_its_grants_out_of_an_exchange() {
        let (deliveries, drone) = (Deliveries::default(), drone());
        for (id, user) in ["ann", "ann", "bob", "ann"].into_iter().enumerate() {
            deliveries.add(&drone, delivery(id as u64, user));
        }
        let exchange = deliveries.next(&drone, Instant::now()).unwrap();
        deliveries.give_up(&"other".parse().unwrap(), "bob");
        assert!(!exchange.ends.is_cancelled());
        deliveries.give_up(&"b".parse().unwrap(), "bob");
        assert!(exchange.ends.is_cancelled());
        assert_eq!(ids(&deliveries.next(&drone, Instant::now()).unwrap()), [0, 1, 3]);
    }
}
