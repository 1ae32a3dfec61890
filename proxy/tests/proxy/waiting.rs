//! Requests that come before their session is ready: scripts are held, people are told, and what
//! tells them asks in its own way.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use jetway_protocol::attach::{Outcome, Stage, ToDrone, ToProxy};
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::Status;
use serde_json::json;
use tokio::time::Instant;

use crate::backends::app;
use crate::play::{Play, an_end, entry, eventually};
use crate::raw::{self, Raw};

const PAGE: [&str; 1] = ["accept: text/html,*/*;q=0.8"];
const STAGE: &str = "accept: application/vnd.jetway.stage+json";

/// A session that is on its way, and its token.
fn starting(play: &Play) -> (BackendId, String) {
    let backend = BackendId::random();
    let token = play.seal(&play.content(&backend));
    (backend, token)
}

/// The ask that is followed last.
async fn followed(play: &Play, times: usize) -> u64 {
    eventually("somebody follows an ask", || {
        let heard = play.drone.heard();
        let follows = heard.iter().filter_map(|(_, message)| match message {
            ToDrone::Follow { ask, .. } => Some(*ask),
            _ => None,
        });
        let follows: Vec<u64> = follows.collect();
        (follows.len() == times).then(|| follows[times - 1])
    })
    .await
}

#[tokio::test]
async fn a_person_is_told_and_a_script_is_held() {
    let play = Play::new().await;
    let (backend, token) = starting(&play);
    let begun = Instant::now();
    let page = raw::get(play.proxy.address, &format!("/{token}/"), &PAGE).await;
    let took = begun.elapsed();
    assert!((Duration::from_millis(350)..Duration::from_millis(2000)).contains(&took), "{took:?}");
    assert_eq!((page.status, page.header("retry-after")), (504, Some("1")));
    assert!(page.body.contains("<p>a brand</p>") && page.body.contains("role=\"status\""), "{}", page.body);
    let policy = page.header("content-security-policy").unwrap();
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(
        page.body.contains(&format!("<script nonce=\"{nonce}\">")) && policy.contains("connect-src 'self'")
    );
    assert!(!page.body.contains(&token), "the token is nobody's to see");

    let address = app(&play.lifecycle, Router::new().route("/", get(async || "hello"))).await;
    let mut script = Raw::connect(play.proxy.address).await;
    script.send_get(&format!("/{token}/"), &[]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    play.drone.set(&backend, Outcome::Ready(Box::new(entry(address))));
    assert_eq!(script.answer().await.body, "hello");
    assert_eq!(raw::get(play.proxy.address, &format!("/{token}/"), &PAGE).await.body, "hello");
}

#[tokio::test]
async fn a_page_hears_each_stage_once_and_that_it_may_enter() {
    let play = Play::new().await;
    let (backend, token) = starting(&play);
    let path = format!("/{token}/");
    let mut page = Raw::connect(play.proxy.address).await;
    page.send_get(&path, &[STAGE]).await;
    let stage = |status| Stage { status, elapsed_ms: 7, usual_ms: Some(3000), hint: None };
    let ask = followed(&play, 1).await;
    play.drone.push(ToProxy::Stage { ask, stage: stage(Status::Loading) });
    let told = page.answer().await;
    assert_eq!(told.json(), json!({ "status": "loading", "elapsed_ms": 7, "usual_ms": 3000 }));

    // The same again is no news; the next is.
    page.send_get(&path, &[STAGE, "x-jetway-stage: loading"]).await;
    let ask = followed(&play, 2).await;
    play.drone.push(ToProxy::Stage { ask, stage: stage(Status::Loading) });
    play.drone.push(ToProxy::Stage { ask, stage: stage(Status::Starting) });
    assert_eq!(page.answer().await.json()["status"], "starting");

    page.send_get(&path, &[STAGE, "x-jetway-stage: starting"]).await;
    let ask = followed(&play, 3).await;
    // Only the answer lets anybody in.
    play.drone.push(ToProxy::Stage { ask, stage: stage(Status::Ready) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(page.buffer.is_empty() && page.stream.try_read(&mut [0]).is_err());
    let address = app(&play.lifecycle, Router::new().route("/", get(async || "hello"))).await;
    let mut entry = entry(address);
    entry.linger_seconds = 0;
    play.drone.set(&backend, Outcome::Ready(Box::new(entry)));
    assert_eq!(page.answer().await.json(), json!({ "status": "ready" }));
    // Whoever was told so is on the way in, and counts as a use.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(play.drone.uses(&backend).last().map(|(_, told)| (told.uses, told.connections)), Some((1, 0)));
    assert_eq!(page.get(&path, &PAGE).await.body, "hello");
}

#[tokio::test]
async fn a_page_hears_why_nothing_came_of_it() {
    let play = Play::new().await;
    let (backend, token) = starting(&play);
    let mut page = Raw::connect(play.proxy.address).await;
    page.send_get(&format!("/{token}/"), &[STAGE]).await;
    followed(&play, 1).await;
    play.drone.set(&backend, Outcome::Ended { end: an_end() });
    let told = page.answer().await;
    assert_eq!((told.status, told.code().as_str()), (410, "backend_ended"));
    let told = raw::get(play.proxy.address, "/nonsense/", &[STAGE]).await;
    assert_eq!((told.status, told.code().as_str()), (410, "token_invalid"));
}

#[tokio::test]
async fn a_page_hears_what_holds_a_start_up() {
    let play = Play::new().await;
    let (_, token) = starting(&play);
    let path = format!("/{token}/");
    let hint =
        Some(Hint { code: "listens_elsewhere".to_owned(), message: "it listens on 0.0.0.0:3000".to_owned() });
    let stage = |hint| Stage { status: Status::Waiting, elapsed_ms: 7, usual_ms: None, hint };
    let mut page = Raw::connect(play.proxy.address).await;
    page.send_get(&path, &[STAGE, "x-jetway-stage: waiting", "x-jetway-hint:"]).await;
    let ask = followed(&play, 1).await;
    play.drone.push(ToProxy::Stage { ask, stage: stage(None) });
    play.drone.push(ToProxy::Stage { ask, stage: stage(hint.clone()) });
    let told = page.answer().await.json();
    assert_eq!((&told["status"], &told["hint"]["code"]), (&json!("waiting"), &json!("listens_elsewhere")));

    // What the page shows already is no news; that it is over is.
    page.send_get(&path, &[STAGE, "x-jetway-stage: waiting", "x-jetway-hint: listens_elsewhere"]).await;
    let ask = followed(&play, 2).await;
    play.drone.push(ToProxy::Stage { ask, stage: stage(hint) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(page.buffer.is_empty() && page.stream.try_read(&mut [0]).is_err());
    play.drone.push(ToProxy::Stage { ask, stage: stage(None) });
    assert_eq!(page.answer().await.json(), json!({ "status": "waiting", "elapsed_ms": 7, "usual_ms": null }));
}
