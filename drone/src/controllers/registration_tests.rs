//! Registration and renewals against a small controller on a real socket that compares and sets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jetway_protocol::ids::Term;
use jetway_protocol::lease::{LeaseTerms, Seat};
use jetway_protocol::status::Status;
use jetway_service::lifecycle::Lifecycle;
use jetway_testkit::controller::PlayedController;
use tokio::time::timeout;

use crate::controllers::outbox_tests::config;
use crate::harness::{put_of, reaches};
use crate::lease::file;
use crate::runtime::fake::{Fake, FakeRuntime, Script};
use crate::start::{Drone, StartError, start_with_runtime};
use crate::store::data_dir::tests::TestDir;

const IN_TIME: Duration = Duration::from_secs(20);
/// Renewals follow each other every few hundred milliseconds.
const LENGTH: Duration = Duration::from_secs(6);

async fn controller(lifecycle: &Lifecycle) -> (PlayedController, String) {
    PlayedController::start(lifecycle, 300, Some(LeaseTerms::of_length(LENGTH).unwrap())).await
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

/// A drone that has renewed at the first of two controllers, which swallows everything from now on.
async fn with_two_controllers(
    outer: &Lifecycle,
    dir: &TestDir,
    lifecycle: &Lifecycle,
) -> (PlayedController, PlayedController, Drone) {
    let (first, url) = controller(outer).await;
    let (second, other) = first.beside(outer).await;
    let drone = start_with(vec![url, other], dir, lifecycle).await.unwrap();
    first.until(|row| row.renewals.len() >= 2).await;
    first.swallows.store(true, Ordering::SeqCst);
    (first, second, drone)
}

#[tokio::test]
async fn it_replaces_what_it_has_seen_and_numbers_each_renewal() {
    let outer = Lifecycle::new();
    let (controller, url) = controller(&outer).await;
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
    let backend =
        crate::backend::begin::put(&drone.agent, "b".parse().unwrap(), put, reservation, tenure).unwrap();
    reaches(&backend, Status::Ready).await;
    controller.change(|row| row.seat = Some(Seat { term: Term(8), renewal: 0 }));
    controller.until(|row| row.renewals.iter().any(|(term, ..)| *term == Term(9))).await;
    assert_eq!(backend.status(), Status::Ready);
    assert!(lifecycle.stop().await && outer.stop().await);
}

#[tokio::test]
async fn a_controller_that_swallows_heartbeats_costs_no_renewal() {
    let (outer, dir, lifecycle) = (Lifecycle::new(), TestDir::new(), Lifecycle::new());
    let (first, second, drone) = with_two_controllers(&outer, &dir, &lifecycle).await;
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

/// The other one, which is asked first, swallows everything: to wait for it would cost a lease.
#[tokio::test]
async fn a_new_term_is_asked_of_the_controller_that_ended_the_old_one() {
    let (outer, dir, lifecycle) = (Lifecycle::new(), TestDir::new(), Lifecycle::new());
    let (_first, second, drone) = with_two_controllers(&outer, &dir, &lifecycle).await;
    let began = std::time::Instant::now();
    second.change(|row| row.seat = Some(Seat { term: Term(8), renewal: 0 }));
    second.until(|row| row.renewals.iter().any(|(term, ..)| *term == Term(9))).await;
    // A quarter of the patience with the first, and then at once.
    assert!(began.elapsed() < drone.agent.lease.terms().unwrap().held_for() / 3, "{:?}", began.elapsed());
    assert!(lifecycle.stop().await && outer.stop().await);
}

#[tokio::test]
async fn an_identity_that_is_somebody_elses_ends_a_start_and_an_agent_without_sessions() {
    let outer = Lifecycle::new();
    let (controller, url) = controller(&outer).await;
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
    let (controller, url) = controller(&outer).await;
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
