//! `POST /ctrl/connect`: from a key to a URL. This file turns HTTP into [`crate::connect`] and back.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::HeaderName;
use axum::response::{IntoResponse, Response};
use jetway_api::ErrorBody;
use jetway_api::connect::{ConnectRequest, ConnectResponse};
use jetway_protocol::error::Code;

use super::access;
use super::extract::ApiJson;
use crate::app::App;
use crate::connect::respond::{Stopwatch, response};
use crate::connect::{self, validate};
use crate::counters::Counters;
use crate::error::{ApiError, ApiResult};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const BUSY_RETRY_MS: u64 = 1000;

/// From a key to a URL of its session; starts one if none runs. Idempotent by key.
#[utoipa::path(
    post, path = "/ctrl/connect", tag = "sessions",
    request_body(
        content = ConnectRequest,
        example = json!({
            "key": { "name": "my-document" },
            "spawn_config": { "executable": { "image": "my-image" }, "max_idle_seconds": 30 },
            "user": "ada", "auth": { "role": "owner" }, "wait": "ready",
        }),
    ),
    responses(
        (status = 200, description = "The URL, and what it leads to", body = ConnectResponse,
            headers(("Server-Timing" = String, description = "The stages of the start, in milliseconds")),
            example = json!({
                "backend_id": "b-1", "spawned": true, "status": "ready", "token": "TOKEN",
                "url": "http://localhost:9090/TOKEN/", "subdomain": null, "secret_token": "SECRET",
                "status_url": "http://127.0.0.1:8080/pub/b/b-1/status", "drone": "dev", "fencing_token": 1,
                "drone_answered": true,
            })),
        (status = 400, description = "`invalid_json`, `invalid_cluster`", body = ErrorBody),
        (status = 404, description = "`pool_not_found`: no warm pool has this name", body = ErrorBody),
        (status = 409, description = "`key_held`: its backend has another tag; `key_unheld`: nothing lives, and there is \
            no `spawn_config`; `id_taken`; `subdomain_taken`; `host_taken`: a host is another key's, or was until a short time \
            ago", body = ErrorBody),
        (status = 422, description = "`invalid_request`: the message names the field; `auth_too_large`; `not_offered`: no \
            drone ever does this; `host_form_needs_https`: browsers reach the cluster without TLS", body = ErrorBody),
        (status = 500, description = "`internal`; `pool_unreadable`: the pool was put under another secret", body = ErrorBody),
        (status = 502, description = "`start_failed`: with `wait`, it ended before it was ready; see `end_reason` and \
            `output`", body = ErrorBody),
        (status = 503, description = "`key_stopping`, `key_unhealthy`, `no_drone`, `busy`, `database`: try again after \
            `retry_after_ms`", body = ErrorBody),
    ),
)]
pub async fn connect(State(app): State<App>, request: Request) -> ApiResult<Response> {
    access::check(&app, &request)?;
    let ApiJson(request) = ApiJson::from_request(request, &app).await?;
    let answer = answer(&app, request).await;
    let counters = &app.counters;
    let counter = match &answer {
        Ok((true, _)) => &counters.connects_spawned,
        Ok((false, _)) => &counters.connects_joined,
        Err(error) if error.code().http_status() < 500 => &counters.connects_refused,
        Err(_) => &counters.connects_failed,
    };
    Counters::add(counter, 1);
    answer.map(|(_, response)| response)
}

/// Whether something was started, and the answer.
async fn answer(app: &App, request: ConnectRequest) -> ApiResult<(bool, Response)> {
    let stopwatch = Stopwatch::started();
    let Ok(permit) = app.connects.permits.clone().try_acquire_owned() else {
        return Err(
            ApiError::new(Code::Busy, "too many connects are under way").retry_after_ms(BUSY_RETRY_MS)
        );
    };
    let wanted = validate::check(request)?;
    let (connected, stopwatch) = connect::patiently(&app.connects, wanted, stopwatch, permit).await?;
    let mut response = Json(response(&app.urls, &connected)).into_response();
    if let Some(timing) = stopwatch.server_timing() {
        response.headers_mut().insert(SERVER_TIMING, timing);
    }
    Ok((connected.spawned, response))
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
