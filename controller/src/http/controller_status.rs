//! `GET /ctrl/status`: whether this controller answers and can reach its database, how leases
//! stand, and what the background tasks did last.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jetway_api::controller::{ControllerStatus, LeaseCounts, LeaseStatus};
use jetway_service::clock;

use crate::app::App;
use crate::db::drones::LeaseState;
use crate::error::ApiResult;
use crate::http::health::ping;

/// Plane's three strings; beside them how leases stand, and what background tasks did last.
#[utoipa::path(
    get, path = "/status", tag = "operating",
    operation_id = "controller_status",
    responses((status = 200, description = "It answers, and so does Postgres", body = ControllerStatus)),
)]
pub async fn ctrl_status(State(app): State<App>) -> ApiResult<Json<ControllerStatus>> {
    ping(&app).await?;
    Ok(Json(ControllerStatus {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hash: option_env!("JETWAY_GIT_HASH").unwrap_or("unknown").to_owned(),
        lease: lease(&app),
        tasks: app.tasks.records(),
    }))
}

fn lease(app: &App) -> LeaseStatus {
    let shown = app.leases.shown();
    let watch_age = shown.last_tick.map(|last| clock::boot_time().saturating_sub(last));
    let table = app.fleet.table();
    let count =
        |wanted: fn(LeaseState) -> bool| table.drones.iter().filter(|drone| wanted(drone.lease)).count();
    LeaseStatus {
        length_seconds: app.leases.terms.map(|terms| terms.length().as_secs()),
        margin_seconds: app.leases.terms.map(|terms| terms.margin().as_secs_f64()),
        drones: LeaseCounts {
            held: count(|lease| matches!(lease, LeaseState::Held(_))),
            none: count(|lease| lease == LeaseState::None),
            over: count(|lease| lease == LeaseState::Over),
            forgotten: count(|lease| lease == LeaseState::Forgotten),
        },
        watch_age_ms: watch_age.map(millis),
        watch_interruptions: shown.interruptions,
        timeline: shown.timeline,
        new_keys_wait_ms: millis(app.leases.unsettled_for()),
        synchronous_standby: shown.is_synchronous,
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::testing::{Harness, request};

    #[tokio::test]
    async fn it_answers_as_plane_does() {
        let harness = Harness::new().await;
        let status = harness.send(request("GET", "/ctrl/status", "")).await;
        for field in ["status", "version", "hash"] {
            assert!(status.json()[field].is_string(), "{field}");
        }
    }
}
