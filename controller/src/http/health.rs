//! `GET /ctrl/status` and `GET /pub/health`: whether this controller answers, and can reach its database.

use axum::Json;
use axum::extract::State;
use jetway_protocol::error::Code;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// As Plane's: three strings.
pub async fn ctrl_status(State(app): State<App>) -> ApiResult<Json<Value>> {
    ping(&app).await?;
    Ok(Json(json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "hash": option_env!("JETWAY_GIT_HASH").unwrap_or("unknown"),
    })))
}

pub async fn health(State(app): State<App>) -> ApiResult<Json<Value>> {
    ping(&app).await?;
    Ok(Json(json!({ "status": "ok" })))
}

async fn ping(app: &App) -> ApiResult<()> {
    let mut connection = app.db.acquire().await?;
    let one = sqlx::query_scalar!("select 1 as \"one!\"").fetch_one(&mut *connection).await?;
    if one == 1 { Ok(()) } else { Err(ApiError::new(Code::Database, "the database cannot count to one")) }
}

#[cfg(test)]
mod tests {
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
    async fn without_its_database_it_says_so_and_when_to_come_back() {
        let harness = Harness::without_database().await;
        let health = harness.send(request("GET", "/pub/health", "")).await;
        assert_eq!((health.status, health.json()["kind"].as_str()), (503, Some("DatabaseError")));
        assert_eq!(health.header("retry-after"), Some("1"));
    }
}
