//! The play: one proxy, one controller and one drone that speak the real protocol and do what a test says.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use jetway_protocol::attach::{Entry, Outcome, ToDrone, ToProxy, Uses};
use jetway_protocol::drone_api::{DIAL_PROTOCOL, FENCING_HEADER, PORT_HEADER};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, GrantId};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::spec::Protocol;
use jetway_protocol::status::{End, EndReason};
use jetway_protocol::token::{TokenContent, TokenSealer};
use jetway_proxy::{Proxy, Share};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::controller::{FakeController, authorized};
pub use crate::raw::eventually;

pub const FENCING: FencingToken = FencingToken(7);
pub const CLUSTER: &str = "example.com";

pub fn secret() -> Secret {
    Secret::new(&"jetway".repeat(8)).unwrap()
}

pub struct Play {
    /// Of everything but the proxy.
    pub lifecycle: Lifecycle,
    pub proxy_lifecycle: Lifecycle,
    pub proxy: Proxy,
    pub drone: Arc<FakeDrone>,
    pub controller: Arc<FakeController>,
}

pub struct Stage {
    pub direct: bool,
    pub hold: Duration,
    pub controller_answers: bool,
    pub root_redirect: Option<String>,
    pub listen: &'static str,
    pub trusted: &'static [&'static str],
    pub proxy_protocol: bool,
    pub drain: Duration,
    pub reuse_port: bool,
    pub client: Share,
    pub token: Share,
    pub body_pause: Option<Duration>,
    pub tls: Option<jetway_proxy::Tls>,
    pub acme_dns: Option<SocketAddr>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            direct: true,
            hold: Duration::from_secs(10),
            controller_answers: true,
            root_redirect: None,
            listen: "127.0.0.1:0",
            trusted: &[],
            proxy_protocol: false,
            drain: Duration::ZERO,
            reuse_port: false,
            client: Share::default(),
            token: Share::default(),
            body_pause: None,
            tls: None,
            acme_dns: None,
        }
    }
}

impl Stage {
    pub async fn begin(self) -> Play {
        let (lifecycle, proxy_lifecycle) = (Lifecycle::new(), Lifecycle::new());
        let drone = FakeDrone::start(&lifecycle, self.direct).await;
        let controller = FakeController::start(&lifecycle, self.controller_answers, &drone).await;
        let listen = self.listen.parse().unwrap();
        let proxy = self.proxy(&controller, listen, &proxy_lifecycle).await;
        Play { lifecycle, proxy_lifecycle, proxy, drone, controller }
    }

    /// Another one of the same kind.
    pub async fn proxy(
        &self,
        controller: &FakeController,
        listen: SocketAddr,
        lifecycle: &Lifecycle,
    ) -> Proxy {
        let config = jetway_proxy::Config {
            controllers: vec![format!("http://{}", controller.address)],
            listen,
            name: "proxy-under-test".into(),
            cluster: None,
            secret: secret(),
            hold: self.hold,
            root_redirect: self.root_redirect.clone(),
            trusted_forwarders: self.trusted.iter().map(|network| network.parse().unwrap()).collect(),
            proxy_protocol: self.proxy_protocol,
            drain: self.drain,
            reuse_port: self.reuse_port,
            client: self.client,
            token: self.token,
            body_pause: self.body_pause,
            tls: self.tls.clone(),
            acme_dns: self.acme_dns,
            brand: "<p>a brand</p>".into(),
        };
        jetway_proxy::start(config, lifecycle.clone()).await.unwrap()
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

    /// A backend that is ready as `entry` says, and its token.
    pub fn backend_of(&self, entry: Entry) -> (BackendId, String) {
        let backend = BackendId::random();
        self.drone.set(&backend, Outcome::Ready(Box::new(entry)));
        let token = self.seal(&self.content(&backend));
        (backend, token)
    }

    /// A backend that is ready at `address`, and its token.
    pub fn ready_backend(&self, address: SocketAddr) -> (BackendId, String) {
        self.backend_of(entry(address))
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        self.proxy_lifecycle.token().cancel();
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
        allowed_origins: Vec::new(),
        protocol: Protocol::Http1,
        ports: BTreeMap::new(),
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
    refused: u32,
    dials: u32,
    streams_closed: Vec<Instant>,
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

    /// Waits until so many more streams were refused: the proxy knows that it has none.
    pub async fn refuses(&self, more: u32) {
        let refused = || self.state.lock().unwrap().refused;
        let until = refused() + more;
        eventually("refused streams", || (refused() >= until).then_some(())).await;
    }

    pub fn dials(&self) -> u32 {
        self.state.lock().unwrap().dials
    }

    /// When streams ended, one after another.
    pub fn streams_closed(&self) -> Vec<Instant> {
        self.state.lock().unwrap().streams_closed.clone()
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
    {
        let mut state = drone.state.lock().unwrap();
        if state.away {
            state.refused += 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    }
    upgrade.on_upgrade(move |socket| async move {
        drone.talk(socket).await;
        drone.state.lock().unwrap().streams_closed.push(Instant::now());
    })
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
    let port: u16 = headers[PORT_HEADER].to_str().unwrap().parse().unwrap();
    let address = match drone.state.lock().unwrap().outcomes.get(&backend) {
        Some(Outcome::Ready(entry)) => SocketAddr::new(entry.address.ip(), port),
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
