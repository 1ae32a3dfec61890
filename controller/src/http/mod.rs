//! The controller's routes: `/ctrl` for applications' backends and operators, `/pub` for browsers, `/internal` for
//! drones and proxies. One endpoint a file, its tests at its foot.

pub mod access;
pub mod extract;

mod backend;
mod backends;
mod certificates;
mod connect;
mod drain;
mod drones;
mod forget;
mod health;
mod internal;
mod logs;
mod metrics;
mod metrics_warm;
pub mod pools;
mod revoke;
mod state;
mod status;
mod status_stream;
mod terminate;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jetway_protocol::error::Code;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any, CorsLayer};

use crate::app::App;
use crate::error::{ApiError, shown};
use crate::silence::{Unfinished, silent};

pub fn router(app: &App, extra_routes: Option<Router>) -> Router {
    let needs_postgres = Router::new()
        .nest("/ctrl", ctrl(app))
        .nest("/pub", public())
        .nest("/internal", internal::router(app))
        .layer(middleware::from_fn_with_state(app.clone(), bounded));
    let mut router = Router::new()
        // By itself: it is what people wait for, and a wait for a session that is starting is none for Postgres.
        .route("/ctrl/connect", post(connect::connect).fallback(no_method))
        .route("/metrics", get(metrics::metrics))
        .merge(needs_postgres)
        .with_state(app.clone());
    if let Some(extra) = extra_routes {
        router = router.merge(extra);
    }
    router.fallback(no_route).method_not_allowed_fallback(no_method).layer(CatchPanicLayer::custom(panicked))
}

fn ctrl(app: &App) -> Router<App> {
    Router::new()
        .route("/status", get(health::ctrl_status))
        .route("/backends", get(backends::list))
        .route("/backends/{id}", get(backend::show))
        .route("/backends/{id}/logs", get(logs::logs))
        .route("/b/{id}/soft-terminate", post(terminate::soft))
        .route("/b/{id}/hard-terminate", post(terminate::hard))
        .route("/b/revoke", post(revoke::plane_server_form))
        .route("/revoke", post(revoke::plane_client_form))
        .route("/drones", get(drones::list))
        .route("/certificates", get(certificates::list))
        .route("/certificates/{id}/retry", post(certificates::retry))
        .route("/pools", get(pools::list))
        .route("/pools/{name}", get(pools::get).put(pools::put).delete(pools::delete))
        .route("/c/{cluster}/d/{drone}/drain", post(drain::drain))
        .route("/c/{cluster}/d/{drone}/undrain", post(drain::undrain))
        .route("/c/{cluster}/d/{drone}/forget", post(forget::forget))
        .route("/c/{cluster}/state", get(state::cluster_state))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(app.clone(), access::guard))
}

fn public() -> Router<App> {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE]);
    Router::new()
        .route("/health", get(health::health))
        .route("/b/{id}/status", get(status::status))
        .route("/b/{id}/status-stream", get(status_stream::status_stream))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(cors)
}

/// On a task of its own: what waits for Postgres is not dropped, whether its client hangs up or the server is silent.
async fn bounded(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.silence.bounded(&app.lifecycle, next.run(request)).await {
        Ok(response) => response,
        Err(Unfinished::Silent) => silent().into_response(),
        Err(Unfinished::Panicked(panic)) => panicked(panic),
    }
}

async fn no_route(request: Request) -> ApiError {
    ApiError::new(Code::RouteNotFound, format!("there is nothing at {}", shown(request.uri().path())))
}

async fn no_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), shown(request.uri().path()));
    ApiError::new(Code::MethodNotAllowed, format!("{path} does not take {method}"))
}

fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let answer = ApiError::new(Code::Internal, "a fault of the controller's; its log has the details");
    tracing::error!(panic = text, "a handler panicked");
    answer.into_response()
}

#[cfg(test)]
mod tests {
    use crate::testing::{Harness, request};

    #[tokio::test]
    async fn what_is_not_there_is_refused_in_our_shape() {
        let harness = Harness::new().await;
        for (method, path, status, code) in [
            ("GET", "/", 404, "route_not_found"),
            ("GET", "/ctrl/nowhere", 404, "route_not_found"),
            ("GET", "/pub/nowhere", 404, "route_not_found"),
            ("GET", "/internal/nowhere", 404, "route_not_found"),
            ("GET", "/ctrl/connect", 405, "method_not_allowed"),
            ("DELETE", "/pub/health", 405, "method_not_allowed"),
            ("GET", "/ctrl/b/%ff/soft-terminate", 405, "method_not_allowed"),
            ("POST", "/ctrl/b/%ff/soft-terminate", 404, "route_not_found"),
        ] {
            let answer = harness.send(request(method, path, "")).await;
            assert_eq!(
                (answer.status, answer.json()["code"].as_str()),
                (status, Some(code)),
                "{method} {path}"
            );
            assert!(answer.json()["id"].is_string() && answer.json()["kind"].is_string());
        }
    }
}
