//! A person whose way ends at a session's host goes back to where it was started. Looking that up
//! costs strangers nothing that they could flood.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jetway_protocol::attach::Outcome;
use jetway_protocol::ids::BackendId;
use jetway_protocol::status::{EndReason, Status};
use jetway_protocol::token::{HostUse, TokenContent};

use crate::host_form::{CUSTOM, DERIVED, EXPLICIT, HostForm, LANES, NAVIGATES, ask, cookies};
use crate::play::{Play, Stage, an_end, eventually};

const URL: &str = "https://app.org/doc?id=1";

fn owned(play: &Play, host: &str, url: Option<&str>) {
    play.controller.owners.lock().unwrap().insert(host.into(), url.map(str::to_owned));
}

fn asked(play: &Play) -> usize {
    play.controller.owners_asked.lock().unwrap().len()
}

/// A session in this state, and its cookie.
fn cookie_of(play: &Play, outcome: Outcome) -> String {
    let backend = BackendId::random();
    play.drone.set(&backend, outcome);
    let content = play.content(&backend);
    HostForm { backend, content, host: DERIVED.into() }.cookie(play)
}

#[tokio::test]
async fn a_person_goes_back_with_path_reason_and_port() {
    let play = Play::new().await;
    owned(&play, DERIVED, Some(URL));
    for (line, reason) in [
        ("x-no: cookie".to_owned(), "no_session"),
        ("cookie: __Host-jetway=AQEnonsense".to_owned(), "no_session"),
        (cookie_of(&play, Outcome::Ended { end: an_end() }), "ended"),
        (cookie_of(&play, Outcome::Unknown), "ended"),
        (
            cookie_of(
                &play,
                Outcome::Stopping { reason: Some(EndReason::Idle), status: Status::Terminating },
            ),
            "ended",
        ),
        (cookie_of(&play, Outcome::NoGrant), "revoked"),
    ] {
        for lane in LANES {
            let lines = [&NAVIGATES[..], &[&line, lane]].concat();
            let answer = ask(&play, "GET", DERIVED, "/a?b=c", &lines).await;
            let expect = format!("{URL}&jetway_path=/a%3Fb%3Dc&jetway_reason={reason}");
            assert_eq!((answer.status, answer.header("location")), (303, Some(&*expect)), "{line} {lane}");
            let port = format!("debug--{DERIVED}");
            let answer = ask(&play, "GET", &port, "/", &lines).await;
            let expect = format!("{URL}&jetway_path=/&jetway_reason={reason}&jetway_port=debug");
            assert_eq!(answer.header("location"), Some(&*expect), "{line} {lane}");
        }
    }
    let expired = TokenContent { expires_at: Some(1), ..play.content(&BackendId::random()) };
    let expired = play.seal_on(HostUse::Enter, DERIVED, &expired, "zoe");
    let answer =
        ask(&play, "GET", DERIVED, &format!("/.jetway/enter?token={expired}&path=/x"), &NAVIGATES).await;
    let expect = format!("{URL}&jetway_path=/x&jetway_reason=expired");
    assert_eq!(answer.header("location"), Some(&*expect));
    assert!(cookies(&answer).is_empty());
    assert_eq!(asked(&play), 1, "one answer for all of them");
}

#[tokio::test]
async fn scripts_and_sockets_get_codes() {
    let play = Play::new().await;
    owned(&play, DERIVED, Some(URL));
    for (outcome, code) in [
        (Outcome::Ended { end: an_end() }, "backend_ended"),
        (Outcome::NoGrant, "token_revoked"),
        (Outcome::Unknown, "token_invalid"),
    ] {
        let cookie = cookie_of(&play, outcome);
        for lane in LANES {
            let answer =
                ask(&play, "GET", DERIVED, "/", &[&cookie, lane, "sec-fetch-site: same-origin"]).await;
            assert_eq!((answer.status, answer.code().as_str()), (410, code), "{lane}");
        }
    }
    // A client with a token of its own is no person, whatever it accepts.
    let backend = BackendId::random();
    play.drone.set(&backend, Outcome::NoGrant);
    let bearer = play.seal_on(HostUse::Bearer, DERIVED, &play.content(&backend), "zoe");
    for line in [format!("authorization: Bearer {bearer}"), "x-jetway-token: AQEnonsense".into()] {
        let lines = [&NAVIGATES[..], &[&line]].concat();
        assert_eq!(ask(&play, "GET", DERIVED, "/", &lines).await.status, 410, "{line}");
    }
    assert_eq!(asked(&play), 0);
}

#[tokio::test]
async fn without_a_url_there_are_pages() {
    let play = Play::new().await;
    owned(&play, DERIVED, None);
    owned(&play, EXPLICIT, None);
    owned(&play, CUSTOM, None);
    for host in [DERIVED, EXPLICIT, CUSTOM] {
        for path in ["/", "/a"] {
            let answer = ask(&play, "GET", host, path, &NAVIGATES).await;
            assert_eq!((answer.status, answer.header("location")), (410, None), "{host} {path}");
            assert!(answer.body.contains("This browser has not been let in here"), "{}", answer.body);
        }
    }
    // A host without an owner is answered as ever.
    for (host, path, status) in [
        ("nobody.example.com", "/", 400),
        ("nobody.example.com", "/a", 410),
        ("shop.customer.org", "/", 400),
        ("shop.customer.org", "/a", 404),
    ] {
        assert_eq!(ask(&play, "GET", host, path, &NAVIGATES).await.status, status, "{host} {path}");
    }
}

#[tokio::test]
async fn a_host_that_would_send_to_itself_sends_nowhere() {
    let play = Play::new().await;
    owned(&play, CUSTOM, Some("https://doc.customer.org./x"));
    assert_eq!(ask(&play, "GET", CUSTOM, "/", &NAVIGATES).await.status, 410);
}

#[tokio::test]
async fn an_answer_is_kept_while_controllers_are_away() {
    let play = Play::new().await;
    owned(&play, DERIVED, Some(URL));
    assert_eq!(ask(&play, "GET", DERIVED, "/", &NAVIGATES).await.status, 303);
    play.controller.answers.store(false, Ordering::Relaxed);
    assert_eq!(ask(&play, "GET", DERIVED, "/", &NAVIGATES).await.status, 303);
    let answer = ask(&play, "GET", EXPLICIT, "/a", &NAVIGATES).await;
    assert_eq!(answer.status, 410, "nobody says who has that one");
    assert_eq!(asked(&play), 1);
}

#[tokio::test]
async fn many_at_once_ask_once() {
    let play = Play::new().await;
    owned(&play, DERIVED, Some(URL));
    let answers = (0..50).map(|_| ask(&play, "GET", DERIVED, "/", &NAVIGATES));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.status, 303);
    }
    assert_eq!(asked(&play), 1);
}

#[tokio::test]
async fn made_up_hosts_do_not_flood_the_controllers() {
    // Behind a balancer that says nothing of its clients, all are one.
    let play = Stage { trusted: &["127.0.0.1"], ..Stage::default() }.begin().await;
    owned(&play, DERIVED, Some(URL));
    assert_eq!(ask(&play, "GET", DERIVED, "/", &NAVIGATES).await.status, 303);
    for client in ["192.0.2.7", "192.0.2.8"] {
        let said = format!("x-forwarded-for: 203.0.113.5, {client}");
        let lines = [&NAVIGATES[..], &[&said]].concat();
        for number in 0..60 {
            let host =
                format!("made-up-{number}-{}.example.com", client.len() + usize::from(client.ends_with('8')));
            ask(&play, "GET", &host, "/a", &lines).await;
            // The denial is kept.
            ask(&play, "GET", &host, "/a", &lines).await;
        }
    }
    let first = asked(&play);
    assert!((2..=1 + 2 * 30).contains(&first), "{first} questions for 120 hosts");
    play.controller.owners_asked.lock().unwrap().clear();
    let lines = [&NAVIGATES[..], &["x-forwarded-for: 192.0.2.8"]].concat();
    let answer = ask(&play, "GET", DERIVED, "/", &lines).await;
    assert_eq!(answer.status, 303, "whose host is known goes back all the same");
}

#[tokio::test]
async fn a_new_url_is_heard_of_in_time() {
    let play = Play::new().await;
    assert_eq!(ask(&play, "GET", DERIVED, "/", &NAVIGATES).await.status, 410);
    owned(&play, DERIVED, Some(URL));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while ask(&play, "GET", DERIVED, "/", &NAVIGATES).await.status != 303 {
        assert!(tokio::time::Instant::now() < deadline, "a denial is kept for ten seconds");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    eventually("asked twice", || (asked(&play) == 2).then_some(())).await;
}
