//! A grant, offered to the drone of a live backend. Those of many connects to one drone go in one exchange.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::drone_api::{AddGrant, AddGrants, GrantAnswer, GrantReply, GrantTo, RefusalCode};
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, Term};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout};

use crate::db::backends::LiveBackend;
use crate::db::drones::DroneRef;
use crate::drone::{DroneCalls, Failure, GRANT_DEADLINE};
use crate::gather::Gather;

/// Between two attempts at a backend whose `PUT` is still on its way.
const NOT_YET_WAIT: Duration = Duration::from_millis(8);

#[derive(Debug)]
pub enum Offered {
    Taken(GrantReply),
    /// A tombstone: the event of its end is on its way to Postgres.
    Gone,
    /// Not there: its `PUT` has not arrived, or the drone has lost it.
    Unknown,
    Refused(String),
    /// No answer in time, or none that says anything about the grant.
    NotYet,
}

impl From<Result<GrantReply, Failure>> for Offered {
    fn from(answer: Result<GrantReply, Failure>) -> Self {
        match answer {
            Ok(reply) => Offered::Taken(reply),
            Err(Failure::Refused(RefusalCode::Ended, _)) => Offered::Gone,
            Err(Failure::Refused(RefusalCode::Unknown, _)) => Offered::Unknown,
            // The drone has registered anew, or is about to: its next term is known in a moment.
            Err(Failure::Refused(RefusalCode::WrongTerm | RefusalCode::Unavailable, _)) => Offered::NotYet,
            Err(Failure::Refused(_, message)) => Offered::Refused(message),
            Err(Failure::NotSent(_) | Failure::Unclear(_)) => Offered::NotYet,
        }
    }
}

/// What is offered to each drone now.
pub struct Offers {
    drones: Arc<DroneCalls>,
    of_drones: Mutex<HashMap<Of, Arc<Gather<GrantTo, Offered>>>>,
}

/// Commands to a drone of one term, at one address, go together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Of {
    drone: DroneId,
    term: Term,
    advertise: String,
}

impl Offers {
    pub fn new(drones: Arc<DroneCalls>) -> Self {
        Self { drones, of_drones: Mutex::default() }
    }

    fn to(&self, of: &Of) -> Arc<Gather<GrantTo, Offered>> {
        self.lock().entry(of.clone()).or_default().clone()
    }

    /// Drones come and go: what nobody uses is not kept.
    fn leave(&self, of: &Of, used: Arc<Gather<GrantTo, Offered>>) {
        let mut of_drones = self.lock();
        drop(used);
        if of_drones.get(of).is_some_and(|kept| Arc::strong_count(kept) == 1) {
            of_drones.remove(of);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Of, Arc<Gather<GrantTo, Offered>>>> {
        self.of_drones.lock()
    }

    /// One exchange, repeated only within its deadline and only where the `PUT` is still on its
    /// way.
    pub async fn offer(&self, live: &LiveBackend, grant: &Grant) -> Offered {
        let deadline = Instant::now() + GRANT_DEADLINE;
        loop {
            match self.offer_together(live, grant, deadline).await {
                Offered::Unknown if !live.acknowledged && Instant::now() + NOT_YET_WAIT < deadline => {
                    tokio::time::sleep(NOT_YET_WAIT).await;
                }
                offered => return offered,
            }
        }
    }

    async fn offer_together(&self, live: &LiveBackend, grant: &Grant, deadline: Instant) -> Offered {
        let drone = &live.drone;
        let of = Of { drone: drone.id, term: drone.term, advertise: drone.advertise.clone() };
        let together = self.to(&of);
        let one =
            GrantTo { backend: live.id.clone(), fencing_token: live.fencing_token, grant: grant.clone() };
        let left = deadline.saturating_duration_since(Instant::now());
        let asking = together.answer(one, async |all| self.send(drone, all, left).await);
        let answer = timeout(left, asking).await;
        self.leave(&of, together);
        match answer {
            Ok(Some(offered)) => offered,
            // Who asked for it has gone.
            Ok(None) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.offer_once(drone, &live.id, live.fencing_token, grant, left).await
            }
            Err(_) => Offered::NotYet,
        }
    }

    /// One goes as every version of the drone knows it.
    pub async fn send(&self, drone: &DroneRef, all: Vec<GrantTo>, left: Duration) -> Vec<Option<Offered>> {
        if let [one] = all.as_slice() {
            return vec![Some(
                self.offer_once(drone, &one.backend, one.fencing_token, &one.grant, left).await,
            )];
        }
        let body = AddGrants { term: drone.term, grants: all };
        match self.drones.grants(drone, &body, left).await {
            Ok(reply) => {
                reply.answers.into_iter().map(|answer| Some(Offered::from(refused(answer)))).collect()
            }
            Err(error) => match Failure::from(error) {
                // Of a version that takes them only one by one.
                Failure::Refused(RefusalCode::Unknown, _) => {
                    let alone = body.grants.iter().map(async |one| {
                        Some(self.offer_once(drone, &one.backend, one.fencing_token, &one.grant, left).await)
                    });
                    futures_util::future::join_all(alone).await
                }
                failure => body.grants.iter().map(|_| Some(Offered::from(Err(failure.clone())))).collect(),
            },
        }
    }

    async fn offer_once(
        &self,
        drone: &DroneRef,
        id: &BackendId,
        fencing_token: FencingToken,
        grant: &Grant,
        deadline: Duration,
    ) -> Offered {
        let body = AddGrant { term: drone.term, fencing_token, grant: grant.clone() };
        self.drones.grant(drone, id, &body, deadline).await.map_err(Failure::from).into()
    }
}

fn refused(answer: GrantAnswer) -> Result<GrantReply, Failure> {
    match answer {
        GrantAnswer::Added(reply) => Ok(reply),
        GrantAnswer::Refused(refusal) => Err(Failure::Refused(refusal.code, refusal.message)),
    }
}
