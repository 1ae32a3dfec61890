//! The end of an admission while something is open: ended, revoked.

use std::time::Duration;

use jetway_protocol::attach::{ToDrone, ToProxy};
use jetway_protocol::ids::{BackendId, GrantId};
use tokio::time::{Instant, timeout};

use crate::backends::{echo_socket, echoes, goodbye, next_head, open_socket, raw};
use crate::play::{FENCING, Play, eventually};
use crate::raw::Raw;

const AT_ONCE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_revoked_grant_closes_its_own_sockets_and_no_others() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut content = play.content(&backend);
    content.grant = GrantId(2);
    let other = play.seal(&content);
    let (mut revoked, mut kept) =
        (open_socket(play.proxy.address, &token).await, open_socket(play.proxy.address, &other).await);
    echoes(&mut revoked, "a").await;
    echoes(&mut kept, "b").await;
    play.drone.push(ToProxy::Revoked {
        backend: backend.clone(),
        fencing_token: FENCING,
        grants: vec![GrantId(1)],
    });
    let told = timeout(AT_ONCE, goodbye(&mut revoked)).await.expect("it is closed at once");
    assert_eq!(told, Some(4403));
    echoes(&mut kept, "c").await;
    play.drone.uses_become(&backend, 1, 1).await;
    assert_eq!(play.drone.asks(), 2);
    let _asked_again = open_socket(play.proxy.address, &token).await;
    assert_eq!(play.drone.asks(), 3, "a revoked grant is not remembered");
}

#[tokio::test]
async fn an_end_closes_everything_and_frees_the_address() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut socket = open_socket(play.proxy.address, &token).await;
    echoes(&mut socket, "a").await;
    let begun = Instant::now();
    play.drone.end(&backend);
    let told = timeout(AT_ONCE, goodbye(&mut socket)).await.expect("it is closed at once");
    assert_eq!(told, Some(4410));
    let seen = |message: &ToDrone| matches!(message, ToDrone::EndedSeen { backend: ended, fencing_token } if *ended == backend && *fencing_token == FENCING);
    eventually("the end is seen", || (play.drone.count(seen) == 1).then_some(())).await;
    assert!(begun.elapsed() < AT_ONCE);
    let answer = crate::raw::get(play.proxy.address, &format!("/{token}/"), &[]).await;
    assert_eq!(answer.code(), "backend_ended");

    let unknown = BackendId::random();
    play.drone.end(&unknown);
    let seen =
        |message: &ToDrone| matches!(message, ToDrone::EndedSeen { backend, .. } if *backend == unknown);
    eventually("an end of what is not open is seen, too", || (play.drone.count(seen) == 1).then_some(()))
        .await;
}

#[tokio::test]
async fn an_end_answers_a_request_in_flight_and_breaks_a_stream() {
    let play = Play::new().await;
    let silent = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.more().await;
    })
    .await;
    let (backend, token) = play.ready_backend(silent);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    play.drone.uses_become(&backend, 1, 1).await;
    play.drone.end(&backend);
    assert_eq!(timeout(AT_ONCE, client.answer()).await.expect("at once").code(), "backend_ended");

    let endless = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await;
        raw.more().await;
    })
    .await;
    let (backend, token) = play.ready_backend(endless);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    client.take_until("ok\r\n").await;
    play.drone.uses_become(&backend, 1, 1).await;
    play.drone.end(&backend);
    assert_eq!(timeout(AT_ONCE, client.rest()).await.expect("at once"), "", "cut, not ended in order");
}

#[tokio::test]
async fn an_end_cuts_off_a_client_that_does_not_read() {
    let play = Play::new().await;
    let flood = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.send(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let _broken_off =
            tokio::io::AsyncWriteExt::write_all(&mut raw.stream, &vec![0; 64 * 1024 * 1024]).await;
    })
    .await;
    let (backend, token) = play.ready_backend(flood);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    client.head().await;
    play.drone.uses_become(&backend, 1, 1).await;
    play.drone.end(&backend);
    let seen = |message: &ToDrone| matches!(message, ToDrone::EndedSeen { .. });
    eventually("the end is seen", || (play.drone.count(seen) == 1).then_some(())).await;
}
