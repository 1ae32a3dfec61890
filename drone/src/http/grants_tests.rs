//! Grants that come together: each as if it had come alone.

use axum::http::StatusCode;
use jetway_protocol::attach::{Outcome, ToDrone, ToProxy};
use jetway_protocol::drone_api::{AddGrants, BackendView, GrantAnswer, GrantTo, GrantsReply, RefusalCode};
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{FencingToken, GrantId, Term};
use jetway_protocol::status::Status;

use super::harness::Server;
use crate::harness::{grant, put_of, reaches};
use crate::runtime::fake::Script;

fn to(backend: &str, fencing_token: i64, id: u64) -> GrantTo {
    GrantTo {
        backend: backend.parse().unwrap(),
        fencing_token: FencingToken(fencing_token),
        grant: grant(id),
    }
}

#[tokio::test]
async fn grants_that_come_together_are_taken_and_refused_each_for_itself() {
    let server = Server::start(Script::default()).await;
    for id in ["one", "two"] {
        server.put(id, &put_of(|_| {})).await;
    }
    let fence = put_of(|_| {}).fencing_token.0;
    let grants =
        vec![to("one", fence, 11), to("nobody", fence, 12), to("two", fence + 1, 13), to("two", fence, 14)];
    let term = put_of(|_| {}).term;
    let (status, text) = server.call("POST", "/grants", &AddGrants { term, grants: grants.clone() }).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let reply: GrantsReply = serde_json::from_str(&text).unwrap();
    let said: Vec<Result<Status, RefusalCode>> = reply
        .answers
        .into_iter()
        .map(|answer| match answer {
            GrantAnswer::Added(reply) => Ok(reply.status),
            GrantAnswer::Refused(refusal) => Err(refusal.code),
        })
        .collect();
    assert!(said[0].is_ok() && said[3].is_ok(), "{said:?}");
    assert_eq!(said[1..3], [Err(RefusalCode::Unknown), Err(RefusalCode::WrongFencingToken)]);
    assert_eq!(server.view("one").await.grants.last().unwrap().id.0, 11);
    assert_eq!(server.view("two").await.grants.last().unwrap().id.0, 14);

    let old = AddGrants { term: Term(term.0 - 1), grants: grants.clone() };
    assert_eq!(server.refused("POST", "/grants", &old).await, (409, RefusalCode::WrongTerm));
    let many = AddGrants { term, grants: vec![grants[0].clone(); 65] };
    assert_eq!(server.refused("POST", "/grants", &many).await, (400, RefusalCode::Invalid));
}

/// A crowd within the time for which each connect holds the backend: nobody of it may be in the way
/// of the next one.
#[tokio::test]
async fn a_crowd_on_one_key_is_let_in() {
    let server = Server::start(Script::default()).await;
    let put = put_of(|_| {});
    server.put("b", &put).await;
    reaches(&server.test.backend("b"), Status::Ready).await;
    let fencing_token = put.fencing_token;
    let last = 20_480;
    for first in (2..=last).step_by(64) {
        let visitor = |id| Grant { user: Some(format!("visitor-{id}")), ..grant(id) };
        let to = |id| GrantTo { backend: "b".parse().unwrap(), fencing_token, grant: visitor(id) };
        let grants = (first..first + 64).map(to).collect();
        let (status, text) = server.call("POST", "/grants", &AddGrants { term: put.term, grants }).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let reply: GrantsReply = serde_json::from_str(&text).unwrap();
        let refused = reply.answers.iter().find(|answer| matches!(answer, GrantAnswer::Refused(_)));
        assert!(refused.is_none(), "of {first} and those after it: {refused:?}");
    }
    let mut proxy = server.attach(Vec::new()).await;
    for id in [1, 2, last] {
        let backend = "b".parse().unwrap();
        proxy.say(&ToDrone::Ask { ask: id, backend, fencing_token, grant: GrantId(id) }).await;
        let answer = proxy.hear().await;
        assert!(matches!(answer, ToProxy::Answer { outcome: Outcome::Ready(_), .. }), "{id}: {answer:?}");
    }
    assert_eq!(server.view("b").await.grants.len(), 1000, "a view is no list of everybody");
    let (_, text) = server.call("GET", &format!("/b/b?grant={}", GrantId(2)), &()).await;
    let one: BackendView = serde_json::from_str(&text).unwrap();
    assert_eq!(
        one.grants.iter().map(|grant| (grant.id, grant.used)).collect::<Vec<_>>(),
        [(GrantId(2), true)]
    );
}
