//! WebSockets and other upgrades: only a 101 opens the tunnel, and the tunnel carries bytes.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::backends::{echo_socket, echoes, mirror, next_head, open_socket, raw};
use crate::play::{Play, Stage};
use crate::raw::Raw;

const ASK: &[&str] = &["connection: keep-alive, Upgrade", "upgrade: websocket", "sec-websocket-key: k"];

#[tokio::test]
async fn a_websocket_echoes_directly_and_through_the_drone() {
    for direct in [true, false] {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        let (_, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
        let mut socket = open_socket(play.proxy.address, &token).await;
        for text in ["hello", &"x".repeat(300_000)] {
            echoes(&mut socket, text).await;
        }
    }
}

#[tokio::test]
async fn bytes_glued_to_either_side_of_the_101_arrive() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        let Some(head) = next_head(&mut raw).await else { return };
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
            "{head}"
        );
        assert!(raw.buffer.is_empty(), "nothing comes before the 101");
        raw.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nglued",
        )
        .await;
        let early = raw.take(5).await;
        raw.send(&early).await;
        raw.stream.shutdown().await.unwrap();
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let lines = ASK.join("\r\n");
    client
        .send(format!("GET /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n\r\nearly").as_bytes())
        .await;
    let answer = client.head().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(client.rest().await, "gluedearly");
}

#[tokio::test]
async fn a_refused_upgrade_keeps_status_headers_and_body() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        while next_head(&mut raw).await.is_some() {
            raw.send(b"HTTP/1.1 403 Forbidden\r\nx-why: members\r\ncontent-length: 6\r\n\r\nno way").await;
        }
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    for _ in 0..2 {
        let answer = client.get(&format!("/{token}/"), ASK).await;
        assert_eq!(
            (answer.status, answer.header("x-why"), answer.body.as_str()),
            (403, Some("members"), "no way")
        );
    }
    play.drone.uses_become(&backend, 1, 0).await;
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_a_request_of_its_own() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    let smuggled = "GET /admin HTTP/1.1\r\nhost: example.com\r\nx-verified-username: root\r\n\r\n";
    let lines = ASK.join("\r\n");
    client
        .send(format!("GET /{token}/ HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n\r\n{smuggled}").as_bytes())
        .await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 410, "it has no token");
    let seen = seen.lock().unwrap();
    assert!(seen.len() == 1 && !seen[0].contains("root"), "{seen:?}");
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
        next_head(&mut raw).await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    for lines in [&[][..], &["connection: upgrade", "upgrade: h2c"]] {
        let mut client = Raw::connect(play.proxy.address).await;
        let answer = client.get(&format!("/{token}/"), lines).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "backend_failed"), "{lines:?}");
        assert_eq!(answer.header("proxy-status"), Some("jetway; error=http_protocol_error"));
    }
}

#[tokio::test]
async fn a_half_closed_tunnel_still_carries_the_other_way() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
        let sent = raw.rest().await;
        sleep(Duration::from_millis(50)).await;
        raw.send(format!("{sent} back").as_bytes()).await;
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &["connection: upgrade", "upgrade: x"]).await;
    assert_eq!(client.head().await.status, 101);
    client.send(b"there and").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "there and back");
    play.drone.uses_become(&backend, 0, 0).await;
}
