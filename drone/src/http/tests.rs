//! The server over real sockets, with the fake engine behind it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::SinkExt;
use jetway_protocol::attach::{Outcome, ToDrone, ToProxy, Uses};
use jetway_protocol::drone_api::{
    AddGrant, DeleteBackend, DeleteReply, GrantReply, PORT_HEADER, PutBackend, RefusalCode, Stop,
};
use jetway_protocol::ids::{FencingToken, GrantId, Term};
use jetway_protocol::secret::Purpose;
use jetway_protocol::spec::{Port, Protocol};
use jetway_protocol::status::{EndReason, Status, StatusEntry, TerminationKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Server, bearer};
use crate::harness::{end_of, grant, put_of, reaches};
use crate::runtime::fake::Script;

#[tokio::test]
async fn every_route_demands_its_own_credential() {
    let server = Server::start(Script::default()).await;
    let other = bearer(Purpose::ProxyToDrone);
    let controllers = "GET /b|GET /b/b|PUT /b/b|DELETE /b/b|POST /b/b/grants|POST /grants|POST /b/b/revoke|POST /b/b/stop|\
                       GET /b/b/follow|GET /b/b/logs|PUT /draining|PUT /warm";
    for (routes, expect) in [(controllers, 401), ("GET /health", 200), ("GET /nothing", 404)] {
        for (method, path) in routes.split('|').filter_map(|route| route.split_once(' ')) {
            let url = format!("http://{}{path}", server.address);
            let request = server.http.request(method.parse().unwrap(), url).bearer_auth(&other);
            let answer = request.json(&()).send().await.unwrap();
            assert_eq!(answer.status().as_u16(), expect, "{method} {path}");
            let body: serde_json::Value = answer.json().await.unwrap();
            assert!(expect == 200 || body["code"].is_string());
        }
    }
    for path in ["/attach", "/b/b/dial"] {
        assert_eq!(server.refused("GET", path, &()).await.0, 401, "{path}");
    }
    assert_eq!(server.refused("PATCH", "/b", &()).await.0, 405);
}

#[tokio::test]
async fn says_not_yet_until_it_serves() {
    let (gate, server) = Server::not_open(Script::default()).await;
    let put = put_of(|_| {});
    assert_eq!(server.refused("PUT", "/b/b", &put).await, (503, RefusalCode::Unavailable));
    gate.open(server.test.agent.clone());
    server.put("b", &put).await;
}

#[tokio::test]
async fn a_put_is_idempotent_and_refused_for_good_reasons() {
    let server = Server::start(Script::default()).await;
    let put = put_of(|_| {});
    for _ in 0..2 {
        assert_eq!(server.put("b", &put).await.fencing_token, FencingToken(9));
    }
    reaches(&server.test.backend("b"), Status::Ready).await;
    assert_eq!(server.test.fake.containers().len(), 1);

    let with = |change: fn(&mut PutBackend)| {
        let mut put = put.clone();
        change(&mut put);
        put
    };
    for (id, put, expect) in [
        ("b", with(|put| put.fencing_token = FencingToken(8)), (409, RefusalCode::WrongFencingToken)),
        ("old", with(|put| put.term = Term(0)), (409, RefusalCode::WrongTerm)),
        ("c", with(|put| put.term = Term(2)), (503, RefusalCode::Unavailable)),
        ("full", with(|put| put.spec.executable.cpu_reserve = 5.0), (409, RefusalCode::NoCapacity)),
        ("mount", with(|put| put.spec.executable.mount = Some("a".into())), (422, RefusalCode::NotOffered)),
        (
            "net",
            with(|put| put.spec.executable.network_name = Some("host".into())),
            (422, RefusalCode::NotOffered),
        ),
        (
            "disk",
            with(|put| put.spec.executable.resource_limits.disk_limit_bytes = Some(1 << 30)),
            (422, RefusalCode::NotOffered),
        ),
        ("B", put.clone(), (400, RefusalCode::Invalid)),
    ] {
        assert_eq!(server.refused("PUT", &format!("/b/{id}"), &put).await, expect);
    }
    let odd = server.refused("PUT", "/b/odd", &serde_json::json!({"term": 1})).await;
    assert_eq!(odd.1, RefusalCode::Invalid);
    assert_eq!(server.call("PUT", "/draining", &serde_json::json!({"draining": true})).await.1, "null");
    assert_eq!(server.refused("PUT", "/b/c", &put).await, (409, RefusalCode::Draining));
    assert_eq!(server.test.agent.backends.by_id.len(), 1, "what was refused left nothing");
    server.put("b", &put).await;
}

#[tokio::test]
async fn a_delete_before_its_put_wins() {
    let server = Server::start(Script::default()).await;
    let (_, text) = server.call("DELETE", "/b/b", &DeleteBackend { term: Term(1) }).await;
    assert_eq!(serde_json::from_str::<DeleteReply>(&text).unwrap(), DeleteReply { gone: true });
    assert_eq!(server.refused("PUT", "/b/b", &put_of(|_| {})).await, (410, RefusalCode::Ended));
    assert_eq!(server.refused("GET", "/b/never", &()).await, (404, RefusalCode::Unknown));
    assert!(server.test.fake.containers().is_empty());
}

#[tokio::test]
async fn follow_tells_the_whole_life_and_ends() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|_| {})).await;
    let url = format!("http://{}/b/b/follow", server.address);
    let follow = server.http.get(url).bearer_auth(bearer(Purpose::ControllerToDrone)).send().await.unwrap();
    let backend = server.test.backend("b");
    reaches(&backend, Status::Ready).await;
    let add = AddGrant { term: Term(1), fencing_token: FencingToken(9), grant: grant(2) };
    let (_, text) = server.call("POST", "/b/b/grants", &add).await;
    assert_eq!(serde_json::from_str::<GrantReply>(&text).unwrap().status, Status::Ready);
    let stop = Stop { term: None, kind: TerminationKind::Soft, reason: EndReason::External, leave: false };
    server.call("POST", "/b/b/stop", &stop).await;
    let text = timeout(Duration::from_secs(20), follow.text()).await.unwrap().unwrap();
    let statuses: Vec<_> =
        text.lines().map(|line| serde_json::from_str::<StatusEntry>(line).unwrap().status).collect();
    let expect = [
        Status::Scheduled,
        Status::Loading,
        Status::Starting,
        Status::Waiting,
        Status::Ready,
        Status::Terminating,
        Status::Terminated,
    ];
    assert_eq!(statuses, expect);
    assert_eq!(server.refused("POST", "/b/b/grants", &add).await, (410, RefusalCode::Ended));
}

#[tokio::test]
async fn an_attach_stream_from_ask_to_end() {
    let server = Server::start(Script::default()).await;
    let mut proxy = server.attach(Vec::new()).await;
    assert_eq!(proxy.ask("nobody", 9, 1).await, Outcome::Unknown);

    let mut put = put_of(|spec| {
        spec.max_idle_seconds = Some(0);
        spec.executable.protocol = Protocol::H2c;
        let debug = Port { port: 9229, protocol: Protocol::Http1 };
        spec.executable.ports.insert("debug".parse().unwrap(), debug);
    });
    put.grant.as_mut().unwrap().allowed_origins = vec!["https://app.example.com".to_owned()];
    server.put("b", &put).await;
    let Outcome::Ready(entry) = proxy.ask("b", 9, 1).await else { panic!("it is ready") };
    assert_eq!((entry.user.as_deref(), entry.protocol), (Some("ann"), Protocol::H2c));
    assert_eq!(
        (entry.ports, entry.allowed_origins),
        (put.spec.executable.ports, put.grant.unwrap().allowed_origins)
    );
    assert_eq!(proxy.ask("b", 8, 1).await, Outcome::Unknown, "another fencing token is another session");
    let backend = server.test.backend("b");
    let (id, fencing_token) = (backend.id.clone(), backend.fencing_token);
    for uses in [1, 0] {
        let uses = Uses { backend: id.clone(), fencing_token, uses, connections: uses };
        proxy.say(&ToDrone::Uses(uses)).await;
    }
    assert!(matches!(proxy.hear().await, ToProxy::Ending { reason: Some(EndReason::Idle), .. }));
    assert!(matches!(proxy.hear().await, ToProxy::Ended { end, .. } if end.reason == EndReason::Idle));
    proxy.say(&ToDrone::EndedSeen { backend: id.clone(), fencing_token }).await;
    assert!(matches!(proxy.ask("b", 9, 1).await, Outcome::Ended { .. }));

    let mut late = server.attach(vec![Uses { backend: id, fencing_token, uses: 1, connections: 1 }]).await;
    assert!(matches!(late.hear().await, ToProxy::Ended { .. }), "a proxy that slept through the end is told");
}

#[tokio::test]
async fn an_ask_waits_for_a_backend_that_is_on_its_way() {
    let server = Server::start(Script::default()).await;
    let mut proxy = server.attach(Vec::new()).await;
    server.put("here", &put_of(|_| {})).await;
    let (backend, fencing_token) = ("b".parse().unwrap(), FencingToken(9));
    proxy.say(&ToDrone::Ask { ask: 2, backend, fencing_token, grant: GrantId(1) }).await;
    let answered = proxy.ask("here", 9, 1).await;
    assert!(matches!(answered, Outcome::Ready(_)), "the ask before it was heard, and waits: {answered:?}");
    server.put("b", &put_of(|_| {})).await;
    let outcome = proxy.hear().await;
    assert!(matches!(outcome, ToProxy::Answer { ask: 2, outcome: Outcome::Ready(_) }), "{outcome:?}");
}

#[tokio::test]
async fn a_dialled_tunnel_passes_bytes_and_half_closes() {
    let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = application.local_addr().unwrap().port();
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let server = Server::start(Script { address: Some(local), ..Script::default() }).await;
    let put = put_of(|spec| {
        // The main port is another; this one has a name.
        let named = Port { port, protocol: Protocol::Http1 };
        spec.executable.ports.insert("debug".parse().unwrap(), named);
        spec.executable.network_name = Some("other".into());
    });
    // Through the agent: the route would refuse the network, which here only makes the engine's address count.
    let reservation = server.test.agent.admission.admit(&put.spec.executable).unwrap();
    let backend =
        crate::backend::begin::put(&server.test.agent, "b".parse().unwrap(), put, reservation, None).unwrap();
    reaches(&backend, Status::Ready).await;

    let echo = async {
        let (mut stream, _) = application.accept().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        stream.write_all(format!("{heard} was heard").as_bytes()).await.unwrap();
    };
    let talk = async {
        let (mut stream, answer) = server.dial("/b/b/dial", &format!("9\r\n{PORT_HEADER}: {port}")).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        stream.write_all(b"what was said").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "what was said was heard");
    };
    timeout(Duration::from_secs(20), async { tokio::join!(echo, talk) }).await.unwrap();

    drop(application);
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = |port: &str| format!("9\r\n{PORT_HEADER}: {port}");
    let not_in_the_spec = to(&other.local_addr().unwrap().port().to_string());
    for (path, token, status) in [
        ("/b/b/dial", "8", 409),
        ("/b/b/dial", "x", 400),
        ("/b/c/dial", "9", 404),
        ("/b/b/dial", &to(&port.to_string()), 503),
        ("/b/b/dial", &not_in_the_spec, 422),
        ("/b/b/dial", &to("0"), 422),
        ("/b/b/dial", &to("x"), 400),
        ("/b/b/dial", &to("65536"), 400),
        ("/b/b/dial", &to(""), 400),
    ] {
        let (_, answer) = server.dial(path, token).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} {token}: {answer}");
    }
}

#[tokio::test]
async fn no_nonsense_on_the_stream_harms_it() {
    let server = Server::start(Script::default()).await;
    server.put("b", &put_of(|_| {})).await;
    let mut proxy = server.attach(Vec::new()).await;
    for text in ["", "{", "[]", r#"{"type":"unheard_of"}"#, r#"{"type":"ask","ask":-1}"#] {
        proxy.socket.send(Message::Text(text.into())).await.unwrap();
    }
    assert!(matches!(proxy.ask("b", 9, 1).await, Outcome::Ready(_)));
    let stop = Stop { term: None, kind: TerminationKind::Hard, reason: EndReason::External, leave: false };
    let backend = server.test.backend("b");
    server.call("POST", "/b/b/stop", &stop).await;
    assert_eq!(end_of(&backend).await.kind, Some(TerminationKind::Hard));
}
