//! The line: redialling, nonsense, and what a new connection hears.

use std::time::{Duration, Instant};

use jetway_protocol::init::{FromInit, LINE_BYTES_MAX, ToInit};

use crate::harness::{Slot, shell};

#[test]
fn a_ping_is_answered() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
}

#[test]
fn a_lost_line_is_redialled_with_the_same_nonce_and_the_session() {
    let mut slot = Slot::new(&[]);
    let (mut wire, first) = slot.accept();
    let pid = wire.claim(shell("a", "exec sleep 60"));
    slot.hang_up();
    let lost = Instant::now();
    drop(wire);
    let (mut wire, second) = slot.accept();
    assert!(lost.elapsed() < Duration::from_secs(1), "{:?}", lost.elapsed());
    assert_eq!(second.nonce, first.nonce);
    let taken = second.session.unwrap();
    assert_eq!((taken.backend.as_str(), taken.fencing_token.0, taken.pid), ("a", 7, Some(pid)));
    assert!(!taken.stopping);
    assert_eq!(wire.claim(shell("a", "exit 1")), pid);
}

#[test]
fn without_a_session_a_slot_that_is_taken_away_is_the_end_and_with_one_it_is_not() {
    let (mut parked, mut taken) = (Slot::new(&[]), Slot::new(&[]));
    let (wire, _) = parked.accept();
    let (mut busy, _) = taken.accept();
    busy.claim(shell("a", "exec sleep 60"));
    let gone = Instant::now();
    parked.take_away();
    taken.take_away();
    drop((wire, busy));
    assert_eq!(parked.status().code(), Some(0));
    assert!(gone.elapsed() >= Duration::from_secs(2), "a socket may be away for a moment");
    assert!(taken.is_running());
    taken.hang_up();
    assert!(taken.accept().1.session.is_some());
}

#[test]
fn another_init_has_another_nonce() {
    let (one, two) = (Slot::new(&[]), Slot::new(&[]));
    assert_ne!(one.accept().1.nonce, two.accept().1.nonce);
}

#[test]
fn nonsense_closes_the_connection_and_nothing_else() {
    let mut slot = Slot::new(&[]);
    let (mut wire, first) = slot.accept();
    let endless = vec![b' '; LINE_BYTES_MAX + 1];
    for nonsense in [&b"hello\n"[..], b"\0\xff\n", b"{\"type\":\"session\"}\n", &endless] {
        wire.say_raw(nonsense);
        assert!(wire.is_closed());
        let (next, hello) = slot.accept();
        assert_eq!((hello.nonce, hello.session), (first.nonce.clone(), None));
        wire = next;
    }
    wire.say_raw(b"{\"type\":\"something_of_tomorrow\"}\n{\"type\":\"ping\"}\n");
    assert_eq!(wire.hear(), FromInit::Pong, "an unknown type is passed over");
    assert!(slot.is_running());
}

#[test]
fn a_large_session_in_small_pieces_is_taken() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let mut session = shell("a", "test ${#BIG_7} = 100000 && exec sleep 60");
    session.env = (0..9).map(|i| (format!("BIG_{i}"), "x".repeat(100_000))).collect();
    wire.claim(session);
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
}
