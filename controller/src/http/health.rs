//! `GET /pub/health`: whether this controller answers, and can reach its database.

use axum::Json;
use axum::extract::State;
use jetway_api::controller::Health;
use jetway_protocol::error::Code;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Whether this controller answers, and can reach Postgres.
#[utoipa::path(
    get, path = "/health", tag = "status",
    responses((status = 200, description = "It answers, and so does Postgres", body = Health)),
)]
pub async fn health(State(app): State<App>) -> ApiResult<Json<Health>> {
    app.pong.get(async || ping(&app).await).await?;
    Ok(Json(Health { status: "ok".to_owned() }))
}

pub async fn ping(app: &App) -> ApiResult<()> {
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
    async fn it_answers_as_plane_does() {
        let harness = Harness::new().await;
        let health = harness.send(request("GET", "/pub/health", "")).await;
        assert_eq!((health.status, health.text().as_str()), (200, r#"{"status":"ok"}"#));
        assert_eq!(health.header("access-control-allow-origin"), Some("*"));
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
