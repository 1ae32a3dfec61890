//! `GET /ctrl/certificates`: those that are ordered, and how they are. `POST /ctrl/certificates/{id}/retry`: order one now, whatever
//! it would wait for.

use axum::Json;
use axum::extract::State;
use jetway_protocol::error::Code;
use serde_json::{Value, json};

use super::extract::ApiPath;
use crate::app::App;
use crate::db::certificates::{self, Listed};
use crate::error::{ApiError, ApiResult, shown};

const LISTED_MAX: i64 = 1000;

pub async fn list(State(app): State<App>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    let listed = certificates::list(&mut connection, LISTED_MAX).await?;
    drop(connection);
    let issuer = app.acme.as_ref().map(|acme| &acme.config.directory);
    let on_demand = app.acme.as_ref().is_some_and(|acme| acme.hook.is_some());
    Ok(Json(json!({
        "issuer": issuer,
        "on_demand": on_demand,
        "certificates": listed.iter().map(shown_certificate).collect::<Vec<_>>(),
    })))
}

fn shown_certificate(listed: &Listed) -> Value {
    let state = match (listed.is_valid, listed.failures > 0, listed.not_after_ms) {
        (true, false, _) => "valid",
        (true, true, _) => "renewal_failing",
        (false, true, _) => "failing",
        (false, false, Some(_)) => "expired",
        (false, false, None) => "ordered",
    };
    json!({
        "id": listed.id,
        "names": listed.names,
        "on_demand": listed.on_demand,
        "state": state,
        "version": listed.version,
        "expires_at": listed.not_after_ms,
        "next_order_at": listed.next_ms,
        "failures": listed.failures,
        "problem": listed.problem,
    })
}

pub async fn retry(State(app): State<App>, ApiPath(id): ApiPath<String>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    if !certificates::retry(&mut connection, &id).await? {
        let message = format!("no certificate has the id {}; see: jetway certificates", shown(&id));
        return Err(ApiError::new(Code::CertificateNotFound, message));
    }
    drop(connection);
    if let Some(acme) = &app.acme {
        acme.nudge.notify_one();
    }
    Ok(Json(json!({ "ordered": true })))
}
