//! The controller's routes: `/ctrl` for applications' backends and operators, `/pub` for browsers, `/internal` for
//! drones and proxies. One endpoint a file, its tests at its foot.

pub mod access;
pub mod extract;

mod backend;
mod backend_status;
mod backends;
mod certificates;
mod connect;
mod controller_status;
mod drain;
mod drones;
#[cfg(test)]
mod flood_tests;
mod forget;
mod health;
mod internal;
mod logs;
mod metrics;
mod metrics_page;
mod metrics_warm;
mod openapi;
mod pools;
mod revoke;
mod state;
mod status_stream;
mod terminate;
mod unrouted;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use jetway_protocol::error::Code;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{Any, CorsLayer};
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as OpenApiDocument;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::app::App;
use crate::error::ApiError;
use crate::silence::{Unfinished, silent};
use unrouted::{no_method, no_route};

pub fn router(app: &App, extra_routes: Option<Router>) -> Router {
    let (ctrl, ctrl_document) = ctrl(app);
    let (public, public_document) = public();
    let needs_postgres = Router::new()
        .nest("/ctrl", ctrl)
        .nest("/pub", public)
        .nest("/internal", internal::router(app))
        .layer(middleware::from_fn_with_state(app.clone(), bounded));
    // By itself: it is what people wait for, and a wait for a session that is starting is none for Postgres.
    let connect = routes!(connect::connect).map(|route| route.fallback(no_method));
    let (apart, document) = OpenApiRouter::with_openapi(openapi::Document::openapi())
        .routes(connect)
        .routes(routes!(metrics::metrics))
        .routes(routes!(openapi::openapi))
        .split_for_parts();
    openapi::keep(document.nest("/ctrl", ctrl_document).nest("/pub", public_document));
    let mut router = apart.merge(needs_postgres).with_state(app.clone());
    if let Some(extra) = extra_routes {
        router = router.merge(extra.layer(middleware::from_fn_with_state(app.clone(), access::guard_host)));
    }
    router.fallback(no_route).method_not_allowed_fallback(no_method).layer(CatchPanicLayer::custom(panicked))
}

fn ctrl(app: &App) -> (Router<App>, OpenApiDocument) {
    let (router, document) = OpenApiRouter::default()
        .routes(routes!(controller_status::ctrl_status))
        .routes(routes!(backends::list))
        .routes(routes!(backend::show))
        .routes(routes!(logs::logs))
        .routes(routes!(terminate::soft))
        .routes(routes!(terminate::hard))
        .routes(routes!(revoke::plane_server_form))
        .routes(routes!(revoke::plane_client_form))
        .routes(routes!(drones::list))
        .routes(routes!(certificates::list))
        .routes(routes!(certificates::retry))
        .routes(routes!(pools::list))
        .routes(routes!(pools::get, pools::put, pools::delete))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::undrain))
        .routes(routes!(forget::forget))
        .routes(routes!(state::cluster_state))
        .split_for_parts();
    let router = router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(app.clone(), access::guard));
    (router, document)
}

fn public() -> (Router<App>, OpenApiDocument) {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::CONTENT_TYPE]);
    let (router, document) = OpenApiRouter::default()
        .routes(routes!(health::health))
        .routes(routes!(backend_status::status))
        .routes(routes!(status_stream::status_stream))
        .split_for_parts();
    (router.fallback(no_route).method_not_allowed_fallback(no_method).layer(cors), document)
}

/// On a task of its own: what waits for Postgres is not dropped, whether its client hangs up or the server is silent.
async fn bounded(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.silence.bounded(&app.lifecycle, next.run(request)).await {
        Ok(response) => response,
        Err(Unfinished::Silent) => silent().into_response(),
        Err(Unfinished::Panicked(panic)) => panicked(panic),
    }
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
