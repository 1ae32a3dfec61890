//! Drones as rows, for tests of what is decided from rows alone. A new column gets its value here.

use std::time::Duration;

use jetway_protocol::controller_api::Load;
use jetway_protocol::ids::{DroneId, Term};
use uuid::Uuid;

use super::{CLUSTER, registration};
use crate::db::drones::{Drone, LeaseState};

/// A drone that registered an hour ago and has just been heard of.
pub fn drone_row(name: &str) -> Drone {
    let register = registration(name, "127.0.0.1:1");
    Drone {
        id: register.drone,
        name: register.name,
        cluster: CLUSTER.parse().unwrap(),
        pool: register.pool,
        version: register.version,
        term: Term(1),
        advertise: register.advertise,
        capacity: register.capacity,
        load: Load { engine_ok: true, ..Load::default() },
        draining: false,
        drain_seconds_left: None,
        heartbeat_age: Duration::ZERO,
        registered_age: Duration::from_secs(3600),
        lease: LeaseState::None,
        compared: true,
    }
}

/// The same with the id `n`, the image `app` and an agent, which may keep slots ready.
pub fn warm_drone_row(name: &str, n: u128) -> Drone {
    let id = Uuid::from_u128(n);
    let mut row = Drone { id: DroneId(id), ..drone_row(name) };
    row.load.images = vec!["app".into()];
    row.load.warm.agent = Some(id);
    row
}
