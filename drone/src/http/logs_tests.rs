//! What a session printed, while it runs and after it has ended.

use axum::http::StatusCode;
use jetway_protocol::drone_api::RefusalCode;

use super::harness::Server;
use crate::harness::{end_of, eventually, put_of};
use crate::runtime::fake::Script;
use crate::store::last_output;

async fn logs(server: &Server, query: &str) -> (StatusCode, String) {
    server.call("GET", &format!("/b/b/logs{query}"), &()).await
}

#[tokio::test]
async fn output_outlives_its_session_with_times() {
    let printed = ["one", "two", "three"].map(str::to_owned).to_vec();
    let server = Server::start(Script { printed, ..Script::default() }).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    assert_eq!(logs(&server, "?tail=2").await, (StatusCode::OK, "two\nthree\n".to_owned()));

    let backend = server.test.backend("b");
    server.test.fake.application_exits(3, false);
    end_of(&backend).await;
    // From the end on, first from the container, then from the file; never nothing.
    assert_eq!(logs(&server, "").await, (StatusCode::OK, "one\ntwo\nthree\n".to_owned()));
    server.test.nothing_is_left().await;
    assert_eq!(logs(&server, "").await, (StatusCode::OK, "one\ntwo\nthree\n".to_owned()));
    assert_eq!(logs(&server, "?tail=1&follow=true").await.1, "three\n");
    let (_, timed) = logs(&server, "?timestamps=true").await;
    assert!(timed.starts_with("2026-01-01T00:00:00.000000000Z one\n"), "{timed}");
}

#[tokio::test]
async fn a_key_is_free_before_its_output_is_read() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    // An engine that is away now keeps nobody from hearing of the end, and is read from when it is
    // back.
    let backend = server.test.backend("b");
    server.test.fake.script(|script| script.remove_fails = true);
    server.test.fake.application_exits(0, false);
    end_of(&backend).await;
    let position = |calls: &[String], what: &str| calls.iter().position(|call| call == what);
    server.test.fake.until(|_, calls| position(calls, "remove").is_some()).await;
    let calls = server.test.fake.calls();
    assert!(position(&calls, "logs") < position(&calls, "remove"), "{calls:?}");
    server.test.fake.script(|script| script.remove_fails = false);
    server.test.nothing_is_left().await;
}

#[tokio::test]
async fn a_removal_does_not_break_the_answer() {
    let printed = ["one", "two"].map(str::to_owned).to_vec();
    let server = Server::start(Script { printed, remove_fails: true, ..Script::default() }).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    let backend = server.test.backend("b");
    server.test.fake.application_exits(0, false);
    end_of(&backend).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "remove")).await;
    server.test.fake.script(|script| script.output_breaks = true);
    assert_eq!(logs(&server, "").await, (StatusCode::OK, "one\ntwo\n".to_owned()));
    server.test.fake.script(|script| script.remove_fails = false);
    server.test.nothing_is_left().await;
}

#[tokio::test]
async fn only_the_end_of_much_output_is_kept() {
    let line = "x".repeat(1000);
    let printed = (0..1000).map(|n| format!("{n} {line}")).collect();
    let server = Server::start(Script { printed, ..Script::default() }).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    let backend = server.test.backend("b");
    server.test.fake.application_exits(0, false);
    end_of(&backend).await;
    server.test.nothing_is_left().await;
    let (_, kept) = logs(&server, "?timestamps=true").await;
    assert!(
        kept.len() <= last_output::BYTES_MAX && kept.len() > last_output::BYTES_MAX - 2000,
        "{}",
        kept.len()
    );
    assert!(kept.starts_with("2026-") && kept.ends_with("x\n"), "{}", &kept[..60]);
    assert_eq!(kept.lines().last().unwrap().split(' ').nth(1), Some("999"));
}

#[tokio::test]
async fn nothing_printed_is_nothing_kept() {
    let server = Server::start(Script { printed: Vec::new(), ..Script::default() }).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "session")).await;
    server.test.fake.application_exits(0, false);
    let gone = || server.test.agent.backends.by_id.is_empty();
    eventually("it has ended", gone).await;
    server.test.nothing_is_left().await;
    assert_eq!(server.refused("GET", "/b/b/logs", &()).await, (410, RefusalCode::Ended));
    assert_eq!(server.refused("GET", "/b/other/logs", &()).await, (404, RefusalCode::Unknown));
}
