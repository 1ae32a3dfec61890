//! An engine that is down, or goes down in the middle of a start. Against the fake engine, under paused time.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::spec::InitMode;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::{Instant, sleep};

use crate::backend::Backend;
use crate::harness::{Harness, end_of, reaches};
use crate::runtime::fake::{Application, Script};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn count(test: &Harness, call: &str) -> usize {
    test.fake.calls().iter().filter(|made| *made == call).count()
}

#[tokio::test(start_paused = true)]
async fn a_start_waits_for_an_engine_that_is_down() {
    let test = Harness::new(Script { engine_is_down: true, ..Script::default() });
    let backend = test.put("b", |spec| spec.start_timeout_seconds = 60);
    sleep(seconds(50)).await;
    assert!(!backend.status().is_ending() && count(&test, "ensure_image") > 20, "{}", backend.status());
    test.fake.script(|script| script.engine_is_down = false);
    reaches(&backend, Status::Ready).await;
    assert_eq!(backend.status(), Status::Ready);
    assert_eq!((count(&test, "made"), count(&test, "start")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_cut_off_makes_no_second_container() {
    for cuts_off in [vec!["create"], vec!["start"], vec!["create", "create", "start", "start"]] {
        let test = Harness::new(Script { cuts_off: cuts_off.clone(), ..Script::default() });
        let backend = test.put("b", |_| {});
        reaches(&backend, Status::Ready).await;
        assert_eq!(backend.status(), Status::Ready, "{cuts_off:?}");
        assert_eq!((count(&test, "made"), test.fake.containers().len()), (1, 1), "{cuts_off:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stays_down_is_waited_for_as_long_as_a_start_may_take() {
    let test = Harness::new(Script { engine_is_down: true, ..Script::default() });
    let put = Instant::now();
    let end = end_of(&test.put("b", |spec| spec.start_timeout_seconds = 60)).await;
    assert_eq!(end.reason, EndReason::StartTimeout);
    assert!(end.message.contains("cannot be reached"), "{end:?}");
    assert!((seconds(58)..=seconds(60)).contains(&put.elapsed()), "{:?}", put.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_engine_that_is_down() {
    let test = Harness::new(Script { engine_is_down: true, ..Script::default() });
    let backend = test.put("b", |_| {});
    sleep(seconds(5)).await;
    let stopped = Instant::now();
    let _it_may_have_ended_by_then = backend.stop(TerminationKind::Soft, EndReason::External).await;
    assert_eq!(end_of(&backend).await.reason, EndReason::External);
    assert!(stopped.elapsed() < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_falls_once_init_has_its_session_ends_nothing() {
    let test = Harness::new(Script { cuts_off: vec!["start"], ..Script::default() });
    let backend = test.put("b", |spec| {
        (spec.start_timeout_seconds, spec.max_idle_seconds) = (30, None);
    });
    test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    test.fake.script(|script| script.engine_is_down = true);
    sleep(seconds(100)).await;
    assert_eq!(backend.status(), Status::Ready, "its process and its init go on");
    test.fake.script(|script| script.engine_is_down = false);
    sleep(seconds(100)).await;
    assert_eq!((backend.status(), count(&test, "made")), (Status::Ready, 1));
    assert_eq!(count(&test, "kill 9"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_while_the_engine_was_down_is_not_started_again() {
    let test = Harness::new(Script { cuts_off: vec!["start"], ..Script::default() });
    let backend = test.put("b", |spec| spec.max_idle_seconds = None);
    test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    test.fake.script(|script| script.engine_is_down = true);
    reaches(&backend, Status::Ready).await;
    sleep(seconds(1)).await;
    test.fake.application_exits(7, false);
    sleep(seconds(5)).await;
    test.fake.script(|script| script.engine_is_down = false);
    let end = end_of(&backend).await;
    assert_eq!((end.reason, end.exit_code), (EndReason::Crashed, Some(7)), "{end:?}");
    assert_eq!(count(&test, "start"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_exit_keeps_its_reason_until_the_engine_confirms_it() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| {
        (spec.max_idle_seconds, spec.lifetime_limit_seconds) = (Some(5), Some(60));
    });
    reaches(&backend, Status::Ready).await;
    test.fake.script(|script| script.engine_is_down = true);
    test.fake.application_exits(7, false);
    // Its connections are closed by then, and its lifetime is over.
    sleep(seconds(100)).await;
    test.fake.script(|script| script.engine_is_down = false);
    let end = end_of(&backend).await;
    assert_eq!((end.reason, end.exit_code), (EndReason::Crashed, Some(7)), "{end:?}");
}

/// One whose start the engine was killed over, and has forgotten; its init is on the line.
async fn forgotten() -> (Harness, Arc<Backend>) {
    let test = Harness::new(Script { cuts_off: vec!["start"], forgets_starts: true, ..Script::default() });
    let backend = test.put("b", |spec| spec.max_idle_seconds = None);
    reaches(&backend, Status::Ready).await;
    sleep(seconds(20)).await;
    (test, backend)
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_has_forgotten_goes_on_and_is_not_started_again() {
    let (test, backend) = forgotten().await;
    test.fake.hint_all();
    sleep(seconds(100)).await;
    assert_eq!(backend.status(), Status::Ready);
    assert_eq!((count(&test, "made"), count(&test, "start")), (1, 1));
    let exited = Instant::now();
    test.fake.application_exits(7, false);
    let end = end_of(&backend).await;
    assert_eq!((end.reason, end.exit_code), (EndReason::Crashed, Some(7)), "{end:?}");
    assert!(exited.elapsed() < seconds(1));
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_has_forgotten_has_ended_only_when_its_init_is_gone() {
    let (test, backend) = forgotten().await;
    test.fake.script(|script| script.application = Application::IgnoresStop);
    let _it_may_not_have_ended_by_then = backend.stop(TerminationKind::Hard, EndReason::External).await;
    sleep(seconds(30)).await;
    assert!(backend.status().is_ending() && backend.status() != Status::Terminated, "it runs");
    assert!(count(&test, "stop 9") > 1, "nobody but init can end it");
    test.fake.script(|script| script.application = Application::BecomesReady);
    assert_eq!(end_of(&backend).await.reason, EndReason::External);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_nobody_knows_of_is_given_up_for_another_slot() {
    let script =
        Script { cuts_off: vec!["start"], forgets_starts: true, init_is_silent: true, ..Script::default() };
    let test = Harness::new(script);
    let backend = test.put("b", |_| {});
    test.fake.until(|_, calls| calls.iter().filter(|call| *call == "start").count() == 2).await;
    test.fake.script(|script| script.forgets_starts = false);
    test.fake.inits_come();
    reaches(&backend, Status::Ready).await;
    assert_eq!(backend.status(), Status::Ready, "{:?} {:?}", backend.snapshot().history, test.fake.calls());
    assert_eq!((count(&test, "made"), count(&test, "start")), (2, 2));
    assert_eq!(test.fake.containers().len(), 1, "the first is removed");
}

#[tokio::test(start_paused = true)]
async fn an_init_that_becomes_its_application_waits_for_the_engines_answer() {
    let application = Application::TakesInitsPlace;
    let engine_takes = seconds(3);
    let test = Harness::new(Script { application, engine_takes, ..Script::default() });
    test.put("b", |spec| spec.executable.init = InitMode::Exec);
    test.fake.until(|_, calls| calls.iter().any(|call| call == "start")).await;
    test.fake.inits_come();
    sleep(seconds(2)).await;
    assert_eq!(count(&test, "session"), 0);
    sleep(seconds(2)).await;
    assert_eq!(count(&test, "session"), 1);
}
