//! What no good client sends, byte by byte: a clear refusal, and nothing that a backend could
//! misread.

use crate::backends::{mirror, raw};
use crate::grpc;
use crate::play::Play;
use crate::raw::{Raw, get};

async fn status_of(play: &Play, request: &str) -> u16 {
    let mut client = Raw::connect(play.proxy.address).await;
    client.send(request.as_bytes()).await;
    client.head().await.status
}

#[tokio::test]
async fn hosts_and_targets() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let table = [
        (format!("GET /{token}/ HTTP/1.1\r\n\r\n"), 400),
        (format!("GET /{token}/ HTTP/1.1\r\nhost: example.com\r\nhost: b\r\n\r\n"), 400),
        (format!("GET /{token}/ HTTP/1.1\r\nhost: a b\r\n\r\n"), 400),
        (format!("GET /{token}/ HTTP/1.1\r\nhost:\r\n\r\n"), 400),
        (format!("GET http://evil/{token}/ HTTP/1.1\r\nhost: example.com\r\n\r\n"), 400),
        (format!("GET http://example.com/{token}/ HTTP/1.1\r\nhost: example.com\r\n\r\n"), 200),
        ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n".into(), 400),
        ("OPTIONS * HTTP/1.1\r\nhost: example.com\r\n\r\n".into(), 400),
        ("NONSENSE\r\n\r\n".into(), 400),
        (format!("GET /{token}/\0 HTTP/1.1\r\nhost: example.com\r\n\r\n"), 400),
    ];
    for (request, status) in table {
        assert_eq!(status_of(&play, &request).await, status, "{request:?}");
    }
}

#[tokio::test]
async fn heads_that_are_too_large() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let large = |kib: usize| format!("cookie: {}\r\n", "x".repeat(kib * 1024));
    // The host is one more.
    let many = |fields: usize| "a: b\r\n".repeat(fields);
    for (lines, status) in [
        (large(64), 431),
        (large(33), 431),
        (large(31), 200),
        (many(200), 431),
        (many(100), 431),
        (many(99), 200),
    ] {
        let request = format!("GET /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n");
        assert_eq!(status_of(&play, &request).await, status, "{} bytes", request.len());
    }
}

#[tokio::test]
async fn framing_that_two_parsers_could_read_differently() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let refused = [
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n",
        "content-length: +1\r\n",
        "content-length: -1\r\n",
        "content-length: 0x1\r\n",
        "content-length: 1, 2\r\n",
        "x: y\r\n continued: z\r\n",
        "content-length: 99999999999999999999\r\n",
    ];
    for lines in refused {
        let request = format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n0\r\n\r\n");
        assert_eq!(status_of(&play, &request).await, 400, "{lines:?}");
    }
    let request = format!(
        "POST /{token}/ HTTP/1.0\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    assert_eq!(status_of(&play, &request).await, 400, "HTTP/1.0 knows no chunks");
    assert!(seen.lock().unwrap().is_empty(), "the backend saw nothing of it");
}

/// A backend that waits for a body which never comes as it should.
#[tokio::test]
async fn a_malformed_chunk_is_the_clients_own_fault() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw: Raw| async move { while raw.more().await {} }).await;
    let (one, two) = (play.ready_backend(address).1, grpc::backend(&play.lifecycle, grpc::drains).await.0);
    let two = grpc::h2c(&play, two);
    for token in [one, two] {
        for body in ["x\r\n", "2\r\nabc\r\n0\r\n\r\n", "2\nab\r\n0\r\n\r\n", "fffffffffffffffff\r\n"] {
            let mut client = Raw::connect(play.proxy.address).await;
            let head =
                format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n");
            client.send(format!("{head}3\r\nabc\r\n").as_bytes()).await;
            client.send(body.as_bytes()).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, &*answer.code()), (400, "bad_request"), "{body:?}");
            assert_eq!(answer.header("proxy-status"), Some("jetway; error=http_request_error"));
            assert_eq!(client.rest().await, "", "the connection ends here");
        }
    }
}

/// RFC 9112 §6.1: where both are there, the length is not believed, does not go on, and the
/// connection ends.
#[tokio::test]
async fn a_length_beside_chunks_is_dropped_and_ends_the_connection() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    for lines in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    ] {
        seen.lock().unwrap().clear();
        let mut client = Raw::connect(play.proxy.address).await;
        let smuggled = format!("GET /{token}/smuggled HTTP/1.1\r\nhost: example.com\r\n\r\n");
        let request =
            format!("POST /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n0\r\n\r\n{smuggled}");
        client.send(request.as_bytes()).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(client.rest().await, "", "the connection ends here");
        let seen = seen.lock().unwrap();
        let heads = seen.iter().filter(|head| head.contains(" HTTP/1.1\r\n")).count();
        assert_eq!(heads, 1, "{seen:?}");
        assert!(
            !seen[0].contains("content-length") && seen[0].contains("transfer-encoding: chunked"),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn identity_in_every_spelling_and_nominated_away() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let lines = [
        "X-Verified-Username: root",
        "x_verified_username: root",
        "X-VERIFIED_USER-DATA: root",
        "x--verified-secret: root",
        "X-Verified-Whatever: root",
        "x_forwarded_for: root",
        "x-forwarded-for: root",
        "connection: x-verified-username, x-verified-secret, x-forwarded-for, x-verified-path",
    ];
    let told = get(play.proxy.address, &format!("/{token}/"), &lines).await.body;
    assert!(!told.contains("root"), "{told}");
    for line in [
        "x-verified-username: zoe\r\n",
        "x-verified-secret: grant-secret\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
}

#[tokio::test]
async fn no_bytes_at_all_make_it_fall() {
    let panics = crate::raw::panics();
    let play = Play::new().await;
    for seed in 0_u64..200 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let noise: Vec<u8> = (0..300)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let mut client = Raw::connect(play.proxy.address).await;
        let _refused = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &noise).await;
        let _reset = tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await;
    }
    assert_eq!(get(play.proxy.address, "/ready", &[]).await.header("proxy-status"), Some("jetway"));
    assert!(play.proxy_lifecycle.stop().await, "each connection has ended");
    assert_eq!(panics.load(std::sync::atomic::Ordering::Relaxed), 0);
}
