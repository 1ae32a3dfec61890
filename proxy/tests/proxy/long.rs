//! Answers that take their time, or are a part of something: they pass as they come, and as they
//! are.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::backends::{next_head, raw};
use crate::play::Play;
use crate::raw::Raw;

const IN_TIME: Duration = Duration::from_secs(5);

#[tokio::test]
async fn each_server_sent_event_arrives_before_the_next_is_sent() {
    let play = Play::new().await;
    let (send, receive) = mpsc::channel::<String>(1);
    let receive = std::sync::Arc::new(tokio::sync::Mutex::new(receive));
    let address = raw(&play.lifecycle, move |mut raw: Raw| {
        let receive = receive.clone();
        async move {
            let head = next_head(&mut raw).await.unwrap();
            assert!(head.contains("last-event-id: 41\r\n"), "{head}");
            raw.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\r\n",
            )
            .await;
            while let Some(event) = receive.lock().await.recv().await {
                raw.send(event.as_bytes()).await;
            }
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/events"), &["accept: text/event-stream", "last-event-id: 41"]).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    for n in 42..62 {
        send.send(format!("id: {n}\ndata: event {n}\n\n")).await.unwrap();
        let seen = timeout(IN_TIME, client.take_until(&format!("data: event {n}\n\n"))).await;
        assert!(seen.is_ok(), "event {n} was held back");
    }
    drop(send);
    client.take_until("\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn ranges_pass_in_both_directions() {
    let play = Play::new().await;
    let several = "multipart/byteranges; boundary=cut";
    let address = raw(&play.lifecycle, move |mut raw: Raw| async move {
        while let Some(head) = next_head(&mut raw).await {
            let asked = head.lines().find_map(|line| line.strip_prefix("range: ")).map(str::to_owned);
            let answer = match asked.as_deref() {
                Some("bytes=2-4") => {
                    assert!(head.contains("if-range: \"v1\"\r\n"), "{head}");
                    "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-4/10\r\netag: \"v1\"\r\ncontent-length: 3\r\n\r\n234".to_owned()
                }
                Some("bytes=0-0,9-9") => {
                    let body = "--cut\r\ncontent-range: bytes 0-0/10\r\n\r\n0\r\n--cut\r\ncontent-range: bytes 9-9/10\r\n\r\n9\r\n--cut--\r\n";
                    format!("HTTP/1.1 206 Partial Content\r\ncontent-type: {several}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                }
                Some(_) => "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-range: bytes */10\r\ncontent-length: 0\r\n\r\n".to_owned(),
                None => "HTTP/1.1 200 OK\r\naccept-ranges: bytes\r\ncontent-length: 10\r\n\r\n0123456789".to_owned(),
            };
            raw.send(answer.as_bytes()).await;
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let path = format!("/{token}/file");
    let mut client = Raw::connect(play.proxy.address).await;
    let whole = client.get(&path, &[]).await;
    assert_eq!((whole.body.as_str(), whole.header("accept-ranges")), ("0123456789", Some("bytes")));
    let part = client.get(&path, &["range: bytes=2-4", "if-range: \"v1\""]).await;
    assert_eq!((part.status, part.body.as_str()), (206, "234"));
    assert_eq!((part.header("content-range"), part.header("etag")), (Some("bytes 2-4/10"), Some("\"v1\"")));
    let parts = client.get(&path, &["range: bytes=0-0,9-9"]).await;
    assert_eq!((parts.status, parts.header("content-type")), (206, Some(several)));
    assert!(
        parts.body.starts_with("--cut\r\n") && parts.body.ends_with("9\r\n--cut--\r\n"),
        "{}",
        parts.body
    );
    let none = client.get(&path, &["range: bytes=20-30"]).await;
    assert_eq!((none.status, none.header("content-range")), (416, Some("bytes */10")));
}
