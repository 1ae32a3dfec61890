//! What the drone hears: when it is asked, what it is told of uses, and what a broken stream
//! changes (nothing).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use jetway_protocol::attach::{Outcome, ToDrone, Uses};
use jetway_protocol::timeline::StageName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backends::{echo_socket, echoes, goodbye, mirror, next_head, open_socket, raw};
use crate::play::{FENCING, Play, an_end, eventually};
use crate::raw::{Raw, get};

#[tokio::test]
async fn the_last_close_is_told_within_milliseconds() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut took = Vec::new();
    for round in 1..=10 {
        let mut socket = open_socket(play.proxy.address, &token).await;
        echoes(&mut socket, "hello").await;
        play.drone.uses_become(&backend, 1, 1).await;
        assert_eq!(play.drone.asks(), round, "each first connection is asked for");
        let closed = Instant::now();
        drop(socket);
        took.push(play.drone.uses_become(&backend, 0, 0).await - closed);
    }
    took.sort();
    assert!(took[5] < Duration::from_millis(20), "{took:?}");
}

#[tokio::test]
async fn further_connections_are_told_and_not_asked_for() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut sockets = Vec::new();
    for count in 1..=5 {
        sockets.push(open_socket(play.proxy.address, &token).await);
        play.drone.uses_become(&backend, count, count).await;
    }
    assert_eq!(play.drone.asks(), 1);
    for count in (0..5).rev() {
        let mut socket = sockets.pop().unwrap();
        socket.close(None).await.unwrap();
        drop(socket);
        play.drone.uses_become(&backend, count, count).await;
    }
}

#[tokio::test]
async fn a_plain_request_lingers() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (backend, token) = play.ready_backend(address);
    let begun = Instant::now();
    get(play.proxy.address, &format!("/{token}/"), &[]).await;
    play.drone.uses_become(&backend, 1, 0).await;
    let over = play.drone.uses_become(&backend, 0, 0).await - begun;
    assert!((Duration::from_millis(950)..Duration::from_millis(1500)).contains(&over), "{over:?}");
}

#[tokio::test]
async fn the_first_byte_is_told_once() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..3 {
        client.get(&format!("/{token}/"), &[]).await;
    }
    play.drone.uses_become(&backend, 0, 0).await;
    let first = |message: &ToDrone| matches!(message, ToDrone::FirstByte { .. });
    assert_eq!(play.drone.count(first), 1, "{}", StageName::FirstByte.as_str());
}

#[tokio::test]
async fn a_broken_stream_keeps_tunnels_and_says_again_what_is_open() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut socket = open_socket(play.proxy.address, &token).await;
    echoes(&mut socket, "before").await;
    play.drone.set_away(true);
    play.drone.break_stream();
    echoes(&mut socket, "while it is broken").await;

    let asks = play.drone.asks();
    let back = async {
        play.drone.refuses(2).await;
        assert_eq!(play.drone.asks(), asks);
        play.drone.set_away(false);
    };
    let (mut held, ()) = tokio::join!(open_socket(play.proxy.address, &token), back);
    let open = Uses { backend: backend.clone(), fencing_token: FENCING, uses: 1, connections: 1 };
    eventually("the second hello", || {
        let heard = play.drone.heard();
        let again = |(_, message): &(Instant, ToDrone)| matches!(message, ToDrone::Hello { uses, .. } if uses.contains(&open));
        heard.iter().any(again).then_some(())
    })
    .await;
    echoes(&mut held, "it was held").await;
    echoes(&mut socket, "after").await;
    play.drone.uses_become(&backend, 2, 2).await;
    drop((socket, held));
    play.drone.uses_become(&backend, 0, 0).await;
}

#[tokio::test]
async fn what_ended_while_the_stream_was_broken_is_closed_by_the_next_one() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut socket = open_socket(play.proxy.address, &token).await;
    echoes(&mut socket, "before").await;
    play.drone.set(&backend, Outcome::Ended { end: an_end() });
    play.drone.break_stream();
    let told = tokio::time::timeout(Duration::from_secs(3), goodbye(&mut socket)).await;
    assert_eq!(told.expect("it is closed"), Some(4410));
}

#[tokio::test]
async fn a_use_that_begins_while_another_grant_asks_is_not_taken_back() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    for _ in 0..20 {
        // A close and an open that cross each other: the last word must be the truth.
        let mut first = open_socket(play.proxy.address, &token).await;
        let (closed, second) = tokio::join!(first.send("x".into()), open_socket(play.proxy.address, &token));
        closed.unwrap();
        drop(first);
        play.drone.uses_become(&backend, 1, 1).await;
        drop(second);
        play.drone.uses_become(&backend, 0, 0).await;
    }
}

/// A backend that answers the first request of its first connection, drops the second one
/// unanswered when told to, and serves on any later connection. Counts its connections.
async fn drops_the_second(play: &Play, drop_it: Arc<Notify>) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let address = raw(&play.lifecycle, move |mut raw| {
        let (drop_it, nth) = (drop_it.clone(), counted.fetch_add(1, Ordering::Relaxed));
        async move {
            next_head(&mut raw).await;
            raw.send(OK).await;
            if nth == 0 && next_head(&mut raw).await.is_some() {
                drop_it.notified().await;
            }
        }
    })
    .await;
    (address, connections)
}

#[tokio::test]
async fn without_a_stream_nothing_is_dialled() {
    for ended in [false, true] {
        let play = Play::new().await;
        let drop_it = Arc::new(Notify::new());
        let (address, connections) = drops_the_second(&play, drop_it.clone()).await;
        let (backend, token) = play.ready_backend(address);
        let mut client = Raw::connect(play.proxy.address).await;
        assert_eq!(client.get(&format!("/{token}/"), &[]).await.status, 200);
        client.send_get(&format!("/{token}/"), &[]).await;
        play.drone.uses_become(&backend, 2, 1).await;

        play.drone.set_away(true);
        play.drone.break_stream();
        play.drone.refuses(1).await;
        // Its upstream dies while the drone is away: to send it again, the proxy would have to dial
        // an address that nobody vouches for.
        drop_it.notify_one();
        play.drone.refuses(3).await;
        assert_eq!(connections.load(Ordering::Relaxed), 1);
        if ended {
            play.drone.set(&backend, Outcome::Ended { end: an_end() });
        }
        play.drone.set_away(false);
        let answer = client.answer().await;
        assert_eq!(answer.status, if ended { 410 } else { 200 });
        assert_eq!(connections.load(Ordering::Relaxed), if ended { 1 } else { 2 });
    }
}
