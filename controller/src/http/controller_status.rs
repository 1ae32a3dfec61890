//! `GET /ctrl/status` and `GET /pub/health`: whether this controller answers, and can reach its database.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jetway_api::controller::{ControllerStatus, Health, LeaseCounts, LeaseStatus};
use jetway_protocol::error::Code;
use jetway_service::clock;

use crate::app::App;
use crate::db::drones::LeaseState;
use crate::error::{ApiError, ApiResult};

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

/// Whether this controller answers, and can reach Postgres.
#[utoipa::path(
    get, path = "/health", tag = "status",
    responses((status = 200, description = "It answers, and so does Postgres", body = Health)),
)]
pub async fn health(State(app): State<App>) -> ApiResult<Json<Health>> {
    app.pong.get(async || ping(&app).await).await?;
    Ok(Json(Health { status: "ok".to_owned() }))
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn ping(app: &App) -> ApiResult<()> {
    let mut connection = app.pools.requests.acquire().await?;
    let one = sqlx::query_scalar!("select 1 as \"one!\"").fetch_one(&mut *connection).await?;
    if one == 1 { Ok(()) } else { Err(ApiError::new(Code::Database, "the database cannot count to one")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::Instant;

    use crate::db::tests::Statements;
    use crate::testing::{Harness, request};

    #[tokio::test]
    async fn both_answer_as_plane_does() {
        let harness = Harness::new().await;
        let health = harness.send(request("GET", "/pub/health", "")).await;
        assert_eq!((health.status, health.text().as_str()), (200, r#"{"status":"ok"}"#));
        assert_eq!(health.header("access-control-allow-origin"), Some("*"));
        let status = harness.send(request("GET", "/ctrl/status", "")).await;
        for field in ["status", "version", "hash"] {
            assert!(status.json()[field].is_string(), "{field}");
        }
    }

    #[tokio::test]
    async fn however_often_strangers_ask_postgres_is_asked_now_and_then() {
        let harness = Harness::new().await;
        let (count, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
        let _counting = tracing::subscriber::set_default(Statements::counted_in(&count));
        for _ in 0..500 {
            assert_eq!(harness.send(request("GET", "/pub/health", "")).await.status, 200);
        }
        let most = 1 + begun.elapsed().as_millis() / 250;
        assert!(count.load(Ordering::Relaxed) as u128 <= most, "{count:?} statements, at most {most}");
    }

    #[tokio::test]
    async fn without_its_database_it_says_so_and_when_to_come_back() {
        let harness = Harness::without_database().await;
        let health = harness.send(request("GET", "/pub/health", "")).await;
        assert_eq!((health.status, health.json()["kind"].as_str()), (503, Some("DatabaseError")));
        assert_eq!(health.header("retry-after"), Some("1"));
    }
}
