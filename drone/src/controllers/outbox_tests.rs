//! Registration and delivery against a small controller on a real socket.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::ids::Term;
use jetway_protocol::lease::Seat;
use jetway_protocol::secret::Secret;
use jetway_protocol::status::Status;
use jetway_service::lifecycle::Lifecycle;
use jetway_testkit::controller::PlayedController;

use crate::config::Config;
use crate::harness::{put_of, reaches};
use crate::runtime::fake::{Application, Fake, FakeRuntime, Script};
use crate::start::start_with_runtime;
use crate::store::data_dir::tests::TestDir;

/// Without a lease; a minute between two heartbeats.
async fn controller(lifecycle: &Lifecycle) -> (PlayedController, String) {
    PlayedController::start(lifecycle, 60_000, None).await
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
    let (controller, url) = controller(&outer).await;
    let dir = TestDir::new();
    let lifecycle = Lifecycle::new();
    let fake = Fake::new(Script::default(), lifecycle.clone());
    let runtime = Arc::new(FakeRuntime(fake.clone()));
    let drone = start_with_runtime(config(url.clone(), &dir), lifecycle.clone(), runtime).await.unwrap();
    let put = |put: jetway_protocol::drone_api::PutBackend, id: &str| {
        let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
        crate::backend::begin::put(&drone.agent, id.parse().unwrap(), put, reservation, None).unwrap()
    };
    put(put_of(|_| {}), "a");
    controller.hears(Status::Ready).await;

    // Another registration made this drone's term stale: it registers again and goes on.
    controller.change(|row| {
        row.seat = row.seat.map(|seat| Seat { term: Term(seat.term.0 + 1), ..seat });
        row.heard.clear();
    });
    put(put_of(|_| {}), "b");
    controller.hears(Status::Ready).await;

    controller.change(|row| {
        row.broken = true;
        row.heard.clear();
    });
    let backend = put(put_of(|_| {}), "c");
    reaches(&backend, Status::Ready).await;
    assert!(lifecycle.stop().await);
    drop((backend, drone));

    controller.change(|row| row.broken = false);
    let lifecycle = Lifecycle::new();
    let runtime = Arc::new(FakeRuntime(fake.agent_died(lifecycle.clone())));
    let drone = start_with_runtime(config(url, &dir), lifecycle.clone(), runtime).await.unwrap();
    controller.hears(Status::Ready).await;
    let heard = controller.change(|row| row.heard.clone());
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
    let (controller, url) = controller(&outer).await;
    controller.change(|row| row.refused = Some("poison"));
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let fake = Fake::new(Script::default(), lifecycle.clone());
    let runtime = Arc::new(FakeRuntime(fake.clone()));
    let drone = start_with_runtime(config(url, &dir), lifecycle.clone(), runtime).await.unwrap();
    for id in ["poison", "good"] {
        let put = put_of(|_| {});
        let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
        crate::backend::begin::put(&drone.agent, id.parse().unwrap(), put, reservation, None).unwrap();
    }
    controller.hears(Status::Ready).await;
    lifecycle.stop().await;
    outer.stop().await;
}

#[tokio::test]
async fn a_drone_that_serves_is_heard_of_at_once_and_stops_what_does_not_stop() {
    let outer = Lifecycle::new();
    let (controller, url) = controller(&outer).await;
    let (dir, lifecycle) = (TestDir::new(), Lifecycle::new());
    let script = Script { application: Application::IgnoresStop, ..Script::default() };
    let runtime = Arc::new(FakeRuntime(Fake::new(script, lifecycle.clone())));
    let mut config = config(url, &dir);
    config.controllers.remove(0);
    let drone = start_with_runtime(config, lifecycle.clone(), runtime).await.unwrap();
    let started = tokio::time::Instant::now();
    controller.until(|row| !row.renewals.is_empty()).await;
    // The period between two of them is a minute here.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());

    let put = put_of(|spec| spec.stop_grace_seconds = 600);
    let reservation = drone.agent.admission.admit(&put.spec.executable).unwrap();
    let backend =
        crate::backend::begin::put(&drone.agent, "b".parse().unwrap(), put, reservation, None).unwrap();
    reaches(&backend, Status::Ready).await;
    assert_eq!(drone.stop_sessions(Duration::from_millis(100)).await, 0);
    assert!(drone.agent.membership.is_draining());
    lifecycle.stop().await;
    outer.stop().await;
}
