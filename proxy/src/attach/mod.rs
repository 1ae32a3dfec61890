//! The attach streams: one WebSocket to each drone in use. A stream admits requests, reports uses,
//! and hears of ends.
//!
//! `ledger` counts, `drone` admits (its `state` under one lock; it gives an `admission`), `gate`
//! closes, `outbox` keeps notices, `stream` talks (it stands on `pings`, and is dialled at an
//! `address`, with an `identity`). No request's bytes pass here.

mod address;
mod admission;
mod drone;
mod gate;
mod identity;
mod ledger;
mod outbox;
mod pings;
mod state;
mod stream;

#[cfg(test)]
mod drone_tests;

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use jetway_protocol::ids::DroneId;
use jetway_protocol::token::TokenContent;

pub use admission::{Admission, DialVia, NotAdmitted, Using};
pub use drone::Drone;
pub use gate::{Closed, Gate};
pub use identity::Identity;
pub use ledger::BackendKey;
pub use state::Stages;

/// Drones that one proxy talks to at a time.
const DRONES_MAX: usize = 8192;

#[derive(Debug)]
pub struct Drones {
    drones: Arc<DashMap<DroneId, Arc<Drone>>>,
    identity: Arc<Identity>,
}

impl Drones {
    pub fn new(identity: Identity) -> Self {
        Self { drones: Arc::default(), identity: Arc::new(identity) }
    }

    /// The drone of a token; its stream is begun where there is none. `None`: there are too many.
    pub fn get(&self, content: &TokenContent) -> Option<Arc<Drone>> {
        if let Some(drone) = self.drones.get(&content.drone).map(|entry| entry.value().clone()) {
            drone.hint(&content.drone_address);
            return Some(drone);
        }
        if self.drones.len() >= DRONES_MAX {
            return None;
        }
        match self.drones.entry(content.drone) {
            Entry::Occupied(entry) => Some(entry.get().clone()),
            Entry::Vacant(entry) => {
                let drone = Arc::new(Drone::new(content.drone, content.drone_address.clone()));
                entry.insert(drone.clone());
                let (drones, identity, run) = (self.drones.clone(), self.identity.clone(), drone.clone());
                self.identity.lifecycle.spawn(async move {
                    stream::keep(&run, &identity).await;
                    drones.remove_if(&run.id, |_, kept| Arc::ptr_eq(kept, &run));
                });
                Some(drone)
            }
        }
    }
}
