//! What backends start with, and that it is theirs alone: against the fake engine, under paused time where no socket is real.

use std::time::Duration;

use jetway_protocol::ids::SlotId;
use jetway_protocol::spec::PullPolicy;
use jetway_protocol::status::{EndReason, Status};
use jetway_protocol::timeline::StageName;
use jetway_protocol::warm::SlotTier;

use super::Backend;
use crate::harness::{Harness, end_of, eventually, reaches};
use crate::reconcile;
use crate::runtime::fake::{Application, Container, Death, Script};
use crate::warm::tests::{hot, target};

fn note(backend: &Backend) -> String {
    let timeline = backend.snapshot().timeline;
    timeline.into_iter().find(|stage| stage.stage == StageName::Claimed).unwrap().note
}

async fn note_of(
    test: &Harness,
    id: &str,
    change: impl FnOnce(&mut jetway_protocol::spec::BackendSpec),
) -> String {
    let backend = test.put(id, change);
    reaches(&backend, Status::Ready).await;
    note(&backend)
}

#[tokio::test(start_paused = true)]
async fn the_fastest_that_is_ready_serves_and_the_note_says_why_it_was_no_faster() {
    let test = Harness::with_sandboxes(Script::default(), 1);
    let make_hot = |executable: &mut jetway_protocol::spec::Executable| executable.hot = hot(None);
    test.keep(vec![target(SlotTier::Hot, 1, make_hot), target(SlotTier::Parked, 1, |_| {})]);
    test.has_ready(2, 1).await;
    test.agent.membership.order_draining(true);
    let mut notes = Vec::new();
    for id in ["a", "b", "c", "d"] {
        notes.push(note_of(&test, id, |spec| make_hot(&mut spec.executable)).await);
    }
    let expect = [
        "hot",
        "parked: no hot slot was ready",
        "sandbox: no slot was ready",
        "cold: no slot was ready; no sandbox was ready",
    ];
    assert_eq!(notes, expect);
    let stages = |id: &str| {
        let timeline = test.backend(id).snapshot().timeline;
        timeline.into_iter().map(|stage| stage.stage).collect::<Vec<_>>()
    };
    for id in ["a", "b"] {
        assert_eq!(stages(id), [StageName::Claimed, StageName::Ready]);
    }
    let all = [StageName::Created, StageName::Started, StageName::Claimed, StageName::Ready];
    assert!(all.iter().all(|stage| stages("c").contains(stage)), "{:?}", stages("c"));
}

#[tokio::test(start_paused = true)]
async fn what_depends_on_the_key_or_the_moment_is_made_when_it_is_known() {
    let test = Harness::with_sandboxes(Script::default(), 3);
    test.keep(vec![target(SlotTier::Parked, 1, |_| {})]);
    test.has_ready(1, 3).await;
    test.agent.membership.order_draining(true);
    let mount = note_of(&test, "a", |spec| spec.executable.mount = Some("x".to_owned())).await;
    assert_eq!(mount, "sandbox: a mount depends on the key");
    let pulled = note_of(&test, "b", |spec| spec.executable.pull_policy = PullPolicy::Always).await;
    assert_eq!(pulled, "sandbox: its image is looked up at every start");
    let network = note_of(&test, "c", |spec| spec.executable.network_name = Some("x".to_owned())).await;
    assert_eq!(network, "cold: it is on a network of its own");
    assert_eq!((test.ready(), test.agent.warm.load().sandboxes_ready), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_burst_that_outruns_the_slots_goes_on_without_them() {
    let test =
        Harness::with_sandboxes(Script { engine_takes: Duration::from_millis(300), ..Script::default() }, 4);
    test.keep(vec![target(SlotTier::Parked, 20, |_| {})]);
    test.has_ready(20, 4).await;
    let backends: Vec<_> = (0..50).map(|number| test.put(&format!("b{number}"), |_| {})).collect();
    for backend in &backends {
        reaches(backend, Status::Ready).await;
    }
    let count = |tier: &str| backends.iter().filter(|backend| note(backend).starts_with(tier)).count();
    assert_eq!((count("parked"), count("sandbox"), count("cold")), (20, 4, 26));
    let is_given_once = |one: &Container| one.claims.len() <= 1;
    assert!(test.fake.containers().iter().all(is_given_once));
    let addresses: std::collections::HashSet<_> =
        test.fake.containers().iter().map(|one| one.address).collect();
    assert_eq!(addresses.len(), test.fake.containers().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_slot_is_given_twice_by_threads_at_once() {
    let test = Harness::new(Script::default());
    test.keep(vec![target(SlotTier::Parked, 16, |_| {})]);
    test.has_ready(16, 0).await;
    test.agent.membership.order_draining(true);
    let barrier = std::sync::Barrier::new(4);
    let taken: Vec<SlotId> = std::thread::scope(|scope| {
        let take = |_| {
            let (agent, barrier) = (&test.agent, &barrier);
            scope.spawn(move || {
                let executable = jetway_protocol::spec::Executable::of_image("image");
                barrier.wait();
                let one = || crate::warm::take::take_slot(agent, &"b".parse().unwrap(), &executable).ok();
                std::iter::from_fn(one).map(|taken| taken.slot.slot).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..4).map(take).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let different: std::collections::HashSet<_> = taken.iter().collect();
    assert_eq!((taken.len(), different.len()), (16, 16));
    assert!(
        taken.iter().all(|slot| test.agent.holders.slots.contains_key(slot) && !test.agent.warm.has(*slot))
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_falls_between_journal_and_claim_gives_the_same_slot_again() {
    let test = Harness::new(Script { sessions_get_lost: true, ..Script::default() });
    test.keep(vec![target(SlotTier::Parked, 2, |_| {})]);
    test.has_ready(2, 0).await;
    test.put("b", |_| {});
    test.fake.until(|_, calls| calls.iter().any(|call| call == "lost session")).await;
    let test = test.restarted(|script| script.sessions_get_lost = false).await;
    reaches(&test.backend("b"), Status::Ready).await;
    test.lifecycle.spawn_until_stopped(reconcile::look_at_everything(test.agent.clone()));
    eventually("the other slot is nobody's and goes", || test.fake.containers().len() == 1).await;
    assert_eq!(test.fake.containers()[0].claims.len(), 1);
    assert!(!test.fake.calls().iter().any(|call| call == "create"));
    assert_eq!(note(&test.backend("b")), "parked");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_falls_after_the_claim_adopts_the_session() {
    let test = Harness::new(Script { claim_replies_get_lost: true, ..Script::default() });
    test.keep(vec![target(SlotTier::Parked, 1, |_| {})]);
    test.has_ready(1, 0).await;
    test.put("b", |_| {});
    test.fake.until(|_, calls| calls.iter().any(|call| call == "lost claim reply")).await;
    let test = test.restarted(|script| script.claim_replies_get_lost = false).await;
    reaches(&test.backend("b"), Status::Ready).await;
    let with_session = test.fake.containers().into_iter().filter(|one| one.session.is_some()).count();
    assert_eq!(with_session, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_dies_under_its_claim_costs_a_moment_and_no_session() {
    let test = Harness::new(Script { deaths: vec![Death::Untaken; 2], ..Script::default() });
    test.keep(vec![target(SlotTier::Parked, 2, |_| {})]);
    test.has_ready(2, 0).await;
    test.agent.membership.order_draining(true);
    let backend = test.put("b", |_| {});
    reaches(&backend, Status::Ready).await;
    assert_eq!(note(&backend), "cold: no slot was ready; no sandbox was ready");
    eventually("what died is removed", || test.fake.containers().len() == 1).await;
    assert_eq!(test.agent.holders.slots.len(), 1);
    assert_eq!(test.fake.containers()[0].claims.len(), 1);
}

/// The backend's last status and how often its application was executed, after one slot's init was
/// killed at that step.
async fn after(tier: SlotTier, change: impl FnOnce(&mut Script)) -> (Status, usize) {
    let mut script = Script::default();
    change(&mut script);
    let test = Harness::new(script);
    let make = |executable: &mut jetway_protocol::spec::Executable| {
        executable.hot = if tier == SlotTier::Hot { hot(None) } else { None };
    };
    test.keep(vec![target(tier, 2, make)]);
    test.has_ready(2, 0).await;
    test.agent.membership.order_draining(true);
    let backend = test.put("b", |spec| make(&mut spec.executable));
    reaches(&backend, Status::Ready).await;
    (backend.status(), test.fake.executions("b"))
}

#[tokio::test(start_paused = true)]
async fn an_application_starts_once_wherever_its_init_dies() {
    let (served, ended) = (Status::Ready, Status::Terminated);
    for tier in [SlotTier::Parked, SlotTier::Hot] {
        for (death, expect) in
            [(Death::Untaken, (served, 1)), (Death::Taken, (ended, 0)), (Death::Executed, (ended, 1))]
        {
            let seen = after(tier, |script| script.deaths = vec![death]).await;
            assert_eq!(seen, expect, "{tier:?} {death:?}");
            let seen = after(tier, |script| {
                (script.deaths, script.last_words_get_lost) = (vec![death], true);
            });
            let executed = usize::from(death == Death::Executed);
            assert_eq!(seen.await, (ended, executed), "{tier:?} {death:?}, and its last words are lost");
            let seen = after(tier, |script| (script.deaths, script.writes_ahead) = (vec![death], false));
            assert_eq!(seen.await, (ended, executed), "{tier:?} {death:?}, an init of an earlier version");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_about_a_dead_slot_is_no_news_of_the_next() {
    let test = Harness::new(Script { deaths: vec![Death::Untaken], late_looks: 1, ..Script::default() });
    test.keep(vec![target(SlotTier::Parked, 2, |_| {})]);
    test.has_ready(2, 0).await;
    test.agent.membership.order_draining(true);
    let backend = test.put("b", |_| {});
    let looks = |calls: &[String], count| calls.iter().filter(|call| *call == "inspect").count() >= count;
    test.fake.until(|_, calls| looks(calls, 1)).await;
    // The first look hangs; another one, that the engine's events ask for, finds the slot dead.
    backend.look();
    reaches(&backend, Status::Ready).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(backend.status(), Status::Ready);
    assert!(!test.fake.calls().iter().any(|call| call.starts_with("kill")), "{:?}", test.fake.calls());
}

#[tokio::test(start_paused = true)]
async fn an_application_that_ends_at_once_is_not_started_again() {
    let test = Harness::new(Script::default());
    test.keep(vec![target(SlotTier::Parked, 2, |_| {})]);
    test.has_ready(2, 0).await;
    test.fake.script(|script| script.application = Application::ExitsAtOnce(3));
    let end = end_of(&test.put("b", |_| {})).await;
    assert_eq!((end.reason, end.exit_code), (EndReason::ExitedBeforeReady, Some(3)));
    let sessions = test.fake.calls().iter().filter(|call| *call == "session").count();
    assert_eq!(sessions, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_gets_no_session_whose_lease_is_over() {
    let length = Duration::from_secs(600);
    let test = Harness::leased(Script::default(), length);
    test.keep(vec![target(SlotTier::Parked, 1, |_| {})]);
    test.has_ready(1, 0).await;
    let backend = test.put_keyed("b", |_| {});
    // Its task has not begun: what it was admitted with is over by then.
    test.clock.jump(length);
    assert_eq!(end_of(&backend).await.reason, EndReason::LeaseExpired);
    assert!(!test.fake.calls().iter().any(|call| call == "session"));
    reaches(&test.put("keyless", |_| {}), Status::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_journalled_is_none() {
    let test = Harness::new(Script::default());
    test.keep(vec![target(SlotTier::Parked, 1, |_| {})]);
    test.has_ready(1, 0).await;
    test.agent.membership.order_draining(true);
    let backend = test.put("b", |_| {});
    // Its task has not begun.
    test.agent.store.journals.fill_the_disk();
    let end = end_of(&backend).await;
    assert_eq!(end.reason, EndReason::Internal, "what cannot be journalled is not claimed");
    assert!(!test.fake.calls().iter().any(|call| call == "session"));
    test.nothing_is_left().await;
}
