//! The host form: the session is the root of its host, for those whom a token or the cookie lets
//! in. What is in here serves its neighbours, too.

use std::time::Duration;

use http::Request;
use jetway_protocol::attach::{Entry, Outcome};
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::spec::{Port, Protocol};
use jetway_protocol::token::{HostUse, TokenContent};
use tokio::net::TcpStream;

use crate::backends::{echo_socket, mirror};
use crate::http2_client::{Http2, whole};
use crate::play::{Play, Stage, entry};
use crate::raw::{self, Answer, Raw};

/// A derived label's host.
pub const DERIVED: &str = "k-abcdefghijklmnopqrstuvwxyz.example.com";
/// A host of an explicit label, and one of a customer.
pub const EXPLICIT: &str = "sub.example.com";
pub const CUSTOM: &str = "doc.customer.org";

/// A session that is served in the host form, and what lets in.
pub struct HostForm {
    pub backend: BackendId,
    pub content: TokenContent,
    pub host: String,
}

impl HostForm {
    /// One that is ready.
    pub fn of(play: &Play, host: &str, entry: Entry) -> Self {
        let (backend, _) = play.backend_of(entry);
        let content = play.content(&backend);
        Self { backend, content, host: host.to_owned() }
    }

    pub fn token(&self, play: &Play, usage: HostUse) -> String {
        play.seal_on(usage, &self.host, &self.content, "zoe")
    }

    /// As a browser sends it.
    pub fn cookie(&self, play: &Play) -> String {
        format!("cookie: __Host-jetway={}", self.token(play, HostUse::Cookie))
    }

    /// Another user's.
    pub fn cookie_of(&self, play: &Play, user: &str) -> String {
        format!("cookie: __Host-jetway={}", play.seal_on(HostUse::Cookie, &self.host, &self.content, user))
    }
}

/// One request on a connection of its own, once the proxy knows its installation: before, a cookie
/// is none of the plain lane's.
pub async fn ask(play: &Play, method: &str, host: &str, path: &str, lines: &[&str]) -> Answer {
    while raw::get(play.proxy.address, "/ready", &[]).await.status != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut client = Raw::connect(play.proxy.address).await;
    send(&mut client, method, host, path, lines).await;
    client.answer().await
}

pub async fn send(client: &mut Raw, method: &str, host: &str, path: &str, lines: &[&str]) {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    client.send(format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{lines}\r\n").as_bytes()).await;
}

/// What a browser sends when a person opens an address.
pub const NAVIGATES: [&str; 4] = [
    "accept: text/html,*/*;q=0.8",
    "sec-fetch-mode: navigate",
    "sec-fetch-dest: document",
    "sec-fetch-site: none",
];

pub fn cookies(answer: &Answer) -> Vec<&str> {
    let set = answer.headers.iter().filter(|(name, _)| name == "set-cookie");
    set.map(|(_, value)| value.as_str()).collect()
}

/// What each lane makes of these lines: hyper's is there with a field that a rule takes off.
pub const LANES: [&str; 2] = ["x-lane: plain", "te: deflate"];

#[tokio::test]
async fn a_session_is_the_root_of_its_host() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    for host in [DERIVED, EXPLICIT, CUSTOM] {
        let session = HostForm::of(&play, host, entry(address));
        let cookie = session.cookie(&play);
        for path in ["/", "/ready", "/a//b?c=%2e%2e", "/s.token/x", &format!("/{}/x", "AQEx".repeat(30))] {
            for lane in LANES {
                seen.lock().unwrap().clear();
                let answer = ask(&play, "GET", host, path, &[&cookie, lane]).await;
                assert_eq!(answer.status, 200, "{host} {path} {lane}: {answer:?}");
                let head = seen.lock().unwrap()[0].to_ascii_lowercase();
                assert!(
                    head.starts_with(&format!("get {} http/1.1\r\n", path.to_ascii_lowercase())),
                    "{head}"
                );
                let asked = path.split('?').next().unwrap().to_ascii_lowercase();
                assert!(head.contains(&format!("x-verified-path: {asked}\r\n")), "{head}");
                assert!(head.contains("x-verified-username: zoe\r\n"), "{head}");
                assert!(!head.contains("jetway=") && !head.contains("\r\ncookie:"), "{head}");
            }
        }
    }
    // A grant with a subdomain may be entered at another host of its key.
    let own = Entry { subdomain: Some("other".into()), ..entry(address) };
    let session = HostForm::of(&play, CUSTOM, own);
    let answer = ask(&play, "GET", CUSTOM, "/", &[&session.cookie(&play)]).await;
    assert_eq!(answer.status, 200, "the token is bound to the host by itself");
}

#[tokio::test]
async fn a_token_opens_for_its_use_on_its_host() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let other = HostForm {
        host: "k-bbbbbbbbbbbbbbbbbbbbbbbbbb.example.com".into(),
        ..HostForm::of(&play, DERIVED, entry(address))
    };
    let of = |usage| session.token(&play, usage);
    let path = play.seal(&session.content);
    for (host, line, expect) in [
        (DERIVED, session.cookie(&play), 200),
        (DERIVED, format!("authorization: Bearer {}", of(HostUse::Bearer)), 200),
        (DERIVED, format!("authorization: bearer {}", of(HostUse::Bearer)), 200),
        (DERIVED, format!("x-jetway-token: {}", of(HostUse::Bearer)), 200),
        (&other.host, session.cookie(&play), 410),
        (&other.host, format!("x-jetway-token: {}", of(HostUse::Bearer)), 410),
        (DERIVED, format!("x-jetway-token: {}", of(HostUse::Cookie)), 410),
        (DERIVED, format!("authorization: Bearer {}", of(HostUse::Cookie)), 410),
        (DERIVED, format!("authorization: Bearer {}", of(HostUse::Enter)), 410),
        (DERIVED, format!("cookie: __Host-jetway={}", of(HostUse::Bearer)), 410),
        (DERIVED, format!("cookie: __Host-jetway={}", of(HostUse::Enter)), 410),
        (DERIVED, format!("cookie: __Host-jetway={path}"), 410),
        (DERIVED, "accept: */*".into(), 410),
    ] {
        for lane in LANES {
            seen.lock().unwrap().clear();
            let answer = ask(&play, "GET", host, "/", &[&line, lane]).await;
            assert_eq!(answer.status, expect, "{host} {line} {lane}: {answer:?}");
            if expect == 200 {
                let head = seen.lock().unwrap()[0].to_ascii_lowercase();
                assert!(!head.contains("authorization") && !head.contains("x-jetway-token"), "{head}");
            } else {
                assert_eq!(answer.code(), "token_invalid");
                assert!(seen.lock().unwrap().is_empty(), "{line}");
            }
        }
    }
    // On a derived label no path carries a token.
    let answer = ask(&play, "GET", DERIVED, &format!("/{path}/"), &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "token_invalid"));
}

#[tokio::test]
async fn an_applications_own_bearer_and_cookies_pass() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let own = session.token(&play, HostUse::Cookie);
    let theirs = "authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.x";
    for (cookie, left) in [
        (format!("cookie: __Host-jetway={own}"), None),
        (format!("cookie: a=b; __Host-jetway={own};c=d"), Some("cookie: a=b; c=d\r\n")),
        (
            format!("cookie: a=b; __Host-jetway={own}; __Host-jetway-enter=x; __HOST-JETWAY=y"),
            Some("cookie: a=b\r\n"),
        ),
        (format!("cookie: __Host-jetway={own}\r\ncookie: a=b"), Some("cookie: a=b\r\n")),
        (format!("cookie: a=b\r\ncookie: __Host-jetway={own}"), Some("cookie: a=b\r\n")),
        (format!("cookie: a=b\r\ncookie: __Host-jetway={own}\r\ncookie: c=d"), Some("cookie: a=b; c=d\r\n")),
        (format!("cookie: __Host-jetway=AQE; __Host-jetway={own}"), None),
    ] {
        for lane in LANES {
            seen.lock().unwrap().clear();
            let answer = ask(&play, "GET", DERIVED, "/", &[&cookie, theirs, lane]).await;
            assert_eq!(answer.status, 200, "{cookie} {lane}");
            let head = seen.lock().unwrap()[0].to_ascii_lowercase();
            assert!(!head.contains("jetway") && head.contains("bearer eyj"), "{cookie} {lane}: {head}");
            let line = head.split_inclusive("\r\n").find(|line| line.starts_with("cookie:"));
            assert_eq!(line, left, "{cookie} {lane}");
        }
    }
    // A bearer of ours is the word on who comes, beside any cookie.
    let bearer = format!("authorization: Bearer {}", session.token(&play, HostUse::Bearer));
    let answer = ask(&play, "GET", DERIVED, "/", &[&bearer, &session.cookie(&play), "cookie: a=b"]).await;
    let head = answer.body.to_ascii_lowercase();
    assert!(
        !head.contains("bearer") && !head.contains("jetway") && head.contains("cookie: a=b\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn of_several_cookies_the_newest_run_counts() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let gone = TokenContent { fencing_token: FencingToken(3), ..play.content(&BackendId::random()) };
    let old = play.seal_on(HostUse::Cookie, DERIVED, &gone, "zoe");
    let new = session.token(&play, HostUse::Cookie);
    for line in [
        format!("cookie: __Host-jetway={old}; __Host-jetway={new}"),
        format!("cookie: __Host-jetway={new}; __Host-jetway={old}"),
        format!("cookie: __Host-jetway=AQE{}; __Host-jetway={old}; __Host-jetway={new}", "x".repeat(90)),
    ] {
        assert_eq!(ask(&play, "GET", DERIVED, "/", &[&line]).await.status, 200, "{line}");
    }
}

#[tokio::test]
async fn a_port_has_a_host_and_the_token_of_its_base() {
    let play = Play::new().await;
    let ((main, _), (debug, _)) = (mirror(&play.lifecycle).await, mirror(&play.lifecycle).await);
    let ports = [("debug", debug), ("db", debug)];
    let ports =
        ports.map(|(name, at)| (name.parse().unwrap(), Port { port: at.port(), protocol: Protocol::Http1 }));
    let session = HostForm::of(&play, EXPLICIT, Entry { ports: ports.into(), ..entry(main) });
    let cookie = session.cookie(&play);
    for (host, expect) in [
        ("debug--sub.example.com", 200),
        ("other--sub.example.com", 404),
        // Two characters would begin international labels.
        ("db--sub.example.com", 410),
        ("debug--other.example.com", 410),
    ] {
        for lane in LANES {
            let answer = ask(&play, "GET", host, "/x", &[&cookie, lane]).await;
            assert_eq!(answer.status, expect, "{host} {lane}: {answer:?}");
        }
    }
    let answer = ask(&play, "GET", "debug--sub.example.com", "/_port/db/x", &[&cookie]).await;
    assert!(answer.body.contains("/_port/db/x HTTP"), "the path is the application's: {answer:?}");
}

#[tokio::test]
async fn an_explicit_host_serves_both_forms() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let own = Entry { subdomain: Some("sub".into()), ..entry(address) };
    let (_, token) = play.backend_of(own.clone());
    let session = HostForm::of(&play, EXPLICIT, own);
    let path = format!("/{token}/x");
    for lane in LANES {
        let answer = ask(&play, "GET", EXPLICIT, &path, &[lane]).await;
        assert!(answer.body.starts_with("GET /x "), "{answer:?}");
        assert_eq!(answer.header("referrer-policy"), Some("strict-origin"), "the path form's own");
        let answer = ask(&play, "GET", EXPLICIT, &path, &[lane, &session.cookie(&play)]).await;
        assert!(answer.body.starts_with(&format!("GET {path} ")), "the cookie decides: {answer:?}");
        // One that opens nothing goes, too.
        let foreign = format!("cookie: __Host-jetway=AQE{}; a=b", "x".repeat(90));
        let answer = ask(&play, "GET", EXPLICIT, &path, &[lane, &foreign]).await;
        assert!(answer.body.starts_with("GET /x ") && !answer.body.contains("jetway="), "{answer:?}");
    }
    // A cookie of an earlier run does not hide the path of a newer one.
    let gone = TokenContent { fencing_token: FencingToken(3), ..play.content(&BackendId::random()) };
    let old = format!("cookie: __Host-jetway={}", play.seal_on(HostUse::Cookie, EXPLICIT, &gone, "zoe"));
    for lane in LANES {
        let answer = ask(&play, "GET", EXPLICIT, &path, &[lane, &old]).await;
        assert!(answer.body.starts_with("GET /x "), "{answer:?}");
    }
    seen.lock().unwrap().clear();
    for (path, code) in [("/x", "token_invalid"), ("/", "bad_request"), ("/.jetway/x", "route_not_found")] {
        let answer = ask(&play, "GET", EXPLICIT, path, &[]).await;
        assert_eq!(answer.code(), code, "{path}");
    }
    assert_eq!(ask(&play, "GET", EXPLICIT, "/ready", &[]).await.body, "ready\n", "as balancers ask");
    let answer = ask(&play, "GET", CUSTOM, &path, &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "wrong_host"));
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_host_decides_before_a_controller_has_answered() {
    let stage = Stage { controller_answers: false, ..Stage::default() };
    let play = stage.begin().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let cookie = session.cookie(&play);
    let mut clients = Vec::new();
    for path in ["/", "/static/app.js", "/ready"] {
        let mut client = Raw::connect(play.proxy.address).await;
        send(&mut client, "GET", DERIVED, path, &[&cookie]).await;
        clients.push((path, client));
    }
    let ready = raw::get(play.proxy.address, "/ready", &[]).await;
    assert_eq!(ready.status, 503, "a balancer is answered");
    play.controller.answers.store(true, std::sync::atomic::Ordering::Relaxed);
    for (path, mut client) in clients {
        let answer = client.answer().await;
        assert!(answer.status == 200 && answer.body.starts_with(&format!("GET {path} ")), "{answer:?}");
        assert!(!answer.body.contains("jetway="), "{answer:?}");
    }
}

#[tokio::test]
async fn over_http_2_each_request_has_its_own_host() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let one = HostForm::of(&play, DERIVED, entry(address));
    let other = HostForm {
        host: "k-bbbbbbbbbbbbbbbbbbbbbbbbbb.example.com".into(),
        ..HostForm::of(&play, DERIVED, entry(address))
    };
    let mut client = Http2::connect(play.proxy.address).await;
    for _again in 0..2 {
        for (host, session, expect) in [
            (&one.host, &one, 200),
            (&other.host, &other, 200),
            (&one.host, &other, 410),
            (&other.host, &one, 410),
        ] {
            let cookie = session.token(&play, HostUse::Cookie);
            let request = Request::get(format!("http://{host}/x"))
                .header("cookie", "a=b")
                .header("cookie", format!("__Host-jetway={cookie}"))
                .header("cookie", "c=d");
            seen.lock().unwrap().clear();
            let (answer, _) = client.start(request.body(()).unwrap(), true).await;
            assert_eq!(whole(answer).await.status.as_u16(), expect, "{host}");
            if expect == 200 {
                let head = seen.lock().unwrap()[0].clone();
                assert!(head.contains("cookie: a=b; c=d\r\n") && !head.contains("jetway="), "{head}");
            }
        }
    }
}

#[tokio::test]
async fn a_websocket_is_opened_by_the_cookie() {
    let play = Play::new().await;
    let session = HostForm::of(&play, DERIVED, entry(echo_socket(&play.lifecycle).await));
    let stream = TcpStream::connect(play.proxy.address).await.unwrap();
    let request = Request::get(format!("ws://{DERIVED}/socket"))
        .header("host", DERIVED)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("origin", format!("https://{DERIVED}"))
        .header("cookie", format!("__Host-jetway={}", session.token(&play, HostUse::Cookie)));
    let (mut socket, answer) =
        tokio_tungstenite::client_async(request.body(()).unwrap(), stream).await.unwrap();
    assert!(!answer.headers().contains_key("content-security-policy"));
    crate::backends::echoes(&mut socket, "hello").await;
    play.drone.set(&session.backend, Outcome::Unknown);
    play.drone.end(&session.backend);
    assert_eq!(crate::backends::goodbye(&mut socket).await, Some(4410));
}
