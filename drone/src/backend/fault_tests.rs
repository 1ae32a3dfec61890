//! What must not harm a backend, or must end it in order: streams that overtake each other, a full disk, an engine that
//! cannot remove, agents that restart at a bad moment. Against the fake engine, under paused time.

use std::time::Duration;

use jetway_protocol::attach::{Outcome, ToProxy};
use jetway_protocol::ids::{GrantId, ProxyId};
use jetway_protocol::spec::InitMode;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::Instant;

use super::Asking;
use crate::harness::{Harness, end_of, grant, reaches};
use crate::runtime::fake::{Application, Script};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn what_an_older_stream_still_says_is_old_news() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| spec.max_idle_seconds = Some(0));
    let proxy = ProxyId::random();
    let (older, mut pushes) = test.ask(&backend, proxy).await;
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { outcome: Outcome::Ready(_), .. })));
    let (newer, _pushes) = test.attach(proxy).await;
    backend.uses(&newer, 1, 1).await.unwrap();
    backend.uses(&older, 0, 0).await.unwrap();
    backend.stream_lost(&older, Instant::now() + seconds(10)).await;
    assert!(!test.agent.detach(&older));
    tokio::time::sleep(seconds(1000)).await;
    assert_eq!(backend.status(), Status::Ready, "it is in use");

    let lost = Instant::now();
    assert!(test.agent.detach(&newer));
    backend.stream_lost(&newer, lost + seconds(10)).await;
    backend.uses(&older, 7, 7).await.unwrap();
    assert_eq!(end_of(&backend).await.reason, EndReason::Idle);
    assert_eq!(lost.elapsed(), seconds(10));
}

#[tokio::test(start_paused = true)]
async fn an_ask_with_a_grant_that_nobody_gave_holds_nothing() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| {
        (spec.max_idle_seconds, spec.first_connection_seconds) = (Some(0), 1);
        spec.stop_grace_seconds = 1;
    });
    reaches(&backend, Status::Ready).await;
    let ready = Instant::now();
    let (stream, mut pushes) = test.attach(ProxyId::random()).await;
    backend.ask(Asking { stream, ask: 1, grant: GrantId(77) }).await.unwrap();
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { outcome: Outcome::Stopping { .. }, .. })));
    assert_eq!(ready.elapsed(), seconds(1));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_user_does_not_wait_for_the_start() {
    let test = Harness::new(Script { pull_hangs: true, ..Script::default() });
    let backend = test.put("b", |_| {});
    let (stream, mut pushes) = test.ask(&backend, ProxyId::random()).await;
    backend.add_grant(grant(2)).await.unwrap().unwrap();
    backend.ask(Asking { stream, ask: 2, grant: GrantId(3) }).await.unwrap();
    let asked = Instant::now();
    assert_eq!(backend.revoke("ann".to_owned()).await, Ok(2));
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { ask: 1, outcome: Outcome::NoGrant })));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { ask: 2, outcome: Outcome::NoGrant })));
    assert_eq!(asked.elapsed(), seconds(30), "its grant could still have come");
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_does_not_have_is_not_started() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |_| {});
    test.agent.store.journals.fill_the_disk();
    let end = end_of(&backend).await;
    assert_eq!(end.reason, EndReason::Internal);
    assert!(end.message.contains("journal"), "{end:?}");
    assert!(!test.fake.calls().iter().any(|call| call == "create"));

    let test = Harness::new(Script { init_is_silent: true, ..Script::default() });
    let backend = test.put("b", |_| {});
    test.fake.until(|_, calls| calls.iter().any(|call| call == "start")).await;
    test.agent.store.journals.fill_the_disk();
    test.fake.inits_come();
    assert_eq!(end_of(&backend).await.reason, EndReason::Internal);
    assert!(!test.fake.calls().iter().any(|call| call == "session"), "no session leaves unwritten");
    test.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_removed_but_does_not_run_has_ended() {
    let test = Harness::new(Script { init_is_silent: true, remove_fails: true, ..Script::default() });
    let backend = test.put("b", |_| {});
    test.fake.until(|_, calls| calls.iter().any(|call| call == "start")).await;
    backend.stop(TerminationKind::Soft, EndReason::External).await.unwrap();
    tokio::time::sleep(seconds(100)).await;
    assert!(backend.status().is_ending() && backend.status() != Status::Terminated, "it runs");
    test.fake.application_exits(1, false);
    let end = end_of(&backend).await;
    assert_eq!((end.reason, end.exit_code), (EndReason::External, Some(1)));
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(test.fake.containers().len(), 1);
    test.fake.script(|script| script.remove_fails = false);
    test.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn an_adopted_backend_has_its_place_before_anybody_is_served() {
    let test = Harness::new(Script::default());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    let container = test.fake.containers().remove(0);
    let test = test.restarted(|_| {}).await;
    assert_eq!(test.agent.holders.slots.len(), 1);
    let taken: Vec<_> = std::iter::from_fn(|| test.agent.addresses().take(Instant::now()).ok()).collect();
    assert!(!taken.is_empty() && !taken.contains(&container.address));
    let pinned = format!("open_line of {}", container.nonce);
    test.fake.until(|_, calls| calls.contains(&pinned)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leftover_that_cannot_be_removed_delays_no_start() {
    let test = Harness::new(Script { init_is_silent: true, ..Script::default() });
    test.put("b", |_| {});
    test.fake.until(|containers, _| containers.len() == 1).await;
    let leftover = test.fake.containers().remove(0);
    let test = test.restarted(|script| (script.init_is_silent, script.remove_fails) = (false, true)).await;
    let restarted = Instant::now();
    reaches(&test.backend("b"), Status::Ready).await;
    assert!(restarted.elapsed() < seconds(2), "{:?}", restarted.elapsed());
    assert!(test.agent.holders.slots.contains_key(&leftover.slot), "it is still its backend's");
    let taken: Vec<_> = std::iter::from_fn(|| test.agent.addresses().take(Instant::now()).ok()).collect();
    assert!(!taken.contains(&leftover.address), "and so is its address");
    test.fake.script(|script| script.remove_fails = false);
    test.fake.until(|containers, _| containers.iter().all(|one| one.slot != leftover.slot)).await;
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_we_cannot_open_is_no_silence_of_inits() {
    let test = Harness::new(Script::default());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    let test = test.restarted(|script| script.open_line_fails = true).await;
    tokio::time::sleep(seconds(300)).await;
    assert_eq!(test.backend("b").status(), Status::Ready);
    test.fake.script(|script| script.open_line_fails = false);
    tokio::time::sleep(seconds(300)).await;
    assert_eq!(test.backend("b").status(), Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_init_that_became_its_application_has_started_it() {
    let test = Harness::new(Script { application: Application::TakesInitsPlace, ..Script::default() });
    let exec = |test: &Harness, id: &str| test.put(id, |spec| spec.executable.init = InitMode::Exec);
    reaches(&exec(&test, "a"), Status::Waiting).await;

    exec(&test, "b");
    let both = |containers: &[crate::runtime::fake::Container], _: &[String]| {
        containers.iter().filter(|one| one.session.is_some()).count() == 2
    };
    test.fake.until(both).await;
    assert!(test.backend("b").status() < Status::Waiting);
    let test = test.restarted(|_| {}).await;
    let restarted = Instant::now();
    reaches(&test.backend("b"), Status::Waiting).await;
    assert!(restarted.elapsed() < seconds(2));
    assert_eq!(test.backend("b").status(), Status::Waiting);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_else_has_removed_leaves_no_slot() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    test.fake.all_are_removed();
    backend.look();
    assert_eq!(end_of(&backend).await.reason, EndReason::Lost);
    test.nothing_is_left().await;
    assert!(test.fake.calls().iter().any(|call| call == "remove"), "{:?}", test.fake.calls());
}
