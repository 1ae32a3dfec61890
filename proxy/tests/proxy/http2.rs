//! HTTP/2 from clients to backends of HTTP/1.1.

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::backends::{app, mirror, next_head, raw};
use crate::http2_client::{Http2, IN_TIME, head, next, request, whole};
use crate::play::{Play, Stage};

#[tokio::test]
async fn requests_side_by_side_reach_the_backend_as_http_1() {
    for direct in [true, false] {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        let (address, _) = mirror(&play.lifecycle).await;
        let (_, token) = play.ready_backend(address);
        let mut client = Http2::connect(play.proxy.address).await;
        let mut answers = Vec::new();
        for number in 0..50 {
            let mut request = request(Method::GET, &format!("/{token}/a/{number}"));
            request.headers_mut().append("cookie", "a=1".parse().unwrap());
            request.headers_mut().append("cookie", "b=2".parse().unwrap());
            answers.push(client.start(request, true).await.0);
        }
        for (number, answer) in answers.into_iter().enumerate() {
            let answer = whole(answer).await;
            assert_eq!(answer.status, 200);
            assert!(answer.headers.contains_key("x-plane-backend-id"));
            let told = &answer.body;
            assert!(told.starts_with(&format!("GET /a/{number} HTTP/1.1\r\n")), "{told}");
            for line in ["host: example.com\r\n", "cookie: a=1; b=2\r\n", "x-verified-username: zoe\r\n"] {
                assert!(told.contains(line), "{told}");
            }
        }
        assert_eq!(client.get("/ready").await.status, 200);
        assert_eq!(client.get("/").await.status, 400);
        let forged = client.get("/forged/").await;
        assert_eq!((forged.status.as_u16(), forged.code().as_str()), (410, "token_invalid"));
    }
}

#[tokio::test]
async fn a_backends_connection_is_used_again_and_belongs_to_one_client_connection() {
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
    for expect in [1, 2] {
        let mut client = Http2::connect(play.proxy.address).await;
        for _ in 0..20 {
            assert_eq!(client.get(&format!("/{token}/")).await.body, "ok");
        }
        assert_eq!(connections.load(std::sync::atomic::Ordering::Relaxed), expect);
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_without_what_is_ours() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        let Some(head) = next_head(&mut raw).await else { return };
        let body = raw.take_until("\r\n\r\n").await;
        let told = format!("{head}{body}");
        let length = told.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
             {length:x}\r\n{told}\r\n0\r\nx-sum: 9\r\nx-verified-secret: 1\r\n\r\n"
        );
        raw.send(answer.as_bytes()).await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Http2::connect(play.proxy.address).await;
    let mut asked = request(Method::POST, &format!("/{token}/"));
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    asked.headers_mut().insert("trailer", "x-sum, x-verified-username".parse().unwrap());
    let mut late = HeaderMap::new();
    late.insert("x-sum", "7".parse().unwrap());
    late.insert("x-verified-username", "root".parse().unwrap());
    let answer = client.post(asked, b"a", Some(late)).await;
    assert!(answer.body.contains("te: trailers\r\n") && answer.body.contains("x-sum: 7"), "{answer:?}");
    assert!(!answer.body.contains("root"), "{answer:?}");
    assert_eq!(answer.trailers["x-sum"], "9");
    assert!(!answer.trailers.contains_key("x-verified-secret"));
}

#[tokio::test]
async fn bodies_of_any_size_are_streamed_both_ways() {
    let play = Play::new().await;
    let echo = |body: Body| async move { Body::from_stream(body.into_data_stream()) };
    let address = app(&play.lifecycle, Router::new().route("/echo", post(echo))).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Http2::connect(play.proxy.address).await;
    let (answer, mut up) = client.start(request(Method::POST, &format!("/{token}/echo")), false).await;
    up.send_data(Bytes::from_static(b"one"), false).unwrap();
    let mut down = head(answer).await.unwrap().into_body();
    assert_eq!(next(&mut down).await.unwrap().unwrap(), "one", "before the request has ended");
    let size = 8 * 1024 * 1024;
    let send = async {
        let mut left = size;
        while left > 0 {
            up.reserve_capacity(left.min(64 * 1024));
            let room = timeout(IN_TIME, std::future::poll_fn(|cx| up.poll_capacity(cx)));
            let room = room.await.expect("room in time").unwrap().unwrap().min(left);
            up.send_data(Bytes::from(vec![7; room]), room == left).unwrap();
            left -= room;
        }
    };
    let read = async {
        let mut got = 0;
        while let Some(more) = next(&mut down).await {
            got += more.unwrap().len();
        }
        got
    };
    assert_eq!(tokio::join!(send, read).1, size);
}

/// Sessions share a browser's connection: one that reads nothing must not stop the others.
#[tokio::test]
async fn an_upload_that_nobody_reads_holds_up_no_other() {
    let play = Play::new().await;
    let deaf = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        std::future::pending::<()>().await;
    })
    .await;
    let (_, stuck) = play.ready_backend(deaf);
    let (echo, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(echo);
    let mut client = Http2::connect(play.proxy.address).await;
    let mut uploads = Vec::new();
    for _ in 0..20 {
        let (answer, mut up) = client.start(request(Method::POST, &format!("/{stuck}/")), false).await;
        // More than a stream may have on its way: it fills its own window.
        up.send_data(Bytes::from(vec![7; 4 * 1024 * 1024]), true).unwrap();
        uploads.push((answer, up));
    }
    let answer = client.post(request(Method::POST, &format!("/{token}/")), b"x", None).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_request_that_is_taken_back_ends_at_the_backend_too() {
    let play = Play::new().await;
    let gone = std::sync::Arc::new(Notify::new());
    let notify = gone.clone();
    let address = raw(&play.lifecycle, move |mut raw| {
        let notify = notify.clone();
        async move {
            next_head(&mut raw).await;
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nbegun").await;
            while raw.more().await {}
            notify.notify_one();
        }
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Http2::connect(play.proxy.address).await;
    let (answer, mut up) = client.start(request(Method::GET, &format!("/{token}/")), true).await;
    let mut body = head(answer).await.unwrap().into_body();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "begun");
    up.send_reset(h2::Reason::CANCEL);
    drop((up, body));
    timeout(IN_TIME, gone.notified()).await.expect("the backend's connection is closed");
    play.drone.uses_become(&backend, 0, 0).await;
}

/// What is left of a session that has ended is let go of, though its reader sleeps, and the
/// client's other requests go on.
#[tokio::test]
async fn an_end_frees_the_address_and_spares_the_rest_of_the_connection() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        loop {
            if tokio::io::AsyncWriteExt::write_all(&mut raw.stream, chunk.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (ends, token) = play.ready_backend(address);
    let (echo, _) = mirror(&play.lifecycle).await;
    let (_, stays) = play.ready_backend(echo);
    let mut client = Http2::connect(play.proxy.address).await;
    let (answer, _up) = client.start(request(Method::GET, &format!("/{token}/")), true).await;
    let mut unread = head(answer).await.unwrap().into_body();
    assert_eq!(client.get(&format!("/{stays}/")).await.status, 200);
    play.drone.end(&ends);
    let seen = || play.drone.count(|said| matches!(said, jetway_protocol::attach::ToDrone::EndedSeen { .. }));
    crate::play::eventually("the address is free", || (seen() == 1).then_some(())).await;
    assert_eq!(client.get(&format!("/{stays}/")).await.status, 200);
    let cut_off = async {
        while let Some(more) = next(&mut unread).await {
            if more.is_err() {
                return true;
            }
        }
        false
    };
    assert!(timeout(IN_TIME, cut_off).await.unwrap(), "and does not look whole");
}

#[tokio::test]
async fn a_stop_says_goaway_lets_requests_end_and_ends_in_time() {
    let play = Play::new().await;
    let go = std::sync::Arc::new(Notify::new());
    let gone = go.clone();
    let address = raw(&play.lifecycle, move |mut raw| {
        let go = gone.clone();
        async move {
            next_head(&mut raw).await;
            go.notified().await;
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
        }
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Http2::connect(play.proxy.address).await;
    let (answer, _up) = client.start(request(Method::GET, &format!("/{token}/")), true).await;
    play.drone.uses_become(&backend, 1, 1).await;
    let stopping = play.proxy_lifecycle.clone();
    let (stopped, ()) = tokio::join!(stopping.stop(), async {
        let refused = async {
            while client.sender.clone().ready().await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(IN_TIME, refused).await.expect("a GOAWAY");
        go.notify_one();
        assert_eq!(whole(answer).await.body, "late");
        timeout(IN_TIME, client.end).await.expect("an end").unwrap().unwrap();
    });
    assert!(stopped);
}
