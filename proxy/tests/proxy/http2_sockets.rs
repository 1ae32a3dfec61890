//! WebSockets over HTTP/2 (RFC 8441): an extended CONNECT becomes an upgrade at the backend.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::backends::{echo_socket, mirror, next_head, raw};
use crate::http2_client::IN_TIME;
use crate::play::{Play, Stage};

type Sender = SendRequest<Empty<Bytes>>;
type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn connect(play: &Play) -> Sender {
    let stream = TcpStream::connect(play.proxy.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) =
        Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    play.lifecycle.spawn_until_stopped(async move {
        let _its_end_is_seen_by_its_streams = connection.await;
    });
    // The server's SETTINGS, which come before any answer, say whether it knows of extended
    // CONNECT.
    let ready = Request::get("http://example.com/ready").body(Empty::new()).unwrap();
    timeout(IN_TIME, sender.send_request(ready)).await.unwrap().unwrap();
    sender
}

fn ask(token: &str, protocol: &'static str) -> Request<Empty<Bytes>> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://example.com/{token}/socket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", "http://example.com")
        .extension(Protocol::from_static(protocol))
        .body(Empty::new())
        .unwrap()
}

async fn open(sender: &mut Sender, token: &str) -> Socket {
    let mut answer = timeout(IN_TIME, sender.send_request(ask(token, "websocket"))).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for gone in ["sec-websocket-accept", "connection", "upgrade"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    let upgraded = hyper::upgrade::on(&mut answer).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

async fn echoes(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    let echo = timeout(IN_TIME, socket.next()).await.expect("an echo in time");
    assert_eq!(echo.unwrap().unwrap().into_text().unwrap(), text);
}

#[tokio::test]
async fn many_websockets_echo_over_one_connection() {
    for direct in [true, false] {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
        let mut sender = connect(&play).await;
        let mut sockets = Vec::new();
        for _ in 0..20 {
            sockets.push(open(&mut sender, &token).await);
        }
        play.drone.uses_become(&backend, 20, 20).await;
        for socket in &mut sockets {
            for text in ["hello", &"x".repeat(300_000)] {
                echoes(socket, text).await;
            }
        }
        let mut first = sockets.remove(0);
        first.close(None).await.unwrap();
        drop(first);
        play.drone.uses_become(&backend, 19, 19).await;
        drop(sockets);
        play.drone.uses_become(&backend, 0, 0).await;
    }
}

#[tokio::test]
async fn the_backend_sees_a_usual_upgrade_and_bytes_glued_to_its_answer_arrive() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        let Some(head) = next_head(&mut raw).await else { return };
        assert!(head.starts_with("GET /socket HTTP/1.1\r\n"), "{head}");
        for line in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-protocol: chat\r\n"]
        {
            assert!(head.contains(line), "{head}");
        }
        assert!(!head.contains("CONNECT") && !head.contains("protocol: websocket"), "{head}");
        let key = head.split("sec-websocket-key: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-protocol: chat\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        // A text frame, glued to the head.
        raw.send(&[text.as_bytes(), b"\x81\x05early"].concat()).await;
        while raw.more().await {}
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut sender = connect(&play).await;
    let mut socket = open(&mut sender, &token).await;
    let first = timeout(IN_TIME, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.into_text().unwrap(), "early");
}

#[tokio::test]
async fn what_is_no_websocket_in_the_end_is_said_so() {
    let play = Play::new().await;
    let answering = |text: &'static str| {
        let play = &play;
        async move {
            let address = raw(&play.lifecycle, move |mut raw| async move {
                next_head(&mut raw).await;
                raw.send(text.as_bytes()).await;
                while raw.more().await {}
            })
            .await;
            play.ready_backend(address).1
        }
    };
    let table = [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 403, None),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", 302, None),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 502, Some("jetway; error=http_protocol_error")),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            502,
            Some("jetway; error=http_protocol_error"),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: c3VyZWx5IG5vdA==\r\n\r\n",
            502,
            Some("jetway; error=http_protocol_error"),
        ),
    ];
    let mut sender = connect(&play).await;
    for (text, status, proxy_status) in table {
        let token = answering(text).await;
        let answer = timeout(IN_TIME, sender.send_request(ask(&token, "websocket"))).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{text}");
        let said = answer.headers().get("proxy-status").map(|value| value.to_str().unwrap());
        assert_eq!(said, proxy_status, "{text}");
    }
    let (address, seen) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    for other in ["connect-udp", "h2c", "WebSocket2"] {
        let answer = timeout(IN_TIME, sender.send_request(ask(&token, other))).await.unwrap().unwrap();
        assert_eq!(answer.status(), 400, "{other}");
    }
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_end_closes_the_websockets_of_one_session_alone() {
    let play = Play::new().await;
    let echo = echo_socket(&play.lifecycle).await;
    let ((ends, one), (_, other)) = (play.ready_backend(echo), play.ready_backend(echo));
    let mut sender = connect(&play).await;
    let (mut one, mut other) = (open(&mut sender, &one).await, open(&mut sender, &other).await);
    echoes(&mut one, "a").await;
    play.drone.end(&ends);
    let told = timeout(IN_TIME, one.next()).await.expect("it is closed");
    let Some(Ok(Message::Close(Some(why)))) = told else { panic!("{told:?}") };
    assert_eq!((u16::from(why.code), why.reason.as_str()), (4410, "idle"));
    echoes(&mut other, "b").await;
}

#[tokio::test]
async fn the_word_of_an_end_comes_after_the_applications_own() {
    let play = Play::new().await;
    let leaves = raw(&play.lifecycle, |raw| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(raw.stream).await else { return };
        socket.next().await;
    });
    let (backend, token) = play.ready_backend(leaves.await);
    let mut sender = connect(&play).await;
    let mut socket = open(&mut sender, &token).await;
    socket.send(Message::text("exit")).await.unwrap();
    let word = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        play.drone.end(&backend);
    };
    let (told, ()) = tokio::join!(timeout(IN_TIME, socket.next()), word);
    let Some(Ok(Message::Close(Some(why)))) = told.expect("it is closed") else { panic!("no close") };
    assert_eq!((u16::from(why.code), why.reason.as_str()), (4410, "idle"));
}

#[tokio::test]
async fn one_to_what_has_ended_is_opened_and_closed() {
    let play = Play::new().await;
    let backend = jetway_protocol::ids::BackendId::random();
    play.drone.set(&backend, jetway_protocol::attach::Outcome::Ended { end: crate::play::an_end() });
    let token = play.seal(&play.content(&backend));
    let mut sender = connect(&play).await;
    for _ in 0..200 {
        let mut socket = open(&mut sender, &token).await;
        let told = timeout(IN_TIME, socket.next()).await.expect("it is closed");
        let Some(Ok(Message::Close(Some(why)))) = told else { panic!("{told:?}") };
        assert_eq!((u16::from(why.code), why.reason.as_str()), (4410, "idle"));
    }
    let mut request = ask(&token, "websocket");
    request.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
    let answer = timeout(IN_TIME, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 410);
}

#[tokio::test]
async fn a_stop_closes_them_in_time() {
    let play = Play::new().await;
    let (_, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut sender = connect(&play).await;
    let mut socket = open(&mut sender, &token).await;
    echoes(&mut socket, "a").await;
    let begun = tokio::time::Instant::now();
    let (stopped, end) = tokio::join!(play.proxy_lifecycle.stop(), timeout(IN_TIME, socket.next()));
    assert!(stopped);
    let Some(Ok(Message::Close(Some(why)))) = end.expect("it is closed") else { panic!("no close") };
    assert_eq!(u16::from(why.code), 1012);
    assert!(begun.elapsed().as_secs() < 3, "a tunnel is no request that the stop waits for");
}
