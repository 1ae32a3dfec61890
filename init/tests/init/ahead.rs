//! The application that runs before its session: started once, told ready, and taken over without a second execution.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use jetway_protocol::init::{Ahead, EXIT_LEASE_OVER, FromInit, Session, SessionLease, ToInit};
use jetway_protocol::spec::InitMode;

use crate::harness::{Slot, Wire, eventually, session};

/// Says its environment once, and listens where it is told to when it may.
const SERVER: &str = "
import os, signal, socket, sys, time
print(os.environ['GIVEN'], os.environ['KEPT'], flush=True)
while not os.path.exists(os.environ['MAY_LISTEN']): time.sleep(0.005)
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((os.environ['HOST'], int(os.environ['PORT']))); s.listen()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
time.sleep(60)";

fn slot() -> Slot {
    Slot::with_env(&["python3", "-c", SERVER], &[("GIVEN", "image"), ("KEPT", "image")])
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ahead(slot: &Slot, port: u16, host: &str) -> Ahead {
    let gate = slot.path("may-listen").to_str().unwrap().to_owned();
    let env = [("GIVEN", "ahead"), ("HOST", host), ("PORT", &port.to_string()), ("MAY_LISTEN", &gate)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ahead { env: env.into(), port, addresses: vec!["127.0.0.2".parse().unwrap()] }
}

/// Whatever the drone's session says of what to run counts for nothing now.
fn claim(id: &str) -> Session {
    let mut session = session(id, &["/no/such/program"]);
    session.env.insert("GIVEN".into(), "session".into());
    session
}

fn started(wire: &mut Wire, ahead: &Ahead) -> i32 {
    wire.say(&ToInit::Ahead(Box::new(ahead.clone())));
    match wire.hear() {
        FromInit::AheadStarted { pid } => pid,
        other => panic!("{other:?}"),
    }
}

fn may_listen(slot: &Slot) {
    std::fs::write(slot.path("may-listen"), "").unwrap();
}

fn is_gone(pid: i32) {
    eventually("the application's end", || {
        (!std::path::Path::new("/proc").join(pid.to_string()).exists()).then_some(())
    });
}

#[test]
fn a_session_finds_it_ready_and_nothing_is_executed() {
    let mut slot = slot();
    let (mut wire, hello) = slot.accept();
    assert_eq!((hello.session, hello.ahead), (None, None));
    let port = port();
    let ahead = ahead(&slot, port, "0.0.0.0");
    let pid = started(&mut wire, &ahead);
    assert_eq!(started(&mut wire, &ahead), pid, "one application ever");
    may_listen(&slot);
    let address = SocketAddr::new("0.0.0.0".parse().unwrap(), port);
    assert_eq!(wire.hear(), FromInit::AheadReady { address });

    // The drone goes away and comes back.
    slot.hang_up();
    drop(wire);
    let (mut wire, hello) = slot.accept();
    let state = hello.ahead.unwrap();
    assert_eq!((state.pid, state.ready, hello.session), (pid, Some(address), None));

    let asked = Instant::now();
    assert_eq!(wire.claim(claim("a")), pid);
    let backend = || "a".parse().unwrap();
    assert_eq!(wire.hear(), FromInit::Ready { backend: backend(), address });
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    assert_eq!(wire.claim(claim("a")), pid, "the same answer again");
    assert_eq!(wire.hear(), FromInit::Ready { backend: backend(), address });
    wire.say(&ToInit::Session(Box::new(claim("b"))));
    assert_eq!(wire.hear(), FromInit::Refused { backend: "b".parse().unwrap(), taken_by: backend() });

    slot.hang_up();
    drop(wire);
    let (mut wire, hello) = slot.accept();
    let taken = hello.session.unwrap();
    assert_eq!((taken.backend.as_str(), taken.pid, taken.ready), ("a", Some(pid), Some(address)));
    assert_eq!(hello.ahead, None);
    wire.stop(15, 10_000);
    assert_eq!(wire.hear(), FromInit::Exited { backend: backend(), code: Some(5), signal: None });
    assert_eq!(slot.status().code(), Some(5));
    assert_eq!(slot.output(), "ahead image\n", "it ran once");
}

#[test]
fn a_session_that_comes_first_is_told_when_it_is_ready_and_where_it_listens_in_vain() {
    for host in ["0.0.0.0", "127.0.0.1"] {
        let slot = slot();
        let (mut wire, _) = slot.accept();
        let port = port();
        let pid = started(&mut wire, &ahead(&slot, port, host));
        assert_eq!(wire.claim(claim("a")), pid);
        may_listen(&slot);
        let at = SocketAddr::new(host.parse().unwrap(), port);
        let heard = loop {
            match wire.hear() {
                // Tests share this machine's network.
                FromInit::ListeningElsewhere { addresses, .. } if !addresses.contains(&at) => {}
                other => break other,
            }
        };
        match heard {
            FromInit::Ready { address, .. } if host == "0.0.0.0" => assert_eq!(address, at),
            FromInit::ListeningElsewhere { .. } if host == "127.0.0.1" => {}
            other => panic!("{host}: {other:?}"),
        }
    }
}

#[test]
fn before_its_session_a_stop_takes_it_along() {
    for by_signal in [false, true] {
        let mut slot = slot();
        let (mut wire, _) = slot.accept();
        let ahead = ahead(&slot, port(), "0.0.0.0");
        let pid = started(&mut wire, &ahead);
        if by_signal {
            crate::harness::kill(slot.pid(), 15);
        } else {
            wire.stop(15, 60_000);
        }
        assert_eq!(slot.status().code(), Some(0));
        is_gone(pid);
    }
}

#[test]
fn an_end_before_the_session_is_said() {
    let mut slot = Slot::new(&["sh", "-c", "exit 3"]);
    let (mut wire, _) = slot.accept();
    let asked = ahead(&slot, port(), "0.0.0.0");
    started(&mut wire, &asked);
    let message = "it exited with 3 before its session came".to_owned();
    assert_eq!(wire.hear(), FromInit::AheadFailed { message });
    assert_eq!(slot.status().code(), Some(3));

    let mut slot = Slot::new(&["/no/such"]);
    let (mut wire, _) = slot.accept();
    wire.say(&ToInit::Ahead(Box::new(asked)));
    match wire.hear() {
        FromInit::AheadFailed { message } => assert!(message.contains("does not exist"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(slot.status().code(), Some(127));
}

/// As for a parked one: no lease, no session. And what ran ends with it, because nobody else may have it either.
#[test]
fn a_session_that_may_not_begin_ends_it() {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().parse().unwrap();
    let lease = |boot_id| Some(SessionLease { boot_id, grace_ms: 1000, stop_signal: 15 });
    let over = Session { lease: lease(boot_id), ..claim("a") };
    let other_clock = Session { lease: lease(jetway_protocol::ids::BootId::random()), ..claim("a") };
    let exec = Session { mode: InitMode::Exec, ..claim("a") };
    for (session, status, sentence) in
        [(over, 75, ""), (other_clock, 126, "on_isolation"), (exec, 126, "runs already")]
    {
        let mut slot = slot();
        let (mut wire, _) = slot.accept();
        let ahead = ahead(&slot, port(), "0.0.0.0");
        let pid = started(&mut wire, &ahead);
        wire.give(session);
        match wire.hear() {
            FromInit::LeaseOver { .. } => assert_eq!(status, 75),
            FromInit::StartFailed { message, .. } => {
                assert!(!sentence.is_empty() && message.contains(sentence), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(slot.status().code(), Some(status));
        is_gone(pid);
    }
}

#[test]
fn a_session_that_has_a_lease_is_kept_to_it() {
    let mut slot = slot();
    let (mut wire, _) = slot.accept();
    let asked = ahead(&slot, port(), "0.0.0.0");
    crate::lease::gone_in(&slot, Duration::from_secs(3));
    let began = Instant::now();
    let pid = started(&mut wire, &asked);
    let session = crate::lease::leased(claim("a"), Duration::from_secs(1));
    assert_eq!(wire.claim(session), pid);
    slot.hang_up();
    drop(wire);
    assert_eq!(slot.status().code(), Some(EXIT_LEASE_OVER), "the lease's stop, before the deadline");
    let ended = began.elapsed();
    assert!(ended > Duration::from_millis(1500) && ended < Duration::from_secs(5), "{ended:?}");
    is_gone(pid);
}
