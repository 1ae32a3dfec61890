//! Registration and delivery against a small controller on a real socket.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jetway_protocol::controller_api::{Events, HeartbeatReply, Registered, Stale, StaleCode};
use jetway_protocol::ids::Term;
use jetway_protocol::secret::Secret;
use jetway_protocol::status::Status;
use jetway_service::lifecycle::Lifecycle;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Config;
use crate::data_dir::tests::TestDir;
use crate::harness::{put_of, reaches, registered};
use crate::runtime::fake::{Application, Fake, FakeRuntime, Script};
use crate::start::start_with_runtime;

#[derive(Clone)]
struct Controller {
    term: Arc<Mutex<i64>>,
    /// Answers 503 to events while set.
    broken: Arc<Mutex<bool>>,
    /// Answers 400 to batches with events of this backend.
    refused: Arc<Mutex<Option<&'static str>>>,
    beats: watch::Sender<usize>,
    heard: watch::Sender<Vec<Status>>,
}

async fn register(State(controller): State<Controller>) -> Json<Registered> {
    let mut term = controller.term.lock();
    *term += 1;
    Json(Registered { term: Term(*term), heartbeat_ms: 60_000, ..registered() })
}

async fn heartbeat(State(controller): State<Controller>) -> Json<HeartbeatReply> {
    controller.beats.send_modify(|beats| *beats += 1);
    Json(HeartbeatReply { draining: false })
}

async fn events(State(controller): State<Controller>, Json(events): Json<Events>) -> Response {
    if *controller.broken.lock() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if events.term != Term(*controller.term.lock()) {
        let stale = Stale { code: StaleCode::Term, message: "register again".into(), present: None };
        return (StatusCode::CONFLICT, Json(stale)).into_response();
    }
    let refused = *controller.refused.lock();
    if events.events.iter().any(|event| Some(event.backend.as_str()) == refused) {
        return (StatusCode::BAD_REQUEST, r#"{"code":"invalid_request","message":"what is this?"}"#)
            .into_response();
    }
    controller.heard.send_modify(|heard| heard.extend(events.events.iter().map(|event| event.entry.status)));
    Json(()).into_response()
}

impl Controller {
    async fn start(lifecycle: &Lifecycle) -> (Self, String) {
        let (term, broken) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(false)));
        let (heard, beats) = (watch::Sender::new(Vec::new()), watch::Sender::new(0));
        let controller = Self { term, broken, refused: Arc::default(), beats, heard };
        let router = Router::new()
            .route("/internal/drones/register", post(register))
            .route("/internal/drones/{id}/heartbeat", post(heartbeat))
            .route("/internal/drones/{id}/events", post(events))
            .with_state(controller.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        lifecycle.spawn_until_stopped(async move { axum::serve(listener, router).await.unwrap() });
        (controller, url)
    }

    async fn hears(&self, status: Status) {
        let mut heard = self.heard.subscribe();
        let come = heard.wait_for(|heard| heard.contains(&status));
        assert!(
            tokio::time::timeout(Duration::from_secs(20), come).await.is_ok(),
            "{status} was not delivered"
        );
    }
}

pub fn config(url: String, dir: &TestDir) -> Config {
    Config {
        // The first of them is nobody's: the drone moves on.
        controllers: vec!["http://127.0.0.1:1".into(), url],
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        name: "drone".parse().unwrap(),
        cluster: None,
        pool: String::new().try_into().unwrap(),
        data_dir: dir.path().to_owned(),
        run_dir: dir.path().join("run"),
        init_executable: dir.path().join("init"),
        session_subnet: None,
        mount_base: None,
        allowed_networks: Vec::new(),
        backends_max: 10,
        cpus: None,
        sandboxes: 0,
        calm: crate::warm::Calm::default(),
        warm_memory_bytes: None,
        memory_bytes: None,
        helper_image: None,
        container_runtime: None,
        names_by_key: false,
        image_gc_percent: 0,
        host_paths: Vec::new(),
        engine_patience: Duration::ZERO,
        secret: Secret::new(&"x".repeat(40)).unwrap(),
    }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_by_the_next_agent() {
    let outer = Lifecycle::new();
    let (controller, url) = Controller::start(&outer).await;
    let dir = TestDir::new();
    let lifecycle = Lifecycle::new();
    let fake = Fake::new(Script::default(), lifecycle.clone());
    let runtime = Arc::new(FakeRuntime(fake.clone()));
    let drone = start_with_runtime(config(url.clone(), &dir), lifecycle.clone(), runtime).await.unwrap();
    let put = |put: jetway_protocol::drone_api::PutBackend, id: &str| {
        let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
        crate::backend::put(&drone.agent, id.parse().unwrap(), put, reservation, None).unwrap()
    };
    put(put_of(|_| {}), "a");
    controller.hears(Status::Ready).await;

    // Another registration made this drone's term stale: it registers again and goes on.
    *controller.term.lock() += 1;
    controller.heard.send_replace(Vec::new());
    put(put_of(|_| {}), "b");
    controller.hears(Status::Ready).await;

    *controller.broken.lock() = true;
    controller.heard.send_replace(Vec::new());
    let backend = put(put_of(|_| {}), "c");
    reaches(&backend, Status::Ready).await;
    assert!(lifecycle.stop().await);
    drop((backend, drone));

    *controller.broken.lock() = false;
    let lifecycle = Lifecycle::new();
    let runtime = Arc::new(FakeRuntime(fake.agent_died(lifecycle.clone())));
    let drone = start_with_runtime(config(url, &dir), lifecycle.clone(), runtime).await.unwrap();
    controller.hears(Status::Ready).await;
    let heard = controller.heard.borrow().clone();
    let expect = [Status::Scheduled, Status::Loading, Status::Starting, Status::Waiting, Status::Ready];
    assert_eq!(heard, expect, "only what was not acknowledged, in order");
    assert_eq!(drone.stop_sessions(Duration::from_secs(20)).await, 0);
    controller.hears(Status::Terminated).await;
    lifecycle.stop().await;
    outer.stop().await;
}

#[tokio::test]
async fn what_a_controller_refuses_does_not_hold_up_the_rest() {
    let outer = Lifecycle::new();
    let (controller, url) = Controller::start(&outer).await;
    *controller.refused.lock() = Some("poison");
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let fake = Fake::new(Script::default(), lifecycle.clone());
    let runtime = Arc::new(FakeRuntime(fake.clone()));
    let drone = start_with_runtime(config(url, &dir), lifecycle.clone(), runtime).await.unwrap();
    for id in ["poison", "good"] {
        let put = put_of(|_| {});
        let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
        crate::backend::put(&drone.agent, id.parse().unwrap(), put, reservation, None).unwrap();
    }
    controller.hears(Status::Ready).await;
    lifecycle.stop().await;
    outer.stop().await;
}

#[tokio::test]
async fn a_drone_that_serves_is_heard_of_at_once_and_stops_what_does_not_stop() {
    let outer = Lifecycle::new();
    let (controller, url) = Controller::start(&outer).await;
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let script = Script { application: Application::IgnoresStop, ..Script::default() };
    let runtime = Arc::new(FakeRuntime(Fake::new(script, lifecycle.clone())));
    let mut config = config(url, &dir);
    config.controllers.remove(0);
    let drone = start_with_runtime(config, lifecycle.clone(), runtime).await.unwrap();
    let started = tokio::time::Instant::now();
    controller.beats.subscribe().wait_for(|beats| *beats > 0).await.unwrap();
    // The period between two of them is a minute here.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());

    let put = put_of(|spec| spec.stop_grace_seconds = 600);
    let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
    let backend = crate::backend::put(&drone.agent, "b".parse().unwrap(), put, reservation, None).unwrap();
    reaches(&backend, Status::Ready).await;
    assert_eq!(drone.stop_sessions(Duration::from_millis(100)).await, 0);
    assert!(drone.agent.membership.is_draining());
    lifecycle.stop().await;
    outer.stop().await;
}
