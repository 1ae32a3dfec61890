//! The last frame of a WebSocket whose application has gone: the end of its bytes comes before its
//! drone's word.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jetway_protocol::attach::{ToDrone, ToProxy};
use jetway_protocol::status::EndReason;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::backends::{Socket, echoes, open_socket, raw};
use crate::play::{FENCING, Play, Stage, eventually};

/// Longer than the proxy waits for a word.
const IN_TIME: Duration = Duration::from_secs(2);
/// Without a wait for one.
const AT_ONCE: Duration = Duration::from_millis(200);

/// An application that echoes, and ends as it is told: `exit` without a close frame; `reset` with
/// something unread; `bye` after a close frame; `half` inside a frame; `last` after a message.
async fn application(play: &Play) -> SocketAddr {
    raw(&play.lifecycle, |raw| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(raw.stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            match message.to_text().unwrap_or_default() {
                _ if message.is_close() => return,
                "exit" => return,
                "reset" => {
                    let stream = socket.get_ref();
                    stream.set_zero_linger().unwrap();
                    return;
                }
                "bye" => {
                    socket.send(Message::Close(None)).await.unwrap();
                    return;
                }
                "half" => {
                    tokio::io::AsyncWriteExt::write_all(socket.get_mut(), b"\x81\x05ha").await.unwrap();
                    return;
                }
                "last" => return socket.send(Message::text("last words")).await.unwrap(),
                _ => socket.send(message).await.unwrap(),
            }
        }
    })
    .await
}

/// Everything that comes up to the end: a close frame with its status and text, or `None`.
async fn heard(socket: &mut Socket) -> (Vec<String>, Option<(u16, String)>) {
    let mut texts = Vec::new();
    loop {
        match timeout(IN_TIME, socket.next()).await.expect("an end in time") {
            Some(Ok(Message::Text(text))) => texts.push(text.to_string()),
            Some(Ok(Message::Close(why))) => {
                return (texts, why.map(|why| (why.code.into(), why.reason.to_string())));
            }
            None | Some(Err(_)) => return (texts, None),
            Some(Ok(other)) => panic!("{other:?}"),
        }
    }
}

fn idle() -> Option<(u16, String)> {
    Some((4410, "idle".to_owned()))
}

#[tokio::test]
async fn a_word_that_comes_after_the_end_is_waited_for() {
    for direct in [true, false] {
        let play = Stage { direct, ..Stage::default() }.begin().await;
        for how in ["exit", "reset"] {
            let (backend, token) = play.ready_backend(application(&play).await);
            let mut socket = open_socket(play.proxy.address, &token).await;
            echoes(&mut socket, "a").await;
            socket.send(Message::text(how)).await.unwrap();
            let word = async {
                sleep(Duration::from_millis(150)).await;
                play.drone.end(&backend);
            };
            let (heard, ()) = tokio::join!(heard(&mut socket), word);
            assert_eq!(heard, (Vec::new(), idle()), "{how}, direct: {direct}");
            let seen = |message: &ToDrone| matches!(message, ToDrone::EndedSeen { backend: of, .. } if *of == backend);
            eventually("the end is seen", || (play.drone.count(seen) == 1).then_some(())).await;
        }
    }
}

/// The engine may confirm an end late; that it comes is known before.
#[tokio::test]
async fn an_end_that_is_announced_is_waited_for() {
    let play = Play::new().await;
    for (announced, expect) in [(None, "idle"), (Some(EndReason::Lifetime), "lifetime")] {
        let (backend, token) = play.ready_backend(application(&play).await);
        let mut socket = open_socket(play.proxy.address, &token).await;
        echoes(&mut socket, "a").await;
        let asked = Instant::now();
        socket.send(Message::text("exit")).await.unwrap();
        let word = async {
            sleep(Duration::from_millis(100)).await;
            let (backend, fencing_token) = (backend.clone(), FENCING);
            play.drone.push(ToProxy::Ending { backend, fencing_token, reason: announced });
            sleep(Duration::from_millis(700)).await;
        };
        let heard = async {
            let heard = heard(&mut socket).await;
            (heard, asked.elapsed())
        };
        let ends = async {
            word.await;
            play.drone.end(&backend);
        };
        let ((heard, waited), ()) = tokio::join!(heard, ends);
        assert_eq!(heard, (Vec::new(), Some((4410, expect.to_owned()))));
        let is_at_once = waited < Duration::from_millis(400);
        assert_eq!(is_at_once, announced.is_some(), "{waited:?}");
    }
}

#[tokio::test]
async fn a_client_that_types_on_hears_the_word_too() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(application(&play).await);
    let socket = open_socket(play.proxy.address, &token).await;
    let (mut says, mut hears) = socket.split();
    let types = async {
        says.send(Message::text("exit")).await.unwrap();
        while says.send(Message::binary(vec![7; 1000])).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let word = async {
        sleep(Duration::from_millis(100)).await;
        play.drone.end(&backend);
    };
    let hears = async {
        loop {
            match timeout(IN_TIME, hears.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(why))) => return why.map(|why| u16::from(why.code)),
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return None,
            }
        }
    };
    let (heard, ()) = tokio::select! {
        heard = async { tokio::join!(hears, word) } => heard,
        () = types => panic!("its socket was cut off before the word"),
    };
    assert_eq!(heard, Some(4410));
}

#[tokio::test]
async fn the_last_message_comes_before_the_word() {
    for _ in 0..20 {
        let play = Play::new().await;
        let (backend, token) = play.ready_backend(application(&play).await);
        let mut socket = open_socket(play.proxy.address, &token).await;
        echoes(&mut socket, "a").await;
        socket.send(Message::text("last")).await.unwrap();
        play.drone.end(&backend);
        let heard = heard(&mut socket).await;
        assert!(heard == (vec!["last words".to_owned()], idle()), "{heard:?}");
    }
}

#[tokio::test]
async fn without_a_word_the_end_is_passed_on() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(application(&play).await);
    let mut kept = open_socket(play.proxy.address, &token).await;
    let mut socket = open_socket(play.proxy.address, &token).await;
    socket.send(Message::text("exit")).await.unwrap();
    let asked = Instant::now();
    assert_eq!(heard(&mut socket).await, (Vec::new(), None));
    let waited = asked.elapsed();
    assert!((Duration::from_millis(290)..IN_TIME).contains(&waited), "{waited:?}");
    echoes(&mut kept, "the session goes on").await;
    drop(socket);
    play.drone.uses_become(&backend, 1, 1).await;
}

#[tokio::test]
async fn an_end_that_needs_no_word_is_passed_on_at_once() {
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(application(&play).await);
    for how in ["bye", "half"] {
        let mut socket = open_socket(play.proxy.address, &token).await;
        echoes(&mut socket, "a").await;
        let asked = Instant::now();
        socket.send(Message::text(how)).await.unwrap();
        assert_eq!(heard(&mut socket).await, (Vec::new(), None), "{how}: no status of ours");
        let _its_end = timeout(IN_TIME, socket.next()).await.expect("an end in time");
        assert!(asked.elapsed() < AT_ONCE, "{how}: {:?}", asked.elapsed());
    }
    // Of one whose client closes first, and whose application drops it, as many do.
    let mut socket = open_socket(play.proxy.address, &token).await;
    echoes(&mut socket, "a").await;
    play.drone.uses_become(&backend, 1, 1).await;
    let asked = Instant::now();
    socket.send(Message::Close(None)).await.unwrap();
    heard(&mut socket).await;
    drop(socket);
    play.drone.uses_become(&backend, 0, 0).await;
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_the_address() {
    let play = Play::new().await;
    let flood = raw(&play.lifecycle, |raw| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(raw.stream).await else { return };
        while socket.send(Message::binary(vec![7; 64 * 1024])).await.is_ok() {}
    })
    .await;
    let (backend, token) = play.ready_backend(flood);
    let _does_not_read = open_socket(play.proxy.address, &token).await;
    play.drone.uses_become(&backend, 1, 1).await;
    sleep(Duration::from_millis(300)).await;
    play.drone.end(&backend);
    let seen = |message: &ToDrone| matches!(message, ToDrone::EndedSeen { .. });
    let ended = Instant::now();
    eventually("the end is seen", || (play.drone.count(seen) == 1).then_some(())).await;
    assert!(ended.elapsed() < IN_TIME, "{:?}", ended.elapsed());
}

#[tokio::test]
async fn a_thousand_sockets_end_at_once() {
    const SOCKETS: usize = 1000;
    let play = Play::new().await;
    let (backend, token) = play.ready_backend(application(&play).await);
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(open_socket(play.proxy.address, &token).await);
    }
    for socket in &mut sockets {
        socket.send(Message::text("exit")).await.unwrap();
    }
    play.drone.end(&backend);
    for socket in &mut sockets {
        assert_eq!(heard(socket).await, (Vec::new(), idle()));
    }
}
