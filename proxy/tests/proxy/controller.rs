//! The played controller: it registers proxies and says where the drone is, or does not answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jetway_protocol::certificates::{Given, Pending, PendingWanted, Shown, Wanted};
use jetway_protocol::controller_api::{DroneAddress, HostOwner, ProxyHeartbeat, ProxyRegistered};
use jetway_protocol::ids::{DroneId, InstallationId};
use jetway_protocol::secret::Purpose;
use jetway_protocol::time::UnixMicros;
use jetway_service::lifecycle::Lifecycle;
use jetway_testkit::drone::AttachedDrone;
use serde_json::json;
use tokio::net::TcpListener;

use crate::play::{CLUSTER, secret};

pub struct FakeController {
    pub address: SocketAddr,
    pub installation: InstallationId,
    pub answers: std::sync::atomic::AtomicBool,
    drone: Arc<AttachedDrone>,
    /// What issuers are shown, by challenge and name.
    pub shown: Mutex<HashMap<(String, String), Vec<String>>>,
    /// How often the proxy has fetched that.
    pub fetches: AtomicU64,
    /// Hosts that a certificate was asked for.
    pub hosts: AtomicU64,
    /// The return URLs of hosts. All other hosts have no owner.
    pub owners: Mutex<HashMap<String, Option<String>>>,
    /// Hosts whose owner was asked for.
    pub owners_asked: Mutex<Vec<String>>,
}

impl FakeController {
    pub async fn start(lifecycle: &Lifecycle, answers: bool, drone: &Arc<AttachedDrone>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            installation: InstallationId::random(),
            answers: answers.into(),
            drone: drone.clone(),
            shown: Mutex::default(),
            fetches: AtomicU64::default(),
            hosts: AtomicU64::default(),
            owners: Mutex::default(),
            owners_asked: Mutex::default(),
        });
        let router = Router::new()
            .route("/internal/proxies/register", post(register))
            .route("/internal/drones/{id}", get(where_is))
            .route("/internal/challenges/pending", post(pending))
            .route("/internal/certificates", post(certificate))
            .route("/internal/hosts/{host}", get(owner))
            .with_state(controller.clone());
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        controller
    }
}

impl FakeController {
    /// Who is no proxy is told so, and whoever comes while it does not answer.
    fn refuses(&self, headers: &HeaderMap) -> Option<StatusCode> {
        if !authorized(headers, Purpose::ProxyToController) {
            return Some(StatusCode::UNAUTHORIZED);
        }
        let is_away = !self.answers.load(std::sync::atomic::Ordering::Relaxed);
        is_away.then_some(StatusCode::SERVICE_UNAVAILABLE)
    }
}

async fn pending(
    State(controller): State<Arc<FakeController>>,
    headers: HeaderMap,
    Json(PendingWanted {}): Json<PendingWanted>,
) -> Response {
    if let Some(no) = controller.refuses(&headers) {
        return no.into_response();
    }
    let shown =
        controller.shown.lock().unwrap().clone().into_iter().flat_map(|((challenge, name), values)| {
            let one = move |value| Shown { challenge: challenge.parse().unwrap(), name: name.clone(), value };
            values.into_iter().map(one)
        });
    let pending = Pending { shown: shown.collect() };
    controller.fetches.fetch_add(1, Ordering::Relaxed);
    Json(pending).into_response()
}

/// There are none.
async fn certificate(State(controller): State<Arc<FakeController>>, Json(_): Json<Wanted>) -> Response {
    controller.hosts.fetch_add(1, Ordering::Relaxed);
    Json(Given::Nothing { reason: "none".into(), ask_again_ms: 30_000 }).into_response()
}

async fn owner(
    State(controller): State<Arc<FakeController>>,
    headers: HeaderMap,
    Path(host): Path<String>,
) -> Response {
    if let Some(no) = controller.refuses(&headers) {
        return no.into_response();
    }
    controller.owners_asked.lock().unwrap().push(host.clone());
    let owner = controller.owners.lock().unwrap().get(&host).cloned();
    match owner {
        Some(return_url) => Json(HostOwner { return_url }).into_response(),
        None => {
            let ours =
                json!({ "id": "x", "kind": "NotFound", "code": "route_not_found", "message": "nobody's" });
            (StatusCode::NOT_FOUND, Json(ours)).into_response()
        }
    }
}

async fn register(
    State(controller): State<Arc<FakeController>>,
    headers: HeaderMap,
    Json(_): Json<ProxyHeartbeat>,
) -> Response {
    if let Some(no) = controller.refuses(&headers) {
        return no.into_response();
    }
    let cluster = CLUSTER.parse().unwrap();
    Json(ProxyRegistered { installation: controller.installation, cluster, heartbeat_ms: 1000 })
        .into_response()
}

async fn where_is(State(controller): State<Arc<FakeController>>, Path(id): Path<DroneId>) -> Response {
    if id != controller.drone.id {
        return StatusCode::NOT_FOUND.into_response();
    }
    let advertise = controller.drone.address.to_string();
    Json(DroneAddress { drone: id, advertise, last_heartbeat: UnixMicros::now() }).into_response()
}

fn authorized(headers: &HeaderMap, purpose: Purpose) -> bool {
    secret().authorizes(purpose, headers.get("authorization").map(|value| value.as_bytes()))
}
