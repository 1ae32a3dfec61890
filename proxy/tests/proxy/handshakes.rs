//! WebSocket handshakes that lead to no session: a browser's page is told why.

use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::attach::Outcome;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{EndReason, Status};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::backends::mirror;
use crate::play::{Play, Stage, an_end, eventually};
use crate::raw::{Raw, get};

const IN_TIME: Duration = Duration::from_secs(5);
const LINES: [&str; 4] = [
    "connection: Upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Status and text of the close frame behind an accepted handshake, and the subprotocol chosen.
async fn closed(play: &Play, token: &str, offered: Option<&str>) -> (u16, String, Option<String>) {
    let stream = TcpStream::connect(play.proxy.address).await.unwrap();
    let mut request = format!("ws://example.com/{token}/socket").into_client_request().unwrap();
    if let Some(offered) = offered {
        request.headers_mut().insert("sec-websocket-protocol", offered.parse().unwrap());
    }
    let opened = timeout(IN_TIME, tokio_tungstenite::client_async(request, stream)).await.unwrap();
    let (mut socket, answer) = opened.expect("it is accepted");
    let chosen = answer.headers().get("sec-websocket-protocol");
    let chosen = chosen.map(|chosen| chosen.to_str().unwrap().to_owned());
    assert!(answer.headers()["proxy-status"].to_str().unwrap().starts_with("jetway; error="));
    let Some(Ok(Message::Close(Some(why)))) = timeout(IN_TIME, socket.next()).await.unwrap() else {
        panic!("no close frame");
    };
    assert!(timeout(IN_TIME, socket.next()).await.unwrap().is_none(), "the connection is closed");
    (why.code.into(), why.reason.to_string(), chosen)
}

#[tokio::test]
async fn a_handshake_to_what_is_over_is_closed_with_why() {
    let play = Play::new().await;
    let (_, seen) = mirror(&play.lifecycle).await;
    let crashed =
        jetway_protocol::status::End { reason: EndReason::Crashed, exit_code: Some(139), ..an_end() };
    let stopping = |reason| Outcome::Stopping { status: Status::Terminating, reason };
    for (outcome, code, text) in [
        (Outcome::Ended { end: an_end() }, 4410, "idle"),
        (Outcome::Ended { end: crashed }, 4410, "crashed"),
        (stopping(Some(EndReason::Lifetime)), 4410, "lifetime"),
        (stopping(None), 4410, ""),
        (Outcome::Unknown, 4410, ""),
        (Outcome::NoGrant, 4403, "revoked"),
    ] {
        let backend = BackendId::random();
        play.drone.set(&backend, outcome);
        let token = play.seal(&play.content(&backend));
        assert_eq!(closed(&play, &token, None).await, (code, text.to_owned(), None));
        let chosen = closed(&play, &token, Some("chat, superchat")).await;
        assert_eq!(chosen, (code, text.to_owned(), Some("chat".to_owned())));
        assert!(play.drone.uses(&backend).iter().all(|(_, uses)| uses.uses == 0), "it is no use");
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_handshake_that_waits_for_a_start_hears_of_its_end() {
    let play = Play::new().await;
    let backend = BackendId::random();
    let token = play.seal(&play.content(&backend));
    let end = async {
        eventually("the ask", || (play.drone.asks() == 1).then_some(())).await;
        play.drone.end(&backend);
    };
    let (closed, ()) = tokio::join!(closed(&play, &token, None), end);
    assert_eq!(closed, (4410, "idle".to_owned(), None));
}

#[tokio::test]
async fn a_session_that_ends_under_a_handshake_is_said_too() {
    let play = Play::new().await;
    let silent = crate::backends::raw(&play.lifecycle, |mut raw| async move { while raw.more().await {} });
    let (backend, token) = play.ready_backend(silent.await);
    let end = async {
        play.drone.uses_become(&backend, 1, 1).await;
        play.drone.end(&backend);
    };
    let (closed, ()) = tokio::join!(closed(&play, &token, None), end);
    assert_eq!(closed, (4410, "idle".to_owned(), None));
}

#[tokio::test]
async fn a_busy_proxy_says_come_later() {
    let play = Play::new().await;
    let backend = BackendId::random();
    let token = play.seal(&play.content(&backend));
    let mut waiting = Vec::new();
    for _ in 0..512 {
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&format!("/{token}/"), &[]).await;
        waiting.push(client);
    }
    eventually("they all ask", || (play.drone.asks() == 512).then_some(())).await;
    assert_eq!(closed(&play, &token, None).await, (1013, "busy".to_owned(), None));
}

#[tokio::test]
async fn what_is_no_handshake_or_no_token_is_answered_as_before() {
    let play = Play::new().await;
    let backend = BackendId::random();
    play.drone.set(&backend, Outcome::Ended { end: an_end() });
    let token = play.seal(&play.content(&backend));
    let ask = async |token: &str, lines: &[&str]| get(play.proxy.address, &format!("/{token}/"), lines).await;
    let answer = ask("no-token", &LINES).await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "token_invalid"));
    for left_out in 0..LINES.len() {
        let lines: Vec<&str> =
            (0..).zip(LINES).filter(|(at, _)| *at != left_out).map(|(_, line)| line).collect();
        let answer = ask(&token, &lines).await;
        assert_eq!((answer.status, answer.code().as_str()), (410, "backend_ended"), "{lines:?}");
        assert_eq!(answer.json()["end_reason"], "idle");
    }
    for odd in ["sec-websocket-version: 8", "upgrade: chat", "sec-websocket-key: short"] {
        let name = odd.split(':').next().unwrap();
        let mut lines: Vec<&str> = LINES.into_iter().filter(|line| !line.starts_with(name)).collect();
        lines.push(odd);
        assert_eq!(ask(&token, &lines).await.status, 410, "{odd}");
    }
    let mut whole = Raw::connect(play.proxy.address).await;
    whole.send_get(&format!("/{token}/"), &LINES).await;
    let head = whole.head().await;
    assert_eq!(
        (head.status, head.header("sec-websocket-accept")),
        (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
    );
    assert_eq!(whole.take(8).await, b"\x88\x06\x11\x3aidle");
}

/// Its connection counts until it is over, and the proxy's stop does not wait for it.
#[tokio::test]
async fn a_client_that_does_not_close_is_bounded() {
    let share = jetway_proxy::Share { open: std::num::NonZeroU32::new(1), per_second: None };
    let play = Stage { client: share, ..Stage::default() }.begin().await;
    let backend = BackendId::random();
    play.drone.set(&backend, Outcome::Ended { end: an_end() });
    let token = play.seal(&play.content(&backend));
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &LINES).await;
    assert_eq!(client.head().await.status, 101);
    let mut second = Raw::connect(play.proxy.address).await;
    second.send_get("/ready", &[]).await;
    assert!(second.rest().await.starts_with("HTTP/1.1 429"));
    assert!(play.proxy_lifecycle.stop().await);
    drop(client);
}
