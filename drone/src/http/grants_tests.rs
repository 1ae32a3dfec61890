//! Grants that come together: each as if it had come alone.

use axum::http::StatusCode;
use jetway_protocol::drone_api::{AddGrants, GrantAnswer, GrantTo, GrantsReply, RefusalCode};
use jetway_protocol::ids::{FencingToken, Term};
use jetway_protocol::status::Status;

use super::tests::Server;
use crate::harness::{grant, put_of};
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
