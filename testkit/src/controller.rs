//! A controller as drones see it: it registers one drone, and hears its heartbeats and statuses. It
//! has no Postgres and gives no orders. A test says how it answers, and reads what it has heard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jetway_protocol::controller_api::{
    Events, Heartbeat, HeartbeatReply, Register, Registered, Stale, StaleCode,
};
use jetway_protocol::ids::{InstallationId, Term};
use jetway_protocol::lease::{LeaseTerms, Replaces, Seat};
use jetway_protocol::status::Status;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

const IN_TIME: Duration = Duration::from_secs(20);

/// The drone's row, what was heard of it, and how it is answered.
#[derive(Default)]
pub struct Row {
    pub seat: Option<Seat>,
    pub registers: Vec<Register>,
    pub renewals: Vec<(Term, i64, Option<LeaseTerms>)>,
    /// Another agent has its identity.
    pub in_use: bool,
    /// Registrations are answered with a term that is long over.
    pub is_behind: bool,
    /// Heartbeats that were swallowed, and of them those that the drone gave up.
    pub swallowed: u32,
    pub given_up: u32,
    /// Statuses that were taken, in order.
    pub heard: Vec<Status>,
    /// Events are answered with 503.
    pub broken: bool,
    /// Batches with events of this backend are answered with 400.
    pub refused: Option<&'static str>,
}

#[derive(Clone)]
pub struct PlayedController {
    row: Arc<Mutex<Row>>,
    changes: watch::Sender<u64>,
    /// What every registration is answered with, but for the term.
    registered: Registered,
    /// It takes registrations and heartbeats, and answers none.
    pub swallows: Arc<AtomicBool>,
}

impl PlayedController {
    /// Returns its URL, too.
    pub async fn start(
        lifecycle: &Lifecycle,
        heartbeat_ms: u64,
        lease: Option<LeaseTerms>,
    ) -> (Self, String) {
        let registered = Registered {
            term: Term(0),
            installation: InstallationId::random(),
            cluster: "localhost:9090".parse().unwrap(),
            draining: false,
            heartbeat_ms,
            lease_ms: 600_000,
            lease,
        };
        let (row, changes) = (Arc::default(), watch::Sender::new(0));
        let controller = Self { row, changes, registered, swallows: Arc::default() };
        let url = controller.clone().serve(lifecycle).await;
        (controller, url)
    }

    /// Another one over the same row.
    pub async fn beside(&self, lifecycle: &Lifecycle) -> (Self, String) {
        let controller = Self { swallows: Arc::default(), ..self.clone() };
        let url = controller.clone().serve(lifecycle).await;
        (controller, url)
    }

    async fn serve(self, lifecycle: &Lifecycle) -> String {
        let router = Router::new()
            .route("/internal/drones/register", post(register))
            .route("/internal/drones/{id}/heartbeat", post(heartbeat))
            .route("/internal/drones/{id}/events", post(events))
            .with_state(self);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Row) -> T) -> T {
        let changed = change(&mut self.row.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    pub async fn until(&self, what: impl Fn(&Row) -> bool) {
        let mut changes = self.changes.subscribe();
        let come = changes.wait_for(|_| what(&self.row.lock().unwrap()));
        assert!(timeout(IN_TIME, come).await.is_ok(), "it did not come in time");
    }

    pub async fn hears(&self, status: Status) {
        self.until(|row| row.heard.contains(&status)).await;
    }

    fn registered(&self, term: Term) -> Response {
        Json(Registered { term, ..self.registered.clone() }).into_response()
    }
}

fn stale(code: StaleCode, present: Option<Replaces>) -> Response {
    let message = "an identity that is somebody else's".to_owned();
    (StatusCode::CONFLICT, Json(Stale { code, message, present })).into_response()
}

async fn register(State(controller): State<PlayedController>, Json(register): Json<Register>) -> Response {
    if controller.swallows.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    controller.change(|row| {
        row.registers.push(register.clone());
        if row.in_use {
            return stale(StaleCode::IdInUse, None);
        }
        if row.is_behind {
            return controller.registered(Term(1));
        }
        if register.replaces.map(|replaces| replaces.seat) != row.seat {
            return stale(StaleCode::Moved, row.seat.map(|seat| Replaces { seat, silent_ms: 7 }));
        }
        let term = Term(row.seat.map_or(0, |seat| seat.term.0) + 1);
        row.seat = Some(Seat { term, renewal: 0 });
        controller.registered(term)
    })
}

/// Counts a heartbeat whose drone does not wait for it any longer.
struct Swallowed(PlayedController);

impl Drop for Swallowed {
    fn drop(&mut self) {
        self.0.change(|row| row.given_up += 1);
    }
}

async fn heartbeat(State(controller): State<PlayedController>, Json(beat): Json<Heartbeat>) -> Response {
    if controller.swallows.load(Ordering::SeqCst) {
        controller.change(|row| row.swallowed += 1);
        let _until_the_drone_hangs_up = Swallowed(controller.clone());
        std::future::pending::<()>().await;
    }
    controller.change(|row| {
        let Some(seat) = row.seat.filter(|seat| seat.term == beat.term) else {
            return stale(StaleCode::Term, None);
        };
        row.seat = Some(Seat { renewal: beat.renewal, ..seat });
        row.renewals.push((beat.term, beat.renewal, beat.lease));
        Json(HeartbeatReply { draining: false }).into_response()
    })
}

async fn events(State(controller): State<PlayedController>, Json(events): Json<Events>) -> Response {
    controller.change(|row| {
        if row.broken {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        if row.seat.map(|seat| seat.term) != Some(events.term) {
            return stale(StaleCode::Term, None);
        }
        if events.events.iter().any(|event| Some(event.backend.as_str()) == row.refused) {
            return (StatusCode::BAD_REQUEST, r#"{"code":"invalid_request","message":"what is this?"}"#)
                .into_response();
        }
        row.heard.extend(events.events.iter().map(|event| event.entry.status));
        Json(()).into_response()
    })
}
