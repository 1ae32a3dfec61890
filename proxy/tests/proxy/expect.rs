//! `Expect: 100-continue`: the body is asked for when the backend asks for it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::backends::{next_head, raw};
use crate::play::Play;
use crate::raw::Raw;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

async fn asks(play: &Play, token: &str) -> Raw {
    let mut client = Raw::connect(play.proxy.address).await;
    let head = format!(
        "POST /{token}/ HTTP/1.1\r\nhost: example.com\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    );
    client.send(head.as_bytes()).await;
    client
}

#[tokio::test]
async fn the_backends_word_goes_to_the_client() {
    let play = Play::new().await;
    let (say, said) = tokio::sync::watch::channel(false);
    let address = raw(&play.lifecycle, move |mut raw| {
        let mut said = said.clone();
        async move {
            while let Some(head) = next_head(&mut raw).await {
                assert!(head.contains("expect: 100-continue\r\n"), "{head}");
                said.wait_for(|said| *said).await.unwrap();
                raw.send(CONTINUE).await;
                assert_eq!(raw.take(5).await, b"hello");
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = asks(&play, &token).await;
    assert!(timeout(Duration::from_millis(200), client.more()).await.is_err(), "nobody wants the body yet");
    say.send(true).unwrap();
    assert_eq!(client.head().await.status, 100);
    client.send(b"hello").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_refusal_costs_no_upload() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await;
        assert!(!raw.more().await, "not a byte of the body comes");
    })
    .await;
    let (backend, token) = play.ready_backend(address);
    let mut client = asks(&play, &token).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "no"));
    assert_eq!(client.rest().await, "", "whether the body follows is not known: the connection ends");
    play.drone.uses_become(&backend, 0, 0).await;
}

#[tokio::test]
async fn a_backend_that_answers_before_it_reads_gets_the_body() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
        let echo = raw.take(5).await;
        raw.send(&echo).await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let mut client = asks(&play, &token).await;
    assert_eq!(client.head().await.status, 200);
    client.send(b"hello").await;
    assert_eq!(client.take(5).await, b"hello");
}

#[tokio::test]
async fn a_backend_that_knows_nothing_of_it_gets_the_body_all_the_same() {
    let play = Play::new().await;
    let address = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        assert_eq!(raw.take(5).await, b"hello");
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let (_, token) = play.ready_backend(address);
    let begun = Instant::now();
    let mut client = asks(&play, &token).await;
    assert_eq!(client.head().await.status, 100);
    let took = begun.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
    client.send(b"hello").await;
    assert_eq!(client.answer().await.status, 200);
}
