//! A stop after which clients should come back: they are told first.

use std::time::Duration;

use axum::http::StatusCode;
use jetway_protocol::attach::{Outcome, ToProxy};
use jetway_protocol::drone_api::Stop;
use jetway_protocol::status::{EndReason, Status, TerminationKind};

use super::harness::Server;
use crate::harness::{end_of, put_of, reaches};
use crate::runtime::fake::Script;

#[tokio::test]
async fn before_a_stop_after_which_clients_come_back_they_are_told() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|_| {})).await;
    let mut proxy = server.attach(Vec::new()).await;
    assert!(matches!(proxy.ask("b", 9, 1).await, Outcome::Ready(_)));
    let backend = server.test.backend("b");
    let stop = Stop { term: None, kind: TerminationKind::Soft, reason: EndReason::External, leave: true };
    let told = async {
        let told = proxy.hear().await;
        let leave = ToProxy::Leave { backend: backend.id.clone(), fencing_token: backend.fencing_token };
        assert_eq!((told, backend.status()), (leave, Status::Ready), "before anything is done to it");
        let told = std::time::Instant::now();
        reaches(&backend, Status::Terminating).await;
        assert!(told.elapsed() >= Duration::from_millis(250), "{:?}", told.elapsed());
    };
    let (_, answer) = tokio::join!(told, server.call("POST", "/b/b/stop", &stop));
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
    assert_eq!(end_of(&backend).await.reason, EndReason::External);
    assert!(matches!(proxy.hear().await, ToProxy::Ending { reason: Some(EndReason::External), .. }));
    assert!(matches!(proxy.hear().await, ToProxy::Ended { .. }), "told once");
}
