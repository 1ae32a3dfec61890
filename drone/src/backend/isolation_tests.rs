//! Backends under the drone's lease, against the fake engine, under paused time and with a boot-time clock that jumps:
//! what an agent does that is cut off, was paused, or begins anew. The lease is 600 s, so keyed backends are gone at 540.

use std::time::Duration;

use jetway_protocol::ids::{BootId, ProxyId, Term};
use jetway_protocol::spec::OnIsolation;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::Instant;

use crate::harness::{Harness, end_of, grant, leased, reaches};
use crate::lease::Moved;
use crate::lease::keeper::condemn;
use crate::runtime::ContainerStatus;
use crate::runtime::fake::{Application, Container, Script};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn leased_harness(script: Script) -> Harness {
    Harness::leased(script, seconds(600))
}

fn has(call: &'static str) -> impl Fn(&[Container], &[String]) -> bool {
    move |_, calls| calls.iter().any(|made| made == call)
}

fn count(test: &Harness, call: &str) -> usize {
    test.fake.calls().iter().filter(|made| *made == call).count()
}

#[tokio::test(start_paused = true)]
async fn cut_off_it_is_told_to_stop_one_grace_before_the_end_and_killed_at_it() {
    let test = leased_harness(Script { application: Application::IgnoresStop, ..Script::default() });
    let began = Instant::now();
    let backend = test.put_keyed("b", |spec| spec.stop_grace_seconds = 10);
    reaches(&backend, Status::Ready).await;
    test.fake.until(has("stop 15")).await;
    assert_eq!(began.elapsed().as_secs(), 530);
    test.fake.until(has("kill 9")).await;
    assert_eq!(began.elapsed().as_secs(), 540);
    let end = end_of(&backend).await;
    assert_eq!((end.reason, end.kind), (EndReason::LeaseExpired, Some(TerminationKind::Hard)));
    test.nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn who_keeps_and_who_has_no_key_is_never_stopped_for_want_of_a_lease() {
    let test = leased_harness(Script::default());
    let keyless = test.put("a", |_| {});
    let keeps = test.put_keyed("b", |spec| spec.on_isolation = OnIsolation::Keep);
    tokio::time::sleep(seconds(100_000)).await;
    assert_eq!((keyless.status(), keeps.status()), (Status::Ready, Status::Ready));
    // An installation without a lease, as `jetway dev`.
    let test = Harness::new(Script::default());
    let backend = test.put_keyed("b", |_| {});
    tokio::time::sleep(seconds(100_000)).await;
    assert_eq!(backend.status(), Status::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_with_a_kernel_of_its_own_runs_only_what_is_kept() {
    for boot_id in [None, Some(BootId::random())] {
        let test = leased_harness(Script::default());
        test.fake.script(|script| script.boot_id = boot_id);
        let end = end_of(&test.put_keyed("a", |_| {})).await;
        assert_eq!(end.reason, EndReason::Internal);
        assert!(end.message.contains(r#"say on_isolation "keep""#), "{}", end.message);
        test.nothing_is_left().await;
        assert_eq!(count(&test, "session"), 0);
        reaches(&test.put_keyed("b", |spec| spec.on_isolation = OnIsolation::Keep), Status::Ready).await;
        assert_eq!(test.backend("b").status(), Status::Ready);
        // Where there is no lease, there is nothing to say.
        let test = Harness::new(Script::default());
        test.fake.script(|script| script.boot_id = boot_id);
        let backend = test.put_keyed("b", |_| {});
        reaches(&backend, Status::Ready).await;
        assert_eq!(backend.status(), Status::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_moves_the_end_on() {
    let test = leased_harness(Script::default());
    let backend = test.put_keyed("b", |_| {});
    for _ in 0..20 {
        tokio::time::sleep(seconds(500)).await;
        assert_eq!(backend.status(), Status::Ready);
        test.agent.lease.acknowledged(Term(1), test.clock.now());
    }
    let renewed = Instant::now();
    assert_eq!(end_of(&backend).await.reason, EndReason::LeaseExpired);
    assert_eq!(renewed.elapsed().as_secs(), 530);
}

/// Everything that its task could be waiting for when the end comes.
#[tokio::test(start_paused = true)]
async fn whatever_it_is_busy_with_it_ends_in_time() {
    let ignores = Application::IgnoresStop;
    for (name, script) in [
        ("a pull", Script { pull_hangs: true, ..Script::default() }),
        ("a create", Script { create_hangs: true, ..Script::default() }),
        ("a silent init", Script { init_is_silent: true, ..Script::default() }),
        ("a long grace", Script { application: ignores, ..Script::default() }),
    ] {
        let test = leased_harness(script);
        let began = Instant::now();
        let backend = test.put_keyed("b", |spec| {
            (spec.stop_grace_seconds, spec.start_timeout_seconds) = (3600, 3600);
        });
        if name == "a long grace" {
            reaches(&backend, Status::Ready).await;
            backend.stop(TerminationKind::Soft, EndReason::External).await.unwrap();
        }
        let end = end_of(&backend).await;
        assert!(began.elapsed() <= seconds(541), "{name}: {:?} {end:?}", began.elapsed());
        test.nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_it_looks_before_it_does_anything_else() {
    let test = leased_harness(Script { application: Application::IgnoresStop, ..Script::default() });
    let backend = test.put_keyed("b", |_| {});
    let (stream, mut pushes) = test.attach(ProxyId::random()).await;
    reaches(&backend, Status::Ready).await;
    // The agent is stopped; a visitor's question and a controller's answer wait in its sockets.
    test.clock.jump(seconds(5000));
    let added = backend.add_grant(grant(2)).await;
    assert!(!added.is_ok_and(|added| added.is_ok_and(|status| !status.is_ending())));
    let asking = super::Asking { stream, ask: 1, grant: jetway_protocol::ids::GrantId(1) };
    if backend.ask(asking).await.is_ok() {
        let refused = pushes.recv().await.unwrap();
        assert!(!format!("{refused:?}").contains("Ready"), "{refused:?}");
    }
    assert_eq!(end_of(&backend).await.reason, EndReason::LeaseExpired);
}

#[tokio::test(start_paused = true)]
async fn a_new_term_brings_nothing_back_and_waits_until_the_end_is_written_down() {
    let test = leased_harness(Script { kill_hangs: true, ..Script::default() });
    let backend = test.put_keyed("b", |_| {});
    reaches(&backend, Status::Ready).await;
    test.clock.jump(seconds(5000));
    assert!(condemn(&test.agent).await);
    assert_eq!(backend.status(), Status::HardTerminating, "it is in the journal, whatever the engine does");
    assert_eq!(test.agent.lease.registered(&leased(Term(2), seconds(600)), test.clock.now()), Moved::Later);
    let test =
        test.restarted_as(Some(leased(Term(3), seconds(600))), |script| script.kill_hangs = false).await;
    assert!(test.agent.lease.take().is_some(), "the file says that there is a lease");
    assert_eq!(end_of(&test.backend("b")).await.reason, EndReason::LeaseExpired);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_after_the_end_ends_what_it_finds_and_before_it_leaves_it() {
    for (away, survives) in [(100, true), (541, false)] {
        let test = leased_harness(Script::default());
        reaches(&test.put_keyed("b", |_| {}), Status::Ready).await;
        test.clock.jump(seconds(away));
        let test = test.restarted_as(None, |_| {}).await;
        let backend = test.backend("b");
        tokio::time::sleep(seconds(60)).await;
        assert_eq!(backend.status() == Status::Ready, survives, "{away}: {}", backend.status());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_an_earlier_boot_is_started_again() {
    let test = leased_harness(Script { pull_hangs: true, ..Script::default() });
    test.put("waiting", |_| {});
    test.put_keyed("keyed", |spec| spec.on_isolation = OnIsolation::Keep);
    let mut test = test;
    test.clock.boot_id = BootId::random();
    let test = test.restarted(|script| script.pull_hangs = false).await;
    let backends = test.agent.all_backends();
    assert_eq!(backends.len(), 2);
    for backend in backends {
        assert_eq!(end_of(&backend).await.reason, EndReason::Lost);
    }
    assert_eq!((count(&test, "create"), test.fake.containers().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_handed_over_when_it_would_have_to_stop_at_once() {
    let test = leased_harness(Script { init_is_silent: true, ..Script::default() });
    let backend = test.put_keyed("b", |spec| spec.start_timeout_seconds = 3600);
    test.fake.until(has("start")).await;
    test.clock.jump(seconds(495));
    test.fake.inits_come();
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(count(&test, "session"), 0, "the agent was paused between the start and the claim");
    test.agent.lease.acknowledged(Term(1), test.clock.now());
    reaches(&backend, Status::Ready).await;
    let told = test.fake.containers().remove(0).session.unwrap().lease.unwrap();
    assert_eq!((told.boot_id, told.grace_ms, told.stop_signal), (test.clock.boot_id, 10_000, 15));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_hands_no_session_over_before_it_is_registered() {
    let test = leased_harness(Script { pull_hangs: true, ..Script::default() });
    test.put_keyed("b", |_| {});
    test.fake.until(has("ensure_image")).await;
    let test = test.restarted_as(None, |script| script.pull_hangs = false).await;
    test.fake.until(has("start")).await;
    tokio::time::sleep(seconds(5)).await;
    assert_eq!(count(&test, "session"), 0);
    test.agent.lease.registered(&leased(Term(2), seconds(600)), test.clock.now());
    reaches(&test.backend("b"), Status::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn agent_killed_between_journal_and_claim() {
    let test = leased_harness(Script { sessions_get_lost: true, ..Script::default() });
    test.put_keyed("b", |_| {});
    test.fake.until(has("lost session")).await;
    let again = leased(Term(2), seconds(600));
    let test = test.restarted_as(Some(again), |script| script.sessions_get_lost = false).await;
    reaches(&test.backend("b"), Status::Ready).await;
    assert_eq!((count(&test, "session"), count(&test, "create")), (1, 0), "init is asked, and has none");
    assert_eq!(test.fake.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn lost_claim_reply() {
    let test = leased_harness(Script { claim_replies_get_lost: true, ..Script::default() });
    test.put_keyed("b", |_| {});
    test.fake.until(has("lost claim reply")).await;
    let again = leased(Term(2), seconds(600));
    let test = test.restarted_as(Some(again), |script| script.claim_replies_get_lost = false).await;
    reaches(&test.backend("b"), Status::Ready).await;
    assert_eq!((count(&test, "session"), count(&test, "create")), (0, 0), "init says that it has it");
    assert_eq!(test.fake.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_init_began_alone_is_gone_on_with() {
    let test = leased_harness(Script { application: Application::IgnoresStop, ..Script::default() });
    reaches(&test.put_keyed("b", |_| {}), Status::Ready).await;
    let again = leased(Term(2), seconds(600));
    let test = test.restarted_as(Some(again), |script| script.lease_over = true).await;
    let end = end_of(&test.backend("b")).await;
    assert_eq!(end.reason, EndReason::LeaseExpired);
}

#[tokio::test(start_paused = true)]
async fn inits_are_told_of_a_deadline_that_has_come_nearer() {
    let test = leased_harness(Script::default());
    let backend = test.put_keyed("b", |_| {});
    reaches(&backend, Status::Ready).await;
    let began = Instant::now();
    let shorter = leased(Term(2), seconds(120));
    assert_eq!(test.agent.lease.registered(&shorter, test.clock.now()), Moved::Nearer);
    test.fake.until(has("look_at_lease")).await;
    assert_eq!(end_of(&backend).await.reason, EndReason::LeaseExpired);
    assert_eq!(began.elapsed().as_secs(), 90);
}

#[tokio::test(start_paused = true)]
async fn a_slow_engine_that_answers_500_and_has_done_it() {
    for answers_500 in [vec!["create"], vec!["start"], vec!["create", "start"]] {
        let test = leased_harness(Script { answers_500, ..Script::default() });
        let backend = test.put_keyed("b", |_| {});
        reaches(&backend, Status::Ready).await;
        assert_eq!(backend.status(), Status::Ready);
        assert_eq!(test.fake.containers().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_ends_nothing_and_what_did_not_come_back_with_it_is_noticed() {
    let test = leased_harness(Script::default());
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    // The daemon restarts with live-restore: calls fail, the event stream breaks, and everything is there again.
    test.fake.script(|script| script.inspect_fails = true);
    test.fake.hint_all();
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(backend.status(), Status::Ready);
    test.fake.script(|script| script.inspect_fails = false);
    test.fake.hint_all();
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(backend.status(), Status::Ready);
    // And without: its containers are dead when it answers again.
    test.fake.script(|script| script.inspect_fails = true);
    test.fake.set_all(ContainerStatus::Exited { code: 137, oom_killed: false });
    test.fake.hint_all();
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(backend.status(), Status::Ready, "nobody knows yet");
    test.fake.script(|script| script.inspect_fails = false);
    let end = end_of(&backend).await;
    assert_eq!((end.reason, end.exit_code), (EndReason::Crashed, Some(137)));
}

#[tokio::test(start_paused = true)]
async fn hints_that_were_lost_are_made_up_for() {
    let test = leased_harness(Script::default());
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    // Init's word is lost with its line, and the one hint that counts among hundreds.
    test.fake.set_all(ContainerStatus::Exited { code: 3, oom_killed: false });
    for _ in 0..500 {
        test.fake.hint_nobody();
    }
    assert_eq!(end_of(&backend).await.exit_code, Some(3));
}
