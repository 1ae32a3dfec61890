//! Connections to a backend that wait for the next request of a client: they go when they are of no
//! use, and nobody waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetway_protocol::attach::{ToDrone, ToProxy};
use jetway_protocol::ids::{BackendId, GrantId};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::backends::{next_head, raw};
use crate::play::{FENCING, Play, eventually};
use crate::raw::Raw;

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nsmall";
const LARGE_BYTES: usize = 3 * 1024 * 1024;

/// How many connections were opened, and how many of them are over.
#[derive(Default)]
struct Counts {
    opened: AtomicUsize,
    over: AtomicUsize,
}

/// Answers small, large where the path says so, and in two pieces where it says so.
async fn counting(play: &Play) -> (std::net::SocketAddr, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    let address = raw(&play.lifecycle, move |mut raw: Raw| {
        let counts = counted.clone();
        async move {
            counts.opened.fetch_add(1, Ordering::SeqCst);
            while let Some(head) = next_head(&mut raw).await {
                if head.contains("/large") {
                    raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE_BYTES}\r\n\r\n").as_bytes())
                        .await;
                    raw.send(&vec![b'x'; LARGE_BYTES]).await;
                } else if head.contains("/chunked") {
                    raw.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nsmall\r\n0\r\n\r\n")
                        .await;
                } else {
                    raw.send(SMALL).await;
                }
            }
            counts.over.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (address, counts)
}

/// A client that has been answered and says nothing more: its connection to the backend waits.
async fn silent(play: &Play) -> (Raw, BackendId, String, Arc<Counts>) {
    let (address, counts) = counting(play).await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    assert_eq!(client.get(&format!("/{token}/"), &[]).await.status, 200);
    (client, backend, token, counts)
}

async fn it_is_closed(counts: &Counts) {
    eventually("it is closed", || (counts.over.load(Ordering::SeqCst) == 1).then_some(())).await;
}

#[tokio::test]
async fn one_connection_serves_answers_of_every_size_in_turn() {
    let play = Play::new().await;
    let (address, counts) = counting(&play).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.get(&format!("/{token}/"), &[]).await.body, "small");
        assert_eq!(client.get(&format!("/{token}/large"), &[]).await.body.len(), LARGE_BYTES);
        client.send_get(&format!("/{token}/chunked"), &[]).await;
        assert_eq!(client.head().await.header("transfer-encoding"), Some("chunked"));
        assert_eq!(client.take_until("0\r\n\r\n").await, "5\r\nsmall\r\n0\r\n\r\n");
    }
    assert_eq!(counts.opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_end_of_a_backend_closes_what_waits_for_a_silent_client() {
    let play = Play::new().await;
    let (mut client, backend, token, counts) = silent(&play).await;
    play.drone.end(&backend);
    it_is_closed(&counts).await;
    let seen =
        |message: &ToDrone| matches!(message, ToDrone::EndedSeen { backend: ended, .. } if *ended == backend);
    eventually("the address is free of us", || (play.drone.count(seen) == 1).then_some(())).await;
    assert_eq!(client.get(&format!("/{token}/"), &[]).await.code(), "backend_ended");
}

#[tokio::test]
async fn a_revoked_grant_closes_what_waits_for_a_silent_client() {
    let play = Play::new().await;
    let (_client, backend, _, counts) = silent(&play).await;
    play.drone.push(ToProxy::Revoked { backend, fencing_token: FENCING, grants: vec![GrantId(1)] });
    it_is_closed(&counts).await;
}

#[tokio::test]
async fn one_that_the_backend_has_closed_is_not_used_again_and_not_held() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw: Raw| async move {
        next_head(&mut raw).await;
        raw.send(SMALL).await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..20 {
        assert_eq!(client.get(&format!("/{token}/"), &[]).await.body, "small");
    }
}

#[tokio::test]
async fn a_port_that_is_opened_anew_is_waited_for_a_moment() {
    let play = Play::new().await;
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    let asks = |message: &ToDrone| matches!(message, ToDrone::Ask { .. });
    eventually("it is on its way", || (play.drone.count(asks) == 1).then_some(())).await;
    let begun = Instant::now();
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut backend = Raw { stream, buffer: Vec::new() };
    next_head(&mut backend).await;
    backend.send(SMALL).await;
    assert_eq!(client.answer().await.body, "small");
    assert!(begun.elapsed() < Duration::from_secs(1));
}
