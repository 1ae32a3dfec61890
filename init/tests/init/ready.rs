//! Readiness: where the application must listen, and what is said when it listens elsewhere.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use jetway_protocol::init::{FromInit, Session, ToInit};

use crate::harness::{Slot, Wire, eventually, session};

/// A port that is free now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Listens at each address in turn, and stays.
fn server(id: &str, port: u16, addresses: &[(&str, u16)]) -> Session {
    let script = "
import socket, sys, time
kept = []
for place in sys.argv[1:]:
    host, port, only = place.rsplit(',', 2)
    s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
    if ':' in host: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
    s.bind((host, int(port))); s.listen(); kept.append(s)
time.sleep(60)";
    let places = addresses.iter().map(|(host, only)| format!("{host},{port},{only}")).collect::<Vec<_>>();
    let mut argv = vec!["python3", "-c", script];
    argv.extend(places.iter().map(String::as_str));
    let mut session = session(id, &argv);
    session.port = Some(port);
    session.addresses = vec!["127.0.0.2".parse().unwrap()];
    session
}

/// Tests share this machine's network, so only what is said of this application's port is heard.
fn hear(wire: &mut Wire, port: u16) -> FromInit {
    loop {
        match wire.hear() {
            FromInit::ListeningElsewhere { backend, mut addresses } => {
                addresses.retain(|address| address.port() == port);
                if !addresses.is_empty() {
                    return FromInit::ListeningElsewhere { backend, addresses };
                }
            }
            other => return other,
        }
    }
}

fn heard(addresses: &[(&str, u16)]) -> (u16, FromInit) {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let port = port();
    wire.claim(server("a", port, addresses));
    (port, hear(&mut wire, port))
}

#[test]
fn a_wildcard_or_own_address_is_ready() {
    for (host, only, expect) in [
        ("0.0.0.0", 0, "0.0.0.0"),
        ("::", 0, "::"),
        ("127.0.0.2", 0, "127.0.0.2"),
        ("::ffff:127.0.0.2", 0, "127.0.0.2"),
    ] {
        let (port, heard) = heard(&[(host, only)]);
        let expect = SocketAddr::new(expect.parse().unwrap(), port);
        assert!(matches!(heard, FromInit::Ready { address, .. } if address == expect), "{host}: {heard:?}");
    }
}

#[test]
fn loopback_and_ipv6_alone_are_elsewhere() {
    for (host, only) in [("127.0.0.1", 0), ("::1", 0), ("::", 1)] {
        let (port, heard) = heard(&[(host, only)]);
        let expect = vec![SocketAddr::new(host.parse().unwrap(), port)];
        assert!(
            matches!(&heard, FromInit::ListeningElsewhere { addresses, .. } if *addresses == expect),
            "{host}: {heard:?}"
        );
    }
}

#[test]
fn what_listened_before_is_not_the_applications() {
    let other = TcpListener::bind("0.0.0.0:0").unwrap();
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let taken = other.local_addr().unwrap();
    let own = port();
    let mut session = server("a", own, &[("127.0.0.1", 0)]);
    session.port = Some(taken.port());
    wire.claim(session);
    loop {
        let FromInit::ListeningElsewhere { addresses, .. } = wire.hear() else {
            panic!("it counted as ready")
        };
        assert!(!addresses.contains(&taken), "{addresses:?}");
        if addresses.iter().any(|address| address.port() == own) {
            break;
        }
    }
}

#[test]
fn ready_is_repeated_and_in_the_next_hello_and_elsewhere_is_told_again() {
    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let own = port();
    let session = server("a", own, &[("0.0.0.0", 0)]);
    wire.claim(session.clone());
    let ready = hear(&mut wire, own);
    wire.claim(session);
    assert_eq!(wire.hear(), ready);
    slot.hang_up();
    drop(wire);
    let FromInit::Ready { address, .. } = ready else { panic!("{ready:?}") };
    assert_eq!(slot.accept().1.session.unwrap().ready, Some(address));

    let mut slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let own = port();
    wire.claim(server("b", own, &[("127.0.0.1", 0)]));
    let elsewhere = hear(&mut wire, own);
    slot.hang_up();
    drop(wire);
    let (mut wire, hello) = slot.accept();
    assert_eq!(hello.session.unwrap().ready, None);
    assert_eq!(hear(&mut wire, own), elsewhere);
}

#[test]
fn without_a_port_nobody_looks() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let own = port();
    let mut session = server("a", own, &[("0.0.0.0", 0)]);
    session.port = None;
    wire.claim(session);
    eventually("the application", || TcpStream::connect(("127.0.0.1", own)).ok());
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
}

/// Told ready, init has nothing left to wait for but the drone and signals.
#[test]
fn after_ready_it_sleeps() {
    let slot = Slot::new(&[]);
    let (mut wire, _) = slot.accept();
    let own = port();
    wire.claim(server("a", own, &[("0.0.0.0", 0)]));
    assert!(matches!(hear(&mut wire, own), FromInit::Ready { .. }));
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", slot.pid())).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    };
    wire.say(&ToInit::Ping);
    assert_eq!(wire.hear(), FromInit::Pong);
    let before = switches();
    let since = Instant::now();
    eventually("a while", || (since.elapsed() > Duration::from_millis(300)).then_some(()));
    assert!(switches() - before <= 1, "it woke up");
}
