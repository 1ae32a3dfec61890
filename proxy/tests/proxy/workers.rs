//! Service workers at a session's host: their scripts begin with a listener of the proxy's, and one
//! whose way in is over goes.

use std::sync::{Arc, Mutex};

use jetway_protocol::attach::{Entry, Outcome};
use jetway_protocol::ids::BackendId;

use crate::backends::{next_head, raw};
use crate::host_form::{DERIVED, EXPLICIT, HostForm, ask};
use crate::play::{Play, entry};
use crate::raw::{Answer, Raw};

const WORKER: [&str; 4] = [
    "service-worker: script",
    "sec-fetch-site: same-origin",
    "sec-fetch-mode: same-origin",
    "sec-fetch-dest: serviceworker",
];
const SIGN: &str = "/.jetway/";

/// Answers each request with these bytes, and keeps the heads.
async fn answering(play: &Play, sent: &str) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (heads, sent) = (seen.clone(), sent.to_owned());
    let address = raw(&play.lifecycle, move |mut raw: Raw| {
        let (heads, sent) = (heads.clone(), sent.clone());
        async move {
            while let Some(head) = next_head(&mut raw).await {
                heads.lock().unwrap().push(head.to_ascii_lowercase());
                raw.send(sent.as_bytes()).await;
            }
        }
    })
    .await;
    (address, seen)
}

fn answer(lines: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}content-length: {}\r\n\r\n{body}", body.len())
}

fn of<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| &**value).collect()
}

#[tokio::test]
async fn a_workers_script_has_the_listener_first() {
    let lines = "content-type: text/html\r\ncontent-type: text/javascript\r\netag: \"x\"\r\ncache-control: max-age=60\r\n";
    for (sent, script) in [
        (answer(lines, "self.x = 1"), "self.x = 1"),
        (answer(lines, "'use strict'; self.x = 1"), "'use strict'; self.x = 1"),
        (answer(lines, "#!\u{2028}evil()//\n"), "//\u{2028}evil()//\n"),
        (answer("", ""), ""),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nsel\r\n5\r\nf.x=1\r\n0\r\n\r\n".into(),
            "self.x=1",
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 10\r\n\r\nself.x = 1".into(), "self.x = 1"),
        (answer("", &format!("/*{}*/x()", "x".repeat(100_000))), ""),
    ] {
        let play = Play::new().await;
        let (address, seen) = answering(&play, &sent).await;
        let session = HostForm::of(&play, DERIVED, entry(address));
        let cookie = session.cookie(&play);
        let conditions = ["accept-encoding: gzip", "if-none-match: \"x\"", "range: bytes=0-1"];
        let answer =
            ask(&play, "GET", DERIVED, "/sw.js", &[&WORKER[..], &conditions, &[&cookie]].concat()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let before = answer.body.strip_suffix(script).unwrap_or_else(|| panic!("{answer:?}"));
        assert!(
            before.contains(SIGN) && before.contains("stopImmediatePropagation") && !before.contains('\n')
        );
        assert_eq!(before.starts_with("\"use strict\";"), script.starts_with("'use"), "{before}");
        assert_eq!(of(&answer, "cache-control"), ["no-store"]);
        assert!(of(&answer, "vary").contains(&"service-worker") && of(&answer, "etag").is_empty());
        assert!(of(&answer, "content-type").len() <= 1);
        let head = seen.lock().unwrap()[0].clone();
        assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
        assert!(!head.contains("if-none-match") && !head.contains("range:"), "{head}");
    }
}

#[tokio::test]
async fn what_a_worker_imports_has_it_too() {
    let play = Play::new().await;
    let (address, _) = answering(&play, &answer("", "export const x = 1")).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let cookie = session.cookie(&play);
    let lines = ["sec-fetch-dest: serviceworker", "sec-fetch-site: same-origin", &cookie];
    assert!(ask(&play, "GET", DERIVED, "/part.js", &lines).await.body.contains(SIGN));
    let lines = ["sec-fetch-dest: script", "sec-fetch-site: same-origin", &cookie];
    assert_eq!(ask(&play, "GET", DERIVED, "/part.js", &lines).await.body, "export const x = 1");
}

#[tokio::test]
async fn what_is_no_whole_script_is_none() {
    for (sent, status) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno".to_owned(), 404),
        ("HTTP/1.1 304 Not Modified\r\n\r\n".into(), 502),
        ("HTTP/1.1 206 Partial Content\r\ncontent-length: 2\r\n\r\nno".into(), 502),
        (answer("content-encoding: gzip\r\n", "xx"), 502),
    ] {
        let play = Play::new().await;
        let (address, _) = answering(&play, &sent).await;
        let session = HostForm::of(&play, DERIVED, entry(address));
        let answer =
            ask(&play, "GET", DERIVED, "/sw.js", &[&WORKER[..], &[&session.cookie(&play)]].concat()).await;
        assert_eq!(answer.status, status);
        assert!(!answer.body.contains(SIGN));
    }
}

#[tokio::test]
async fn in_the_path_form_of_such_a_host_it_is_there_too() {
    let play = Play::new().await;
    let (address, _) = answering(&play, &answer("service-worker-allowed: /\r\n", "x()")).await;
    let (_, own) = play.backend_of(Entry { subdomain: Some("sub".into()), ..entry(address) });
    let answer = ask(&play, "GET", EXPLICIT, &format!("/{own}/sw.js"), &WORKER).await;
    assert!(answer.body.contains(SIGN) && answer.body.ends_with("x()"), "{answer:?}");
    // On the cluster's own host a worker reaches its session's path alone.
    let (_, shared) = play.ready_backend(address);
    let answer = ask(&play, "GET", "example.com", &format!("/{shared}/sw.js"), &WORKER).await;
    assert_eq!(answer.body, "x()");
}

#[tokio::test]
async fn a_worker_without_a_way_in_goes() {
    let play = Play::new().await;
    let cookie_of = |outcome: Outcome| {
        let backend = BackendId::random();
        play.drone.set(&backend, outcome);
        let content = play.content(&backend);
        HostForm { backend, content, host: DERIVED.into() }.cookie(&play)
    };
    for line in [
        "x-no: cookie".to_owned(),
        "cookie: __Host-jetway=nonsense".into(),
        cookie_of(Outcome::Ended { end: crate::play::an_end() }),
        cookie_of(Outcome::NoGrant),
    ] {
        let answer = ask(&play, "GET", DERIVED, "/sw.js", &[&WORKER[..], &[&line]].concat()).await;
        assert_eq!((answer.status, answer.header("service-worker-allowed")), (200, Some("/")), "{line}");
        assert!(answer.header("content-type").unwrap().starts_with("text/javascript"));
        assert!(answer.body.contains("unregister()") && answer.body.contains("navigate("), "{line}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    // A page elsewhere does not get a cookie's script this way.
    let (address, _) = answering(&play, &answer("", "x()")).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let lines = ["service-worker: script", "sec-fetch-site: same-site", &session.cookie(&play)];
    assert_eq!(ask(&play, "GET", DERIVED, "/sw.js", &lines).await.status, 403);
}
