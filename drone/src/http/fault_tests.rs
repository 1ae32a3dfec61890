//! The server at bad moments: while the agent stops, before it knows what runs, and when proxies say things in an
//! unlucky order.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Query, Request};
use axum::response::IntoResponse;
use futures_util::{StreamExt, stream};
use jetway_protocol::attach::{Outcome, ToDrone, ToProxy, Uses};
use jetway_protocol::drone_api::{DeleteBackend, DeleteReply, PutBackend};
use jetway_protocol::ids::{FencingToken, GrantId, ProxyId, SlotId, Term};
use jetway_protocol::status::Status;

use super::harness::Server;
use super::refusal::{Body, Id, Serving};
use super::{attach, backends, view};
use crate::harness::{Harness, put_of, reaches};
use crate::reconcile;
use crate::runtime::ContainerStatus;
use crate::runtime::fake::Script;

async fn delete(test: &Harness, id: &str) -> DeleteReply {
    let delete = Body(DeleteBackend { term: Term(1) });
    let answer = backends::delete(Serving(test.agent.clone()), Id(id.parse().unwrap()), delete).await;
    answer.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_says_of_nobody_that_it_ended() {
    let test = Harness::new(Script::default());
    test.agent.strays.looked.store(true, Ordering::Release);
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    assert!(test.lifecycle.stop().await);
    let (agent, id) = (test.agent.clone(), "b".parse().unwrap());
    assert_eq!(delete(&test, "b").await, DeleteReply { gone: false }, "its process goes on");
    let viewed = view::view(Serving(agent.clone()), Id(id), Ok(Query::default())).await;
    assert_eq!(viewed.unwrap_err().into_response().status(), 503);
    for id in ["b", "new"] {
        let put =
            backends::put(Serving(agent.clone()), Id(id.parse().unwrap()), Ok(Body(put_of(|_| {})))).await;
        assert_eq!(put.unwrap_err().into_response().status(), 503, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_did_not_arrive_whole_may_come_again() {
    let test = Harness::new(Script::default());
    let begun = || stream::iter([Ok(Bytes::from_static(b"{"))]);
    let broken = begun().chain(stream::iter([Err(std::io::Error::other("the connection broke"))]));
    let late = begun().chain(stream::pending());
    for body in [axum::body::Body::from_stream(broken), axum::body::Body::from_stream(late)] {
        let put = Body::<PutBackend>::from_request(Request::new(body), &()).await;
        let refused = backends::put(Serving(test.agent.clone()), Id("b".parse().unwrap()), put).await;
        assert_eq!(refused.unwrap_err().into_response().status(), 503);
    }
    let put = Ok(Body(put_of(|_| {})));
    assert!(backends::put(Serving(test.agent.clone()), Id("b".parse().unwrap()), put).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_gone_before_every_container_was_looked_at() {
    let test = Harness::new(Script::default());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    // A session that no journal knows, and a paused one whose label says whose it is.
    let container = test.fake.containers().remove(0);
    let session = container.session.clone().unwrap();
    let other = jetway_protocol::init::Session { backend: "other".parse().unwrap(), ..session };
    let stray = crate::runtime::fake::Container { session: Some(other), ..container.clone() };
    test.fake.put_container(SlotId::random(), stray);
    let paused = SlotId::random();
    test.fake.put_container(paused, container.labelled("paused"));
    test.fake.set_status(paused, ContainerStatus::Running { paused: true, address: None });

    for id in ["other", "paused", "never"] {
        assert_eq!(delete(&test, id).await, DeleteReply { gone: false }, "{id}: nobody knows yet");
    }
    test.fake.script(|script| script.remove_fails = true);
    test.lifecycle.spawn_until_stopped(reconcile::look_at_everything(test.agent.clone()));
    test.fake.until(|_, calls| calls.iter().filter(|call| *call == "remove").count() >= 2).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert_eq!(delete(&test, "never").await, DeleteReply { gone: true });
    for id in ["other", "paused"] {
        assert_eq!(delete(&test, id).await, DeleteReply { gone: false }, "{id}: it cannot be removed");
    }
    test.fake.script(|script| script.remove_fails = false);
    test.agent.strays.look_now.notify_one();
    test.fake.until(|containers, _| containers.len() == 1).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for id in ["other", "paused"] {
        assert_eq!(delete(&test, id).await, DeleteReply { gone: true }, "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drone_whose_engine_is_down_refuses_for_good_at_once_and_takes_again_once_it_answers() {
    let test = Harness::new(Script::default());
    test.lifecycle.spawn_until_stopped(reconcile::ping(test.agent.clone()));
    let pings = |count| {
        let enough = move |calls: &[String]| calls.iter().filter(|call| *call == "ping").count() >= count;
        test.fake.until(move |_, calls| enough(calls))
    };
    let put = async |id: &str| {
        let put = Ok(Body(put_of(|_| {})));
        let answer = backends::put(Serving(test.agent.clone()), Id(id.parse().unwrap()), put).await;
        answer.map_or_else(|no| no.into_response().status().as_u16(), |_| 200)
    };
    pings(1).await;
    assert_eq!(put("a").await, 200);
    let lost = tokio::time::Instant::now();
    test.fake.script(|script| script.engine_is_down = true);
    test.fake.loses_its_events();
    pings(2).await;
    assert_eq!(put("b").await, 409);
    assert!(!test.agent.load().engine_ok && lost.elapsed().is_zero(), "not at the next tick");
    test.fake.script(|script| script.engine_is_down = false);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!((put("b").await, put("c").await), (410, 200), "the refused one has its tombstone");
}

#[tokio::test(start_paused = true)]
async fn the_address_of_a_stray_is_given_to_nobody() {
    let test = Harness::new(Script::default());
    reaches(&test.put("b", |_| {}), Status::Ready).await;
    let container = test.fake.containers().remove(0);
    let stray = SlotId::random();
    test.fake.put_container(stray, container.labelled("stray"));
    let address = std::net::Ipv4Addr::new(10, 64, 0, 77);
    test.fake.set_status(stray, ContainerStatus::Running { paused: true, address: Some(address.into()) });
    reconcile::look_once(&test.agent).await;
    let now = tokio::time::Instant::now();
    let given: Vec<_> = std::iter::from_fn(|| test.agent.addresses().take(now).ok()).collect();
    assert!(given.len() > 100 && !given.contains(&address), "{given:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stray_that_vanished_is_forgotten() {
    let test = Harness::new(Script::default());
    test.agent.strays.sessions.insert("other".parse().unwrap(), SlotId::random());
    test.lifecycle.spawn_until_stopped(reconcile::look_at_everything(test.agent.clone()));
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(delete(&test, "other").await, DeleteReply { gone: true });
}

#[tokio::test]
async fn an_ask_that_was_forgotten_before_its_backend_came_is_no_use() {
    let server = Server::start(Script::default()).await;
    let mut proxy = server.attach(Vec::new()).await;
    let (backend, fencing_token) = ("b".parse().unwrap(), FencingToken(9));
    proxy.say(&ToDrone::Ask { ask: 7, backend, fencing_token, grant: GrantId(1) }).await;
    proxy.say(&ToDrone::Forget { ask: 7, backend: Some("b".parse().unwrap()) }).await;
    // What is asked after it is answered after it.
    assert_eq!(proxy.ask("nobody", 9, 1).await, Outcome::Unknown);
    server.put("b", &put_of(|_| {})).await;
    reaches(&server.test.backend("b"), Status::Ready).await;
    assert!(!server.view("b").await.grants[0].used);
    assert!(matches!(proxy.ask("b", 9, 1).await, Outcome::Ready(_)), "and no answer to the first");
}

#[tokio::test]
async fn a_hello_that_is_not_all_closes_nothing() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|spec| spec.max_idle_seconds = Some(0))).await;
    let proxy = ProxyId::random();
    let mut first = server.attach_as(proxy, Vec::new(), false).await;
    assert!(matches!(first.ask("b", 9, 1).await, Outcome::Ready(_)));
    let mut second = server.attach_as(proxy, Vec::new(), true).await;
    assert_eq!(second.ask("b", 8, 1).await, Outcome::Unknown);
    assert_eq!(server.view("b").await.status, Status::Ready);
    let uses =
        Uses { backend: "b".parse().unwrap(), fencing_token: FencingToken(9), uses: 3, connections: 3 };
    second.say(&ToDrone::Uses(uses)).await;
    assert_eq!(second.ask("b", 8, 1).await, Outcome::Unknown);
    assert_eq!(server.view("b").await.connections, 3);

    let backend = server.test.backend("b");
    let _third = server.attach_as(proxy, Vec::new(), false).await;
    reaches(&backend, Status::Terminating).await;
}

#[tokio::test]
async fn a_stream_that_ends_in_whatever_way_is_given_up_with_its_tasks() {
    let server = Server::start(Script::default()).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    server.attach(Vec::new()).await.end(Some(1001)).await;
    let before = alive();
    for code in [Some(0), Some(1000), Some(1001), Some(1008), Some(4000), None] {
        server.attach(Vec::new()).await.end(code).await;
    }
    let over = async {
        while server.test.agent.streams.open_now() > 0 || alive() > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let given_up = tokio::time::timeout(Duration::from_secs(5), over).await;
    let left = (server.test.agent.streams.open_now(), alive());
    assert!(given_up.is_ok(), "{left:?} streams and tasks, before {before}");
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_stream_had_open_counts_for_ten_seconds() {
    let test = Harness::new(Script::default());
    let backend = test.put("b", |spec| spec.max_idle_seconds = Some(0));
    let (stream, mut pushes) = test.ask(&backend, ProxyId::random()).await;
    assert!(matches!(pushes.recv().await, Some(ToProxy::Answer { outcome: Outcome::Ready(_), .. })));
    backend.uses(&stream, 1, 1).await.unwrap();
    attach::lost(&test.agent, &stream).await;
    let since = tokio::time::Instant::now();
    reaches(&backend, Status::Terminating).await;
    assert_eq!(since.elapsed().as_secs(), 10);
}
