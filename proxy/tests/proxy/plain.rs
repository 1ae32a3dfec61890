//! Plain requests take a shorter way than others: whoever asks must not be able to tell, and
//! neither must who answers.

use std::collections::BTreeSet;
use std::time::Duration;

use jetway_protocol::attach::ToProxy;
use jetway_protocol::ids::GrantId;

use crate::backends::{mirror, next_head, raw};
use crate::play::{FENCING, Play, eventually};
use crate::raw::{Answer, Raw};

/// A line that no rule speaks of, and one that a rule takes off: with it, a request is not plain.
const WAYS: [&str; 2] = ["x-way: 1", "te: deflate"];

fn told(answer: Answer) -> (u16, BTreeSet<(String, String)>) {
    let headers = answer.headers.into_iter().filter(|(name, _)| name != "date").collect();
    (answer.status, headers)
}

/// What a client gets of these bytes, by either way.
async fn both_ways(sent: &'static str, method: &str) -> [(u16, BTreeSet<(String, String)>, String); 2] {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, move |mut raw: Raw| async move {
        if next_head(&mut raw).await.is_some() {
            raw.send(sent.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut all = Vec::new();
    for way in WAYS {
        let mut client = Raw::connect(play.proxy.address).await;
        let request = format!("{method} /{token}/a HTTP/1.1\r\nhost: example.com\r\n{way}\r\n\r\n");
        client.send(request.as_bytes()).await;
        let answer = client.head().await;
        let body = match (method, answer.header("transfer-encoding"), answer.header("content-length")) {
            ("HEAD", ..) => String::new(),
            (_, Some(_), _) => {
                let mut body = String::new();
                loop {
                    let size = client.take_until("\r\n").await;
                    let size = usize::from_str_radix(size.trim(), 16).unwrap();
                    if size == 0 {
                        break body + "|" + &client.take_until("\r\n").await;
                    }
                    body += &String::from_utf8(client.take(size + 2).await).unwrap()[..size];
                }
            }
            (_, None, Some(length)) => String::from_utf8(client.take(length.parse().unwrap()).await).unwrap(),
            (_, None, None) => String::new(),
        };
        // An error's name is its own.
        let body = if answer.status >= 500 { String::new() } else { body };
        let (status, mut headers) = told(answer);
        if status >= 500 || method == "HEAD" {
            headers.retain(|(name, _)| name != "content-length" && name != "transfer-encoding");
        }
        all.push((status, headers, body));
    }
    all.try_into().unwrap()
}

#[tokio::test]
async fn an_answer_is_the_same_by_either_way() {
    for (method, sent) in [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nETag: \"x\"\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\
             x-verified-user: r\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 200 OK\r\n\r\nuntil the end"),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n"),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nset-cookie: a=b; Path=/; Domain=x\r\nset-cookie: c=d\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x-own, close\r\nx-own: 1\r\nkeep-alive: 5\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nclear-site-data: \"*\"\r\nalt-svc: h3\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nreferrer-policy: origin\r\nx-plane-backend-id: mine\r\n\r\n",
        ),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\naccess-control-allow-origin: https://a\r\n\r\n"),
        ("GET", "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", "nonsense\r\n\r\n"),
        ("GET", ""),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        ("OPTIONS", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ] {
        let [plain, ruled] = both_ways(sent, method).await;
        assert_eq!(plain, ruled, "{method} {sent:?}");
    }
}

#[tokio::test]
async fn a_backend_is_told_the_same_by_either_way() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    for path in [format!("/{token}/a/b?c=d"), format!("/{token}"), format!("/{token}?x")] {
        seen.lock().unwrap().clear();
        for way in WAYS {
            let mut client = Raw::connect(play.proxy.address).await;
            let lines = ["Accept: a", "Cookie: c=d", "X-Requested-With: x", "Connection: keep-alive", way];
            assert_eq!(client.get(&path, &lines).await.status, 200);
        }
        let heads: Vec<BTreeSet<String>> = seen.lock().unwrap().iter().map(|head| lines(head)).collect();
        let without: Vec<BTreeSet<String>> =
            heads.into_iter().map(|head| head.into_iter().filter(|line| line != WAYS[0]).collect()).collect();
        let [plain, ruled] = &without[..] else { panic!("{without:?}") };
        assert_eq!(plain, ruled, "{path}");
        assert!(plain.iter().any(|line| line.starts_with("x-verified-path: ")), "{plain:?}");
    }
}

fn lines(head: &str) -> BTreeSet<String> {
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    };
    head.trim_end().split("\r\n").map(lower).collect()
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_turn_whatever_they_are() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw: Raw| async move {
        while let Some(head) = next_head(&mut raw).await {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).as_bytes())
                .await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let get =
        |path: &str, line: &str| format!("GET /{token}{path} HTTP/1.1\r\nhost: example.com\r\n{line}\r\n");
    let mut client = Raw::connect(play.proxy.address).await;
    let all = [get("/1", ""), get("/2", "x-a: b\r\n"), get("/3", "te: x\r\n"), get("/4", "")].concat();
    client.send(all.as_bytes()).await;
    for path in ["/1", "/2", "/3", "/4"] {
        assert_eq!(client.answer().await.body, path);
    }
    // In pieces, it is not plain, and goes on all the same.
    let mut client = Raw::connect(play.proxy.address).await;
    assert_eq!(client.get(&format!("/{token}/5"), &[]).await.body, "/5");
    let request = get("/6", "");
    let (first, second) = request.split_at(request.len() / 2);
    client.send(first.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.send(second.as_bytes()).await;
    assert_eq!(client.answer().await.body, "/6");
}

#[tokio::test]
async fn a_stream_passes_as_it_comes_and_ends_with_its_grant() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw: Raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        for number in 0..3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            raw.send(format!("2\r\ne{number}\r\n").as_bytes()).await;
        }
        std::future::pending::<()>().await;
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    client.take_until("e2\r\n").await;
    play.drone.push(ToProxy::Revoked { backend, fencing_token: FENCING, grants: vec![GrantId(1)] });
    assert_eq!(client.rest().await, "", "it is broken off, not ended");
}

#[tokio::test]
async fn who_goes_away_takes_the_request_along() {
    let play = Play::new().await;
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = over.clone();
    let address = raw(&play.lifecycle, move |mut raw: Raw| {
        let seen = seen.clone();
        async move {
            next_head(&mut raw).await;
            // No answer, until nobody is there for it.
            next_head(&mut raw).await;
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!over.load(std::sync::atomic::Ordering::SeqCst));
    drop(client);
    eventually("the backend is let go", || over.load(std::sync::atomic::Ordering::SeqCst).then_some(()))
        .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nothing_up_for_ever() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw: Raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
        while tokio::io::AsyncWriteExt::write_all(&mut raw.stream, &[b'x'; 65536]).await.is_ok() {}
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    client.head().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    play.drone.end(&backend);
    let seen = |message: &jetway_protocol::attach::ToDrone| matches!(message, jetway_protocol::attach::ToDrone::EndedSeen { backend: ended, .. } if *ended == backend);
    eventually("the address is free of us", || (play.drone.count(seen) == 1).then_some(())).await;
}
