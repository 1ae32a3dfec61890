//! A cookie comes by itself: which pages may use it, and what they may read.

use jetway_protocol::attach::ToDrone;
use jetway_protocol::token::HostUse;

use crate::backends::{echo_socket, mirror};
use crate::host_form::{DERIVED, HostForm, LANES, ask};
use crate::play::{Play, entry};
use crate::raw::{Answer, Raw};

const APP: &str = "https://app.example.org";
const FROM_APP: &str = "origin: https://app.example.org";
const EVIL: &str = "origin: https://evil.example.com";
const SIBLING: &str = "sec-fetch-site: same-site";
const CROSS: &str = "sec-fetch-site: cross-site";

async fn listed(play: &Play, allowed: &[&str]) -> HostForm {
    let (address, _) = mirror(&play.lifecycle).await;
    let mut entry = entry(address);
    entry.allowed_origins = allowed.iter().map(|&origin| origin.into()).collect();
    HostForm::of(play, DERIVED, entry)
}

/// The status of one request where nothing is listed, and where the app and `null` are.
async fn check(method: &str, lines: &[&str], expect: [u16; 2]) {
    for (allowed, expect) in [&[][..], &[APP, "null"]].into_iter().zip(expect) {
        let play = Play::new().await;
        let session = listed(&play, allowed).await;
        let cookie = session.cookie(&play);
        for lane in LANES {
            // Before the proxy knows the list, and afterwards.
            for warm in [false, true] {
                if warm {
                    assert_eq!(ask(&play, "GET", DERIVED, "/", &[&cookie]).await.status, 200);
                }
                let all = [lines, &[&cookie, lane]].concat();
                let answer = ask(&play, method, DERIVED, "/", &all).await;
                assert_eq!(answer.status, expect, "{method} {all:?} {allowed:?} {warm}: {answer:?}");
                if expect == 403 {
                    assert_eq!(answer.code(), "wrong_origin");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_sessions_own_pages_may() {
    let own = format!("origin: https://{DERIVED}");
    for method in ["GET", "POST", "PUT", "DELETE"] {
        check(method, &["sec-fetch-site: same-origin", "origin: null"], [200, 200]).await;
        check(method, &[&own], [200, 200]).await;
        check(method, &[], [200, 200]).await;
    }
    check("GET", &["sec-fetch-site: none", "sec-fetch-mode: navigate"], [200, 200]).await;
}

#[tokio::test]
async fn siblings_and_strangers_may_not_unless_listed() {
    for site in [SIBLING, CROSS] {
        check("POST", &[site, FROM_APP], [403, 200]).await;
        check("GET", &[site, "sec-fetch-mode: cors", FROM_APP], [403, 200]).await;
        check("GET", &[site, "sec-fetch-mode: no-cors", "referer: https://app.example.org/x"], [403, 200])
            .await;
        for lines in [&[site, EVIL][..], &[site], &[site, "origin: null"]] {
            check("POST", lines, [403, 403]).await;
            check("GET", lines, [403, 403]).await;
        }
    }
    check("POST", &[FROM_APP], [403, 200]).await;
    check("POST", &[EVIL], [403, 403]).await;
    check("POST", &["origin: null"], [403, 403]).await;
    check("GET", &[EVIL], [403, 403]).await;
}

#[tokio::test]
async fn a_link_leads_here_and_a_frame_is_for_listed_pages() {
    let top = ["sec-fetch-mode: navigate", "sec-fetch-dest: document"];
    let frame = ["sec-fetch-mode: navigate", "sec-fetch-dest: iframe"];
    for site in [SIBLING, CROSS] {
        check("GET", &[&[site][..], &top].concat(), [200, 200]).await;
        check("POST", &[&[site][..], &top].concat(), [403, 403]).await;
        check("GET", &[&[site][..], &frame].concat(), [403, 200]).await;
        check("GET", &[&[site, "referer: https://app.example.org/"][..], &frame].concat(), [403, 200]).await;
        check("GET", &[&[site, "referer: https://evil.org/"][..], &frame].concat(), [403, 403]).await;
    }
}

#[tokio::test]
async fn a_refusal_is_no_use_of_the_session() {
    let play = Play::new().await;
    let session = listed(&play, &[APP]).await;
    let cookie = session.cookie(&play);
    assert_eq!(ask(&play, "GET", DERIVED, "/", &[&cookie]).await.status, 200);
    let asks = |message: &ToDrone| matches!(message, ToDrone::Ask { .. });
    let before = play.drone.count(asks);
    for _ in 0..5 {
        assert_eq!(ask(&play, "GET", DERIVED, "/", &[&cookie, SIBLING, EVIL]).await.status, 403);
    }
    assert_eq!(play.drone.count(asks), before, "the drone is not asked again");
}

async fn opens(play: &Play, lines: &[&str]) -> u16 {
    let mut client = Raw::connect(play.proxy.address).await;
    let upgrade = [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    crate::host_form::send(&mut client, "GET", DERIVED, "/", &[&upgrade[..], lines].concat()).await;
    client.head().await.status
}

#[tokio::test]
async fn a_websocket_is_for_own_and_listed_pages() {
    let own = format!("origin: https://{DERIVED}");
    for (lines, expect) in [
        (vec![&*own], [101, 101]),
        (vec!["sec-fetch-site: same-origin", &*own], [101, 101]),
        (vec![], [101, 101]),
        (vec![FROM_APP], [403, 101]),
        (vec![CROSS, FROM_APP], [403, 101]),
        (vec![EVIL], [403, 403]),
        (vec![SIBLING, EVIL], [403, 403]),
        (vec![SIBLING], [403, 403]),
        (vec!["origin: null"], [403, 403]),
        (vec!["origin: http://k-abcdefghijklmnopqrstuvwxyz.example.com"], [403, 403]),
    ] {
        for (allowed, expect) in [vec![], vec![APP.to_owned(), "null".into()]].into_iter().zip(expect) {
            let play = Play::new().await;
            let mut entry = entry(echo_socket(&play.lifecycle).await);
            entry.allowed_origins = allowed;
            let session = HostForm::of(&play, DERIVED, entry);
            let cookie = session.cookie(&play);
            assert_eq!(opens(&play, &[&lines[..], &[&cookie]].concat()).await, expect, "{lines:?}");
            // A client with a token of its own is no page.
            let bearer = format!("authorization: Bearer {}", session.token(&play, HostUse::Bearer));
            assert_eq!(opens(&play, &[&lines[..], &[&bearer]].concat()).await, 101, "{lines:?}");
        }
    }
}

fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.headers.iter().filter(|(given, _)| given == name).map(|(_, value)| &**value).collect()
}

#[tokio::test]
async fn a_listed_page_reads_what_it_asked_for() {
    let play = Play::new().await;
    let session = listed(&play, &[APP]).await;
    let cookie = session.cookie(&play);
    let script = ask(&play, "GET", DERIVED, "/", &[&cookie, CROSS, "sec-fetch-mode: cors", FROM_APP]).await;
    assert_eq!(script.header("access-control-allow-origin"), Some(APP));
    assert_eq!(script.header("access-control-allow-credentials"), Some("true"));
    assert!(all(&script, "vary").contains(&"origin"));
    assert_eq!(script.header("cross-origin-resource-policy"), Some("same-origin"));
    let part = ask(
        &play,
        "GET",
        DERIVED,
        "/",
        &[&cookie, CROSS, "sec-fetch-mode: no-cors", "referer: https://app.example.org/"],
    )
    .await;
    assert_eq!(part.header("cross-origin-resource-policy"), Some("cross-origin"));
    assert_eq!(all(&part, "cache-control"), ["no-store"], "another page must not have it from a cache");
    let own = ask(&play, "GET", DERIVED, "/", &[&cookie]).await;
    assert_eq!(own.header("access-control-allow-origin"), None);
    assert_eq!(own.header("referrer-policy"), None, "there is no token in the URL");
    let bearer = format!("authorization: Bearer {}", session.token(&play, HostUse::Bearer));
    let open = ask(&play, "POST", DERIVED, "/", &[&bearer, CROSS, EVIL]).await;
    assert_eq!((open.status, open.header("access-control-allow-origin")), (200, Some("*")));
    assert!(all(&open, "cache-control").contains(&"private"));
}

#[tokio::test]
async fn a_preflight_is_answered_and_reaches_no_application() {
    let play = Play::new().await;
    let (address, seen) = mirror(&play.lifecycle).await;
    let session = HostForm::of(&play, DERIVED, entry(address));
    let asks = ["access-control-request-method: PUT", "access-control-request-headers: x-a, content-type"];
    let lines = [&[FROM_APP][..], &asks].concat();
    let answer = ask(&play, "OPTIONS", DERIVED, "/", &lines).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(APP)));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-a, content-type"));
    let nobody = [&["origin: null"][..], &asks].concat();
    assert_eq!(ask(&play, "OPTIONS", DERIVED, "/", &nobody).await.status, 410);
    assert!(seen.lock().unwrap().is_empty());
    // With a token of its own it is a client that means it, and without a question it is no preflight.
    let bearer = format!("authorization: Bearer {}", session.token(&play, HostUse::Bearer));
    assert_eq!(ask(&play, "OPTIONS", DERIVED, "/", &[&lines[..], &[&bearer]].concat()).await.status, 200);
    let own = [session.cookie(&play), "sec-fetch-site: same-origin".into()];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    assert_eq!(ask(&play, "OPTIONS", DERIVED, "/", &own).await.status, 200);
    assert_eq!(seen.lock().unwrap().len(), 2);
}
