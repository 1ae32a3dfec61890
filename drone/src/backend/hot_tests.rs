//! Applications that run before their session, over real sockets: they are told of it, and what they make of it counts.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jetway_protocol::status::{EndReason, Status};
use jetway_protocol::warm::{ClaimRequest, SlotTier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{Harness, end_of, eventually, reaches};
use crate::runtime::fake::Script;
use crate::warm::tests::{hot, target};

struct Hot {
    test: Harness,
    port: u16,
    claims: mpsc::Receiver<String>,
}

/// A slot whose application is this test's: it answers each claim with the next of `answers`, and then with nothing at all.
async fn hot_slot(answers: &'static [&'static str]) -> Hot {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, claims) = mpsc::channel(16);
    let test = Harness::new(Script { is_on_loopback: true, ..Script::default() });
    test.lifecycle.spawn_until_stopped(async move {
        let mut open = Vec::new();
        let mut answers = answers.iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = vec![0; 4096];
            let length = stream.read(&mut heard).await.unwrap();
            tell.send(String::from_utf8_lossy(&heard[..length]).into_owned()).await.unwrap();
            if let Some(answer) = answers.next() {
                let head = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
            }
            open.push(stream);
        }
    });
    test.keep(vec![target(SlotTier::Hot, 1, |executable| {
        (executable.hot, executable.port) = (hot(Some("/claim")), port);
    })]);
    test.has_ready(1, 0).await;
    test.agent.membership.order_draining(true);
    Hot { test, port, claims }
}

impl Hot {
    fn put(&self) -> std::sync::Arc<super::Backend> {
        self.test.put_keyed("b", |spec| {
            (spec.executable.hot, spec.executable.port) = (hot(Some("/claim")), self.port);
            spec.executable.env.insert("COLOUR".to_owned(), "red".to_owned());
        })
    }

    async fn claim(&mut self) -> ClaimRequest {
        let heard = timeout(Duration::from_secs(20), self.claims.recv()).await.unwrap().unwrap();
        let (head, body) = heard.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /claim HTTP/1.1\r\n"), "{head}");
        serde_json::from_str(body).unwrap()
    }
}

#[tokio::test]
async fn it_is_told_of_its_session_and_ready_when_it_says_so() {
    let mut hot = hot_slot(&["204 No Content"]).await;
    let backend = hot.put();
    let claim = hot.claim().await;
    reaches(&backend, Status::Ready).await;
    assert_eq!((claim.backend_id.as_str(), claim.key.unwrap().name.as_str()), ("b", "doc"));
    assert_eq!((claim.env["COLOUR"].as_str(), claim.env["SESSION_BACKEND_ID"].as_str()), ("red", "b"));
    let container = hot.test.fake.containers().remove(0);
    let ahead = container.ahead.unwrap();
    assert!(ahead.env["PORT"] == hot.port.to_string() && !ahead.env.contains_key("COLOUR"), "it came late");
    assert_eq!(container.session.unwrap().backend.as_str(), "b");
}

#[tokio::test]
async fn one_that_says_no_or_nothing_is_killed_before_its_end_is_told() {
    let cases: [(&'static [&'static str], EndReason, &str); 2] = [
        (&["500 Internal Server Error"], EndReason::ExitedBeforeReady, "POST /claim, with 500"),
        (&[], EndReason::StartTimeout, "POST /claim, within 1 seconds"),
    ];
    for (answers, reason, message) in cases {
        let hot = hot_slot(answers).await;
        let end = end_of(&hot.put()).await;
        assert_eq!(end.reason, reason, "{end:?}");
        assert!(end.message.contains(message), "{end:?}");
        assert!(hot.test.fake.calls().iter().any(|call| call == "kill 9"));
        eventually("nothing is left", || hot.test.fake.containers().is_empty()).await;
    }
}

#[tokio::test]
async fn an_agent_that_restarts_before_the_answer_tells_it_again() {
    let mut hot = hot_slot(&[]).await;
    hot.put();
    hot.claim().await;
    let Hot { test, .. } = hot;
    let port = hot.port;
    // The application of the first agent's test went with it.
    let test = test.restarted(|_| {}).await;
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await.unwrap();
    let (mut stream, _) = timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
    let mut heard = vec![0; 4096];
    let length = stream.read(&mut heard).await.unwrap();
    assert!(heard[..length].starts_with(b"POST /claim HTTP/1.1\r\n"));
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    reaches(&test.backend("b"), Status::Ready).await;
}

#[tokio::test]
async fn one_that_ended_while_it_waited_is_not_given() {
    let hot = hot_slot(&["200 OK"]).await;
    hot.test.fake.application_exits(1, false);
    let backend = hot.put();
    reaches(&backend, Status::Ready).await;
    let timeline = backend.snapshot().timeline;
    assert!(timeline.iter().any(|stage| stage.note.starts_with("cold")), "{timeline:?}");
}
