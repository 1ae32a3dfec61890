//! `/internal`: what drones and proxies tell the controller, with the credential of their role. The messages are
//! `protocol::controller_api`'s; fields that are not known are ignored, so adjacent versions can talk.

mod certificates;
mod drone_address;
mod events;
mod heartbeat;
mod proxies;
mod register;

use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use jetway_protocol::controller_api::{Stale, StaleCode};
use jetway_protocol::error::Code;
use jetway_protocol::secret::Purpose;
use serde::de::DeserializeOwned;

use super::extract::{parse_json, read_body};
use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// A batch of events with the outputs of failed starts, or a heartbeat with thousands of images.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How often drones are to speak; a short lease asks for more.
const HEARTBEAT: Duration = Duration::from_secs(2);

pub fn router(app: &App) -> Router<App> {
    let drones = Router::new()
        .route("/drones/register", post(register::register))
        .route("/drones/{id}/heartbeat", post(heartbeat::heartbeat))
        .route("/drones/{id}/events", post(events::events))
        .route_layer(middleware::from_fn_with_state(app.clone(), drones_only));
    let proxies = Router::new()
        .route("/proxies/register", post(proxies::register))
        .route("/certificates", post(certificates::wanted))
        .route("/challenges", post(certificates::challenge))
        .route("/drones/{id}", get(drone_address::address))
        .route_layer(middleware::from_fn_with_state(app.clone(), proxies_only));
    drones.merge(proxies).fallback(super::no_route)
}

async fn drones_only(State(app): State<App>, request: Request, next: Next) -> ApiResult<Response> {
    only(&app, Purpose::DroneToController, request, next).await
}

async fn proxies_only(State(app): State<App>, request: Request, next: Next) -> ApiResult<Response> {
    only(&app, Purpose::ProxyToController, request, next).await
}

async fn only(app: &App, purpose: Purpose, request: Request, next: Next) -> ApiResult<Response> {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    if !app.secret.authorizes(purpose, given) {
        return Err(ApiError::new(
            Code::Unauthorized,
            "the credential is not that of this role; do both sides have the same JETWAY_SECRET?",
        ));
    }
    Ok(next.run(request).await)
}

/// A message of ours.
struct Message<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Message<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let bytes = read_body(request.into_body(), BODY_BYTES_MAX).await?;
        Ok(Self(parse_json(&bytes)?))
    }
}

/// What an internal endpoint answers besides its 2xx.
enum No {
    Stale(Stale),
    Api(ApiError),
}

impl No {
    fn stale(code: StaleCode, message: impl Into<String>) -> Self {
        No::Stale(Stale { code, message: message.into(), present: None })
    }
}

impl<E: Into<ApiError>> From<E> for No {
    fn from(error: E) -> Self {
        No::Api(error.into())
    }
}

impl axum::response::IntoResponse for No {
    fn into_response(self) -> Response {
        match self {
            No::Stale(stale) => (http::StatusCode::CONFLICT, axum::Json(stale)).into_response(),
            No::Api(error) => error.into_response(),
        }
    }
}
