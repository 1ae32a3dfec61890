//! Who is let in: tokens, hosts, holding, and what a refusal looks like.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jetway_protocol::attach::{Outcome, ToDrone};
use jetway_protocol::ids::{BackendId, GrantId, InstallationId};
use jetway_protocol::status::Status;
use jetway_protocol::token::TokenSealer;
use tokio::time::Instant;

use crate::backends::mirror;
use crate::play::{Play, Stage, an_end, entry, eventually, secret};
use crate::raw::{Raw, get};

#[tokio::test]
async fn a_token_leads_to_its_backend_and_the_application_is_told_who_comes() {
    for direct in [true, false] {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        let (address, _) = mirror(&play.lifecycle).await;
        let (backend, token) = play.ready_backend(address);
        let path = format!("/{token}/a/b?c=d");
        let answer =
            get(play.proxy.address, &path, &["X-Verified-Username: root", "accept-encoding: br"]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-plane-backend-id"), Some(backend.as_str()));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("proxy-status"), None);
        let told = answer.body;
        assert!(told.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{told}");
        for line in [
            "host: example.com".to_owned(),
            "accept-encoding: br".to_owned(),
            "x-verified-username: zoe".to_owned(),
            r#"x-verified-user-data: {"role":"owner"}"#.to_owned(),
            "x-verified-secret: grant-secret".to_owned(),
            format!("x-verified-path: /{token}/a/b"),
            format!("x-verified-backend: {backend}"),
            "x-forwarded-for: 127.0.0.1".to_owned(),
            "x-forwarded-proto: https".to_owned(),
        ] {
            assert_eq!(told.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line}: {told}");
        }
        assert!(!told.contains("root"), "{told}");
        assert_eq!(play.drone.dials(), u32::from(!direct));
    }
}

#[tokio::test]
async fn a_static_token_keeps_its_path_and_each_form_takes_its_own_kind() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (backend, dynamic) = play.ready_backend(address);
    let mut content = play.content(&backend);
    content.grant = GrantId::STATIC;
    let fixed = play.seal(&content);
    let answer = get(play.proxy.address, &format!("/s.{fixed}/a?b"), &[]).await;
    assert!(answer.body.starts_with(&format!("GET /s.{fixed}/a?b HTTP/1.1\r\n")), "{}", answer.body);
    for path in [format!("/{fixed}/a"), format!("/s.{dynamic}/a")] {
        let answer = get(play.proxy.address, &path, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (410, "token_invalid"), "{path}");
    }
}

#[tokio::test]
async fn a_forged_token_is_gone_and_nobody_is_asked() {
    let play = Play::new().await;
    let (_, token) = play.ready_backend("127.0.0.1:1".parse().unwrap());
    let foreign = TokenSealer::new(&secret(), InstallationId::random());
    let foreign = foreign.seal(&play.content(&BackendId::random()));
    let mut forged = vec![foreign, "favicon.ico".into(), "wp-admin".into(), "x".repeat(5000), "%00".into()];
    forged.extend((1..token.len()).step_by(7).map(|length| token[..length].to_owned()));
    for at in (0..token.len()).step_by(5) {
        let other = if &token[at..=at] == "A" { "B" } else { "A" };
        forged.push(format!("{}{other}{}", &token[..at], &token[at + 1..]));
    }
    let mut client = Raw::connect(play.proxy.address).await;
    for token in forged {
        let answer = client.get(&format!("/{token}/"), &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (410, "token_invalid"), "{token}");
        assert_eq!(answer.header("proxy-status"), Some("jetway; error=http_request_denied"));
    }
    assert!(play.drone.heard().is_empty());
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let play = Play::new().await;
    let (backend, _) = play.ready_backend("127.0.0.1:1".parse().unwrap());
    let mut content = play.content(&backend);
    content.expires_at = Some(1_000_000);
    let answer = get(play.proxy.address, &format!("/{}/", play.seal(&content)), &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "token_expired"));
}

#[tokio::test]
async fn what_the_drone_refuses_is_said() {
    let play = Play::new().await;
    let table = [
        (Outcome::Ended { end: an_end() }, 410, "backend_ended"),
        (Outcome::Stopping { status: Status::Terminating, reason: None }, 410, "backend_ended"),
        (Outcome::Unknown, 410, "token_invalid"),
        (Outcome::NoGrant, 410, "token_revoked"),
    ];
    for (outcome, status, code) in table {
        let backend = BackendId::random();
        play.drone.set(&backend, outcome);
        let token = play.seal(&play.content(&backend));
        let answer = get(play.proxy.address, &format!("/{token}/"), &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        let page = get(play.proxy.address, &format!("/{token}/"), &["accept: text/html"]).await;
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert!(!page.body.contains(&token));
    }
}

#[tokio::test]
async fn a_request_is_held_until_its_backend_is_ready() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let backend = BackendId::random();
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{}/", play.seal(&play.content(&backend))), &[]).await;
    eventually("the ask", || (play.drone.asks() == 1).then_some(())).await;
    play.drone.set(&backend, Outcome::Ready(Box::new(entry(address))));
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_hold_ends_with_504_and_with_the_backend() {
    let play = Stage { hold: Duration::from_millis(300), ..Stage::default() }.begin().await;
    let backend = BackendId::random();
    let token = play.seal(&play.content(&backend));
    let answer = get(play.proxy.address, &format!("/{token}/"), &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_not_ready"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    eventually("the forgotten ask", || {
        (play.drone.count(|message| matches!(message, ToDrone::Forget { .. })) == 1).then_some(())
    })
    .await;

    let play = Play::new().await;
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{}/", play.seal(&play.content(&backend))), &[]).await;
    eventually("the ask", || (play.drone.asks() == 1).then_some(())).await;
    play.drone.end(&backend);
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (410, "backend_ended"));
    assert_eq!(answer.json()["end_reason"], "idle");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_ask_along() {
    let play = Play::new().await;
    let backend = BackendId::random();
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{}/", play.seal(&play.content(&backend))), &[]).await;
    eventually("the ask", || (play.drone.asks() == 1).then_some(())).await;
    drop(client);
    eventually("the forgotten ask", || {
        (play.drone.count(|message| matches!(message, ToDrone::Forget { .. })) == 1).then_some(())
    })
    .await;
    play.drone.uses_become(&backend, 0, 0).await;
}

#[tokio::test]
async fn a_subdomain_is_served_under_its_own_host_only() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (backend, token) = play.ready_backend(address);
    let mut with_subdomain = entry(address);
    with_subdomain.subdomain = Some("sub".into());
    play.drone.set(&backend, Outcome::Ready(Box::new(with_subdomain)));
    for (host, status) in [
        ("sub.example.com", 200),
        ("SUB.example.com:443", 200),
        ("example.com", 404),
        ("x.sub.example.com", 404),
    ] {
        let mut client = Raw::connect(play.proxy.address).await;
        client.send(format!("GET /{token}/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        assert_eq!(client.answer().await.status, status, "{host}");
    }
}

#[tokio::test]
async fn without_an_installation_requests_wait_and_afterwards_no_controller_is_needed() {
    let play = Stage { controller_answers: false, ..Stage::default() }.begin().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (_, token) = play.ready_backend(address);
    assert_eq!(get(play.proxy.address, "/ready", &[]).await.status, 503);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    play.controller.answers.store(true, Ordering::Relaxed);
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(get(play.proxy.address, "/ready", &[]).await.status, 200);
    play.controller.answers.store(false, Ordering::Relaxed);
    assert_eq!(get(play.proxy.address, &format!("/{token}/"), &[]).await.status, 200);
}

#[tokio::test]
async fn an_old_address_in_a_token_is_looked_up() {
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let (backend, _) = play.ready_backend(address);
    let mut content = play.content(&backend);
    content.drone_address = "127.0.0.1:1".into();
    let begun = Instant::now();
    assert_eq!(get(play.proxy.address, &format!("/{}/", play.seal(&content)), &[]).await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_root_is_nobodys() {
    let play = Play::new().await;
    let answer = get(play.proxy.address, "/", &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
    let play = Stage { root_redirect: Some("https://example.org/".into()), ..Stage::default() }.begin().await;
    let answer = get(play.proxy.address, "/", &[]).await;
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://example.org/")));
}

#[tokio::test]
async fn too_many_that_wait_for_one_backend_are_told_so_and_others_still_wait() {
    const WAITING_MAX: usize = 512;
    let play = Play::new().await;
    let (address, _) = mirror(&play.lifecycle).await;
    let backend = BackendId::random();
    let path = format!("/{}/", play.seal(&play.content(&backend)));
    let mut waiting = Vec::new();
    for _ in 0..WAITING_MAX {
        let mut client = Raw::connect(play.proxy.address).await;
        client.send_get(&path, &[]).await;
        waiting.push(client);
    }
    eventually("the asks", || (play.drone.asks() == WAITING_MAX).then_some(())).await;
    let answer = get(play.proxy.address, &path, &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));
    assert_eq!(answer.header("proxy-status"), Some("jetway; error=connection_limit_reached"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let (_, other) = play.ready_backend(address);
    assert_eq!(get(play.proxy.address, &format!("/{other}/"), &[]).await.status, 200, "another backend");

    drop(waiting.pop());
    let forgotten = |message: &ToDrone| matches!(message, ToDrone::Forget { backend: Some(told), .. } if *told == backend);
    eventually("the forgotten ask", || (play.drone.count(forgotten) == 1).then_some(())).await;
    let mut next = Raw::connect(play.proxy.address).await;
    next.send_get(&path, &[]).await;
    eventually("room for the next", || (play.drone.asks() == WAITING_MAX + 2).then_some(())).await;
    play.drone.set(&backend, Outcome::Ready(Box::new(entry(address))));
    for mut client in waiting.into_iter().chain([next]) {
        assert_eq!(client.answer().await.status, 200);
    }
}
