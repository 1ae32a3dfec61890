//! Somebody looks at a start, or asks how far it is.

use axum::http::StatusCode;
use jetway_protocol::attach::{Outcome, Stage, ToDrone, ToProxy};
use jetway_protocol::drone_api::{
    AddGrant, DeleteBackend, Followed, GrantReply, RefusalCode, StatusView, Stop,
};
use jetway_protocol::ids::{BackendId, FencingToken, GrantId, Term};
use jetway_protocol::status::{EndReason, Status, TerminationKind};

use super::harness::Server;
use crate::harness::{end_of, grant, put_of, reaches};
use crate::runtime::fake::{Application, Script};

#[tokio::test]
async fn who_follows_an_ask_hears_where_it_is_and_the_next_change_once() {
    let server = Server::start(Script { create_hangs: true, ..Script::default() }).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|made| made == "create")).await;
    let mut proxy = server.attach(Vec::new()).await;
    let backend = server.test.backend("b").id.clone();
    let (ask, fencing_token) = (7, FencingToken(9));
    proxy.say(&ToDrone::Ask { ask, backend: backend.clone(), fencing_token, grant: GrantId(1) }).await;
    // Of another ask, nothing is said.
    proxy.say(&ToDrone::Follow { ask: 8, backend: backend.clone() }).await;
    proxy.say(&ToDrone::Follow { ask, backend }).await;
    let ToProxy::Stage { ask: 7, stage: Stage { status, usual_ms: None, .. } } = proxy.hear().await else {
        panic!("a stage")
    };
    assert!(status < Status::Ready, "{status}");
    // The next change, if it is told at all before the answer, is told once.
    let stop = Stop { term: None, kind: TerminationKind::Hard, reason: EndReason::External, leave: false };
    let _stopped_or_ended = server.call("POST", "/b/b/stop", &stop).await;
    let mut told = 0;
    loop {
        match proxy.hear().await {
            ToProxy::Stage { ask: 7, stage } => {
                told += 1;
                assert!(stage.status > status, "{stage:?}");
            }
            ToProxy::Answer { ask: 7, outcome: Outcome::Stopping { .. } | Outcome::Ended { .. } } => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(told <= 1, "{told}");
}

#[tokio::test]
async fn an_ask_may_be_followed_before_its_backend_comes() {
    let server = Server::start(Script { create_hangs: true, ..Script::default() }).await;
    let _deleted = server.call("DELETE", "/b/gone", &DeleteBackend { term: Term(1) }).await;
    let mut proxy = server.attach(Vec::new()).await;
    let backend: BackendId = "b".parse().unwrap();
    let (ask, fencing_token) = (7, FencingToken(9));
    proxy.say(&ToDrone::Ask { ask, backend: backend.clone(), fencing_token, grant: GrantId(1) }).await;
    proxy.say(&ToDrone::Follow { ask, backend }).await;
    // What is asked after it is answered after it.
    assert!(matches!(proxy.ask("gone", 9, 1).await, Outcome::Ended { .. }));
    server.put("b", &put_of(|_| {})).await;
    let heard = proxy.hear().await;
    assert!(matches!(heard, ToProxy::Stage { ask: 7, .. }), "{heard:?}");
}

#[tokio::test]
async fn a_wrong_port_is_told_to_all_who_wait() {
    let script = Script { application: Application::ListensElsewhere, ..Script::default() };
    let server = Server::start(script).await;
    let put = put_of(|spec| spec.start_timeout_seconds = 2);
    server.put("b", &put).await;
    let backend = server.test.backend("b");
    let hint = backend.follow().wait_for(|now| now.hint.is_some()).await.unwrap().hint.clone().unwrap();
    assert_eq!(hint.code, "listens_elsewhere");
    assert!(hint.message.contains("listens on 127.0.0.1:8080") && hint.message.contains("0.0.0.0:8080"));
    assert_eq!(server.view("b").await.hint, Some(hint.clone()));

    // Whoever connects to what is held up hears of it, and a page that waits does.
    let grant = AddGrant { term: Term(1), fencing_token: FencingToken(9), grant: grant(2) };
    let (_, reply) = server.call("POST", "/b/b/grants", &grant).await;
    assert_eq!(serde_json::from_str::<GrantReply>(&reply).unwrap().hint, Some(hint.clone()));
    let mut proxy = server.attach(Vec::new()).await;
    let (ask, fencing_token, id) = (7, FencingToken(9), backend.id.clone());
    proxy.say(&ToDrone::Ask { ask, backend: id.clone(), fencing_token, grant: GrantId(1) }).await;
    proxy.say(&ToDrone::Follow { ask, backend: id }).await;
    let ToProxy::Stage { ask: 7, stage } = proxy.hear().await else { panic!("a stage") };
    assert_eq!((stage.status, stage.hint), (Status::Waiting, Some(hint.clone())));

    // The line of the hint repeats the status; its end says the same in the past.
    let (_, lines) = server.call("GET", "/b/b/follow", &()).await;
    let lines: Vec<Followed> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hinted: Vec<_> = lines.iter().filter(|line| line.hint.is_some()).collect();
    assert_eq!(hinted.len(), 1, "{lines:?}");
    assert_eq!((hinted[0].entry.status, &hinted[0].hint), (Status::Waiting, &Some(hint)));
    let end = lines.last().unwrap().entry.end.clone().unwrap();
    assert_eq!(end.reason, EndReason::ListeningElsewhere);
    assert!(end.message.starts_with("it listens on 127.0.0.1:8080"), "{}", end.message);
}

#[tokio::test]
async fn a_page_that_follows_hears_a_hint_that_comes_later() {
    let server = Server::start(Script { sessions_get_lost: true, ..Script::default() }).await;
    server.put("b", &put_of(|_| {})).await;
    server.test.fake.until(|_, calls| calls.iter().any(|call| call == "lost session")).await;
    let mut proxy = server.attach(Vec::new()).await;
    let backend = server.test.backend("b");
    let (ask, fencing_token, id) = (7, FencingToken(9), backend.id.clone());
    proxy.say(&ToDrone::Ask { ask, backend: id.clone(), fencing_token, grant: GrantId(1) }).await;
    proxy.say(&ToDrone::Follow { ask, backend: id.clone() }).await;
    let ToProxy::Stage { ask: 7, stage } = proxy.hear().await else { panic!("a stage") };
    assert_eq!(stage.hint, None);
    server.test.fake.says_elsewhere(&id, "0.0.0.0:3000");
    loop {
        let ToProxy::Stage { ask: 7, stage } = proxy.hear().await else { panic!("a stage") };
        let Some(hint) = stage.hint else {
            proxy.say(&ToDrone::Follow { ask, backend: id.clone() }).await;
            continue;
        };
        assert!(hint.message.contains("\"port\": 3000"), "{}", hint.message);
        break;
    }
}

#[tokio::test]
async fn a_status_is_what_followers_were_told() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|_| {})).await;
    let backend = server.test.backend("b");
    reaches(&backend, Status::Ready).await;
    let status = async || {
        let (status, text) = server.call("GET", "/b/b/status", &()).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str::<StatusView>(&text).unwrap().history
    };
    assert_eq!(status().await, backend.snapshot().history);
    let stop = Stop { term: None, kind: TerminationKind::Hard, reason: EndReason::External, leave: false };
    let _stopped_or_ended = server.call("POST", "/b/b/stop", &stop).await;
    let end = end_of(&backend).await;
    let last = status().await.pop().unwrap();
    assert_eq!((last.status, last.end.map(|end| end.reason)), (Status::Terminated, Some(end.reason)));
    assert_eq!(server.refused("GET", "/b/other/status", &()).await, (404, RefusalCode::Unknown));
}
