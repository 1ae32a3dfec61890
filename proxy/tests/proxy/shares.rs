//! What one client, and one token, may take; and bodies that do not go on.

use std::num::NonZeroU32;
use std::time::Duration;

use jetway_protocol::ids::GrantId;
use jetway_proxy::Share;
use tokio::time::{Instant, timeout};

use crate::backends::{echo_socket, echoes, mirror, open_socket};
use crate::grpc;
use crate::play::{Play, Stage};
use crate::raw::{Raw, get};

fn open(max: u32) -> Share {
    Share { open: NonZeroU32::new(max), per_second: None }
}

fn per_second(max: u32) -> Share {
    Share { open: None, per_second: NonZeroU32::new(max) }
}

/// What a request there and then is answered.
async fn status(play: &Play, path: &str) -> (u16, String) {
    let answer = get(play.proxy.address, path, &[]).await;
    let code = if answer.status == 200 { String::new() } else { answer.code() };
    (answer.status, code)
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_one_that_closes_makes_room() {
    let play = Stage { client: open(2), ..Stage::default() }.begin().await;
    let (_, token) = play.ready_backend(mirror(&play.lifecycle).await.0);
    let path = format!("/{token}/");
    let (mut first, mut second) =
        (Raw::connect(play.proxy.address).await, Raw::connect(play.proxy.address).await);
    assert_eq!((first.get(&path, &[]).await.status, second.get(&path, &[]).await.status), (200, 200));
    let mut third = Raw::connect(play.proxy.address).await;
    let answer = third.get(&path, &[]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(answer.header("proxy-status"), Some("jetway; error=connection_limit_reached"));
    assert_eq!(second.get(&path, &[]).await.status, 200, "those that are open stay");
    drop(first);
    let until = Instant::now() + Duration::from_secs(5);
    while Raw::connect(play.proxy.address).await.get(&path, &[]).await.status == 429 {
        assert!(Instant::now() < until, "its place comes back");
    }
}

#[tokio::test]
async fn a_client_asks_so_often_and_a_forwarder_as_often_as_it_likes() {
    let play = Stage { client: per_second(3), ..Stage::default() }.begin().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let path = format!("/{token}/");
    let mut client = Raw::connect(play.proxy.address).await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.get(&path, &[]).await);
    }
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!((14..=17).contains(&refused.len()), "{}", refused.len());
    assert_eq!(refused[0].code(), "too_many_requests");
    assert_eq!(refused[0].header("retry-after"), Some("1"));
    assert_eq!(seen.lock().unwrap().len(), 20 - refused.len(), "what was refused reached nobody");
    for _ in 0..20 {
        assert_eq!(client.get("/ready", &[]).await.status, 200, "a balancer may look as often as it likes");
    }

    let play = Stage { client: per_second(3), trusted: &["127.0.0.0/8"], ..Stage::default() }.begin().await;
    let (_, token) = play.ready_backend(mirror(&play.lifecycle).await.0);
    let mut forwarder = Raw::connect(play.proxy.address).await;
    for _ in 0..20 {
        assert_eq!(forwarder.get(&format!("/{token}/"), &[]).await.status, 200);
    }
}

#[tokio::test]
async fn a_token_has_so_many_open_and_another_has_its_own() {
    let play = Stage { token: open(2), ..Stage::default() }.begin().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut content = play.content(&backend);
    content.grant = GrantId(2);
    let other = play.seal(&content);
    let mut sockets =
        vec![open_socket(play.proxy.address, &token).await, open_socket(play.proxy.address, &token).await];
    let refused = tokio_tungstenite::connect_async(format!("ws://{}/{token}/", play.proxy.address)).await;
    assert!(refused.unwrap_err().to_string().contains("429"));
    assert_eq!(status(&play, &format!("/{token}/")).await, (429, "too_many_requests".to_owned()));
    let mut others = open_socket(play.proxy.address, &other).await;
    echoes(&mut others, "a").await;
    echoes(&mut sockets[0], "b").await;
    drop(sockets.pop());
    let until = Instant::now() + Duration::from_secs(5);
    while tokio_tungstenite::connect_async(format!("ws://{}/{token}/", play.proxy.address)).await.is_err() {
        assert!(Instant::now() < until, "its place comes back");
    }
}

#[tokio::test]
async fn a_token_asks_so_often_whoever_comes_with_it() {
    let play = Stage { token: per_second(3), ..Stage::default() }.begin().await;
    let (backend, token) = play.ready_backend(mirror(&play.lifecycle).await.0);
    let mut content = play.content(&backend);
    content.grant = GrantId(2);
    let other = play.seal(&content);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(get(play.proxy.address, &format!("/{token}/"), &[]).await.status);
    }
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!((14..=17).contains(&refused), "{statuses:?}");
    assert_eq!(status(&play, &format!("/{other}/")).await.0, 200);
}

#[tokio::test]
async fn a_body_that_stops_is_a_408_and_its_connection_to_the_backend_is_over() {
    let play = Stage { body_pause: Some(Duration::from_millis(300)), ..Stage::default() }.begin().await;
    let (over, mut ended) = tokio::sync::mpsc::channel(1);
    let address = crate::backends::raw(&play.lifecycle, move |mut raw: Raw| {
        let over = over.clone();
        async move {
            raw.take_until("\r\n\r\n").await;
            raw.rest().await;
            over.send(()).await.unwrap();
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let head = format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\ncontent-length: 10\r\n\r\n12345");
    client.send(head.as_bytes()).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    timeout(Duration::from_secs(5), ended.recv()).await.expect("the backend sees the end").unwrap();
    assert_eq!(client.rest().await, "", "and the client's connection is closed");
}

#[tokio::test]
async fn a_body_that_goes_on_slowly_arrives() {
    let play = Stage { body_pause: Some(Duration::from_millis(500)), ..Stage::default() }.begin().await;
    let address = crate::backends::raw(&play.lifecycle, |mut raw: Raw| async move {
        raw.take_until("\r\n\r\n").await;
        assert_eq!(raw.take(6).await, b"abcdef");
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client
        .send(format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\ncontent-length: 6\r\n\r\n").as_bytes())
        .await;
    let mut pace = tokio::time::interval(Duration::from_millis(150));
    for piece in "abcdef".chars() {
        pace.tick().await;
        client.send(piece.to_string().as_bytes()).await;
    }
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn an_h2c_session_is_counted_once_a_request() {
    for (client, token) in [(per_second(2), Share::default()), (Share::default(), per_second(2))] {
        let play = Stage { client, token, ..Stage::default() }.begin().await;
        let (address, _) = grpc::backend(&play.lifecycle, grpc::ok).await;
        let path = format!("/{}/", grpc::h2c(&play, address));
        // The first begins in the plain lane, and hyper's takes it over.
        let mut client = Raw::connect(play.proxy.address).await;
        for request in ["first", "second"] {
            assert_eq!(client.get(&path, &[]).await.status, 200, "{request}");
        }
        assert_eq!(client.get(&path, &[]).await.status, 429, "the third of two a second");
    }
}
