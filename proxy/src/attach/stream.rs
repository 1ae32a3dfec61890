//! The WebSocket to one drone: dialled on first need, kept while used, dialled again when it
//! breaks.
//!
//! A broken stream closes nothing: tunnels go on, requests wait, and the next stream's first
//! message says what is open. `drone` acts on its messages.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::attach::{DEADLINE_SECONDS, MESSAGE_BYTES_MAX, PING_SECONDS, ToDrone, ToProxy, Uses};
use jetway_service::backoff::{Backoff, jittered};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::address::{Addresses, look_up};
use super::admission::DialVia;
use super::drone::Drone;
use super::identity::Identity;
use super::ledger::BackendKey;
use super::pings::Pings;

/// From the first packet to the drone's `Welcome`.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A stream that stood this long was a good one: the next retry is a quick one again.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// Counts that are neither first nor last wait this long for others to go with them.
const MERGE: Duration = Duration::from_millis(5);
/// A stream that nothing has used for so long is given up.
const UNUSED_MAX: Duration = Duration::from_secs(300);
const READ_BUFFER_BYTES: usize = 8 * 1024;
const WRITE_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Uses in the first message, which must stay below [`MESSAGE_BYTES_MAX`]; the others follow it.
const HELLO_USES_MAX: usize = 6000;

type Socket = WebSocketStream<TcpStream>;

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("no connection")]
    Connect(#[from] std::io::Error),
    #[error("the WebSocket failed")]
    WebSocket(#[from] Box<tungstenite::Error>),
    #[error("it has answered nothing for too long, or this process stood still")]
    Silent,
    #[error("it closed the stream")]
    Closed,
    #[error("another drone answers there: {0}")]
    AnotherDrone(jetway_protocol::ids::DroneId),
    #[error("the message cannot be written")]
    Unwritable(#[from] serde_json::Error),
}

impl From<tungstenite::Error> for Broken {
    fn from(error: tungstenite::Error) -> Self {
        Broken::WebSocket(Box::new(error))
    }
}

/// Keeps a stream until nothing has needed it for [`UNUSED_MAX`], or the process stops.
pub async fn keep(drone: &Arc<Drone>, identity: &Identity) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut addresses = Addresses::default();
    loop {
        let address = addresses.next(drone.address());
        let begun = Instant::now();
        let life = async {
            let (socket, direct, sent_at) = connect(drone, identity, &address).await?;
            tracing::debug!(drone = %drone.id, %address, direct, "attached");
            addresses.works(address.clone());
            drone.connected(if direct { DialVia::Direct } else { DialVia::Drone(address.clone()) }, sent_at);
            run(socket, drone).await
        };
        let ended = identity.stop.run_until_cancelled(life).await;
        drone.disconnected();
        let reason = match ended {
            None | Some(Ok(Unused)) => return,
            Some(Err(reason)) => reason,
        };
        if drone.sweep(UNUSED_MAX) {
            return;
        }
        if begun.elapsed() >= GOOD_AFTER {
            backoff.reset();
        }
        tracing::info!(drone = %drone.id, %address, reason = %chain(&reason), "no attach stream");
        addresses.failed(address);
        let pause = async {
            backoff.wait().await;
            if let Some(found) = look_up(drone, identity, &mut addresses).await {
                addresses.add(found);
            }
        };
        if identity.stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// Also whether containers are dialled from here, and when the first message was sent.
async fn connect(
    drone: &Drone,
    identity: &Identity,
    address: &str,
) -> Result<(Socket, bool, Instant), Broken> {
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        jetway_service::socket::prepare(&stream);
        let mut request = format!("ws://{address}/attach").into_client_request()?;
        let bearer = format!("Bearer {}", identity.bearer).parse().map_err(tungstenite::http::Error::from);
        request.headers_mut().insert("authorization", bearer.map_err(tungstenite::Error::from)?);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(READ_BUFFER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let (mut socket, _) =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
        let sent_at = Instant::now();
        hello(&mut socket, drone, identity).await?;
        let direct = welcome(&mut socket, drone).await?;
        Ok((socket, direct, sent_at))
    };
    timeout(CONNECT_MAX, handshake).await.unwrap_or(Err(Broken::Silent))
}

async fn hello(socket: &mut Socket, drone: &Drone, identity: &Identity) -> Result<(), Broken> {
    for message in introduction(identity, drone.hello()) {
        socket.feed(text(&message)?).await?;
    }
    Ok(socket.flush().await?)
}

fn introduction(identity: &Identity, mut uses: Vec<Uses>) -> Vec<ToDrone> {
    let others: Vec<Uses> = uses.split_off(uses.len().min(HELLO_USES_MAX));
    let hello = ToDrone::Hello {
        protocol: PROTOCOL_VERSION,
        proxy: identity.proxy,
        name: identity.name.clone(),
        boot_id: identity.boot_id,
        netns: identity.netns.clone(),
        uses,
        more: !others.is_empty(),
    };
    std::iter::once(hello).chain(others.into_iter().map(ToDrone::Uses)).collect()
}

async fn welcome(socket: &mut Socket, drone: &Drone) -> Result<bool, Broken> {
    loop {
        match read(socket.next().await)? {
            Some(ToProxy::Welcome { drone: id, .. }) if id != drone.id => {
                return Err(Broken::AnotherDrone(id));
            }
            Some(ToProxy::Welcome { direct, .. }) => return Ok(direct),
            _ => {}
        }
    }
}

/// The stream ended because nothing needs it.
struct Unused;

enum Woken {
    Message(Option<Result<Message, tungstenite::Error>>),
    News,
    Ping,
}

async fn run(mut socket: Socket, drone: &Arc<Drone>) -> Result<Unused, Broken> {
    let mut pings = Pings::default();
    let mut ping = tokio::time::interval(jittered(Duration::from_secs(PING_SECONDS) * 9 / 10));
    let mut merging: Option<Instant> = None;
    loop {
        let falls_at = drone.falls_at().unwrap_or_else(Instant::now);
        let timer = [merging, drone.next_linger()].into_iter().flatten().min();
        let woken = tokio::select! {
            message = socket.next() => Woken::Message(message),
            () = drone.notices.wake.notified() => Woken::News,
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Woken::News,
            _ = ping.tick() => Woken::Ping,
            () = sleep_until(falls_at) => return Err(Broken::Silent),
        };
        // Whatever still lies in the socket of a process that stood still: it may be from before.
        if Instant::now() >= falls_at {
            return Err(Broken::Silent);
        }
        match woken {
            Woken::Message(Some(Ok(Message::Pong(pong)))) => {
                if let Some(sent_at) = pings.answered(&pong) {
                    drone.answered_ping(sent_at);
                }
            }
            Woken::Message(message) => {
                if let Some(message) = read(message)? {
                    handle(drone, message);
                }
            }
            Woken::News => {}
            Woken::Ping => {
                if drone.sweep(UNUSED_MAX) {
                    return Ok(Unused);
                }
                let ping = pings.next(Instant::now());
                bounded(async { Ok(socket.send(ping).await?) }).await?;
            }
        }
        let now = Instant::now();
        let linger_over = drone.next_linger().is_some_and(|at| at <= now);
        match drone.news() {
            _ if linger_over || merging.is_some_and(|at| at <= now) => {
                merging = None;
                send(&mut socket, &drone.take_news()).await?;
            }
            Some(true) => {
                merging = None;
                send(&mut socket, &drone.take_news()).await?;
            }
            Some(false) => merging = merging.or(Some(now + MERGE)),
            None => merging = None,
        }
    }
}

fn handle(drone: &Arc<Drone>, message: ToProxy) {
    match message {
        ToProxy::Answer { ask, outcome } => drone.answered(ask, outcome),
        ToProxy::Stage { ask, stage } => drone.staged(ask, stage),
        ToProxy::Ending { backend, fencing_token, reason } => {
            drone.ending(&BackendKey { backend, fencing_token }, reason);
        }
        ToProxy::Ended { backend, fencing_token, end } => {
            drone.ended(&BackendKey { backend, fencing_token }, &end);
        }
        ToProxy::Revoked { backend, fencing_token, grants } => {
            drone.revoked(&BackendKey { backend, fencing_token }, &grants);
        }
        ToProxy::Leave { backend, fencing_token } => drone.leave(&BackendKey { backend, fencing_token }),
        ToProxy::Welcome { .. } | ToProxy::Ping => {}
    }
}

/// One message. `None`: nothing for us, or of a kind that a newer drone knows and we do not.
fn read(message: Option<Result<Message, tungstenite::Error>>) -> Result<Option<ToProxy>, Broken> {
    match message {
        None | Some(Ok(Message::Close(_))) => Err(Broken::Closed),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
            Ok(message) => Ok(Some(message)),
            Err(reason) => {
                tracing::debug!(%reason, "a message that is not understood");
                Ok(None)
            }
        },
        Some(Ok(_)) => Ok(None),
    }
}

async fn send(socket: &mut Socket, messages: &[ToDrone]) -> Result<(), Broken> {
    let write = async {
        for message in messages {
            socket.feed(text(message)?).await?;
        }
        Ok(socket.flush().await?)
    };
    bounded(write).await
}

async fn bounded(write: impl Future<Output = Result<(), Broken>>) -> Result<(), Broken> {
    timeout(Duration::from_secs(DEADLINE_SECONDS), write).await.unwrap_or(Err(Broken::Silent))
}

fn text(message: &ToDrone) -> Result<Message, serde_json::Error> {
    Ok(Message::text(serde_json::to_string(message)?))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{BootId, FencingToken, ProxyId};
    use jetway_service::client::Client;
    use jetway_service::lifecycle::Lifecycle;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn a_first_message_that_is_not_everything_says_so_and_is_never_too_large() {
        let identity = Identity {
            proxy: ProxyId::random(),
            name: "p".repeat(255),
            boot_id: BootId(uuid::Uuid::new_v4()),
            netns: "net:[4026531840]".into(),
            bearer: String::new(),
            controllers: Vec::new(),
            client: Client::new(String::new()),
            lifecycle: Lifecycle::new(),
            stop: CancellationToken::new(),
        };
        for (count, expect_more) in [(0, false), (HELLO_USES_MAX, false), (HELLO_USES_MAX + 2, true)] {
            let one = |index: usize| Uses {
                backend: format!("{index:045}").parse().unwrap(),
                fencing_token: FencingToken((1 << 53) - 1),
                uses: u32::MAX,
                connections: u32::MAX,
            };
            let all: Vec<Uses> = (0..count).map(one).collect();
            let messages = introduction(&identity, all.clone());
            let Some((ToDrone::Hello { uses, more, .. }, others)) = messages.split_first() else {
                panic!("no hello");
            };
            assert_eq!(*more, expect_more);
            let named: Vec<Uses> = uses.iter().cloned().chain(others.iter().map(as_uses)).collect();
            assert_eq!(named, all);
            assert!(text(&messages[0]).unwrap().len() <= MESSAGE_BYTES_MAX);
        }
    }

    /// A drone that says something every second. Where it `answers`, it also reads, and so sends
    /// its pongs.
    async fn talkative(listener: &tokio::net::TcpListener, answers: bool) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = second.tick() => {
                    let ping = serde_json::to_string(&ToProxy::Ping).unwrap();
                    socket.send(Message::text(ping)).await.unwrap();
                }
                heard = socket.next(), if answers => assert!(heard.unwrap().is_ok()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_stands_on_what_was_answered_and_not_on_what_arrives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for answers in [false, true] {
            let begun = Instant::now();
            let proxy = async {
                let stream = TcpStream::connect(address).await.unwrap();
                let url = format!("ws://{address}/attach");
                let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
                let drone = Arc::new(Drone::new(jetway_protocol::ids::DroneId::random(), String::new()));
                drone.connected(DialVia::Direct, Instant::now());
                timeout(Duration::from_secs(60), run(socket, &drone)).await
            };
            let ended = tokio::select! {
                () = talkative(&listener, answers) => unreachable!("it talks on"),
                ended = proxy => ended,
            };
            match ended {
                Ok(Err(Broken::Silent)) if !answers => {
                    assert_eq!(
                        begun.elapsed().as_secs(),
                        DEADLINE_SECONDS,
                        "its words were on their way for long"
                    );
                }
                Err(_still_standing) if answers => {}
                _ => panic!("answers: {answers}, after {:?}", begun.elapsed()),
            }
        }
    }

    fn as_uses(message: &ToDrone) -> Uses {
        match message {
            ToDrone::Uses(uses) => uses.clone(),
            other => panic!("{other:?}"),
        }
    }
}
