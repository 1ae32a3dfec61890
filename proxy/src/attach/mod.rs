//! The attach streams: one WebSocket to each drone in use, and through it who may enter, what is open, what has ended.
//!
//! `ledger` counts, `drone` admits (its `state` under one lock; what it gives is an `admission`), `gate` closes, `outbox`
//! keeps notices, `stream` talks (`pings` says what it stands on, `whereabouts` where it is dialled). No request's bytes pass here.

mod admission;
mod drone;
mod gate;
mod ledger;
mod outbox;
mod pings;
mod state;
mod stream;
mod whereabouts;

#[cfg(test)]
mod drone_tests;

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use jetway_protocol::ids::{BootId, DroneId, ProxyId};
use jetway_protocol::token::TokenContent;
use jetway_service::client::Client;
use jetway_service::lifecycle::Lifecycle;
use tokio_util::sync::CancellationToken;

pub use admission::{Admission, Door, NotAdmitted, Using};
pub use drone::Drone;
pub use gate::{Closed, Gate};
pub use ledger::BackendKey;
pub use state::Stages;

/// Drones that one proxy talks to at a time.
const DRONES_MAX: usize = 8192;

/// What every stream needs to know of this process.
#[derive(Debug)]
pub struct Identity {
    pub proxy: ProxyId,
    pub name: String,
    pub boot_id: BootId,
    /// The network namespace, as the drone compares it.
    pub netns: String,
    /// The credential for drones.
    pub bearer: String,
    pub controllers: Vec<String>,
    /// For asking a controller where a drone is now.
    pub client: Client,
    pub lifecycle: Lifecycle,
    /// Ends the streams: after the last closes of clients, before our own.
    pub stop: CancellationToken,
}

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
