//! HTTP/2 to the backend: what gRPC needs of it (both directions at once, trailers, back-pressure),
//! frame by frame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response};
use jetway_protocol::spec::Protocol;
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::backends::echo_socket;
use crate::http2_client::{Http2, IN_TIME, head, next, request, whole};
use crate::play::{Play, Stage, entry};
use crate::raw::Raw;

/// An application that speaks HTTP/2 alone; counts its connections.
pub async fn backend<F, S>(lifecycle: &Lifecycle, serve: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
    S: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (tasks, counted) = (lifecycle.clone(), connections.clone());
    lifecycle.spawn_until_stopped(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let (tasks_of_it, serve) = (tasks.clone(), serve.clone());
            tasks.spawn_until_stopped(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tasks_of_it.spawn_until_stopped(serve(request, respond));
                }
            });
        }
    });
    (address, connections)
}

/// Answers with each message as it comes, and at the end with how many there were.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.uri().authority().unwrap(), "example.com");
    assert!(!request.headers().contains_key("host"));
    let path = request.uri().path().to_owned();
    let answer = Response::builder().header("content-type", "application/grpc").header("x-path", path);
    let mut down = respond.send_response(answer.body(()).unwrap(), false).unwrap();
    let mut up = request.into_body();
    let mut messages = 0;
    while let Some(Ok(message)) = up.data().await {
        up.flow_control().release_capacity(message.len()).unwrap();
        messages += 1;
        down.send_data(message, false).unwrap();
    }
    let mut trailers = up.trailers().await.unwrap().unwrap_or_default();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-messages", messages.into());
    down.send_trailers(trailers).unwrap();
}

/// Answers whatever it is asked.
pub async fn ok(_request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
}

/// Answers at the end of a body, which has to come whole.
pub async fn drains(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut up = request.into_body();
    while let Some(data) = up.data().await {
        let Ok(data) = data else { return };
        up.flow_control().release_capacity(data.len()).unwrap();
    }
    let _the_stream_may_be_over = respond.send_response(Response::new(()), true);
}

fn call(token: &str, path: &str) -> Request<()> {
    let mut request = request(Method::POST, &format!("/{token}{path}"));
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request
}

pub fn h2c(play: &Play, address: SocketAddr) -> String {
    let mut entry = entry(address);
    entry.protocol = Protocol::H2c;
    play.backend_of(entry).1
}

#[tokio::test]
async fn a_call_streams_both_ways_and_ends_with_its_status() {
    // Through the drone more often: the backend's first frame may come with the drone's answer, or
    // after it.
    for direct in [true].into_iter().chain([false; 10]) {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        let (address, connections) = backend(&play.lifecycle, echo).await;
        let token = h2c(&play, address);
        let mut client = Http2::connect(play.proxy.address).await;
        let mut calls = Vec::new();
        for _ in 0..20 {
            let (answer, up) = client.start(call(&token, "/pkg.Service/Chat"), false).await;
            calls.push((answer, up));
        }
        for (answer, mut up) in calls {
            up.send_data(Bytes::from_static(b"one"), false).unwrap();
            let answer = head(answer).await.unwrap();
            assert!(answer.headers().contains_key("x-path"), "{answer:?}");
            assert_eq!(answer.headers()["x-path"], "/pkg.Service/Chat");
            let mut down = answer.into_body();
            assert_eq!(next(&mut down).await.unwrap().unwrap(), "one", "before the call has ended");
            up.send_data(Bytes::from_static(b"two"), false).unwrap();
            assert_eq!(next(&mut down).await.unwrap().unwrap(), "two");
            let mut late = HeaderMap::new();
            late.insert("x-late", "1".parse().unwrap());
            late.insert("x-verified-secret", "1".parse().unwrap());
            up.send_trailers(late).unwrap();
            assert!(next(&mut down).await.is_none());
            let trailers = timeout(IN_TIME, down.trailers()).await.unwrap().unwrap().unwrap();
            for (name, value) in [("grpc-status", "0"), ("x-messages", "2"), ("x-late", "1")] {
                assert_eq!(trailers[name], value);
            }
            assert!(!trailers.contains_key("x-verified-secret"));
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "calls of one client share a connection");
    }
}

#[tokio::test]
async fn an_answer_of_trailers_alone_and_a_reset_pass() {
    let play = Play::new().await;
    let (address, _) = backend(&play.lifecycle, |request, mut respond: SendResponse<Bytes>| async move {
        if request.uri().path() == "/reset" {
            respond.send_reset(Reason::ENHANCE_YOUR_CALM);
            return;
        }
        let answer = Response::builder().header("grpc-status", "12").body(()).unwrap();
        respond.send_response(answer, true).unwrap();
    })
    .await;
    let token = h2c(&play, address);
    let mut client = Http2::connect(play.proxy.address).await;
    let answer = client.post(call(&token, "/pkg.Service/None"), b"x", None).await;
    assert_eq!((answer.status.as_u16(), answer.headers["grpc-status"].as_bytes()), (200, &b"12"[..]));
    let answer = client.post(call(&token, "/reset"), b"x", None).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "backend_failed"));
}

/// Counts what each side could send while the other did not read.
#[tokio::test]
async fn who_does_not_read_slows_the_other_side_down() {
    let play = Play::new().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let (address, _) = backend(&play.lifecycle, move |request, mut respond: SendResponse<Bytes>| {
        let counted = counted.clone();
        async move {
            let mut down = respond.send_response(Response::new(()), false).unwrap();
            if request.uri().path() == "/up" {
                // It reads nothing.
                let _up = request.into_body();
                std::future::pending::<()>().await;
            }
            loop {
                down.reserve_capacity(16 * 1024);
                let Some(Ok(room)) = std::future::poll_fn(|cx| down.poll_capacity(cx)).await else { return };
                down.send_data(Bytes::from(vec![7; room]), false).unwrap();
                counted.fetch_add(room, Ordering::Relaxed);
            }
        }
    })
    .await;
    let token = h2c(&play, address);
    let mut client = Http2::connect(play.proxy.address).await;

    let (answer, _up) = client.start(call(&token, "/down"), false).await;
    let _unread = head(answer).await.unwrap();
    let stalled = settles(|| sent.load(Ordering::Relaxed)).await;
    assert!(stalled > 0 && stalled < 4 * 1024 * 1024, "{stalled} bytes came from the backend");

    let (answer, mut up) = client.start(call(&token, "/up"), false).await;
    let _answer = head(answer).await.unwrap();
    let mut sent = 0;
    loop {
        up.reserve_capacity(16 * 1024);
        let room = timeout(Duration::from_millis(500), std::future::poll_fn(|cx| up.poll_capacity(cx)));
        let Ok(Some(Ok(room))) = room.await else { break };
        up.send_data(Bytes::from(vec![7; room]), false).unwrap();
        sent += room;
        assert!(sent < 64 * 1024 * 1024, "the client is never slowed down");
    }
    assert!(sent < 4 * 1024 * 1024, "{sent} bytes came from the client");
}

async fn settles(count: impl Fn() -> usize) -> usize {
    let mut before = usize::MAX;
    timeout(IN_TIME, async {
        loop {
            sleep(Duration::from_millis(200)).await;
            let now = count();
            if now == before {
                return now;
            }
            before = now;
        }
    })
    .await
    .expect("it is never slowed down")
}

#[tokio::test]
async fn a_backend_that_says_goodbye_or_is_gone_is_dialled_again() {
    let play = Play::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = play.lifecycle.clone();
    play.lifecycle.spawn_until_stopped(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tasks.spawn_until_stopped(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                // One answer a connection, then GOAWAY.
                let Some(Ok((_, mut respond))) = connection.accept().await else { return };
                respond.send_response(Response::new(()), true).unwrap();
                connection.graceful_shutdown();
                while connection.accept().await.is_some() {}
            });
        }
    });
    let token = h2c(&play, address);
    let mut client = Http2::connect(play.proxy.address).await;
    for _ in 0..10 {
        assert_eq!(client.get(&format!("/{token}/")).await.status, 200);
    }
}

#[tokio::test]
async fn a_backend_that_does_not_speak_it_is_a_502() {
    let play = Play::new().await;
    let (address, _) = crate::backends::mirror(&play.lifecycle).await;
    let token = h2c(&play, address);
    let mut client = Http2::connect(play.proxy.address).await;
    let answer = client.get(&format!("/{token}/")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "backend_failed"));
    let token = h2c(&play, "127.0.0.1:1".parse().unwrap());
    let answer = client.get(&format!("/{token}/")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "backend_unreachable"));
}

#[tokio::test]
async fn an_old_client_reaches_it_too_and_gets_the_trailers_as_chunks_do() {
    let play = Play::new().await;
    let (address, _) = backend(
        &play.lifecycle,
        |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            assert_eq!(request.uri().authority().unwrap(), "example.com");
            let answer = Response::builder().header("trailer", "x-sum").body(()).unwrap();
            let mut down = respond.send_response(answer, false).unwrap();
            let mut up = request.into_body();
            let body = up.data().await.unwrap().unwrap();
            down.send_data(body, false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "9".parse().unwrap());
            down.send_trailers(trailers).unwrap();
        },
    )
    .await;
    let token = h2c(&play, address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..3 {
        let text = format!(
            "POST /{token}/ HTTP/1.1\r\nhost: example.com\r\nte: trailers\r\nconnection: te\r\n\
             expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        );
        client.send(text.as_bytes()).await;
        assert_eq!(client.head().await.status, 100);
        client.send(b"ok").await;
        assert_eq!(client.head().await.header("transfer-encoding"), Some("chunked"));
        assert_eq!(client.take_until("\r\n\r\n").await, "2\r\nok\r\n0\r\nx-sum: 9\r\n\r\n");
    }
}

#[tokio::test]
async fn a_websocket_is_http_1_there_as_well() {
    let play = Play::new().await;
    let token = h2c(&play, echo_socket(&play.lifecycle).await);
    let mut socket = crate::backends::open_socket(play.proxy.address, &token).await;
    crate::backends::echoes(&mut socket, "hello").await;
}

#[tokio::test]
async fn an_end_closes_its_calls_and_frees_the_address() {
    let play = Play::new().await;
    let (address, _) = backend(&play.lifecycle, echo).await;
    let mut entry = entry(address);
    entry.protocol = Protocol::H2c;
    let (id, token) = play.backend_of(entry);
    let mut client = Http2::connect(play.proxy.address).await;
    let (answer, mut up) = client.start(call(&token, "/"), false).await;
    up.send_data(Bytes::from_static(b"one"), false).unwrap();
    let mut down = head(answer).await.unwrap().into_body();
    next(&mut down).await.unwrap().unwrap();
    play.drone.end(&id);
    timeout(IN_TIME, async { while next(&mut down).await.is_some_and(|more| more.is_ok()) {} })
        .await
        .unwrap();
    let seen = || play.drone.count(|said| matches!(said, jetway_protocol::attach::ToDrone::EndedSeen { .. }));
    crate::play::eventually("the address is free", || (seen() == 1).then_some(())).await;
    let (answer, _) = client.start(call(&token, "/"), true).await;
    assert_eq!(whole(answer).await.status, 410);
}
