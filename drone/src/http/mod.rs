//! The drone's server: routes, credentials, connections. What a request means is in the module named after it.

mod attach;
mod backends;
mod dial;
mod follow;
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
mod lease_tests;
#[cfg(test)]
mod leave_tests;
#[cfg(test)]
mod logs_tests;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use hyper::body::Incoming;
use jetway_protocol::ids::BackendId;
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::status::EndReason;
use jetway_service::lifecycle::Lifecycle;
use jetway_service::server::{self, Limits};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpListener;

use self::tunnels::Tunnels;
use crate::agent::Agent;
use crate::journal::Journals;

/// Controllers' pools, a stream for each proxy, and a connection for each tunnel of a proxy on another host.
const CONNECTIONS_MAX: u32 = 16 * 1024;
/// For a request's head, and for an idle connection's next one: longer than our own clients keep theirs.
const HEAD_SECONDS_MAX: u64 = 30;
/// Ids that are refused for good before there is an agent; beyond that they are put off.
const DECLINED_MAX: usize = 4096;
/// A spec with an environment of 1 MiB, and room for what stands around it.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The way into an agent that may not serve yet.
#[derive(Clone)]
pub struct Gate {
    secret: Arc<Secret>,
    agent: Arc<OnceLock<Arc<Agent>>>,
    /// What the agents before this one have begun.
    journals: Journals,
    declined: Arc<Mutex<Vec<BackendId>>>,
    tunnels: Arc<Tunnels>,
}

impl Gate {
    pub fn new(secret: Secret, journals: Journals) -> Self {
        let tunnels = Arc::new(Tunnels::for_this_process());
        Self { secret: Arc::new(secret), agent: Arc::default(), journals, declined: Arc::default(), tunnels }
    }

    /// From here on the agent serves, and holds to what was said before.
    pub fn open(&self, agent: Arc<Agent>) {
        let mut declined = self.declined();
        for id in declined.drain(..) {
            if let Err(error) = backends::never_ran(&agent, &id, EndReason::Refused, "the drone was starting")
            {
                // It is known in memory all the same.
                tracing::error!(backend = %id, %error, "a tombstone cannot be written");
            }
        }
        let _opened_once = self.agent.set(agent);
    }

    /// Notes that this id will never be taken, while there is no agent to write it down. What is in memory is enough: when this
    /// process falls, the next one registers anew, and is given a term that is newer than any `PUT`'s by then. False: there
    /// is an agent by now, too much is noted, or an agent of before has begun it.
    fn decline(&self, id: &BackendId) -> bool {
        let mut declined = self.declined();
        if self.agent.get().is_some() || declined.len() >= DECLINED_MAX || self.journals.has(id) {
            return false;
        }
        declined.push(id.clone());
        true
    }

    fn declined(&self) -> MutexGuard<'_, Vec<BackendId>> {
        self.declined.lock()
    }

    fn agent(&self) -> Option<&Arc<Agent>> {
        self.agent.get()
    }
}

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
    if gate.secret.authorizes(purpose, given) { next.run(request).await } else { refusal::no_credential() }
}
