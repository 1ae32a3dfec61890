//! `GET /ctrl/drones`: every drone with what it has, what is taken of it, and when it was last heard of.

use axum::Json;
use axum::extract::State;
use jetway_api::drones::{self, DroneLease, DroneState, Drones};
use jetway_service::clock;

use crate::app::App;
use crate::db::drones::{Drone, LeaseState, all};
use crate::error::ApiResult;
use crate::fleet::HEARTBEAT_AGE_MAX;
use crate::http::controller_status::millis;

/// Every drone: state, capacity, load, lease.
#[utoipa::path(
    get, path = "/drones", tag = "operating",
    operation_id = "list_drones",
    responses((status = 200, description = "Every drone, by name", body = Drones)),
)]
pub async fn list(State(app): State<App>) -> ApiResult<Json<Drones>> {
    let mut connection = app.pools.requests.acquire().await?;
    let mut drones = all(&mut connection).await?;
    drop(connection);
    drones.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(Drones { drones: drones.iter().map(|drone| shown_drone(&app, drone)).collect() }))
}

fn shown_drone(app: &App, drone: &Drone) -> drones::Drone {
    drones::Drone {
        name: drone.name.clone(),
        id: drone.id,
        state: state(drone),
        cluster: drone.cluster.clone(),
        pool: drone.pool.clone(),
        version: drone.version.clone(),
        advertise: drone.advertise.clone(),
        draining: drone.draining,
        drain_seconds_left: drone.drain_seconds_left.map(|left| left.max(0.0).ceil()),
        capacity: drone.capacity.clone(),
        load: drone.load.clone(),
        lease: lease(app, drone),
        last_heartbeat_age_ms: millis(drone.heartbeat_age),
    }
}

fn state(drone: &Drone) -> DroneState {
    if drone.lease == LeaseState::Forgotten {
        DroneState::Forgotten
    } else if drone.lease == LeaseState::Over {
        DroneState::LeaseOver
    } else if drone.heartbeat_age > HEARTBEAT_AGE_MAX {
        DroneState::Silent
    } else if !drone.load.engine_ok {
        DroneState::NotReady
    } else if drone.draining {
        DroneState::Draining
    } else {
        DroneState::Ready
    }
}

fn lease(app: &App, drone: &Drone) -> DroneLease {
    let unchanged_ms = app.leases.unchanged_for(drone.id, clock::boot_time()).map(millis);
    match drone.lease {
        LeaseState::None => DroneLease::None,
        LeaseState::Held(terms) => DroneLease::Held {
            length_ms: millis(terms.length()),
            margin_ms: millis(terms.margin()),
            unchanged_ms,
            ends_in_ms: unchanged_ms.map(|unchanged| millis(terms.watched_for()).saturating_sub(unchanged)),
        },
        LeaseState::Over => DroneLease::Over,
        LeaseState::Forgotten => DroneLease::Forgotten,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    #[tokio::test]
    async fn a_drone_that_is_not_heard_of_is_shown_as_silent() {
        let harness = Harness::new().await;
        harness.drone("one").await;
        for (heard, state) in [
            ("update drones set last_heartbeat = now() - interval '5 s'", "ready"),
            ("update drones set last_heartbeat = now() - interval '11 s'", "silent"),
        ] {
            harness.execute(heard).await;
            assert_eq!(harness.get("/ctrl/drones").await.json()["drones"][0]["state"], state, "{heard}");
        }
    }
}
