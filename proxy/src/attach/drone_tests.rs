//! Admission, ends and the stream's standing, with a drone's handle and no socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::{DEADLINE_SECONDS, Entry, Outcome, ToDrone};
use jetway_protocol::ids::{DroneId, FencingToken, GrantId};
use jetway_protocol::spec::Protocol;
use jetway_protocol::status::{End, EndReason};
use tokio::time::{Instant, advance, timeout};

use super::admission::{Admission, DialVia, NotAdmitted};
use super::drone::Drone;
use super::gate::ended_seen;
use super::ledger::BackendKey;

const GRANT: GrantId = GrantId(1);
const HOLD: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(DEADLINE_SECONDS);

fn key() -> BackendKey {
    BackendKey { backend: "b".parse().unwrap(), fencing_token: FencingToken(1) }
}

fn ready() -> Outcome {
    Outcome::Ready(Box::new(Entry {
        address: "10.64.0.9:8080".parse().unwrap(),
        user: None,
        auth: "{}".into(),
        secret: "s".into(),
        subdomain: None,
        linger_seconds: 1,
        allowed_origins: Vec::new(),
        protocol: Protocol::Http1,
        ports: BTreeMap::new(),
    }))
}

fn end() -> End {
    End {
        reason: EndReason::Idle,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: String::new(),
        output: String::new(),
    }
}

fn attached() -> Arc<Drone> {
    let drone = Arc::new(Drone::new(DroneId::random(), "127.0.0.1:1".into()));
    drone.connected(DialVia::Direct, Instant::now());
    drone
}

/// Answers the asks that wait to be sent, and says how many there were.
fn answer_all(drone: &Arc<Drone>, outcome: &Outcome) -> usize {
    let asks = drone.take_news().into_iter().filter_map(|message| match message {
        ToDrone::Ask { ask, .. } => Some(ask),
        _ => None,
    });
    asks.map(|ask| drone.answered(ask, outcome.clone())).count()
}

/// Enters, with the drone's answer where it is asked; says whether it was.
async fn enter(drone: &Arc<Drone>) -> (Admission, bool) {
    let asking = async {
        tokio::task::yield_now().await;
        answer_all(drone, &ready()) > 0
    };
    let key = key();
    let (admission, asked) = tokio::join!(drone.enter(&key, GRANT, HOLD, None), asking);
    (admission.unwrap(), asked)
}

#[tokio::test(start_paused = true)]
async fn nobody_vouches_while_no_stream_stands() {
    let drone = attached();
    let (_held, asked) = enter(&drone).await;
    assert!(asked && drone.vouches_for(&key(), GRANT));
    assert!(!drone.vouches_for(&key(), GrantId(2)));
    drone.disconnected();
    assert!(!drone.vouches_for(&key(), GRANT));
    let refused = drone.enter(&key(), GRANT, DEADLINE, None).await.unwrap_err();
    assert_eq!(refused, NotAdmitted::TimedOut { drone_answers: false });

    drone.connected(DialVia::Direct, Instant::now());
    assert!(!drone.vouches_for(&key(), GRANT), "what the last stream said does not count on this one");
    assert_eq!(answer_all(&drone, &ready()), 1, "what is open is asked for again");
    assert!(drone.vouches_for(&key(), GRANT));
}

/// A process that stood still (SIGSTOP, a frozen cgroup) longer than the deadline may find its
/// addresses given away, whichever of its tasks runs first.
#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_trusts_no_stream() {
    let drone = attached();
    let (_held, _) = enter(&drone).await;
    let sent_at = Instant::now() + DEADLINE / 4;
    advance(DEADLINE / 2).await;
    drone.answered_ping(sent_at);
    drone.answered_ping(sent_at - DEADLINE / 8);
    advance(DEADLINE * 3 / 4 - Duration::from_millis(1)).await;
    assert!(drone.vouches_for(&key(), GRANT));
    let (_second, asked) = enter(&drone).await;
    assert!(!asked);
    advance(Duration::from_millis(1)).await;
    assert!(!drone.vouches_for(&key(), GRANT));
    let held = timeout(Duration::from_secs(1), drone.enter(&key(), GRANT, HOLD, None)).await;
    assert!(held.is_err(), "it waits for the drone's word");
    assert!(drone.falls_at() < Some(Instant::now()), "and the stream's task ends the stream");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_said_twice_is_seen_when_the_last_socket_is_gone() {
    let drone = attached();
    let (held, _) = enter(&drone).await;
    let seen = |drone: &Drone| drone.take_news().contains(&ended_seen(&key()));
    drone.ended(&key(), &end());
    assert!(held.gate.is_closing() && !seen(&drone));
    // The stream broke, and the next one begins with the ends that were not acknowledged.
    drone.disconnected();
    drone.hello();
    drone.connected(DialVia::Direct, Instant::now());
    drone.ended(&key(), &end());
    assert!(!drone.sweep(HOLD) && !seen(&drone), "something of it is still open");
    drop(held);
    assert!(seen(&drone));
    drone.ended(&key(), &end());
    assert!(seen(&drone), "nothing is open: at once");
}

#[tokio::test(start_paused = true)]
async fn an_end_after_a_revocation_waits_for_what_the_revoked_grant_has_open() {
    let drone = attached();
    let (held, _) = enter(&drone).await;
    drone.revoked(&key(), &[GRANT]);
    let Admission { gate, using, .. } = held;
    drop(using);
    drone.take_news();
    drone.sweep(HOLD);
    drone.ended(&key(), &end());
    assert!(!drone.take_news().contains(&ended_seen(&key())));
    drop(gate);
    assert!(drone.take_news().contains(&ended_seen(&key())));
}
