//! A proxy that is to be replaced: balancers notice first, nobody is refused, and WebSockets are
//! told to come back, each between two frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::attach::ToProxy;
use jetway_service::lifecycle::Lifecycle;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::backends::{Socket, echo_socket, echoes, mirror, next_head, open_socket, raw};
use crate::play::{Play, Stage, eventually};
use crate::raw::{Raw, get};

const IN_TIME: Duration = Duration::from_secs(10);
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Frames that are never whole in one read, without a pause.
fn flood() -> Vec<u8> {
    let mut frame = vec![0x82, 127];
    frame.extend(100_000_u64.to_be_bytes());
    frame.resize(frame.len() + 100_000, 7);
    frame
}

async fn until_told(socket: &mut Socket) -> (usize, Instant) {
    let mut messages = 0;
    loop {
        match timeout(IN_TIME, socket.next()).await.expect("in time").expect("a close").expect("whole frames")
        {
            Message::Close(Some(why)) => {
                assert_eq!(why.code, CloseCode::Restart);
                return (messages, Instant::now());
            }
            Message::Binary(bytes) => {
                assert_eq!(bytes.len(), 100_000);
                messages += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_close_comes_between_two_frames_though_there_is_no_pause_between_them() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.stream.write_all(SWITCHED).await.unwrap();
        while raw.stream.write_all(&flood()).await.is_ok() {}
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13";
    let head = format!(
        "GET /{token}/ HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n{key}\r\n\r\n"
    );
    client.send(head.as_bytes()).await;
    assert_eq!(client.head().await.status, 101);
    let lifecycle = play.proxy_lifecycle.clone();
    let stop = play.lifecycle.spawn(async move { lifecycle.stop().await });
    let flood = flood();
    let mut frames = 0;
    loop {
        let start = timeout(IN_TIME, client.take(2)).await.expect("in time");
        if start[0] == 0x88 {
            assert_eq!((start[1], client.take(2).await), (2, 1012_u16.to_be_bytes().to_vec()));
            break;
        }
        let rest = client.take(flood.len() - 2).await;
        assert!(start == flood[..2] && rest == flood[2..], "frame {frames} is whole");
        frames += 1;
    }
    assert!(frames > 0);
    assert_eq!(client.rest().await, "", "nothing follows a close");
    assert!(timeout(IN_TIME, stop).await.expect("in time").unwrap());
}

#[tokio::test]
async fn what_is_no_websocket_is_sent_nothing() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: chat\r\n\r\n").await;
        raw.more().await;
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client
        .send(
            format!(
                "GET /{token}/ HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n"
            )
            .as_bytes(),
        )
        .await;
    assert_eq!(client.head().await.status, 101);
    play.drone.uses_become(&backend, 1, 1).await;
    assert!(timeout(IN_TIME, play.proxy_lifecycle.stop()).await.expect("in time"));
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_drain_is_noticed_before_anybody_is_refused_and_websockets_leave_one_after_another() {
    let drain = Duration::from_secs(4);
    let play = Stage { drain, ..Stage::default() }.begin().await;
    let (_, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut sockets = Vec::new();
    for _ in 0..12 {
        sockets.push(open_socket(play.proxy.address, &token).await);
    }
    let address = play.proxy.address;
    assert_eq!(get(address, "/ready", &[]).await.status, 200);
    let (lifecycle, begun) = (play.proxy_lifecycle.clone(), Instant::now());
    let stop = play.lifecycle.spawn(async move { lifecycle.stop_after(drain).await });
    eventually("a stop that has begun", || play.proxy_lifecycle.is_stopping().then_some(())).await;
    assert_eq!(get(address, "/ready", &[]).await.status, 503, "balancers are told");
    sockets.push(open_socket(address, &token).await);
    echoes(&mut sockets[0], "and whoever comes meanwhile is served").await;

    let told = futures_util::future::join_all(sockets.iter_mut().map(until_told)).await;
    let mut at: Vec<Duration> = told.iter().map(|(_, at)| at.duration_since(begun)).collect();
    at.sort();
    assert!(at[0] >= drain - Duration::from_secs(1), "they live on: {at:?}");
    assert!(at[at.len() - 1] <= drain + Duration::from_secs(1), "{at:?}");
    assert!(at[at.len() - 1] - at[0] > Duration::from_millis(100), "not all at once: {at:?}");
    drop(sockets);
    assert!(timeout(IN_TIME, stop).await.expect("in time").unwrap());
}

#[tokio::test]
async fn a_drain_ends_with_the_last_that_is_open() {
    let drain = Duration::from_secs(60);
    let play = Stage { drain, ..Stage::default() }.begin().await;
    let (_, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let socket = open_socket(play.proxy.address, &token).await;
    let lifecycle = play.proxy_lifecycle.clone();
    let stop = play.lifecycle.spawn(async move { lifecycle.stop_after(drain).await });
    drop(socket);
    assert!(timeout(IN_TIME, stop).await.expect("as soon as nothing is open").unwrap());
}

/// The kernel deals connections out among those who listen: this many in a row are hardly all
/// one's.
async fn both_are_ready(at: std::net::SocketAddr) {
    let mut in_a_row = 0;
    while in_a_row < 40 {
        in_a_row = if get(at, "/ready", &[]).await.status == 200 { in_a_row + 1 } else { 0 };
    }
}

/// The next proxy listens beside the old one, which then ends: every connection of a stream of them
/// is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_proxy_takes_another_s_place_and_no_connection_is_refused() {
    let stage = Stage { reuse_port: true, ..Stage::default() };
    let next = Stage { reuse_port: true, ..Stage::default() };
    let play = stage.begin().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let (at, over) = (play.proxy.address, Arc::new(AtomicBool::new(false)));
    let ended = over.clone();
    let clients = play.lifecycle.spawn(async move {
        let mut answers = 0;
        while !ended.load(Ordering::Relaxed) {
            let path = format!("/{token}/");
            let four = (0..4).map(|_| get(at, &path, &["connection: close"]));
            for answer in futures_util::future::join_all(four).await {
                assert_eq!(answer.status, 200);
                answers += 1;
            }
        }
        answers
    });
    let mut old = play.proxy_lifecycle.clone();
    for _ in 0..5 {
        let lifecycle = Lifecycle::new();
        let _taken_by_its_address = next.proxy(&play.controller, at, &lifecycle).await;
        timeout(IN_TIME, both_are_ready(at)).await.expect("in time");
        assert!(timeout(IN_TIME, old.stop()).await.expect("in time"));
        old = lifecycle;
    }
    over.store(true, Ordering::Relaxed);
    let answers = timeout(IN_TIME, clients).await.expect("in time").expect("every connection is answered");
    assert!(answers > 100, "{answers}");
    old.stop().await;
}

/// One session's drone drains, and its time is over.
#[tokio::test]
async fn of_one_backend_that_leaves_the_websockets_are_told_and_nothing_else_is_touched() {
    let play = Play::new().await;
    let (leaving, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let (_, other) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let address = play.proxy.address;
    let mut goes = open_socket(address, &token).await;
    let mut stays = open_socket(address, &other).await;
    echoes(&mut goes, "before").await;
    let fencing_token = play.content(&leaving).fencing_token;
    // Twice: it is repeated where nobody knows whether it was heard.
    for _ in 0..2 {
        play.drone.push(ToProxy::Leave { backend: leaving.clone(), fencing_token });
    }
    until_told(&mut goes).await;
    echoes(&mut stays, "another session's").await;
    assert!(goes.next().await.is_none_or(|message| message.is_err()), "it is closed");
    let mut late = open_socket(address, &token).await;
    until_told(&mut late).await;
    assert_eq!(get(address, "/ready", &[]).await.status, 200);
}
