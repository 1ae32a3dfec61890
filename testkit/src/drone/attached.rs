//! A drone as proxies see it: its attach stream and its dial route, without an engine. It answers
//! asks as a test says, notes each message, and can be away or break the stream. The routes for
//! controllers are [`FakeDrone`](super::FakeDrone)'s.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use jetway_protocol::attach::{Outcome, ToDrone, ToProxy, Uses};
use jetway_protocol::drone_api::{DIAL_PROTOCOL, FENCING_HEADER, PORT_HEADER};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken};
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::status::{End, EndReason};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::soon;

/// Of every backend that it has.
pub const FENCING: FencingToken = FencingToken(7);

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

pub struct AttachedDrone {
    pub id: DroneId,
    pub address: SocketAddr,
    direct: bool,
    secret: Secret,
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

impl AttachedDrone {
    /// `direct`: proxies dial its backends themselves.
    pub async fn start(lifecycle: &Lifecycle, direct: bool, secret: Secret) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let drone = Arc::new(Self {
            id: DroneId::random(),
            address: listener.local_addr().unwrap(),
            direct,
            secret,
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

    pub fn outcome(&self, backend: &BackendId) -> Outcome {
        self.state.lock().unwrap().outcomes[backend].clone()
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
        soon("refused streams", || (refused() >= until).then_some(())).await;
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
        soon(&format!("uses {uses}, connections {connections}: {:?}", self.uses(backend)), || {
            let (at, last) = self.uses(backend).pop()?;
            (last.uses == uses && last.connections == connections).then_some(at)
        })
        .await
    }

    fn authorizes(&self, headers: &HeaderMap) -> bool {
        let given = headers.get("authorization").map(|value| value.as_bytes());
        self.secret.authorizes(Purpose::ProxyToDrone, given)
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

type DroneRoute = State<(Arc<AttachedDrone>, Lifecycle)>;

async fn attach(State((drone, _)): DroneRoute, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    if !drone.authorizes(&headers) {
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
    assert!(drone.authorizes(headers));
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
