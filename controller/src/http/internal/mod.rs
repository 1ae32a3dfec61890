//! `/internal`: what drones and proxies tell the controller, with the credential of their role. The messages are
//! `protocol::controller_api`'s; fields that are not known are ignored, so adjacent versions can talk.

mod certificates;
mod drone_address;
mod events;
mod heartbeat;
mod hosts;
mod message;
mod proxies;
mod register;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use jetway_protocol::error::Code;
use jetway_protocol::secret::Purpose;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::http::unrouted::no_route;

pub fn router(app: &App) -> Router<App> {
    let drones = Router::new()
        .route("/drones/register", post(register::register))
        .route("/drones/{id}/heartbeat", post(heartbeat::heartbeat))
        .route("/drones/{id}/events", post(events::events))
        .route_layer(middleware::from_fn_with_state(app.clone(), drones_only));
    let proxies = Router::new()
        .route("/proxies/register", post(proxies::register))
        .route("/certificates", post(certificates::wanted))
        .route("/challenges/pending", post(certificates::pending))
        .route("/challenges", post(certificates::challenge))
        .route("/drones/{id}", get(drone_address::address))
        .route("/hosts/{host}", get(hosts::owner))
        .route_layer(middleware::from_fn_with_state(app.clone(), proxies_only));
    drones.merge(proxies).fallback(no_route)
}

async fn drones_only(State(app): State<App>, request: Request, next: Next) -> ApiResult<Response> {
    only(&app, Purpose::DroneToController, request, next).await
}

async fn proxies_only(State(app): State<App>, request: Request, next: Next) -> ApiResult<Response> {
    only(&app, Purpose::ProxyToController, request, next).await
}

async fn only(app: &App, purpose: Purpose, request: Request, next: Next) -> ApiResult<Response> {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    if !app.identity.secret.authorizes(purpose, given) {
        return Err(ApiError::new(
            Code::Unauthorized,
            "the credential is not that of this role; do both sides have the same JETWAY_SECRET?",
        ));
    }
    Ok(next.run(request).await)
}
