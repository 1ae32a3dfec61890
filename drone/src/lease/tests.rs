//! The lease of one agent: the file, tenures, and clocks that jump. No backend and no engine.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::harness::{keyed, leased, put_of, registered};
use crate::store::data_dir::tests::TestDir;

struct Drone {
    dir: TestDir,
    boot_id: BootId,
    now: Arc<AtomicU64>,
}

impl Drone {
    fn new() -> Self {
        Self { dir: TestDir::new(), boot_id: BootId::random(), now: Arc::new(AtomicU64::new(1000)) }
    }

    fn agent(&self) -> Lease {
        let now = self.now.clone();
        let clock: BootClock = Arc::new(move || seconds(now.load(Ordering::SeqCst)));
        Lease::open(self.dir.path(), self.boot_id, clock)
    }

    fn set(&self, now: u64) {
        self.now.store(now, Ordering::SeqCst);
    }

    fn file(&self) -> Option<u64> {
        file::read(&file::directory(self.dir.path())).map(|deadline| deadline.gone_by.as_secs())
    }
}

impl Lease {
    fn standing(&self, tenure: Tenure, grace: Duration) -> Standing {
        self.now_of(tenure, grace).standing
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn each_acknowledgement_is_in_the_file_before_anybody_acts_on_it() {
    let drone = Drone::new();
    let lease = drone.agent();
    assert_eq!((drone.file(), lease.take(), lease.terms()), (None, None, None));
    assert_eq!(lease.registered(&leased(Term(1), seconds(600)), seconds(990)), Moved::Later);
    assert_eq!(drone.file(), Some(1530));
    assert_eq!((lease.next_renewal(), lease.next_renewal()), (1, 2));
    lease.acknowledged(Term(1), seconds(995));
    lease.acknowledged(Term(1), seconds(992));
    lease.acknowledged(Term(0), seconds(999));
    assert_eq!(drone.file(), Some(1535));
    assert_eq!(lease.take(), Some(Tenure::FOUND));
}

#[test]
fn an_end_that_was_slept_through_is_noted_before_a_new_term() {
    let drone = Drone::new();
    let lease = drone.agent();
    lease.registered(&leased(Term(1), seconds(600)), seconds(1000));
    let before = lease.take().unwrap();
    assert_eq!(lease.standing(before, seconds(10)), Standing::Held);
    // Stopped, and continued long after: the first thing that happens is that a controller answers.
    drone.set(5000);
    lease.registered(&leased(Term(2), seconds(600)), seconds(4999));
    assert_eq!(lease.standing(before, seconds(10)), Standing::Gone, "its key may be somebody else's");
    assert!(!lease.admits(before) && lease.is_lost(before));
    let after = lease.take().unwrap();
    assert_eq!(lease.standing(after, seconds(10)), Standing::Held);
    assert!(lease.admits(after) && !lease.is_lost(after));
}

#[test]
fn a_late_acknowledgement_begins_another_tenure_and_brings_nothing_back() {
    let drone = Drone::new();
    let lease = drone.agent();
    lease.registered(&leased(Term(1), seconds(600)), seconds(1000));
    let before = lease.take().unwrap();
    drone.set(1541);
    lease.acknowledged(Term(1), seconds(1100));
    assert_eq!(lease.standing(before, seconds(10)), Standing::Gone);
    assert!(lease.take().is_some_and(|after| after > before));
}

#[test]
fn a_restarted_agent_goes_on_with_the_file() {
    let drone = Drone::new();
    drone.agent().registered(&leased(Term(1), seconds(600)), seconds(1000));
    let lease = drone.agent();
    assert_eq!(lease.standing(Tenure::FOUND, seconds(10)), Standing::Held);
    assert_eq!(lease.take(), None, "it has not registered");
    drone.set(1530);
    assert_eq!(lease.standing(Tenure::FOUND, seconds(10)), Standing::Stop);
    drone.set(1540);
    assert!(drone.agent().is_lost(Tenure::FOUND));
    let next = drone.agent();
    next.registered(&leased(Term(2), seconds(600)), seconds(1540));
    assert_eq!(next.standing(Tenure::FOUND, seconds(10)), Standing::Gone);
}

#[test]
fn without_a_lease_nothing_ever_ends_and_inits_are_told_so() {
    let drone = Drone::new();
    let lease = drone.agent();
    assert_eq!(lease.standing(Tenure::FOUND, seconds(10)), Standing::Held, "nobody has said anything yet");
    lease.registered(&registered(), seconds(1000));
    drone.set(1_000_000_000);
    assert_eq!(lease.standing(Tenure::FOUND, seconds(10)), Standing::Held);
    assert!(lease.take().is_some() && lease.terms().is_none());
    assert_eq!(lease.changes_in(Tenure::FOUND, seconds(10)), None);
    assert!(drone.file() > Some(1_000_000_000_000));
    let moved = lease.registered(&leased(Term(2), seconds(600)), seconds(1_000_000_000));
    assert_eq!(moved, Moved::Nearer, "inits sleep until the deadline they know");
}

#[test]
fn a_shorter_lease_is_in_the_file_before_a_renewal_of_it() {
    let drone = Drone::new();
    let lease = drone.agent();
    lease.registered(&leased(Term(1), seconds(600)), seconds(1000));
    // Whatever is written now goes into the void.
    let directory = file::directory(drone.dir.path());
    let aside = drone.dir.path().join("aside");
    std::fs::rename(&directory, &aside).unwrap();
    std::fs::write(&directory, "in its place").unwrap();
    assert_eq!(lease.registered(&leased(Term(2), seconds(120)), seconds(1001)), Moved::Nearer);
    assert!(!lease.is_written());
    std::fs::remove_file(&directory).unwrap();
    std::fs::rename(&aside, &directory).unwrap();
    assert_eq!(drone.file(), Some(1540));
    assert!(lease.is_written());
    assert_eq!(drone.file(), Some(1101));
}

#[test]
fn a_file_of_deadlines_from_an_earlier_boot_says_nothing() {
    let mut drone = Drone::new();
    drone.agent().registered(&leased(Term(1), seconds(600)), seconds(1000));
    drone.boot_id = BootId::random();
    drone.set(5);
    let lease = drone.agent();
    assert_eq!(lease.take(), None);
    lease.registered(&leased(Term(2), seconds(600)), seconds(5));
    assert_eq!(drone.file(), Some(545));
    assert!(lease.take().is_some() && lease.is_written());
}

#[test]
fn only_who_has_a_key_and_an_init_and_says_stop_is_under_it() {
    let of =
        |on_isolation, init| put_of(|spec| (spec.on_isolation, spec.executable.init) = (on_isolation, init));
    assert!(is_for(&keyed(of(OnIsolation::Stop, InitMode::Supervise))));
    assert!(!is_for(&of(OnIsolation::Stop, InitMode::Supervise)), "no key");
    for (on_isolation, init) in [
        (OnIsolation::Keep, InitMode::Supervise),
        (OnIsolation::Keep, InitMode::Exec),
        (OnIsolation::Stop, InitMode::Exec),
    ] {
        assert!(!is_for(&keyed(of(on_isolation, init))), "{on_isolation:?} {init:?}");
    }
}
