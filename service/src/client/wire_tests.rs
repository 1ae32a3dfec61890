//! Peers that answer, leave, and say half of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::{CallError, Client};
use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// What a peer does with a request.
#[derive(Clone, Copy)]
enum Does {
    Answer(&'static str),
    /// Answers, and hangs up without a word of it.
    AnswerAndLeave,
    /// Reads it and hangs up.
    Leave,
    /// Says this much of an answer and hangs up.
    Half,
    Nothing,
}

const FINE: Does = Does::Answer("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull");

/// A peer that does so with its nth request, over all connections; and how many requests and connections it has had.
struct Peer {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

async fn peer(does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked, made, does) = (requests.clone(), connections.clone(), Arc::new(does));
    let life = crate::lifecycle::Lifecycle::new();
    let within = life.clone();
    life.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            made.fetch_add(1, Ordering::SeqCst);
            let (asked, does) = (asked.clone(), does.clone());
            within.spawn(async move { serve(stream, &asked, &*does).await });
        }
    });
    Peer { address, requests, connections }
}

async fn serve(mut stream: TcpStream, asked: &AtomicUsize, does: &(impl Fn(usize) -> Does + Sync)) {
    let mut heard = Vec::new();
    loop {
        // Bodies here are shorter than their heads' end is from the next head.
        while !heard.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                return;
            }
        }
        heard.clear();
        let done = match does(asked.fetch_add(1, Ordering::SeqCst)) {
            Does::Answer(answer) => stream.write_all(answer.as_bytes()).await,
            Does::AnswerAndLeave => {
                let Does::Answer(answer) = FINE else { return };
                let _hung_up = stream.write_all(answer.as_bytes()).await;
                return;
            }
            Does::Half => {
                let _hung_up = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\nnu").await;
                return;
            }
            Does::Leave => return,
            Does::Nothing => Ok(()),
        };
        if done.is_err() {
            return;
        }
    }
}

fn client() -> Client {
    Client::new("abc".to_owned())
}

impl Peer {
    async fn get(&self, client: &Client, deadline: Duration) -> Result<Option<u8>, CallError> {
        client.get(&format!("http://{}/x", self.address), deadline).await
    }

    fn counts(&self) -> (usize, usize) {
        (self.requests.load(Ordering::SeqCst), self.connections.load(Ordering::SeqCst))
    }
}

#[test]
fn only_plain_urls_are_ours() {
    for (url, expect) in [
        ("http://127.0.0.1:8080/b/x?tail=1", Some(("127.0.0.1:8080", "/b/x?tail=1"))),
        ("http://[::1]:80/", Some(("[::1]:80", "/"))),
        ("http://host/a", Some(("host", "/a"))),
        ("http://host", None),
        ("http:///a", None),
        ("http://u:p@host/a", None),
        ("http://höst/a", None),
        ("http://host/a b", None),
        ("http://host/a#b", None),
        ("https://host/a", None),
    ] {
        assert_eq!(parts(url), expect, "{url}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_many_calls_at_once_have_one_each() {
    let (peer, client) = (peer(|_| FINE).await, client());
    for _ in 0..10 {
        assert_eq!(peer.get(&client, DEADLINE).await.unwrap(), None);
    }
    assert_eq!(peer.counts(), (10, 1));
    let get = || peer.get(&client, DEADLINE);
    let (one, two, three) = tokio::join!(get(), get(), get());
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(peer.counts().0, 13);
    assert!(peer.counts().1 <= 3, "{:?}", peer.counts());
}

#[tokio::test]
async fn a_connection_that_the_peer_has_closed_meanwhile_is_not_used() {
    let (peer, client) = (peer(|_| Does::AnswerAndLeave).await, client());
    for n in 1..=20 {
        assert_eq!(peer.get(&client, DEADLINE).await.unwrap(), None, "{n}");
        // Its end has come by then.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(peer.counts(), (20, 20));
}

#[tokio::test]
async fn what_may_have_been_seen_is_not_sent_again() {
    let does = |n| [FINE, Does::Leave, FINE, Does::Half, FINE][n];
    let (peer, client) = (peer(does).await, client());
    assert!(peer.get(&client, DEADLINE).await.is_ok());
    for lost in [1, 3] {
        let error = peer.get(&client, DEADLINE).await.unwrap_err();
        assert!(matches!(error, CallError::Broken { .. }), "{error:?}");
        assert_eq!(peer.counts().0, lost + 1, "once");
        assert!(peer.get(&client, DEADLINE).await.is_ok());
    }
}

#[tokio::test]
async fn nobody_there_is_proof_that_nothing_was_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    drop(listener);
    let error = client().get::<()>(&url, DEADLINE).await.unwrap_err();
    assert!(matches!(&error, CallError::NotSent { reason, .. } if reason.contains("refused")), "{error:?}");
    let error = client().get::<()>("http://no-such-host.invalid/x", DEADLINE).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error:?}");
}

#[tokio::test]
async fn a_deadline_ends_a_call_and_its_late_answer_is_nobody_elses() {
    let does = |n| if n == 1 { Does::Nothing } else { FINE };
    let (peer, client) = (peer(does).await, client());
    assert!(peer.get(&client, DEADLINE).await.is_ok());
    let error = peer.get(&client, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    assert!(peer.get(&client, DEADLINE).await.is_ok());
    assert_eq!(peer.counts(), (3, 2));
}

#[tokio::test]
async fn a_refusal_and_nonsense_are_told_apart_and_leave_the_connection_as_it_is() {
    let answers = [
        "HTTP/1.1 409 Conflict\r\ncontent-length: 3\r\n\r\nwhy",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n7\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{half",
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nnull",
    ];
    let (peer, client) =
        (peer(move |n| answers.get(n).map_or(FINE, |answer| Does::Answer(answer))).await, client());
    let refused = peer.get(&client, DEADLINE).await.unwrap_err();
    assert!(matches!(&refused, CallError::Refused { status: 409, body, .. } if body == "why"), "{refused:?}");
    assert_eq!(peer.get(&client, DEADLINE).await.unwrap(), Some(7));
    let unreadable = peer.get(&client, DEADLINE).await.unwrap_err();
    assert!(matches!(unreadable, CallError::Unreadable { .. }), "{unreadable:?}");
    assert_eq!(peer.counts(), (3, 1));
    // It said that it would close it.
    assert!(peer.get(&client, DEADLINE).await.is_ok());
    assert!(peer.get(&client, DEADLINE).await.is_ok());
    assert_eq!(peer.counts(), (5, 2));
}

#[tokio::test]
async fn what_nobody_uses_is_closed_whoever_is_asked_next() {
    let (old, other, client) = (peer(|_| FINE).await, peer(|_| FINE).await, client());
    assert!(old.get(&client, DEADLINE).await.is_ok());
    assert!(other.get(&client, DEADLINE).await.is_ok());
    let mut pool = client.wire.lock();
    assert_eq!(pool.idle.len(), 2);
    let now = Instant::now();
    pool.swept = Some(now.checked_sub(POOL_IDLE).unwrap());
    for idle in pool.idle.get_mut(&old.address.to_string()).unwrap() {
        idle.since = now.checked_sub(POOL_IDLE).unwrap();
    }
    pool.sweep(now);
    assert_eq!(pool.idle.keys().collect::<Vec<_>>(), [&other.address.to_string()]);
}
