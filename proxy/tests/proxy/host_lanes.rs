//! The host form in both lanes: the same answers, the same words to the application.

use std::collections::BTreeSet;

use jetway_protocol::token::HostUse;

use crate::backends::{mirror, next_head, raw};
use crate::host_form::{DERIVED, HostForm, LANES, ask};
use crate::play::{Play, entry};
use crate::raw::{Answer, Raw};

fn told(answer: &Answer) -> BTreeSet<String> {
    let lines = answer.headers.iter().filter(|(name, _)| name != "date");
    lines.map(|(name, value)| format!("{name}: {value}")).collect()
}

#[tokio::test]
async fn an_answer_is_guarded_alike() {
    for lines in [
        "",
        "cache-control: public, max-age=60\r\nvary: accept\r\n",
        "cross-origin-resource-policy: cross-origin\r\ncdn-cache-control: max-age=1\r\n",
        "surrogate-control: max-age=1\r\nx-frame-options: DENY\r\n",
        "content-security-policy: default-src 'self'\r\n",
        "set-cookie: __Host-jetway=x; Path=/; Secure\r\nset-cookie: a=b; Domain=example.com\r\n",
        "set-cookie: =__Host-jetway=x\r\nset-cookie: __host-JETWAY=x\r\n",
        "clear-site-data: \"cookies\", \"storage\"\r\n",
        "clear-site-data: \"*\"\r\n",
        "clear-site-data: \"cookies\"\r\n",
        "nel: {\"report_to\":\"x\",\"max_age\":1}\r\nreport-to: {}\r\n",
        "strict-transport-security: max-age=1\r\nservice-worker-allowed: /\r\n",
        "access-control-allow-origin: https://a\r\n",
        "referrer-policy: origin\r\nx-plane-backend-id: mine\r\n",
        "connection: x-own\r\nx-own: 1\r\n",
    ] {
        let play = Play::new().await;
        let sent = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{lines}\r\nok");
        let address = raw(&play.lifecycle, move |mut raw: Raw| {
            let sent = sent.clone();
            async move {
                while next_head(&mut raw).await.is_some() {
                    raw.send(sent.as_bytes()).await;
                }
            }
        })
        .await;
        let mut listed = entry(address);
        listed.allowed_origins = vec!["https://app.example.org".into(), "null".into()];
        let session = HostForm::of(&play, DERIVED, listed);
        let cookie = session.cookie(&play);
        let mut answers = Vec::new();
        for lane in LANES {
            answers.push(ask(&play, "GET", DERIVED, "/", &[&cookie, lane]).await);
        }
        let [plain, ruled] = &answers[..] else { panic!("two lanes") };
        assert_eq!(told(plain), told(ruled), "{lines:?}");
        let lines_of = |name: &str| -> Vec<&str> {
            plain.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| &**value).collect()
        };
        let framed = "frame-ancestors 'self' https://app.example.org";
        assert!(lines_of("content-security-policy").contains(&framed), "{lines:?}: {plain:?}");
        assert_eq!(lines_of("cross-origin-resource-policy"), ["same-origin"], "{lines:?}");
        assert_eq!(lines_of("cdn-cache-control"), ["no-store"]);
        assert_eq!(lines_of("surrogate-control"), ["no-store"]);
        assert!(lines_of("cache-control").contains(&"private"), "{plain:?}");
        assert!(lines_of("vary").contains(&"service-worker"), "{plain:?}");
        assert!(!told(plain).iter().any(|line| line.to_ascii_lowercase().contains("__host-jetway")));
        assert!(!told(plain).iter().any(|line| line.contains("\"cookies\"") || line.contains("\"*\"")));
        for gone in ["nel", "report-to"] {
            assert!(lines_of(gone).is_empty(), "{gone}");
        }
    }
}

#[tokio::test]
async fn the_application_is_told_alike() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let own = session.token(&play, HostUse::Cookie);
    for (method, path, lines) in [
        ("GET", "/", vec![format!("cookie: __Host-jetway={own}")]),
        ("GET", "/a?b", vec![format!("cookie: a=b; __Host-jetway={own};c=d;"), "accept: text/html".into()]),
        ("POST", "/", vec![format!("cookie: __Host-jetway={own}"), "sec-fetch-site: same-origin".into()]),
        ("GET", "/", vec![format!("cookie: __Host-jetway={own}"), "sec-fetch-site: none".into()]),
        (
            "GET",
            "/",
            vec![
                format!("cookie: __Host-jetway={own}"),
                "sec-fetch-site: cross-site".into(),
                "sec-fetch-mode: navigate".into(),
                "sec-fetch-dest: document".into(),
            ],
        ),
        ("GET", "/", vec![format!("cookie: __Host-jetway={own}"), "authorization: Basic YTpi".into()]),
    ] {
        seen.lock().unwrap().clear();
        for lane in LANES {
            let all: Vec<&str> = lines.iter().map(String::as_str).chain([lane]).collect();
            assert_eq!(ask(&play, method, DERIVED, path, &all).await.status, 200, "{all:?}");
        }
        let heads = seen.lock().unwrap().clone();
        let heads: Vec<BTreeSet<String>> = heads
            .iter()
            .map(|head| {
                let lines = head.trim_end().split("\r\n").map(str::to_ascii_lowercase);
                lines.filter(|line| line != LANES[0]).collect()
            })
            .collect();
        assert_eq!(heads[0], heads[1], "{method} {path} {lines:?}");
        assert!(!format!("{heads:?}").contains("jetway="), "{heads:?}");
    }
}

/// The plain lane passes names on as they came, hyper in small letters.
#[tokio::test]
async fn ordinary_requests_stay_in_the_plain_lane() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let (cookie, site) = (session.cookie(&play), "sec-fetch-site: same-origin");
    let bearer = format!("authorization: Bearer {}", session.token(&play, HostUse::Bearer));
    for (method, path, lines, is_plain) in [
        ("GET", "/", vec![&*cookie], true),
        ("GET", "/ready", vec![&*cookie, site], true),
        ("POST", "/a?b", vec![&*cookie, site, "origin: https://x", "authorization: Bearer e30.e30.x"], true),
        (
            "GET",
            "/",
            vec![&*cookie, "sec-fetch-site: none", "sec-fetch-mode: navigate", "sec-fetch-dest: document"],
            true,
        ),
        (
            "GET",
            "/",
            vec![
                &*cookie,
                "sec-fetch-site: cross-site",
                "sec-fetch-mode: navigate",
                "sec-fetch-dest: document",
            ],
            true,
        ),
        ("GET", "/", vec![&*cookie, site, "sec-fetch-mode: navigate", "sec-fetch-dest: iframe"], false),
        ("GET", "/", vec![&*cookie, "cookie: a=b"], false),
        ("GET", "/", vec![&*cookie, site, "service-worker: script"], false),
        ("OPTIONS", "/", vec![&*cookie, site], false),
        ("GET", "/", vec![&*bearer], false),
    ] {
        seen.lock().unwrap().clear();
        let all: Vec<&str> = lines.iter().copied().chain(["X-Lane: 1"]).collect();
        assert_eq!(ask(&play, method, DERIVED, path, &all).await.status, 200, "{lines:?}");
        let head = seen.lock().unwrap()[0].clone();
        assert_eq!(head.contains("X-Lane: 1"), is_plain, "{method} {path} {lines:?}: {head}");
    }
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_in_turn() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let cookie = session.cookie(&play);
    let mut client = Raw::connect(play.proxy.address).await;
    let get = |path: &str, line: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: {DERIVED}\r\n{line}\r\n{cookie}\r\n\r\n")
    };
    let all = [
        get("/1", "x-a: b"),
        get("/.jetway/nothing", "x-a: b"),
        get("/2", "x-a: b"),
        get("/3", "te: x"),
        get("/4", "x-a: b"),
    ];
    client.send(all.concat().as_bytes()).await;
    for expect in ["GET /1 ", "{", "GET /2 ", "GET /3 ", "GET /4 "] {
        let answer = client.answer().await;
        assert!(answer.body.starts_with(expect), "{expect}: {answer:?}");
    }
}
