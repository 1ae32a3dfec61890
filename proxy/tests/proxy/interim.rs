//! Interim answers (RFC 9110 §15.2): a few may come before the answer, and endless ones cost no
//! other client anything.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use jetway_protocol::attach::Entry;
use jetway_protocol::spec::Protocol;
use tokio::io::AsyncWriteExt;

use crate::backends::{mirror, next_head, raw};
use crate::http2_client::{Http2, IN_TIME};
use crate::play::{Play, entry};
use crate::raw::{Answer, Raw, get};

/// The plain lane, and hyper's.
const LANES: [&str; 2] = ["x-lane: plain", "te: deflate"];
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

fn hint(bytes: usize) -> String {
    let bare = "HTTP/1.1 103 Early Hints\r\nlink: \r\n\r\n";
    bare.replace("link: ", &format!("link: {}", "x".repeat(bytes - bare.len())))
}

/// What a client is told of a backend that says this, in pieces of so many bytes.
async fn told(said: &str, piece: usize, lane: &str) -> Answer {
    let play = Play::new().await;
    let said = said.to_owned();
    let address = raw(&play.lifecycle, move |mut raw: Raw| {
        let said = said.clone();
        async move {
            while next_head(&mut raw).await.is_some() {
                for piece in said.as_bytes().chunks(piece) {
                    if raw.stream.write_all(piece).await.is_err() {
                        return;
                    }
                    if piece.len() < said.len() {
                        tokio::time::sleep(Duration::from_micros(100)).await;
                    }
                }
            }
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    get(play.proxy.address, &format!("/{token}/"), &[lane]).await
}

#[tokio::test]
async fn a_few_interim_answers_are_passed_over_and_no_more() {
    let many = |one: &str, count: usize| one.repeat(count) + OK;
    for (said, expect) in [
        (many(CONTINUE, 1), 200),
        (many(CONTINUE, 16), 200),
        (many(CONTINUE, 17), 502),
        (many(CONTINUE, 2000), 502),
        (many(&hint(4000), 16), 200),
        (many(&hint(8000), 8), 200),
        (many(&hint(8000), 9), 502),
        (many(&hint(30_000), 2), 200),
        (many(&hint(30_000), 3), 502),
    ] {
        for lane in LANES {
            for piece in [usize::MAX, 1000] {
                let answer = told(&said, piece, lane).await;
                assert_eq!(answer.status, expect, "{} bytes, {lane}", said.len());
                if expect == 502 {
                    assert_eq!(answer.code(), "backend_failed");
                    assert!(answer.body.contains("interim"), "{answer:?}");
                }
            }
        }
    }
}

/// Says these without end.
async fn endless(play: &Play, one: &'static str) -> String {
    let address = raw(&play.lifecycle, move |mut raw: Raw| async move {
        let many = one.repeat(2000);
        if next_head(&mut raw).await.is_some() {
            while raw.stream.write_all(many.as_bytes()).await.is_ok() {}
        }
    })
    .await;
    play.ready_backend(address).1
}

#[tokio::test]
async fn endless_interim_answers_are_a_502_at_once() {
    for one in [CONTINUE, "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"] {
        for lane in LANES {
            let play = Play::new().await;
            let token = endless(&play, one).await;
            let begun = Instant::now();
            let answer = get(play.proxy.address, &format!("/{token}/"), &[lane]).await;
            assert_eq!(answer.status, 502, "{lane}");
            assert!(begun.elapsed() < Duration::from_secs(2), "{lane}: {:?}", begun.elapsed());
        }
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn endless_interim_answers_slow_no_neighbour_down() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, neighbour) = play.ready_backend(address);
    let token = endless(&play, CONTINUE).await;
    let mut client = Raw::connect(play.proxy.address).await;
    let mut asks = async || {
        let mut times = Vec::new();
        for _ in 0..200 {
            let begun = Instant::now();
            assert_eq!(client.get(&format!("/{neighbour}/"), &[]).await.status, 200);
            times.push(begun.elapsed());
        }
        median(times)
    };
    let before = asks().await;
    let mut attackers = Vec::new();
    for at in 0..4 {
        let mut attacker = Raw::connect(play.proxy.address).await;
        attacker.send_get(&format!("/{token}/"), &[LANES[at % 2]]).await;
        attackers.push(attacker);
    }
    let beside = asks().await;
    println!("figure: a neighbour's median: {before:?}, beside four endless requests {beside:?}");
    assert!(beside < before * 5 + Duration::from_millis(5), "{before:?} became {beside:?}");
    for mut attacker in attackers {
        assert_eq!(attacker.answer().await.status, 502);
    }
}

/// An HTTP/2 backend that sends so many interim answers before each answer, or without end.
async fn grpc(play: &Play, interim: Option<usize>) -> String {
    let address = raw(&play.lifecycle, move |raw: Raw| async move {
        let mut connection = h2::server::handshake(raw.stream).await.unwrap();
        while let Some(Ok((_, mut answer))) = connection.accept().await {
            let early = || Response::builder().status(103).header("link", "</a>").body(()).unwrap();
            for at in 0.. {
                if interim == Some(at) || answer.send_informational(early()).is_err() {
                    break;
                }
                // What was said is sent by the connection's turns.
                if at % 64 == 0 {
                    let turn = std::future::poll_fn(|cx| {
                        std::task::Poll::Ready(connection.poll_closed(cx).is_ready())
                    });
                    if turn.await {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            }
            if let Ok(mut body) = answer.send_response(Response::new(()), false) {
                let _the_client_may_be_gone = body.send_data(Bytes::from_static(b"ok"), true);
            }
        }
    })
    .await;
    let h2c = Entry { protocol: Protocol::H2c, ..entry(address) };
    play.backend_of(h2c).1
}

#[tokio::test]
async fn an_http_2_backend_may_send_as_few() {
    for (interim, expect) in [(Some(1), 200), (Some(16), 200), (Some(17), 502), (None, 502)] {
        let play = Play::new().await;
        let token = grpc(&play, interim).await;
        let path = format!("/{token}/");
        let answered = async {
            assert_eq!(get(play.proxy.address, &path, &[]).await.status, expect, "{interim:?}");
            let mut client = Http2::connect(play.proxy.address).await;
            assert_eq!(client.get(&path).await.status.as_u16(), expect, "{interim:?} by HTTP/2");
        };
        tokio::time::timeout(IN_TIME, answered).await.expect("in time");
    }
}
