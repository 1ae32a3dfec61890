//! Tables: what a backend in a given state makes of an event.

use std::time::Duration;

use jetway_protocol::init::{FromInit, SessionState};
use jetway_protocol::lease::Standing;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::status::{EndReason, TerminationKind};

use super::table::{EXITED, Table, hello};
use super::{Claim, Done, Event};
use crate::lease::LeaseNow;
use crate::runtime::{ContainerStatus, LineEvent};

#[tokio::test(start_paused = true)]
async fn the_journal_has_a_claim_before_the_session_leaves() {
    let mut table = Table::new(|_| {});
    let done = table.on(Event::Begin);
    assert_eq!(done, ["take slot", "journal claim", "session", "journal starting", "report starting"]);

    let mut table = Table::new(|_| {});
    table.journal_writes = false;
    let done = table.on(Event::Begin);
    assert_eq!(done[..4], ["take slot", "journal claim", "ending", "finish Remove"], "no session leaves");
}

#[tokio::test(start_paused = true)]
async fn a_dead_line_costs_another_slot() {
    let mut table = Table::new(|_| {});
    table.line_writes = false;
    let done = table.on(Event::Begin);
    let one = ["take slot", "journal claim", "session", "let go"];
    assert_eq!(done[..5], [&one[..], &["take slot"]].concat());
    assert_eq!(done.last().unwrap(), "start", "a container is made when no slot is left");
    assert_eq!(table.core.session.claim, Claim::Parked);
}

#[tokio::test(start_paused = true)]
async fn idle_at_zero_writes_the_stop_at_once() {
    let mut table = Table::ready(|spec| spec.max_idle_seconds = Some(0));
    let stream = table.ask();
    assert!(table.after(1000).is_empty(), "it is in use");
    table.closes(stream);
    let done = table.after(0);
    assert_eq!(done, ["signal 15", "journal terminating", "report terminating", "ending Idle"]);
    assert!(table.after(9).is_empty());
    assert_eq!(table.after(1)[2..], ["ending Idle", "finish Kill"], "its grace is over");
}

#[tokio::test(start_paused = true)]
async fn a_kill_is_written_and_told_before_it_is_carried_out() {
    let mut table = Table::ready(|_| {});
    let done = table.stop(TerminationKind::Hard);
    assert_eq!(
        done,
        ["journal hard-terminating", "report hard-terminating", "ending External", "finish Kill"]
    );
    assert!(table.stop(TerminationKind::Hard).is_empty(), "repeating it changes nothing");
    let done = table.gone(EXITED);
    assert_eq!(done, ["bury", "journal terminated", "report terminated", "give back"]);
}

#[tokio::test(start_paused = true)]
async fn an_exit_is_told_before_the_engine_is_asked() {
    let mut table = Table::ready(|_| {});
    assert_eq!(table.exits(), ["ending", "finish Await"]);
}

#[tokio::test(start_paused = true)]
async fn an_exit_keeps_its_reason_while_the_engine_is_away() {
    let change = |spec: &mut BackendSpec| {
        (spec.max_idle_seconds, spec.lifetime_limit_seconds) = (Some(5), Some(60));
    };
    for (kind, reason, done) in [
        (TerminationKind::Soft, EndReason::Idle, &[][..]),
        (TerminationKind::Soft, EndReason::Lifetime, &[]),
        (TerminationKind::Soft, EndReason::LeaseExpired, &[]),
        (TerminationKind::Hard, EndReason::LeaseExpired, &["ending", "finish Kill"]),
    ] {
        let mut table = Table::ready(change);
        table.exits();
        assert!(table.after(1000).is_empty(), "idle, and its lifetime is over");
        assert_eq!(table.on(Event::Stop { kind, reason }), done, "{reason:?}");
        table.gone(EXITED);
        let end = table.end.unwrap();
        assert_eq!((end.reason, end.exit_code, end.kind), (EndReason::Crashed, Some(7), None), "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_session_that_was_never_begun_gets_another_slot() {
    let another = &["let go", "take slot"][..];
    let over = &["bury", "journal terminated", "report terminated", "give back"][..];
    let later = &["ask again"][..];
    for (what, is_taken, heard_all, seconds, done) in [
        ("its line was read to its end", false, Some(true), 0, another),
        ("its line was given up, and words may come", false, None, 0, later),
        ("they did not come", false, None, 1, over),
        ("it was taken and never heard of again", true, Some(true), 0, over),
        ("it was taken, and its line was given up", true, None, 0, over),
    ] {
        let mut table = Table::given(|_| {});
        if is_taken {
            table.says(FromInit::Taken { backend: "b".parse().unwrap() });
        }
        if let Some(heard_all) = heard_all {
            table.on(Event::Heard(LineEvent::Disconnected { heard_all }));
        }
        for _ in 0..seconds {
            assert_eq!(table.gone(EXITED), later, "{what}");
            table.now.instant += Duration::from_secs(1);
        }
        let found = table.gone(EXITED);
        assert_eq!(found[..done.len()], *done, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_start_waits_for_nothing() {
    let told = ["journal terminating", "report terminating", "ending External", "stop start"];
    let over = ["bury", "journal terminated", "report terminated", "answer ended", "give back"];
    for (may_exist, then) in [(false, &over[..]), (true, &["finish Remove", "answer stopping"])] {
        let mut table = Table::starting();
        table.ask();
        table.may_exist = may_exist;
        assert_eq!(table.stop(TerminationKind::Soft), [&told[..], then].concat(), "{may_exist}");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_hear_how_a_start_ended() {
    let mut table = Table::given(|spec| spec.start_timeout_seconds = 60);
    table.ask();
    let done = table.after(60);
    assert_eq!(done[2..], ["ending StartTimeout", "finish Kill"], "and no word that it is stopping");
    assert!(table.gone(EXITED).contains(&"answer ended".to_owned()));
    assert_eq!(table.end.unwrap().reason, EndReason::StartTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_stop_goes_through_the_engine_where_the_line_is_dead() {
    let mut table = Table::ready(|_| {});
    table.line_writes = false;
    table.stop(TerminationKind::Soft);
    table.now.instant += Duration::from_millis(100);
    assert_eq!(table.on(Event::Time), ["engine signal 15"]);

    // An init that is back without having heard of it is told again, on its line.
    let mut table = Table::ready(|_| {});
    table.on(Event::Heard(LineEvent::Disconnected { heard_all: true }));
    table.stop(TerminationKind::Soft);
    let session = SessionState {
        backend: "b".parse().unwrap(),
        fencing_token: table.core.fencing_token(),
        pid: Some(2),
        ready: None,
        stopping: false,
        lease_over: false,
    };
    let done = table.on(Event::Heard(LineEvent::Connected(hello(Some(session)))));
    assert_eq!(done, ["tell LookAtLease", "signal 15"]);
}

#[tokio::test(start_paused = true)]
async fn the_lease_stops_and_then_kills() {
    let lease = |standing| LeaseNow { standing, admits: true, is_kept: true, grace: Duration::from_secs(10) };
    let mut table = Table::ready(|_| {});
    for (standing, done) in [
        (Standing::Held, &[][..]),
        (Standing::Stop, &["signal 15", "journal terminating"]),
        (Standing::Stop, &[]),
        (Standing::Gone, &["journal hard-terminating"]),
        (Standing::Gone, &[]),
    ] {
        table.now.lease = Some(lease(standing));
        let found = table.on(Event::LookAtLease);
        assert_eq!(found.is_empty(), done.is_empty(), "{standing:?}: {found:?}");
        assert_eq!(found[..done.len()], *done, "{standing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_its_lease() {
    let lease = |admits| {
        Some(LeaseNow { standing: Standing::Held, admits, is_kept: false, grace: Duration::from_secs(10) })
    };
    let mut table = Table::new(|_| {});
    table.now.lease = lease(false);
    assert!(!table.on(Event::Begin).contains(&"session".to_owned()));
    assert!(table.after(1).is_empty(), "it is not admitted yet");
    table.now.lease = lease(true);
    assert_eq!(table.after(1), ["journal claim", "session"]);
}

#[tokio::test(start_paused = true)]
async fn an_init_that_stays_silent_has_lost() {
    let mut table = Table::ready(|_| {});
    table.on(Event::Heard(LineEvent::Disconnected { heard_all: true }));
    assert_eq!(table.after(1), ["look"], "it would be back by now");
    let runs = || Event::Done(Done::Looked(Ok(ContainerStatus::Running { paused: false, address: None })));
    assert!(table.on(runs()).is_empty());
    assert_eq!(table.after(9), ["look"]);
    assert_eq!(table.on(runs()), ["ending", "finish Kill"]);
    table.gone(EXITED);
    assert_eq!(table.end.unwrap().reason, EndReason::Lost);
}
