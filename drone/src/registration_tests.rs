//! Registration and renewals against a small controller on a real socket that compares and sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jetway_protocol::controller_api::{Heartbeat, HeartbeatReply, Register, Registered, Stale, StaleCode};
use jetway_protocol::ids::Term;
use jetway_protocol::lease::{LeaseTerms, Replaces, Seat};
use jetway_protocol::status::Status;
use jetway_service::lifecycle::Lifecycle;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::data_dir::tests::TestDir;
use crate::harness::{leased, put_of, reaches};
use crate::lease::file;
use crate::outbox_tests::config;
use crate::runtime::fake::{Fake, FakeRuntime, Script};
use crate::start::{Drone, StartError, start_with_runtime};

const IN_TIME: Duration = Duration::from_secs(20);
/// Renewals follow each other every few hundred milliseconds.
const LENGTH: Duration = Duration::from_secs(6);

#[derive(Default)]
struct Row {
    seat: Option<Seat>,
    registers: Vec<Register>,
    renewals: Vec<(Term, i64, Option<LeaseTerms>)>,
    in_use: bool,
    /// Registrations are answered with a term that is long over.
    is_behind: bool,
    /// Heartbeats that were swallowed and given up by the drone.
    given_up: u32,
    swallowed: u32,
}

#[derive(Clone)]
struct Controller {
    row: Arc<Mutex<Row>>,
    changes: watch::Sender<u64>,
    /// It takes heartbeats, and answers none.
    swallows: Arc<AtomicBool>,
}

impl Controller {
    async fn start(lifecycle: &Lifecycle) -> (Self, String) {
        let controller =
            Self { row: Arc::default(), changes: watch::Sender::new(0), swallows: Arc::default() };
        let url = controller.clone().serve(lifecycle).await;
        (controller, url)
    }

    /// Another one over the same Postgres.
    async fn beside(&self, lifecycle: &Lifecycle) -> (Self, String) {
        let controller = Self { swallows: Arc::default(), ..self.clone() };
        let url = controller.clone().serve(lifecycle).await;
        (controller, url)
    }

    async fn serve(self, lifecycle: &Lifecycle) -> String {
        let router = Router::new()
            .route("/internal/drones/register", post(register))
            .route("/internal/drones/{id}/heartbeat", post(heartbeat))
            .with_state(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        url
    }

    fn change<T>(&self, change: impl FnOnce(&mut Row) -> T) -> T {
        let changed = change(&mut self.row.lock());
        self.changes.send_modify(|count| *count += 1);
        changed
    }

    async fn until(&self, what: impl Fn(&Row) -> bool) {
        let mut changes = self.changes.subscribe();
        let come = changes.wait_for(|_| what(&self.row.lock()));
        assert!(timeout(IN_TIME, come).await.is_ok(), "it did not come in time");
    }
}

fn stale(code: StaleCode, present: Option<Replaces>) -> Response {
    let message = "an identity that is somebody else's".to_owned();
    (StatusCode::CONFLICT, Json(Stale { code, message, present })).into_response()
}

async fn register(State(controller): State<Controller>, Json(register): Json<Register>) -> Response {
    controller.change(|row| {
        row.registers.push(register.clone());
        if row.in_use {
            return stale(StaleCode::IdInUse, None);
        }
        if row.is_behind {
            return Json(Registered { heartbeat_ms: 300, ..leased(Term(1), LENGTH) }).into_response();
        }
        if register.replaces.map(|replaces| replaces.seat) != row.seat {
            return stale(StaleCode::Moved, row.seat.map(|seat| Replaces { seat, silent_ms: 7 }));
        }
        let term = Term(row.seat.map_or(0, |seat| seat.term.0) + 1);
        row.seat = Some(Seat { term, renewal: 0 });
        Json(Registered { heartbeat_ms: 300, ..leased(term, LENGTH) }).into_response()
    })
}

/// Counts a heartbeat whose drone does not wait for it any longer.
struct Swallowed(Controller);

impl Drop for Swallowed {
    fn drop(&mut self) {
        self.0.change(|row| row.given_up += 1);
    }
}

async fn heartbeat(State(controller): State<Controller>, Json(beat): Json<Heartbeat>) -> Response {
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

async fn start(url: &str, dir: &TestDir, lifecycle: &Lifecycle) -> Result<Drone, StartError> {
    // The first of them is nobody's: the drone moves on.
    start_with(vec!["http://127.0.0.1:1".to_owned(), url.to_owned()], dir, lifecycle).await
}

async fn start_with(urls: Vec<String>, dir: &TestDir, lifecycle: &Lifecycle) -> Result<Drone, StartError> {
    let script = Script { boot_id: jetway_service::clock::boot_id().ok(), ..Script::default() };
    let fake = Fake::new(script, lifecycle.clone());
    let config = crate::Config { controllers: urls, ..config(String::new(), dir) };
    start_with_runtime(config, lifecycle.clone(), Arc::new(FakeRuntime(fake))).await
}

#[tokio::test]
async fn it_replaces_what_it_has_seen_and_numbers_each_renewal() {
    let outer = Lifecycle::new();
    let (controller, url) = Controller::start(&outer).await;
    // What an agent before this one had.
    controller.change(|row| row.seat = Some(Seat { term: Term(4), renewal: 17 }));
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let drone = start(&url, &dir, &lifecycle).await.unwrap();
    controller.until(|row| row.renewals.len() >= 4).await;
    let terms = LeaseTerms::of_length(LENGTH).unwrap();
    controller.change(|row| {
        let asked: Vec<_> = row.registers.iter().map(|one| one.replaces.map(|old| old.seat)).collect();
        assert_eq!(asked, [None, Some(Seat { term: Term(4), renewal: 17 })]);
        assert!(row.registers.iter().all(|one| one.holds_lease && one.agent.is_some()));
        assert!(row.registers[0].uptime_ms <= row.registers[1].uptime_ms, "a fresh look at the clock");
        let renewals: Vec<_> = row.renewals.iter().take(4).copied().collect();
        assert_eq!(renewals, [1, 2, 3, 4].map(|number| (Term(5), number, Some(terms))));
    });
    let deadline = file::read(&file::directory(&dir.path().join("run"))).unwrap();
    assert_eq!(deadline.boot_id, drone.agent.drone.boot_id);
    assert!(deadline.gone_by <= drone.agent.lease.now() + terms.held_for());

    // Its term is taken away: it registers again, and its sessions do not notice.
    let mut put = put_of(|_| {});
    put.term = Term(5);
    let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
    let tenure = drone.agent.lease.take();
    let backend = crate::backend::put(&drone.agent, "b".parse().unwrap(), put, reservation, tenure).unwrap();
    reaches(&backend, Status::Ready).await;
    controller.change(|row| row.seat = Some(Seat { term: Term(8), renewal: 0 }));
    controller.until(|row| row.renewals.iter().any(|(term, ..)| *term == Term(9))).await;
    assert_eq!(backend.status(), Status::Ready);
    assert!(lifecycle.stop().await && outer.stop().await);
}

#[tokio::test]
async fn a_controller_that_swallows_heartbeats_costs_no_renewal() {
    let outer = Lifecycle::new();
    let (first, url) = Controller::start(&outer).await;
    let (second, other) = first.beside(&outer).await;
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let drone = start_with(vec![url, other], &dir, &lifecycle).await.unwrap();
    first.until(|row| row.renewals.len() >= 2).await;
    first.swallows.store(true, Ordering::SeqCst);
    let before = first.change(|row| row.renewals.len());
    // At most one renewal was past the look at what swallows.
    second.until(|row| row.swallowed > 0 && row.renewals.len() >= before + 2).await;
    second.change(|row| {
        assert_eq!(
            (row.given_up, row.swallowed),
            (0, 1),
            "the second was asked while the first was waited for"
        );
        let numbers: Vec<_> = row.renewals.iter().map(|(_, number, _)| *number).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    });
    assert!(drone.agent.lease.take().is_some());
    // The one that answered is asked first from then on; what was swallowed is given up in its time, and harms nobody.
    second.until(|row| row.given_up == 1).await;
    let before = second.change(|row| row.renewals.len());
    second.until(|row| row.renewals.len() >= before + 3).await;
    assert_eq!(second.change(|row| row.swallowed), 1);
    assert!(lifecycle.stop().await && outer.stop().await);
}

#[tokio::test]
async fn an_identity_that_is_somebody_elses_ends_a_start_and_an_agent_without_sessions() {
    let outer = Lifecycle::new();
    let (controller, url) = Controller::start(&outer).await;
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let drone = start(&url, &dir, &lifecycle).await.unwrap();
    controller.until(|row| !row.renewals.is_empty()).await;
    controller.change(|row| (row.in_use, row.seat) = (true, None));
    let why = timeout(IN_TIME, drone.refused()).await.expect("it gives up");
    assert!(why.contains("somebody else"), "{why}");
    assert!(lifecycle.stop().await && outer.stop().await);
}

#[tokio::test]
async fn a_term_that_is_no_newer_than_the_last_one_is_never_its_own() {
    let outer = Lifecycle::new();
    let (controller, url) = Controller::start(&outer).await;
    controller.change(|row| row.seat = Some(Seat { term: Term(4), renewal: 0 }));
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let drone = start(&url, &dir, &lifecycle).await.unwrap();
    controller.until(|row| !row.renewals.is_empty()).await;
    controller.change(|row| (row.is_behind, row.seat) = (true, None));
    controller.until(|row| row.registers.len() > 15).await;
    assert_eq!(drone.agent.membership.term(), Some(Term(5)));
    controller.change(|row| (row.is_behind, row.seat) = (false, Some(Seat { term: Term(8), renewal: 0 })));
    controller.until(|row| row.renewals.iter().any(|(term, ..)| *term == Term(9))).await;
    assert!(lifecycle.stop().await && outer.stop().await);
}
