//! The last word: what init does about the drone's deadline when nobody tells it anything.

use std::path::Path;
use std::time::{Duration, Instant};

use jetway_protocol::ids::BootId;
use jetway_protocol::init::{EXIT_CANNOT_EXECUTE, EXIT_LEASE_OVER, FromInit, Session, SessionLease, ToInit};
use jetway_protocol::lease::Deadline;
use jetway_protocol::spec::InitMode;

use crate::harness::{Slot, eventually, shell};

const SECOND: Duration = Duration::from_secs(1);

fn boot_id() -> BootId {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().parse().unwrap()
}

fn boot_time() -> Duration {
    // SAFETY: the kernel fills the structure.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now);
        now
    };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// As the drone does it.
fn put(slot: &Slot, text: &str) {
    let directory = slot.path("lease");
    std::fs::write(directory.join("new"), text).unwrap();
    std::fs::rename(directory.join("new"), directory.join(Deadline::FILE_NAME)).unwrap();
}

pub fn gone_in(slot: &Slot, left: Duration) {
    put(slot, &Deadline { boot_id: boot_id(), gone_by: boot_time() + left }.to_string());
}

pub fn leased(session: Session, grace: Duration) -> Session {
    let grace_ms = grace.as_millis() as u64;
    Session { lease: Some(SessionLease { boot_id: boot_id(), grace_ms, stop_signal: 10 }), ..session }
}

fn wait_for(path: &Path) {
    eventually("the application", || path.exists().then_some(()));
}

/// An application that notes its signal and does not end by it.
fn stubborn(slot: &Slot) -> Session {
    let (up, told) = (slot.path("up"), slot.path("told"));
    let script =
        format!("trap ': > {}' USR1; : > {}; while :; do sleep 0.01; done", told.display(), up.display());
    shell("a", &script)
}

#[test]
fn one_grace_before_the_deadline_it_stops_the_application_and_at_it_everything() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    gone_in(&slot, 3 * SECOND);
    let session = leased(stubborn(&slot), SECOND);
    let began = Instant::now();
    wire.claim(session);
    // The agent is dead: its socket is gone, and nobody says anything.
    slot.hang_up();
    drop(wire);
    wait_for(&slot.path("told"));
    let told = began.elapsed();
    assert_eq!(slot.status().code(), Some(EXIT_LEASE_OVER));
    let ended = began.elapsed();
    assert!(told > SECOND * 3 / 2 && told < 3 * SECOND, "{told:?}");
    assert!(ended > SECOND * 5 / 2 && ended < 5 * SECOND, "{ended:?}");
    slot.output();
}

#[test]
fn each_renewal_moves_it_on_and_what_cannot_be_read_does_not() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    gone_in(&slot, 2 * SECOND);
    wire.claim(leased(stubborn(&slot), SECOND));
    for _ in 0..3 {
        gone_in(&slot, 2 * SECOND);
        wire.say(&ToInit::Ping);
        assert_eq!(wire.hear(), FromInit::Pong);
        let since = Instant::now();
        eventually("most of it", || (since.elapsed() > SECOND * 7 / 10).then_some(()));
    }
    assert!(!slot.path("told").exists());
    put(&slot, "torn");
    let since = Instant::now();
    assert_eq!(slot.status().code(), Some(EXIT_LEASE_OVER), "the last value stands");
    assert!(since.elapsed() < 5 * SECOND);
}

#[test]
fn nothing_is_executed_after_the_deadline_or_without_one() {
    let other_boot = Deadline { boot_id: BootId::random(), gone_by: boot_time() + 1000 * SECOND };
    for (name, text) in [
        ("no file", None),
        ("no deadline", Some("nonsense".to_owned())),
        ("a file of an earlier boot", Some(other_boot.to_string())),
        ("it is over", Some(Deadline { boot_id: boot_id(), gone_by: boot_time() }.to_string())),
        ("it is near", Some(Deadline { boot_id: boot_id(), gone_by: boot_time() + 9 * SECOND }.to_string())),
    ] {
        for mode in [InitMode::Supervise, InitMode::Exec] {
            let mut slot = Slot::new(&[]);
            let (mut wire, _) = slot.accept();
            if let Some(text) = &text {
                put(&slot, text);
            }
            let marker = slot.path("ran");
            let session = shell("a", &format!(": > {}", marker.display()));
            let session = Session { mode, ..leased(session, 10 * SECOND) };
            wire.give(session);
            assert_eq!(wire.hear(), FromInit::LeaseOver { backend: "a".parse().unwrap() }, "{name}");
            assert_eq!(slot.status().code(), Some(EXIT_LEASE_OVER), "{name}");
            assert!(!marker.exists(), "{name}");
        }
    }
}

#[test]
fn a_file_from_an_earlier_boot_ends_what_runs() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    gone_in(&slot, 1000 * SECOND);
    wire.claim(leased(stubborn(&slot), SECOND));
    put(&slot, &Deadline { boot_id: BootId::random(), gone_by: boot_time() + 1000 * SECOND }.to_string());
    wire.say(&ToInit::LookAtLease);
    assert_eq!(slot.status().code(), Some(EXIT_LEASE_OVER));
    slot.output();
}

#[test]
fn told_of_a_nearer_deadline_it_looks_at_once_and_says_why_it_stops() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    gone_in(&slot, 1000 * SECOND);
    wire.claim(leased(stubborn(&slot), 10 * SECOND));
    wait_for(&slot.path("up"));
    gone_in(&slot, 9 * SECOND);
    wire.say(&ToInit::LookAtLease);
    wait_for(&slot.path("told"));
    drop(wire);
    let (_wire, hello) = slot.accept();
    let session = hello.session.unwrap();
    assert!(session.stopping && session.lease_over);
}

#[test]
fn without_a_lease_it_does_not_look_and_with_another_clock_it_executes_nothing() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    wire.claim(shell("a", "exec sleep 60"));
    wire.say(&ToInit::LookAtLease);
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
    assert!(slot.is_running());

    for mode in [InitMode::Supervise, InitMode::Exec] {
        let mut slot = Slot::new(&[]);
        let (mut wire, _) = slot.accept();
        gone_in(&slot, 1000 * SECOND);
        let marker = slot.path("ran");
        let session = shell("a", &format!(": > {}", marker.display()));
        let lease = Some(SessionLease { boot_id: BootId::random(), grace_ms: 1000, stop_signal: 15 });
        wire.give(Session { mode, lease, ..session });
        let FromInit::StartFailed { message, .. } = wire.hear() else { panic!("it was to fail") };
        assert!(message.contains(r#"say on_isolation "keep""#), "{message}");
        assert_eq!(slot.status().code(), Some(EXIT_CANNOT_EXECUTE));
        assert!(!marker.exists());
    }
}

#[test]
fn while_the_lease_is_held_it_sleeps() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    gone_in(&slot, 600 * SECOND);
    wire.claim(leased(shell("a", "exec sleep 60"), 10 * SECOND));
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", slot.pid())).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
    let (before, since) = (switches(), Instant::now());
    while since.elapsed() < 3 * SECOND {
        // Renewals do not wake it.
        gone_in(&slot, 600 * SECOND);
        crate::harness::pause();
    }
    assert!(switches() - before <= 1, "it woke up {} times in three seconds", switches() - before);
}
