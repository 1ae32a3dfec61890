//! Plain HTTP: streaming both ways, reuse, trailers, old clients.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get as on_get, post};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout};

use crate::backends::{app, mirror, next_head, raw};
use crate::play::Play;
use crate::raw::{Raw, get};

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let play = Play::new().await;
    let echo = |body: Body| async move { Body::from_stream(body.into_data_stream()) };
    let address = app(&play.lifecycle, Router::new().route("/echo", post(echo))).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let head =
        format!("POST /{token}/echo HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send(head.as_bytes()).await;
    client.send(b"3\r\none\r\n").await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.take_until("one\r\n").await, "3\r\none\r\n", "before the request has ended");
    client.send(b"3\r\ntwo\r\n").await;
    assert_eq!(client.take_until("two\r\n").await, "3\r\ntwo\r\n");
    client.send(b"0\r\n\r\n").await;
    assert_eq!(client.take_until("\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn a_slow_reader_slows_the_backend_down() {
    let play = Play::new().await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let endless = move || {
        let counted = counted.clone();
        async move {
            Body::from_stream(futures_util::stream::repeat(()).map(move |()| {
                counted.fetch_add(64 * 1024, std::sync::atomic::Ordering::Relaxed);
                Ok::<_, Infallible>(vec![0_u8; 64 * 1024])
            }))
        }
    };
    let address = app(&play.lifecycle, Router::new().route("/", on_get(endless))).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    client.head().await;
    let mut before = 0;
    let stalled = async {
        loop {
            sleep(Duration::from_millis(200)).await;
            let now = sent.load(std::sync::atomic::Ordering::Relaxed);
            if now == before {
                return now;
            }
            before = now;
        }
    };
    let stalled = timeout(Duration::from_secs(10), stalled).await.expect("the backend is never slowed down");
    assert!(stalled < 64 * 1024 * 1024, "{stalled} bytes are on the way");
}

#[tokio::test]
async fn a_connection_is_kept_alive_on_both_sides() {
    let play = Play::new().await;
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = connections.clone();
    let address = raw(&play.lifecycle, move |mut raw| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            while next_head(&mut raw).await.is_some() {
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..20 {
        assert_eq!(client.get(&format!("/{token}/"), &[]).await.body, "ok");
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(play.drone.asks(), 1, "the linger covers the next request");
    get(play.proxy.address, &format!("/{token}/"), &[]).await;
    assert_eq!(
        connections.load(std::sync::atomic::Ordering::Relaxed),
        2,
        "another client, another connection"
    );
}

#[tokio::test]
async fn a_backend_that_drops_idle_connections_is_asked_again() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        if next_head(&mut raw).await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            // The next request on this connection gets no answer.
            next_head(&mut raw).await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..3 {
        assert_eq!(client.get(&format!("/{token}/"), &[]).await.body, "ok");
    }
    let head = format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\ncontent-length: 1\r\n\r\nx");
    client.send(head.as_bytes()).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "backend_failed"), "a body is not sent twice");
    assert_eq!(answer.header("proxy-status"), Some("jetway; error=connection_terminated"));
}

#[tokio::test]
async fn trailers_pass_without_what_is_ours() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        let Some(head) = next_head(&mut raw).await else { return };
        let body = raw.take_until("\r\n\r\n").await;
        let told = format!("{head}{body}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, x-verified-secret\r\n\r\n\
             {:x}\r\n{told}\r\n0\r\nx-sum: 9\r\nx-verified-secret: 1\r\n\r\n",
            told.len()
        );
        raw.send(answer.as_bytes()).await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let request = format!(
        "POST /{token}/ HTTP/1.1\r\nhost: example.com\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n\
         trailer: x-sum, x-verified-username, x_verified_secret\r\n\r\n\
         1\r\na\r\n0\r\nx-sum: 7\r\nX-Verified-Username: root\r\nx_verified_secret: 1\r\n\r\n"
    );
    client.send(request.as_bytes()).await;
    client.head().await;
    let told = client.take_until("\r\n\r\n\r\n").await;
    assert!(told.contains("x-sum: 7"), "{told}");
    assert!(!told.contains("root") && !told.contains("x_verified_secret: 1"), "{told}");
    let late = client.take_until("\r\n\r\n").await;
    assert_eq!(late, "0\r\nx-sum: 9\r\n\r\n");
}

#[tokio::test]
async fn expect_continue_and_http_1_0_work() {
    let play = Play::new().await;
    let echo = |body: String| async move { body };
    let address = app(&play.lifecycle, Router::new().route("/", post(echo))).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let head = format!(
        "POST /{token}/ HTTP/1.1\r\nhost: example.com\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
    );
    client.send(head.as_bytes()).await;
    assert_eq!(client.head().await.status, 100);
    client.send(b"ok").await;
    assert_eq!(client.answer().await.body, "ok");

    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send(format!("GET /{token}/a HTTP/1.0\r\nhost: example.com\r\n\r\n").as_bytes()).await;
    let text = client.rest().await;
    assert!(text.contains(" 200 OK\r\n") && text.contains("GET /a HTTP/1.1\r\n"), "{text}");
}

#[tokio::test]
async fn a_head_request_and_a_204_have_no_body() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        while let Some(head) = next_head(&mut raw).await {
            let answer: &[u8] = match head.starts_with("HEAD") {
                true => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                false => b"HTTP/1.1 204 No Content\r\n\r\n",
            };
            raw.send(answer).await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..3 {
        client.send(format!("HEAD /{token}/ HTTP/1.1\r\nhost: example.com\r\n\r\n").as_bytes()).await;
        assert_eq!(client.head().await.header("content-length"), Some("5"));
        assert_eq!(client.get(&format!("/{token}/"), &[]).await.status, 204);
    }
}

#[tokio::test]
async fn no_backend_at_its_address_is_a_502() {
    let play = Play::new().await;
    let (_, token) = play.ready_backend("127.0.0.1:1".parse().unwrap());
    let begun = Instant::now();
    let answer = get(play.proxy.address, &format!("/{token}/"), &[]).await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!((answer.status, answer.code().as_str()), (502, "backend_unreachable"));
    assert_eq!(answer.header("proxy-status"), Some("jetway; error=connection_refused"));
}
