//! The server and the lease: which commands count, what a refusal leaves behind, and what is said before every container
//! was asked.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use jetway_protocol::drone_api::{
    AddGrant, DeleteBackend, DeleteReply, GrantReply, PutBackend, RefusalCode, Stop,
};
use jetway_protocol::ids::Term;
use jetway_protocol::spec::OnIsolation;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use tokio::time::timeout;

use super::harness::Server;
use crate::harness::{end_of, grant, keyed, leased, put_of, reaches};
use crate::runtime::fake::{Application, Script};

fn with_term(term: i64) -> PutBackend {
    PutBackend { term: Term(term), ..put_of(|_| {}) }
}

async fn delete(server: &Server, id: &str) -> DeleteReply {
    let (status, text) = server.call("DELETE", &format!("/b/{id}"), &DeleteBackend { term: Term(1) }).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_command_of_a_term_that_is_over_is_refused_for_good_and_of_a_later_one_for_now() {
    // One that would end at once might be gone before it is shown.
    let application = Application::IgnoresStop;
    let server = Server::start(Script { application, ..Script::default() }).await;
    let stale = server.test.agent.membership.stale(Term(1));
    assert_eq!(server.refused("PUT", "/b/b", &with_term(2)).await, (503, RefusalCode::Unavailable));
    timeout(Duration::from_secs(5), stale).await.expect("it registers again");
    server.put("b", &with_term(1)).await;
    // One that is stopped before it runs is gone at once, too.
    reaches(&server.test.agent.backend(&"b".parse().unwrap()).unwrap(), Status::Ready).await;

    assert_eq!(server.refused("PUT", "/b/late", &with_term(0)).await, (409, RefusalCode::WrongTerm));
    assert_eq!(server.refused("PUT", "/b/late", &with_term(1)).await, (410, RefusalCode::Ended));
    let stop = |term| Stop { term, kind: TerminationKind::Soft, reason: EndReason::External, leave: false };
    assert_eq!(
        server.refused("POST", "/b/b/stop", &stop(Some(Term(0)))).await,
        (409, RefusalCode::WrongTerm)
    );
    assert!(!server.view("b").await.status.is_ending());
    assert_eq!(
        server.call("POST", "/b/b/stop", &stop(None)).await.0,
        StatusCode::OK,
        "from before the lease"
    );
}

#[tokio::test]
async fn a_refused_put_leaves_a_tombstone_and_one_that_may_be_repeated_none() {
    let server = Server::start(Script::default()).await;
    server.test.agent.membership.order_draining(true);
    assert_eq!(server.refused("PUT", "/b/b", &put_of(|_| {})).await, (409, RefusalCode::Draining));
    server.test.agent.membership.order_draining(false);
    assert_eq!(server.refused("PUT", "/b/b", &put_of(|_| {})).await, (410, RefusalCode::Ended));
    let big = put_of(|spec| spec.executable.memory_reserve_bytes = i64::MAX);
    assert_eq!(server.refused("PUT", "/b/big", &big).await, (409, RefusalCode::NoCapacity));
    assert_eq!(server.refused("PUT", "/b/big", &put_of(|_| {})).await, (410, RefusalCode::Ended));
    assert_eq!(server.refused("PUT", "/b/odd", &"nonsense").await, (400, RefusalCode::Invalid));
    assert_eq!(server.refused("PUT", "/b/odd", &put_of(|_| {})).await, (410, RefusalCode::Ended));
    assert_eq!(delete(&server, "b").await, DeleteReply { gone: true });

    assert_eq!(server.refused("PUT", "/b/c", &with_term(9)).await, (503, RefusalCode::Unavailable));
    server.put("c", &put_of(|_| {})).await;
}

#[tokio::test]
async fn what_lives_is_never_refused_for_good_whatever_its_put_says() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|_| {})).await;
    // A second copy of its PUT was taken; it has registered since.
    for put in [with_term(0), PutBackend { or_never: true, ..with_term(0) }] {
        assert_eq!(server.refused("PUT", "/b/b", &put).await, (503, RefusalCode::Unavailable));
    }
    assert_eq!(server.refused("PUT", "/b/b", &"nonsense").await, (503, RefusalCode::Unavailable));
    assert_eq!(server.put("b", &put_of(|_| {})).await.fencing_token, put_of(|_| {}).fencing_token);
}

#[tokio::test]
async fn what_a_drone_declines_before_it_serves_is_bounded() {
    let (gate, server) = Server::not_open(Script::default()).await;
    assert!((0..4096).all(|n| gate.decline(&format!("b{n}").parse().unwrap())));
    let never = PutBackend { or_never: true, ..with_term(1) };
    assert_eq!(server.refused("PUT", "/b/more", &never).await, (503, RefusalCode::Unavailable));
}

#[tokio::test]
async fn what_cannot_be_taken_now_is_declined_for_good_where_that_is_asked_for() {
    let or_never = |term| PutBackend { or_never: true, ..with_term(term) };
    let (gate, server) = Server::not_open(Script::default()).await;
    assert_eq!(server.refused("PUT", "/b/early", &or_never(1)).await, (409, RefusalCode::Declined));
    assert_eq!(server.refused("PUT", "/b/later", &with_term(1)).await, (503, RefusalCode::Unavailable));
    // An agent before this one has begun it.
    let first = crate::store::journal::Record::Put {
        id: "begun".parse().unwrap(),
        at: jetway_protocol::time::UnixMicros::now(),
        put: Box::new(with_term(1)),
        boot_id: None,
    };
    server.test.agent.store.journals.create(&"begun".parse().unwrap(), &[first]).unwrap();
    assert_eq!(server.refused("PUT", "/b/begun", &or_never(1)).await, (503, RefusalCode::Unavailable));

    gate.open(server.test.agent.clone());
    assert_eq!(server.refused("PUT", "/b/early", &with_term(1)).await, (410, RefusalCode::Ended));
    server.put("later", &with_term(1)).await;
    assert_eq!(server.refused("PUT", "/b/unknown", &or_never(9)).await, (409, RefusalCode::Declined));
    assert_eq!(server.refused("PUT", "/b/unknown", &with_term(1)).await, (410, RefusalCode::Ended));
    server.put("taken", &or_never(1)).await;
}

#[tokio::test]
async fn a_key_is_taken_only_while_the_lease_admits_it() {
    let server = Server::start(Script::default()).await;
    let test = &server.test;
    let lease = leased(Term(2), Duration::from_secs(600));
    test.agent.lease.registered(&lease, test.clock.now());
    server.put("a", &keyed(put_of(|_| {}))).await;
    test.clock.jump(Duration::from_secs(495));
    let key = keyed(put_of(|_| {}));
    assert_eq!(server.refused("PUT", "/b/b", &key).await, (503, RefusalCode::Unavailable));
    server.put("keyless", &put_of(|_| {})).await;
    test.agent.lease.acknowledged(Term(2), test.clock.now());
    server.put("b", &key).await;
}

/// What a controller builds on: it asks nobody else.
#[tokio::test]
async fn who_holds_a_key_says_so_with_each_grant_and_only_while_its_lease_lasts() {
    let server = Server::start(Script::default()).await;
    let test = &server.test;
    let lease = leased(Term(2), Duration::from_secs(600));
    test.agent.lease.registered(&lease, test.clock.now());
    server.put("leased", &keyed(put_of(|_| {}))).await;
    server.put("keyless", &put_of(|_| {})).await;
    server.put("keeps", &keyed(put_of(|spec| spec.on_isolation = OnIsolation::Keep))).await;
    let holds = async |id: &str, n: u64| {
        let PutBackend { term, fencing_token, .. } = put_of(|_| {});
        let add = AddGrant { term, fencing_token, grant: grant(n) };
        let (status, text) = server.call("POST", &format!("/b/{id}/grants"), &add).await;
        assert!(status.is_success(), "{text}");
        serde_json::from_str::<GrantReply>(&text).unwrap().holds_key
    };
    assert!(holds("leased", 11).await);
    assert!(!holds("keyless", 12).await && !holds("keeps", 13).await);
    // It may be too late for a stop in time.
    test.clock.jump(Duration::from_secs(495));
    assert!(!holds("leased", 14).await);
    test.agent.lease.acknowledged(Term(2), test.clock.now());
    assert!(holds("leased", 15).await);
}

#[tokio::test]
async fn a_late_put_after_the_end_starts_nothing() {
    let server = Server::start(Script::default()).await;
    let put = keyed(put_of(|_| {}));
    server.put("b", &put).await;
    let backend = server.test.backend("b");
    reaches(&backend, Status::Ready).await;
    let _it_may_have_ended_by_then = backend.stop(TerminationKind::Hard, EndReason::External).await;
    end_of(&backend).await;
    assert_eq!(server.refused("PUT", "/b/b", &put).await, (410, RefusalCode::Ended));
    assert_eq!(delete(&server, "early").await, DeleteReply { gone: true });
    assert_eq!(server.refused("PUT", "/b/early", &put).await, (410, RefusalCode::Ended));
    server.test.nothing_is_left().await;
}

#[tokio::test]
async fn an_inventory_is_given_only_when_every_container_was_asked() {
    let server = Server::start(Script::default()).await;
    server.test.agent.strays.looked.store(false, Ordering::Release);
    assert_eq!(server.refused("GET", "/b", &()).await, (503, RefusalCode::Unavailable));
    assert_eq!(delete(&server, "never").await, DeleteReply { gone: false });
    server.test.agent.strays.looked.store(true, Ordering::Release);
    assert_eq!(server.call("GET", "/b", &()).await.0, StatusCode::OK);
    assert_eq!(delete(&server, "never").await, DeleteReply { gone: true });
}
