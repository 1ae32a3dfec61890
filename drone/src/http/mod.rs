//! The drone's server: routes, credentials, connections. What a request means is in the module named after it.

mod attach;
mod backends;
mod dial;
mod follow;
mod gate;
mod logs;
mod pending;
mod refusal;
mod tunnels;
mod view;
mod warm;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod grants_tests;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod leave_tests;
#[cfg(test)]
mod logs_tests;
#[cfg(test)]
mod tests;

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use hyper::body::Incoming;
use jetway_protocol::secret::Purpose;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::server::{self, Limits};
use tokio::net::TcpListener;

pub use gate::Gate;

/// Controllers' pools, a stream for each proxy, and a connection for each tunnel of a proxy on another host.
const CONNECTIONS_MAX: u32 = 16 * 1024;
/// For a request's head, and for an idle connection's next one: longer than our own clients keep theirs.
const HEAD_SECONDS_MAX: u64 = 30;
/// A spec with an environment of 1 MiB, and room for what stands around it.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

pub fn serve(listener: TcpListener, gate: Gate, lifecycle: &Lifecycle) {
    let limits = Limits { connections: CONNECTIONS_MAX, head: Duration::from_secs(HEAD_SECONDS_MAX) };
    let body = |request: http::Request<Incoming>| request.map(axum::body::Body::new);
    server::serve(listener, tower::ServiceExt::map_request(router(gate), body), limits, lifecycle);
}

fn router(gate: Gate) -> Router {
    let controllers = Router::new()
        .route("/b", get(backends::list))
        .route("/b/{id}", put(backends::put_or_decline).get(view::view).delete(backends::delete))
        .route("/b/{id}/grants", post(backends::add_grant))
        .route("/grants", post(backends::add_grants))
        .route("/b/{id}/revoke", post(backends::revoke))
        .route("/b/{id}/stop", post(backends::stop))
        .route("/b/{id}/status", get(view::status))
        .route("/b/{id}/follow", get(follow::follow))
        .route("/b/{id}/logs", get(logs::logs))
        .route("/draining", put(backends::draining))
        .route("/warm", put(warm::set))
        .route_layer(from_fn_with_state(gate.clone(), only_controllers));
    let proxies = Router::new()
        .route("/attach", get(attach::attach))
        .route("/b/{id}/dial", get(dial::dial))
        .route_layer(from_fn_with_state(gate.clone(), only_proxies));
    Router::new()
        .route("/health", get(health))
        .merge(controllers)
        .merge(proxies)
        .fallback(refusal::no_route)
        .method_not_allowed_fallback(refusal::no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(gate)
}

async fn health() -> impl IntoResponse {
    Json(serde_json::json!({ "status": "ok" }))
}

async fn only_controllers(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    only(Purpose::ControllerToDrone, &gate, request, next).await
}

async fn only_proxies(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    only(Purpose::ProxyToDrone, &gate, request, next).await
}

async fn only(purpose: Purpose, gate: &Gate, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    if gate.authorizes(purpose, given) { next.run(request).await } else { refusal::no_credential() }
}
