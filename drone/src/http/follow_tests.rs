//! Somebody looks at a start.

use jetway_protocol::attach::{Outcome, Stage, ToDrone, ToProxy};
use jetway_protocol::drone_api::Stop;
use jetway_protocol::ids::{FencingToken, GrantId};
use jetway_protocol::status::{EndReason, Status, TerminationKind};

use super::tests::Server;
use crate::harness::put_of;
use crate::runtime::fake::Script;

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
