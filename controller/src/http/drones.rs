//! `GET /ctrl/drones`: every drone with what it has, what is taken of it, and when it was last heard of.

use axum::Json;
use axum::extract::State;
use jetway_service::clock;
use serde_json::{Value, json};

use crate::app::App;
use crate::connect::place::HEARTBEAT_AGE_MAX;
use crate::db::drones::{self, Drone, LeaseState};
use crate::error::ApiResult;
use crate::http::health::millis;

pub async fn list(State(app): State<App>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    let mut drones = drones::all(&mut connection).await?;
    drop(connection);
    drones.sort_by(|a, b| a.name.cmp(&b.name));
    let drones: Vec<Value> = drones
        .iter()
        .map(|drone| {
            let state = if drone.lease == LeaseState::Forgotten {
                "forgotten"
            } else if drone.lease == LeaseState::Over {
                "lease-over"
            } else if drone.heartbeat_age > HEARTBEAT_AGE_MAX {
                "silent"
            } else if !drone.load.engine_ok {
                "not-ready"
            } else if drone.draining {
                "draining"
            } else {
                "ready"
            };
            json!({
                "name": drone.name,
                "id": drone.id,
                "state": state,
                "cluster": drone.cluster,
                "pool": drone.pool,
                "version": drone.version,
                "advertise": drone.advertise,
                "draining": drone.draining,
                "drain_seconds_left": drone.drain_seconds_left.map(|left| left.max(0.0).ceil()),
                "capacity": drone.capacity,
                "load": drone.load,
                "lease": lease(&app, drone),
                "last_heartbeat_age_ms": millis(drone.heartbeat_age),
            })
        })
        .collect();
    Ok(Json(json!({ "drones": drones })))
}

/// How a drone's lease stands. `unchanged_ms`: for how long this controller has watched one renewal number.
fn lease(app: &App, drone: &Drone) -> Value {
    let unchanged = app.leases.unchanged_for(drone.id, clock::boot_time()).map(millis);
    match drone.lease {
        LeaseState::None => json!({ "state": "none" }),
        LeaseState::Held(terms) => json!({
            "state": "held",
            "length_ms": millis(terms.length()),
            "margin_ms": millis(terms.margin()),
            "unchanged_ms": unchanged,
            "ends_in_ms": unchanged.map(|unchanged| millis(terms.watched_for()).saturating_sub(unchanged)),
        }),
        LeaseState::Over => json!({ "state": "over" }),
        LeaseState::Forgotten => json!({ "state": "forgotten" }),
    }
}
