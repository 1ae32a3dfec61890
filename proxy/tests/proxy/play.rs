//! The play: one proxy, one controller and one drone that speak the real protocol and do what a test says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper_util::rt::TokioIo;
use jetway_protocol::attach::{Entry, Outcome, ToDrone, ToProxy, Uses};
use jetway_protocol::controller_api::{DroneAddress, ProxyHeartbeat, ProxyRegistered};
use jetway_protocol::drone_api::{DIAL_PROTOCOL, FENCING_HEADER};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, GrantId, InstallationId};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::status::{End, EndReason};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::token::{TokenContent, TokenSealer};
use jetway_proxy::Proxy;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::time::Instant;

pub const FENCING: FencingToken = FencingToken(7);
pub const CLUSTER: &str = "example.com";

pub fn secret() -> Secret {
    Secret::new(&"jetway".repeat(8)).unwrap()
}

/// Waits until `found` finds something.
pub async fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub struct Play {
    pub lifecycle: Lifecycle,
    pub proxy: Proxy,
    pub drone: Arc<FakeDrone>,
    pub controller: Arc<FakeController>,
}

pub struct Stage {
    pub direct: bool,
    pub hold: Duration,
    pub controller_answers: bool,
    pub root_redirect: Option<String>,
}

impl Default for Stage {
    fn default() -> Self {
        Self { direct: true, hold: Duration::from_secs(10), controller_answers: true, root_redirect: None }
    }
}

impl Stage {
    pub async fn begin(self) -> Play {
        let lifecycle = Lifecycle::new();
        let drone = FakeDrone::start(&lifecycle, self.direct).await;
        let controller = FakeController::start(&lifecycle, self.controller_answers, &drone).await;
        let config = jetway_proxy::Config {
            controllers: vec![format!("http://{}", controller.address)],
            listen: "127.0.0.1:0".parse().unwrap(),
            name: "proxy-under-test".into(),
            cluster: None,
            secret: secret(),
            hold: self.hold,
            root_redirect: self.root_redirect,
        };
        let proxy = jetway_proxy::start(config, lifecycle.clone()).await.unwrap();
        Play { lifecycle, proxy, drone, controller }
    }
}

impl Play {
    pub async fn new() -> Self {
        Stage::default().begin().await
    }

    pub fn content(&self, backend: &BackendId) -> TokenContent {
        TokenContent {
            backend: backend.clone(),
            fencing_token: FENCING,
            drone: self.drone.id,
            drone_address: self.drone.address.to_string(),
            grant: GrantId(1),
            expires_at: None,
        }
    }

    pub fn seal(&self, content: &TokenContent) -> String {
        TokenSealer::new(&secret(), self.controller.installation).seal(content)
    }

    /// A backend that is ready at `address`, and its token.
    pub fn ready_backend(&self, address: SocketAddr) -> (BackendId, String) {
        let backend = BackendId::random();
        self.drone.set(&backend, Outcome::Ready(Box::new(entry(address))));
        let token = self.seal(&self.content(&backend));
        (backend, token)
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        self.lifecycle.token().cancel();
    }
}

pub fn entry(address: SocketAddr) -> Entry {
    Entry {
        address,
        user: Some("zoe".into()),
        auth: r#"{"role":"owner"}"#.into(),
        secret: "grant-secret".into(),
        subdomain: None,
        linger_seconds: 1,
    }
}

pub fn an_end() -> End {
    End {
        reason: EndReason::Idle,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: String::new(),
        output: String::new(),
    }
}

pub struct FakeController {
    pub address: SocketAddr,
    pub installation: InstallationId,
    pub answers: std::sync::atomic::AtomicBool,
    drone: Arc<FakeDrone>,
}

impl FakeController {
    async fn start(lifecycle: &Lifecycle, answers: bool, drone: &Arc<FakeDrone>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let controller = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            installation: InstallationId::random(),
            answers: answers.into(),
            drone: drone.clone(),
        });
        let router = Router::new()
            .route("/internal/proxies/register", post(register))
            .route("/internal/drones/{id}", get(where_is))
            .with_state(controller.clone());
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        controller
    }
}

fn authorized(headers: &HeaderMap, purpose: Purpose) -> bool {
    secret().authorizes(purpose, headers.get("authorization").map(|value| value.as_bytes()))
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

pub struct FakeDrone {
    pub id: DroneId,
    pub address: SocketAddr,
    direct: bool,
    state: Mutex<DroneState>,
    /// What goes to the attached proxy; `None` breaks the stream.
    push: broadcast::Sender<Option<ToProxy>>,
}

#[derive(Default)]
struct DroneState {
    heard: Vec<(Instant, ToDrone)>,
    /// A backend that is not in here answers no ask.
    outcomes: HashMap<BackendId, Outcome>,
    waiting: Vec<(u64, BackendId)>,
    away: bool,
    dials: u32,
}

impl FakeDrone {
    async fn start(lifecycle: &Lifecycle, direct: bool) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let drone = Arc::new(Self {
            id: DroneId::random(),
            address: listener.local_addr().unwrap(),
            direct,
            state: Mutex::default(),
            push: broadcast::channel(1024).0,
        });
        let router = Router::new()
            .route("/attach", get(attach))
            .route("/b/{id}/dial", get(dial))
            .with_state((drone.clone(), lifecycle.clone()));
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        drone
    }

    /// From now on, asks for the backend are answered like this; those that wait, at once.
    pub fn set(&self, backend: &BackendId, outcome: Outcome) {
        let mut state = self.state.lock().unwrap();
        state.outcomes.insert(backend.clone(), outcome.clone());
        let (asks, waiting) =
            std::mem::take(&mut state.waiting).into_iter().partition(|(_, asked)| asked == backend);
        state.waiting = waiting;
        drop(state);
        let asks: Vec<(u64, BackendId)> = asks;
        for (ask, _) in asks {
            self.push(ToProxy::Answer { ask, outcome: outcome.clone() });
        }
    }

    pub fn push(&self, message: ToProxy) {
        let _nobody_attached = self.push.send(Some(message));
    }

    pub fn end(&self, backend: &BackendId) {
        self.set(backend, Outcome::Ended { end: an_end() });
        self.push(ToProxy::Ended { backend: backend.clone(), fencing_token: FENCING, end: an_end() });
    }

    pub fn break_stream(&self) {
        let _nobody_attached = self.push.send(None);
    }

    /// Refuses streams until told otherwise.
    pub fn set_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    pub fn dials(&self) -> u32 {
        self.state.lock().unwrap().dials
    }

    pub fn heard(&self) -> Vec<(Instant, ToDrone)> {
        self.state.lock().unwrap().heard.clone()
    }

    /// The reported counts of a backend, one after another.
    pub fn uses(&self, backend: &BackendId) -> Vec<(Instant, Uses)> {
        let of_backend = |(at, message)| match message {
            ToDrone::Uses(uses) if uses.backend == *backend => Some((at, uses)),
            _ => None,
        };
        self.heard().into_iter().filter_map(of_backend).collect()
    }

    pub fn count(&self, which: impl Fn(&ToDrone) -> bool) -> usize {
        self.heard().iter().filter(|(_, message)| which(message)).count()
    }

    pub fn asks(&self) -> usize {
        self.count(|message| matches!(message, ToDrone::Ask { .. }))
    }

    /// Waits until the last count of a backend is this, and says when it came.
    pub async fn uses_become(&self, backend: &BackendId, uses: u32, connections: u32) -> Instant {
        eventually(&format!("uses {uses}, connections {connections}: {:?}", self.uses(backend)), || {
            let (at, last) = self.uses(backend).pop()?;
            (last.uses == uses && last.connections == connections).then_some(at)
        })
        .await
    }

    fn hear(&self, message: ToDrone) -> Option<ToProxy> {
        let mut state = self.state.lock().unwrap();
        state.heard.push((Instant::now(), message.clone()));
        match message {
            ToDrone::Hello { .. } => {
                Some(ToProxy::Welcome { protocol: 1, drone: self.id, direct: self.direct })
            }
            ToDrone::Ask { ask, backend, .. } => match state.outcomes.get(&backend) {
                Some(outcome) => Some(ToProxy::Answer { ask, outcome: outcome.clone() }),
                None => {
                    state.waiting.push((ask, backend));
                    None
                }
            },
            ToDrone::Ping => Some(ToProxy::Ping),
            _ => None,
        }
    }

    async fn talk(&self, mut socket: WebSocket) {
        let mut pushed = self.push.subscribe();
        loop {
            let reply = tokio::select! {
                message = socket.recv() => match message {
                    Some(Ok(Message::Text(text))) => self.hear(serde_json::from_str(&text).unwrap()),
                    Some(Ok(_)) => None,
                    _ => return,
                },
                pushed = pushed.recv() => match pushed.unwrap() {
                    Some(message) => Some(message),
                    None => return,
                },
            };
            if let Some(reply) = reply {
                let text = serde_json::to_string(&reply).unwrap();
                if socket.send(Message::text(text)).await.is_err() {
                    return;
                }
            }
        }
    }
}

type DroneRoute = State<(Arc<FakeDrone>, Lifecycle)>;

async fn attach(State((drone, _)): DroneRoute, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    if !authorized(&headers, Purpose::ProxyToDrone) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if drone.state.lock().unwrap().away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    upgrade.on_upgrade(move |socket| async move { drone.talk(socket).await })
}

async fn dial(
    State((drone, lifecycle)): DroneRoute,
    Path(backend): Path<BackendId>,
    mut request: axum::extract::Request,
) -> Response {
    let headers = request.headers();
    assert!(authorized(headers, Purpose::ProxyToDrone));
    assert_eq!(headers[FENCING_HEADER], FENCING.to_string());
    assert_eq!(headers["upgrade"], DIAL_PROTOCOL);
    let address = match drone.state.lock().unwrap().outcomes.get(&backend) {
        Some(Outcome::Ready(entry)) => entry.address,
        _ => return StatusCode::GONE.into_response(),
    };
    drone.state.lock().unwrap().dials += 1;
    let upgrade = hyper::upgrade::on(&mut request);
    let mut backend = TcpStream::connect(address).await.unwrap();
    lifecycle.spawn_until_stopped(async move {
        let mut proxy = TokioIo::new(upgrade.await.unwrap());
        let _either_side_broke = tokio::io::copy_bidirectional(&mut proxy, &mut backend).await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", DIAL_PROTOCOL)]).into_response()
}
