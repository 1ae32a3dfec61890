//! The played controller: it registers proxies and says where the drone is, or does not answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jetway_protocol::certificates::{ChallengeAnswers, ChallengeWanted};
use jetway_protocol::controller_api::{DroneAddress, ProxyHeartbeat, ProxyRegistered};
use jetway_protocol::ids::{DroneId, InstallationId};
use jetway_protocol::secret::Purpose;
use jetway_protocol::time::UnixMicros;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;

use crate::play::{CLUSTER, FakeDrone, secret};

pub struct FakeController {
    pub address: SocketAddr,
    pub installation: InstallationId,
    pub answers: std::sync::atomic::AtomicBool,
    drone: Arc<FakeDrone>,
    /// What issuers are shown, by challenge and name.
    pub shown: Mutex<HashMap<(String, String), Vec<String>>>,
}

impl FakeController {
    pub async fn start(lifecycle: &Lifecycle, answers: bool, drone: &Arc<FakeDrone>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            installation: InstallationId::random(),
            answers: answers.into(),
            drone: drone.clone(),
            shown: Mutex::default(),
        });
        let router = Router::new()
            .route("/internal/proxies/register", post(register))
            .route("/internal/drones/{id}", get(where_is))
            .route("/internal/challenges", post(challenge))
            .with_state(controller.clone());
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        controller
    }
}

async fn challenge(
    State(controller): State<Arc<FakeController>>,
    headers: HeaderMap,
    Json(wanted): Json<ChallengeWanted>,
) -> Response {
    if !authorized(&headers, Purpose::ProxyToController) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !controller.answers.load(std::sync::atomic::Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let key = (wanted.challenge.as_str().to_owned(), wanted.name);
    let values = controller.shown.lock().unwrap().get(&key).cloned().unwrap_or_default();
    Json(ChallengeAnswers { values }).into_response()
}

async fn register(
    State(controller): State<Arc<FakeController>>,
    headers: HeaderMap,
    Json(_): Json<ProxyHeartbeat>,
) -> Response {
    if !authorized(&headers, Purpose::ProxyToController) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if !controller.answers.load(std::sync::atomic::Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
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

pub fn authorized(headers: &HeaderMap, purpose: Purpose) -> bool {
    secret().authorizes(purpose, headers.get("authorization").map(|value| value.as_bytes()))
}
