//! The proxy's own stop: its order, and what the drone hears of it (nothing that looks like a
//! close).

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::backends::{echo_socket, echoes, next_head, open_socket, raw};
use crate::play::{Play, eventually};
use crate::raw::Raw;

const IN_TIME: Duration = Duration::from_secs(8);

async fn refuses(play: &Play) {
    let deadline = Instant::now() + IN_TIME;
    while TcpStream::connect(play.proxy.address).await.is_ok() {
        assert!(Instant::now() < deadline, "the door is still open");
        tokio::task::yield_now().await;
    }
}

/// No message any more: the client is told to come back, and the connection is over.
async fn closed(socket: &mut crate::backends::Socket) -> Instant {
    let told = timeout(IN_TIME, socket.next()).await.expect("it is closed").unwrap().unwrap();
    let Message::Close(Some(why)) = told else { panic!("{told:?}") };
    assert_eq!(why.code, CloseCode::Restart);
    let told_at = Instant::now();
    let end = timeout(IN_TIME, socket.next()).await.expect("it is over");
    assert!(end.is_none_or(|last| last.is_err()));
    told_at
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_tunnels() {
    let play = Play::new().await;
    let (in_use, token) = play.ready_backend(echo_socket(&play.lifecycle).await);
    let mut socket = open_socket(play.proxy.address, &token).await;
    echoes(&mut socket, "hello").await;
    play.drone.uses_become(&in_use, 1, 1).await;

    let finish = Arc::new(Notify::new());
    let finishing = finish.clone();
    let slow = raw(&play.lifecycle, move |mut raw| {
        let finish = finishing.clone();
        async move {
            next_head(&mut raw).await;
            finish.notified().await;
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (asked, token) = play.ready_backend(slow);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    play.drone.uses_become(&asked, 1, 1).await;

    let lifecycle = play.proxy_lifecycle.clone();
    let stop = play.lifecycle.spawn(async move { lifecycle.stop().await });
    refuses(&play).await;
    echoes(&mut socket, "during the drain").await;
    finish.notify_one();
    assert_eq!(client.answer().await.body, "ok", "what was in flight is finished");

    let tunnel_closed = closed(&mut socket).await;
    assert!(timeout(IN_TIME, stop).await.expect("in time").unwrap(), "every task has ended");
    let stream_closed = eventually("the stream's end", || play.drone.streams_closed().pop()).await;
    assert!(stream_closed < tunnel_closed, "{:?}", stream_closed - tunnel_closed);
    assert_eq!(play.drone.uses(&in_use).pop().unwrap().1.uses, 1, "our own close is not told as a close");
    assert_eq!(play.drone.uses(&asked).pop().unwrap().1.connections, 0, "the request's end is");
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_end_and_does_not_tell_it_as_closed() {
    let play = Play::new().await;
    let stuck = raw(&play.lifecycle, |mut raw| async move {
        next_head(&mut raw).await;
        raw.more().await;
    })
    .await;
    let (backend, token) = play.ready_backend(stuck);
    let mut client = Raw::connect(play.proxy.address).await;
    client.send_get(&format!("/{token}/"), &[]).await;
    play.drone.uses_become(&backend, 1, 1).await;
    assert!(timeout(IN_TIME, play.proxy_lifecycle.stop()).await.expect("in time"));
    assert_eq!(client.rest().await, "");
    assert_eq!(play.drone.uses(&backend).pop().unwrap().1.connections, 1);
}
