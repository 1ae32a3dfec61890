//! The life of a backend against the fake engine, under paused time.

use std::time::Duration;

use jetway_protocol::attach::{Outcome, ToProxy};
use jetway_protocol::ids::{GrantId, ProxyId};
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::{Instant, timeout};

use super::{Asking, HasEnded};
use crate::grants::KEPT;
use crate::harness::{Harness, end_of, grant, reaches};
use crate::runtime::fake::{Application, Script};
use crate::runtime::{ImageError, RuntimeError};

fn running(application: Application) -> Script {
    Script { application, ..Script::default() }
}

fn is_ready_answer(message: &ToProxy) -> bool {
    matches!(message, ToProxy::Answer { ask: 1, outcome: Outcome::Ready(_) })
}

#[tokio::test(start_paused = true)]
async fn idle_zero_stops_at_once_after_the_last_close() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| spec.max_idle_seconds = Some(0));
    let proxy = ProxyId::random();
    let (stream, mut pushes) = test.ask(&backend, proxy).await;
    assert!(is_ready_answer(&pushes.recv().await.unwrap()));
    backend.uses(&stream, 1, 1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert_eq!(backend.status(), Status::Ready);

    let closed = Instant::now();
    backend.uses(&stream, 0, 0).await.unwrap();
    test.fake.until(|_, calls| calls.iter().any(|call| call == "stop 15")).await;
    assert_eq!(closed.elapsed(), Duration::ZERO);
    let end = end_of(&backend).await;
    assert_eq!(
        (end.reason, end.kind, end.exit_code),
        (EndReason::Idle, Some(TerminationKind::Soft), Some(143))
    );
    test.nothing_is_left().await;
    assert!(matches!(pushes.recv().await, Some(ToProxy::Ending { reason: Some(EndReason::Idle), .. })));
    assert!(matches!(pushes.recv().await, Some(ToProxy::Ended { .. })));
    assert_eq!(backend.view(None).await.unwrap_err(), HasEnded);
    assert_eq!(test.agent.admission.reserved().backends, 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_ever_connected() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| {
        spec.max_idle_seconds = Some(0);
        spec.first_connection_seconds = 30;
    });
    reaches(&backend, Status::Ready).await;
    let ready = Instant::now();
    assert_eq!(end_of(&backend).await.reason, EndReason::Idle);
    assert_eq!(ready.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_connect_to_a_live_key_holds_it() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| spec.max_idle_seconds = Some(0));
    let proxy = ProxyId::random();
    let (stream, mut pushes) = test.ask(&backend, proxy).await;
    assert!(is_ready_answer(&pushes.recv().await.unwrap()));
    assert_eq!(backend.add_grant(grant(2)).await.unwrap().unwrap(), Status::Ready);
    let held = Instant::now();
    backend.uses(&stream, 0, 0).await.unwrap();
    reaches(&backend, Status::Terminating).await;
    assert_eq!(held.elapsed().as_secs(), 30);
    assert!(
        backend.add_grant(grant(3)).await.is_ok_and(|added| added.unwrap().is_ending())
            || backend.view(None).await.is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn the_grant_of_the_put_is_held_from_ready() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| spec.max_idle_seconds = Some(0));
    reaches(&backend, Status::Ready).await;
    let ready = Instant::now();
    // Somebody else comes first, and leaves at once.
    backend.add_grant(grant(2)).await.unwrap().unwrap();
    let (stream, mut pushes) = test.attach(ProxyId::random()).await;
    backend.ask(Asking { stream: stream.clone(), ask: 1, grant: GrantId(2) }).await.unwrap();
    assert!(is_ready_answer(&pushes.recv().await.unwrap()));
    backend.uses(&stream, 0, 0).await.unwrap();
    reaches(&backend, Status::Terminating).await;
    assert_eq!(ready.elapsed().as_secs(), 30);
}

/// More than the backend's own file takes.
#[tokio::test(start_paused = true)]
async fn the_next_agent_knows_a_crowd_s_grants() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    for id in 2..=20_000 {
        backend.add_grant(grant(id)).await.unwrap().unwrap();
    }
    let (_stream, mut pushes) = test.ask(&backend, ProxyId::random()).await;
    assert!(is_ready_answer(&pushes.recv().await.unwrap()));
    let test = test.restarted(|_| {}).await;
    for (id, is_used) in [(1, true), (2, false), (20_000, false)] {
        let found = test.backend("b").view(Some(GrantId(id))).await.unwrap().grants;
        assert_eq!(found.iter().map(|grant| grant.used).collect::<Vec<_>>(), [is_used], "{id}");
    }
    assert_eq!(test.backend("b").revoke("ann".to_owned()).await.unwrap(), 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_has_gone_leaves_what_is_kept() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |_| {});
    let (_stream, mut pushes) = test.ask(&backend, ProxyId::random()).await;
    assert!(is_ready_answer(&pushes.recv().await.unwrap()));
    let crowd = KEPT as u64 + 5000;
    for id in 2..=crowd {
        backend.add_grant(grant(id)).await.unwrap().unwrap();
    }
    let is_there = async |id| !backend.view(Some(GrantId(id))).await.unwrap().grants.is_empty();
    assert!(is_there(2).await, "all of them are on their way");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(is_there(1).await, "it was used");
    let left_over = crowd - KEPT as u64;
    assert!(!is_there(1 + left_over).await && is_there(2 + left_over).await && is_there(crowd).await);
    assert!(pushes.try_recv().is_err(), "no proxy knows of those that went");
}

#[tokio::test(start_paused = true)]
async fn starts_that_fail_say_why_and_leave_nothing() {
    let not_found = ImageError::NotFound { image: "image".into(), reason: "404".into() };
    let pull = ImageError::PullFailed { image: "image".into(), reason: "no route".into() };
    let refused = RuntimeError::Refused("bad mount".into());
    for (script, reason, output) in [
        (Script { image_error: Some(not_found), ..Script::default() }, EndReason::ImageNotFound, ""),
        (Script { image_error: Some(pull), ..Script::default() }, EndReason::PullFailed, ""),
        (Script { create_error: Some(refused), ..Script::default() }, EndReason::CreateFailed, ""),
        (running(Application::ExitsAtOnce(3)), EndReason::ExitedBeforeReady, "the last words"),
        (running(Application::NeverListens), EndReason::StartTimeout, "the last words"),
        (running(Application::ListensElsewhere), EndReason::ListeningElsewhere, "the last words"),
        (Script { init_is_silent: true, ..Script::default() }, EndReason::Lost, ""),
    ] {
        let test = Harness::new(script);
        let backend = test.put("b", |_| {});
        let end = end_of(&backend).await;
        assert_eq!(end.reason, reason, "{end:?}");
        assert!(end.output.contains(output) && !end.message.is_empty(), "{end:?}");
        assert!(!end.output.contains('\0'), "no database takes that as text");
        test.nothing_is_left().await;
        let id = "b".parse().unwrap();
        assert_eq!(test.agent.tombstones().get(&id).unwrap().end.reason, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_exits_by_itself() {
    for (oom_killed, reason) in [(false, EndReason::Crashed), (true, EndReason::OutOfMemory)] {
        let test = Harness::new(Script::default());
        let backend = test.put("b", |_| {});
        reaches(&backend, Status::Ready).await;
        let (_stream, mut pushes) = test.ask(&backend, ProxyId::random()).await;
        assert!(is_ready_answer(&pushes.recv().await.unwrap()));
        test.fake.application_exits(7, oom_killed);
        assert!(
            matches!(pushes.recv().await, Some(ToProxy::Ending { reason: None, .. })),
            "before the engine"
        );
        let end = end_of(&backend).await;
        assert!(matches!(pushes.recv().await, Some(ToProxy::Ended { .. })));
        assert_eq!((end.reason, end.exit_code, end.oom_killed), (reason, Some(7), oom_killed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_start_that_hangs() {
    for script in
        [Script { pull_hangs: true, ..Script::default() }, Script { create_hangs: true, ..Script::default() }]
    {
        let call = if script.pull_hangs { "ensure_image" } else { "create" };
        let test = Harness::new(script);
        let backend = test.put("b", |_| {});
        test.fake.until(|_, calls| calls.iter().any(|made| made == call)).await;
        let asked = Instant::now();
        let _may_have_ended = backend.stop(TerminationKind::Soft, EndReason::External).await;
        let end = end_of(&backend).await;
        assert_eq!(end.reason, EndReason::External);
        assert!(asked.elapsed() < Duration::from_secs(1), "{call}: {:?}", asked.elapsed());
        let removed = test.fake.calls().iter().any(|made| made == "remove");
        assert_eq!(removed, call == "create", "a container that may exist is removed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_or_failing_engine_is_no_end_and_delays_no_kill() {
    let test = Harness::new(running(Application::IgnoresStop));
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    test.fake.script(|script| (script.kill_hangs, script.inspect_fails) = (true, true));
    backend.stop(TerminationKind::Hard, EndReason::External).await.unwrap();
    assert_eq!(backend.status(), Status::HardTerminating);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(backend.status(), Status::HardTerminating, "nobody knows whether it runs");
    test.fake.script(|script| (script.kill_hangs, script.inspect_fails) = (false, false));
    let end = end_of(&backend).await;
    assert_eq!((end.kind, end.exit_code), (Some(TerminationKind::Hard), Some(137)));
}

#[tokio::test(start_paused = true)]
async fn a_signal_that_is_ignored_is_followed_by_a_kill_after_the_grace() {
    let test = Harness::new(running(Application::IgnoresStop));
    let backend = test.put("b", |spec| spec.stop_grace_seconds = 5);
    reaches(&backend, Status::Ready).await;
    let asked = Instant::now();
    backend.stop(TerminationKind::Soft, EndReason::External).await.unwrap();
    backend.stop(TerminationKind::Soft, EndReason::Idle).await.unwrap();
    let end = end_of(&backend).await;
    assert_eq!(asked.elapsed().as_secs(), 5);
    assert_eq!((end.reason, end.kind), (EndReason::External, Some(TerminationKind::Hard)));
    assert!(!test.fake.calls().iter().any(|call| call == "kill 15"), "one signal, over the line");
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_counts_from_scheduling() {
    let test = Harness::new(Script::default());
    let (put, backend) = (Instant::now(), test.put("b", |spec| spec.lifetime_limit_seconds = Some(100)));
    assert_eq!(end_of(&backend).await.reason, EndReason::Lifetime);
    assert_eq!(put.elapsed().as_secs(), 100);
}

#[tokio::test(start_paused = true)]
async fn an_ask_waits_for_a_grant_that_is_on_its_way_but_not_for_ever() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    let (stream, mut pushes) = test.attach(ProxyId::random()).await;
    for grant_id in [2, 3] {
        let asking = Asking { stream: stream.clone(), ask: grant_id, grant: GrantId(grant_id) };
        backend.ask(asking).await.unwrap();
    }
    backend.add_grant(grant(2)).await.unwrap().unwrap();
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { ask: 2, outcome: Outcome::Ready(_) })));
    let asked = Instant::now();
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { ask: 3, outcome: Outcome::NoGrant })));
    assert_eq!(asked.elapsed().as_secs(), 30);

    assert_eq!(backend.revoke("ann".to_owned()).await, Ok(2));
    assert!(matches!(pushes.recv().await, Some(ToProxy::Revoked { .. })));
    let asked = Instant::now();
    backend.ask(super::Asking { stream, ask: 4, grant: GrantId(2) }).await.unwrap();
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { ask: 4, outcome: Outcome::NoGrant })));
    assert_eq!(asked.elapsed(), Duration::ZERO, "one that was taken back is not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_goes_on_where_the_last_one_stood() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| spec.max_idle_seconds = Some(0));
    reaches(&backend, Status::Ready).await;
    let (_stream, mut pushes) = test.ask(&backend, ProxyId::random()).await;
    assert!(is_ready_answer(&pushes.recv().await.unwrap()));

    let test = test.restarted(|_| {}).await;
    let (backend, started) = (test.backend("b"), Instant::now());
    assert_eq!(backend.status(), Status::Ready);
    assert_eq!(backend.view(None).await.unwrap().grants.len(), 1);
    let proxy = ProxyId::random();
    let (stream, mut pushes) = test.ask(&backend, proxy).await;
    assert!(is_ready_answer(&pushes.recv().await.unwrap()), "its grants are known");
    stream.close();
    backend.uses(&stream, 0, 0).await.unwrap();
    assert_eq!(end_of(&backend).await.reason, EndReason::Idle);
    assert_eq!(started.elapsed().as_secs(), 30, "other proxies had time to come back");
    assert!(test.fake.calls().iter().all(|call| call != "create"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_during_each_stage_ends_well() {
    // While it was pulled or made: a new slot.
    for call in ["ensure_image", "create"] {
        let script =
            Script { pull_hangs: call != "create", create_hangs: call == "create", ..Script::default() };
        let test = Harness::new(script);
        test.put("b", |_| {});
        test.fake.until(|_, calls| calls.iter().any(|made| made == call)).await;
        let test = test.restarted(|script| *script = Script::default()).await;
        reaches(&test.backend("b"), Status::Ready).await;
        assert_eq!((test.fake.containers().len(), test.agent.holders.slots.len()), (1, 1));
    }
    // While it was stopping: the stop goes on, with one signal.
    let test = Harness::new(running(Application::IgnoresStop));
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    backend.stop(TerminationKind::Soft, EndReason::Idle).await.unwrap();
    test.fake.until(|containers, _| containers.iter().any(|container| !container.stops.is_empty())).await;
    let test = test.restarted(|_| {}).await;
    assert_eq!(end_of(&test.backend("b")).await.reason, EndReason::Idle);
    assert!(!test.fake.calls().iter().any(|call| call == "kill 15"));
    // While it ended unseen.
    let test = Harness::new(Script::default());
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    test.fake.application_exits(4, false);
    let test = test.restarted(|_| {}).await;
    let id = "b".parse().unwrap();
    let end = match test.agent.backend(&id) {
        Some(backend) => end_of(&backend).await,
        None => test.agent.tombstones().get(&id).unwrap().end.clone(),
    };
    assert_eq!(end.exit_code, Some(4));
}

#[tokio::test(start_paused = true)]
async fn an_init_that_stays_silent_after_a_restart_has_lost() {
    let test = Harness::new(Script::default());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    let test = test.restarted(|script| script.init_is_silent = true).await;
    let started = Instant::now();
    assert_eq!(end_of(&test.backend("b")).await.reason, EndReason::Lost);
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_asks_the_engine_nothing() {
    let test = Harness::new(Script::default());
    for number in 0..10 {
        reaches(&test.put(&format!("b{number}"), |_| {}), Status::Ready).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = test.fake.calls().len();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(test.fake.calls().len(), before);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_runs_for_nobody_is_removed_and_one_with_a_session_is_not() {
    let test = Harness::new(Script::default());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    let mut parked = test.fake.containers().remove(0);
    let session = parked.session.take().unwrap();
    test.fake.put_container(jetway_protocol::ids::SlotId::random(), parked.clone());
    parked.session = Some(jetway_protocol::init::Session { backend: "other".parse().unwrap(), ..session });
    test.fake.put_container(jetway_protocol::ids::SlotId::random(), parked);
    test.lifecycle.spawn_until_stopped(crate::reconcile::look_at_everything(test.agent.clone()));
    let two_left = test.fake.until(|containers, _| containers.len() == 2);
    timeout(Duration::from_secs(60), two_left).await.unwrap();
    let mut left: Vec<_> =
        test.fake.containers().iter().map(|one| one.session.as_ref().unwrap().backend.to_string()).collect();
    left.sort();
    assert_eq!(left, ["b", "other"]);
}
