//! The way in to a session's host, and out of it: `/.jetway/`.

use jetway_protocol::attach::{Outcome, ToDrone};
use jetway_protocol::ids::{FencingToken, GrantId};
use jetway_protocol::token::{HostUse, TokenContent};

use crate::backends::mirror;
use crate::host_form::{CUSTOM, DERIVED, EXPLICIT, HostForm, NAVIGATES, ask, cookies};
use crate::play::{Play, Stage, entry};
use crate::raw::{Answer, Raw};

async fn session(play: &Play, host: &str) -> HostForm {
    let (address, _) = mirror(&play.lifecycle).await;
    HostForm::of(play, host, entry(address))
}

fn enter(token: &str, path: &str) -> String {
    format!("/.jetway/enter?token={token}&path={path}")
}

/// The cookie that an answer sets, as a browser sends it back.
fn kept(answer: &Answer) -> Option<String> {
    let last = cookies(answer).into_iter().rfind(|cookie| cookie.starts_with("__Host-jetway=A"))?;
    Some(format!("cookie: {}", last.split(';').next().unwrap()))
}

#[tokio::test]
async fn a_token_becomes_the_cookie_and_the_path_is_found() {
    let play = Play::new().await;
    for host in [DERIVED, EXPLICIT, CUSTOM] {
        let session = session(&play, host).await;
        let token = session.token(&play, HostUse::Enter);
        let answer = ask(&play, "GET", host, &enter(&token, "/a%3Fb"), &NAVIGATES).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let location = format!("https://{host}/.jetway/entered?path=/a%3Fb");
        assert_eq!(answer.header("location"), Some(&*location));
        assert_eq!(
            (answer.header("cache-control"), answer.header("referrer-policy")),
            (Some("no-store"), Some("no-referrer"))
        );
        assert_eq!(answer.header("nel"), Some("{\"max_age\":0}"));
        let [gone, set] = cookies(&answer)[..] else { panic!("{answer:?}") };
        assert!(gone.starts_with("__Host-jetway=; Max-Age=0") && !gone.contains("Partitioned"), "{gone}");
        assert!(set.ends_with("; Secure; HttpOnly; Path=/; SameSite=None; Partitioned"), "{set}");
        assert!(!format!("{answer:?}").contains(&token), "the token goes no further");

        let cookie = kept(&answer).unwrap();
        let lines = [&NAVIGATES[..], &[&cookie]].concat();
        let answer = ask(&play, "GET", host, "/.jetway/entered?path=/a%3Fb", &lines).await;
        assert_eq!((answer.status, answer.header("location")), (303, Some(&*format!("https://{host}/a?b"))));
        let answer = ask(&play, "GET", host, "/a?b", &lines).await;
        assert!(answer.body.starts_with("GET /a?b "), "{answer:?}");
    }
}

#[tokio::test]
async fn the_way_on_is_this_origins() {
    let play = Stage { trusted: &["127.0.0.1"], ..Stage::default() }.begin().await;
    let session = session(&play, DERIVED).await;
    let cookie = session.cookie(&play);
    for (path, proto, expect) in [
        ("//evil.org", "", format!("https://{DERIVED}//evil.org")),
        ("https://evil.org/", "", format!("https://{DERIVED}/")),
        ("/%5C%5Cevil.org", "", format!("https://{DERIVED}/%5C%5Cevil.org")),
        ("/a%0d%0aset-cookie:x", "", format!("https://{DERIVED}/a%0D%0Aset-cookie:x")),
        ("/.jetway/entered", "", format!("https://{DERIVED}/")),
        ("/a", "http", format!("http://{DERIVED}/a")),
        ("/a", "nonsense", format!("https://{DERIVED}/a")),
    ] {
        let proto = format!("x-forwarded-proto: {proto}");
        let lines = [&NAVIGATES[..], &[&cookie, &proto]].concat();
        let answer = ask(&play, "GET", DERIVED, &format!("/.jetway/entered?path={path}"), &lines).await;
        assert_eq!(answer.header("location"), Some(&*expect), "{path}");
    }
}

#[tokio::test]
async fn without_the_cookie_there_is_a_page_and_no_loop() {
    let play = Play::new().await;
    let answer = ask(&play, "GET", DERIVED, "/.jetway/entered?path=/a%3Fb%3D%22%3E", &NAVIGATES).await;
    assert_eq!((answer.status, answer.header("location")), (403, None));
    assert!(answer.body.contains("blocks the cookie") && answer.body.contains("target=\"_blank\""));
    assert!(answer.body.contains(&format!("href=\"https://{DERIVED}/a?b=%22%3E\"")), "{}", answer.body);
    play.controller.owners.lock().unwrap().insert(DERIVED.into(), Some("https://app.org/doc?id=1".into()));
    let play_again = Play::new().await;
    play_again
        .controller
        .owners
        .lock()
        .unwrap()
        .insert(DERIVED.into(), Some("https://app.org/doc?id=1".into()));
    let answer = ask(&play_again, "GET", DERIVED, "/.jetway/entered?path=/a", &NAVIGATES).await;
    let link = "href=\"https://app.org/doc?id=1&amp;jetway_path=/a&amp;jetway_reason=blocked\"";
    assert!(answer.body.contains(link), "{}", answer.body);
    let answer = ask(&play, "GET", DERIVED, "/.jetway/entered", &["accept: */*"]).await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "token_invalid"));
}

#[tokio::test]
async fn only_a_page_that_loads_enters() {
    let play = Play::new().await;
    let session = session(&play, DERIVED).await;
    let path = enter(&session.token(&play, HostUse::Enter), "/");
    for (lines, expect) in [
        (&["sec-fetch-mode: no-cors", "sec-fetch-dest: image", "sec-fetch-site: same-site"][..], 403),
        (&["sec-fetch-mode: cors", "sec-fetch-dest: empty", "sec-fetch-site: same-origin"], 403),
        (&["sec-fetch-mode: navigate", "sec-fetch-dest: embed"], 403),
        (&["sec-fetch-mode: navigate", "sec-fetch-dest: iframe", "sec-fetch-site: cross-site"], 303),
        (&[], 303),
    ] {
        let answer = ask(&play, "GET", DERIVED, &path, lines).await;
        assert_eq!(answer.status, expect, "{lines:?}");
        assert_eq!(cookies(&answer).is_empty(), expect == 403, "{lines:?}");
    }
    for (method, path) in
        [("POST", &*path), ("PUT", "/.jetway/leave"), ("GET", "/.jetway/"), ("GET", "/.jetway/x")]
    {
        let answer = ask(&play, method, DERIVED, path, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "route_not_found"), "{method} {path}");
    }
}

#[tokio::test]
async fn a_token_of_another_use_or_host_or_day_enters_nowhere() {
    let play = Play::new().await;
    let session = session(&play, DERIVED).await;
    let expired = TokenContent { expires_at: Some(1), ..session.content.clone() };
    let expired = play.seal_on(HostUse::Enter, DERIVED, &expired, "zoe");
    for (token, code) in [
        (String::new(), "token_invalid"),
        ("nonsense".into(), "token_invalid"),
        (session.token(&play, HostUse::Cookie), "token_invalid"),
        (session.token(&play, HostUse::Bearer), "token_invalid"),
        (play.seal(&session.content), "token_invalid"),
        (play.seal_on(HostUse::Enter, EXPLICIT, &session.content, "zoe"), "token_invalid"),
        (expired.clone(), "token_expired"),
    ] {
        let answer = ask(&play, "GET", DERIVED, &enter(&token, "/"), &["accept: */*"]).await;
        assert_eq!((answer.status, answer.code().as_str()), (410, code), "{token}");
        assert!(cookies(&answer).is_empty());
    }
    // A URL of an earlier day: its user goes on by the cookie, another one does not.
    for (cookie, expect) in [(session.cookie(&play), 303), (session.cookie_of(&play, "bob"), 410)] {
        let answer = ask(&play, "GET", DERIVED, &enter(&expired, "/a"), &["accept: */*", &cookie]).await;
        assert_eq!(answer.status, expect, "{answer:?}");
    }
}

#[tokio::test]
async fn another_users_place_is_not_taken_without_a_word() {
    let play = Play::new().await;
    let session = session(&play, DERIVED).await;
    let (token, old) = (session.token(&play, HostUse::Enter), session.cookie_of(&play, "bob"));
    let lines = [&NAVIGATES[..], &[&old]].concat();
    let answer = ask(&play, "GET", DERIVED, &enter(&token, "/a%3Fb"), &lines).await;
    let confirm = format!("https://{DERIVED}/.jetway/confirm?path=/a%3Fb");
    assert_eq!((answer.status, answer.header("location")), (303, Some(&*confirm)));
    let [pending] = cookies(&answer)[..] else { panic!("{answer:?}") };
    assert!(pending.starts_with(&format!("__Host-jetway-enter={token}; Max-Age=300; Secure; HttpOnly")));

    let both = format!("{old}; __Host-jetway-enter={token}");
    let lines = [&NAVIGATES[..], &[&both]].concat();
    let page = ask(&play, "GET", DERIVED, "/.jetway/confirm?path=/a%3Fb", &lines).await;
    assert_eq!(page.status, 200);
    let stay = format!("href=\"https://{DERIVED}/a?b\"");
    assert!(page.body.contains("action=\"/.jetway/confirm?path=/a%3Fb\"") && page.body.contains(&stay));
    assert!(!page.body.contains(&token) && !page.body.contains("name=\"referrer\""), "{}", page.body);
    let policies: Vec<_> =
        page.headers.iter().filter(|(name, _)| name == "content-security-policy").collect();
    assert!(policies.iter().any(|(_, policy)| policy == "frame-ancestors 'self'"), "{policies:?}");

    let own = format!("origin: https://{DERIVED}");
    for (lines, expect) in [
        (vec![&*both, "sec-fetch-site: same-origin", "origin: null"], 303),
        (vec![&*both, &*own], 303),
        (vec![&*both, "sec-fetch-site: same-site"], 403),
        (vec![&*both, "origin: https://evil.example.com"], 403),
        (vec![&*both, "origin: null"], 403),
        (vec!["sec-fetch-site: same-origin"], 410),
    ] {
        let answer = ask(&play, "POST", DERIVED, "/.jetway/confirm?path=/a", &lines).await;
        assert_eq!(answer.status, expect, "{lines:?}");
        if expect == 303 {
            let cookie = kept(&answer).unwrap();
            assert!(
                cookies(&answer).iter().any(|cookie| cookie.starts_with("__Host-jetway-enter=; Max-Age=0"))
            );
            assert_eq!(ask(&play, "GET", DERIVED, "/", &[&cookie]).await.status, 200);
        }
    }
    // A token that waits for a word does not let in, and no application sees it.
    let waiting = format!("cookie: a=b; __Host-jetway-enter={token}");
    assert_eq!(ask(&play, "GET", DERIVED, "/", &[&waiting]).await.status, 410);
    let answer = ask(&play, "GET", DERIVED, "/", &[&session.cookie(&play), &waiting]).await;
    assert!(answer.body.contains("a=b\r\n") && !answer.body.contains("jetway-enter"), "{answer:?}");
}

#[tokio::test]
async fn who_is_over_is_not_asked_about() {
    let play = Play::new().await;
    let session = session(&play, DERIVED).await;
    play.controller.owners.lock().unwrap().insert(DERIVED.into(), Some("https://app.org/doc".into()));
    let token = session.token(&play, HostUse::Enter);
    let earlier = TokenContent { fencing_token: FencingToken(3), ..session.content.clone() };
    let earlier =
        format!("cookie: __Host-jetway={}", play.seal_on(HostUse::Cookie, DERIVED, &earlier, "bob"));
    let revoked = TokenContent {
        backend: jetway_protocol::ids::BackendId::random(),
        grant: GrantId(2),
        ..session.content.clone()
    };
    play.drone.set(&revoked.backend, Outcome::NoGrant);
    let revoked =
        format!("cookie: __Host-jetway={}", play.seal_on(HostUse::Cookie, DERIVED, &revoked, "bob"));
    let elsewhere = "sec-fetch-site: cross-site";
    for old in [&earlier, &revoked, &session.cookie(&play)] {
        for (lines, asks) in [
            (vec!["sec-fetch-site: none"], false),
            (vec![elsewhere, "referer: https://app.org/"], false),
            (vec![elsewhere, "referer: https://evil.org/"], true),
            (vec![elsewhere], true),
        ] {
            let lines = [&lines[..], &[&**old]].concat();
            let answer = ask(&play, "GET", DERIVED, &enter(&token, "/"), &lines).await;
            let asked = answer.header("location").unwrap().contains("/confirm");
            // The same user is never asked about.
            assert_eq!(asked, asks && *old != session.cookie(&play), "{lines:?}");
        }
    }
    let asks = |message: &ToDrone| matches!(message, ToDrone::Ask { .. });
    assert!(play.drone.count(asks) > 0, "the drone says who is over");
}

#[tokio::test]
async fn who_leaves_takes_the_cookies_along() {
    let play = Play::new().await;
    let session = session(&play, DERIVED).await;
    let cookie = session.cookie(&play);
    let answer =
        ask(&play, "POST", DERIVED, "/.jetway/leave", &[&cookie, "sec-fetch-site: same-origin"]).await;
    assert_eq!(answer.status, 204);
    assert_eq!(cookies(&answer).len(), 4, "each of both names, with and without a partition");
    assert!(cookies(&answer).iter().all(|cookie| cookie.contains("=; Max-Age=0; Secure")), "{answer:?}");
    let lines =
        [cookie.as_str(), "sec-fetch-site: same-origin", "sec-fetch-mode: navigate", "accept: text/html"];
    assert!(ask(&play, "POST", DERIVED, "/.jetway/leave", &lines).await.body.contains("You have left"));
    let answer = ask(&play, "POST", DERIVED, "/.jetway/leave", &[&cookie, "sec-fetch-site: same-site"]).await;
    assert!(answer.status == 403 && cookies(&answer).is_empty());
}

#[tokio::test]
async fn the_waiting_page_works_at_a_host() {
    let play = Play::new().await;
    let backend = jetway_protocol::ids::BackendId::random();
    let content = play.content(&backend);
    let session = HostForm { backend, content, host: DERIVED.into() };
    let cookie = session.cookie(&play);
    for lane in crate::host_form::LANES {
        let lines = [&NAVIGATES[..], &[&cookie, lane]].concat();
        let page = ask(&play, "GET", DERIVED, "/a", &lines).await;
        assert_eq!(page.status, 504, "{page:?}");
        assert!(page.body.contains("role=\"status\"") && page.body.contains("location.pathname"));
        let framed = page.headers.iter().filter(|(name, _)| name == "content-security-policy");
        assert!(framed.into_iter().any(|(_, policy)| policy == "frame-ancestors 'none'"), "{lane}: {page:?}");
    }
    // Its own page asks how far the start is, and no other's.
    let stage = "accept: application/vnd.jetway.stage+json";
    let other = ["sec-fetch-site: same-site", "sec-fetch-mode: no-cors", stage, &cookie];
    assert_eq!(ask(&play, "GET", DERIVED, "/a", &other).await.code(), "wrong_origin");
    let mut asks = Raw::connect(play.proxy.address).await;
    let own = ["sec-fetch-site: same-origin", stage, &cookie];
    crate::host_form::send(&mut asks, "GET", DERIVED, "/a", &own).await;
    // A frame is held: its owner would see the page.
    let mut frame = Raw::connect(play.proxy.address).await;
    let of_a_frame = [
        "accept: text/html",
        "sec-fetch-mode: navigate",
        "sec-fetch-dest: iframe",
        "sec-fetch-site: same-origin",
        &cookie,
    ];
    crate::host_form::send(&mut frame, "GET", DERIVED, "/a", &of_a_frame).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert!(frame.stream.try_read(&mut [0]).is_err(), "nothing comes yet");
    let (address, _) = mirror(&play.lifecycle).await;
    play.drone.set(&session.backend, Outcome::Ready(Box::new(entry(address))));
    assert_eq!(asks.answer().await.json()["status"], "ready");
    assert!(frame.answer().await.body.starts_with("GET /a "));
    let lines = [&NAVIGATES[..], &[&cookie]].concat();
    assert!(ask(&play, "GET", DERIVED, "/a", &lines).await.body.starts_with("GET /a "), "the reload");
}
