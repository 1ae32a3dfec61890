//! `GET /ctrl/drones`: every drone with what it has, what is taken of it, and when it was last heard of.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::app::App;
use crate::connect::place::HEARTBEAT_AGE_MAX;
use crate::db::drones;
use crate::error::ApiResult;

pub async fn list(State(app): State<App>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    let mut drones = drones::all(&mut connection).await?;
    drop(connection);
    drones.sort_by(|a, b| a.name.cmp(&b.name));
    let drones: Vec<Value> = drones
        .iter()
        .map(|drone| {
            let state = if drone.heartbeat_age > HEARTBEAT_AGE_MAX {
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
                "capacity": drone.capacity,
                "load": drone.load,
                "last_heartbeat_age_ms": u64::try_from(drone.heartbeat_age.as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect();
    Ok(Json(json!({ "drones": drones })))
}
