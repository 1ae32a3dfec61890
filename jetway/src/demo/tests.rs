//! The server as a browser meets it, over a real socket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::*;

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

const DEADLINE: Duration = Duration::from_secs(10);

async fn server() -> (u16, Lifecycle) {
    let listener = listen(0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let lifecycle = Lifecycle::new();
    let about = About { key: Some("main".into()), backend_id: Some("b1".into()), api: None };
    lifecycle.spawn(run(listener, about, lifecycle.clone()));
    (port, lifecycle)
}

async fn visit(port: u16, path: &str, user: Option<&str>) -> Client {
    let mut request = format!("ws://127.0.0.1:{port}{path}").into_client_request().unwrap();
    if let Some(user) = user {
        request.headers_mut().insert("x-verified-username", user.parse().unwrap());
    }
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

async fn next(client: &mut Client) -> Message {
    loop {
        let message = tokio::time::timeout(DEADLINE, client.next()).await.expect("a message in time");
        match message.expect("an open socket").unwrap() {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}

async fn heard(client: &mut Client) -> Value {
    serde_json::from_str(next(client).await.to_text().unwrap()).unwrap()
}

async fn say(client: &mut Client, said: Value) {
    client.send(Message::text(said.to_string())).await.unwrap();
}

async fn close_code(client: &mut Client) -> u16 {
    loop {
        if let Message::Close(Some(frame)) = next(client).await {
            return frame.code.into();
        }
    }
}

#[tokio::test]
async fn two_visitors_draw_together_until_the_end() {
    let (port, lifecycle) = server().await;
    let mut ada = visit(port, "/ws", Some("Ada")).await;
    assert_eq!(heard(&mut ada).await["visitors"][0]["name"], "Ada");
    say(&mut ada, json!({ "type": "draw", "stroke": 1, "points": [[10, 20], [30, 40]] })).await;
    // Under the path that a static token leaves in place; with what was drawn before.
    let mut guest = loop {
        let mut guest = visit(port, "/s.token/ws", None).await;
        if heard(&mut guest).await["strokes"][0]["points"] == json!([[10, 20], [30, 40]]) {
            break guest;
        }
    };
    while heard(&mut ada).await["type"] != "joined" {}
    say(&mut guest, json!({ "type": "move", "at": [5, 6] })).await;
    let moved = loop {
        let heard = heard(&mut ada).await;
        if heard["type"] == "moved" {
            break heard;
        }
    };
    assert_eq!(moved["at"], json!([5, 6]));
    assert!(lifecycle.stop().await);
    assert_eq!(close_code(&mut ada).await, 4001);
    assert_eq!(close_code(&mut guest).await, 4001);
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_a_code_that_says_so() {
    let (port, lifecycle) = server().await;
    for bad in ["no json", r#"{"type":"nothing"}"#, r#"{"type":"move","at":[-1,0]}"#] {
        let mut client = visit(port, "/ws", None).await;
        client.send(Message::text(bad)).await.unwrap();
        assert_eq!(close_code(&mut client).await, 4400, "{bad}");
    }
    let mut busy = visit(port, "/ws", None).await;
    for _ in 0..1000 {
        let message = Message::text(json!({ "type": "away" }).to_string());
        if busy.send(message).await.is_err() {
            break;
        }
    }
    let ended = tokio::time::timeout(DEADLINE, async { while let Some(Ok(_)) = busy.next().await {} }).await;
    assert!(ended.is_ok(), "a flood is cut off");
    let mut large = visit(port, "/ws", None).await;
    let _refused_midway = large.send(Message::text("x".repeat(MESSAGE_BYTES_MAX + 1))).await;
    let ended = tokio::time::timeout(DEADLINE, async { while let Some(Ok(_)) = large.next().await {} }).await;
    assert!(ended.is_ok(), "a message that is too large ends the connection");
    lifecycle.stop().await;
}

#[tokio::test]
async fn the_page_is_one_file_and_says_where_it_is() {
    let (port, lifecycle) = server().await;
    jetway_service::client::install_crypto();
    let get = |path: &str| reqwest::get(format!("http://127.0.0.1:{port}{path}"));
    let about: Value = get("/about").await.unwrap().json().await.unwrap();
    assert_eq!(about, json!({ "key": "main", "backend_id": "b1", "api": null }));
    for path in ["/", "/s.token/", "/anything"] {
        let page = get(path).await.unwrap();
        assert_eq!(page.headers()["cache-control"], "no-store");
        let text = page.text().await.unwrap();
        assert!(text.contains("<title>Jetway"));
        assert!(!text.contains("src=\"http") && !text.contains("href=\"/"), "relative and self-contained");
    }
    lifecycle.stop().await;
}
