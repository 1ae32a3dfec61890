//! The WebSocket to one drone: dialled on first need, kept while used, dialled again when it breaks.
//!
//! A broken stream closes nothing: tunnels go on, requests wait, and the next stream's first message says what is
//! open. What a message means is decided in `drone.rs`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::attach::{DEADLINE_SECONDS, MESSAGE_BYTES_MAX, PING_SECONDS, ToDrone, ToProxy, Uses};
use jetway_protocol::controller_api::DroneAddress;
use jetway_service::backoff::{Backoff, jittered};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Identity;
use super::drone::{Door, Drone};
use super::ledger::BackendKey;

/// From the first packet to the drone's `Welcome`.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A stream that stood this long was a good one: the next retry is a quick one again.
const GOOD_AFTER: Duration = Duration::from_secs(5);
/// A controller's answer to where a drone is.
const LOOKUP_MAX: Duration = Duration::from_secs(2);
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
    #[error("it was silent for too long")]
    Silent,
    #[error("this process stood still for too long")]
    StoodStill,
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
            let (socket, direct) = connect(drone, identity, &address).await?;
            tracing::debug!(drone = %drone.id, %address, direct, "attached");
            addresses.works(address.clone());
            drone.connected(if direct { Door::Direct } else { Door::Drone(address.clone()) });
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

/// Where a drone may be: the token's word, and, once that has failed, a controller's.
#[derive(Debug, Default)]
struct Addresses {
    other: Option<String>,
    prefer_other: bool,
    failures: u32,
}

impl Addresses {
    fn next(&self, from_token: String) -> String {
        match &self.other {
            Some(other) if self.prefer_other => other.clone(),
            _ => from_token,
        }
    }

    fn works(&mut self, address: String) {
        self.failures = 0;
        self.prefer_other = self.other.as_ref() == Some(&address);
    }

    fn failed(&mut self, _address: String) {
        self.failures = self.failures.saturating_add(1);
        self.prefer_other = !self.prefer_other;
    }

    fn add(&mut self, found: String) {
        self.other = Some(found);
    }
}

/// A controller is asked at the second failure and every eighth after it: a restarting agent is soon back.
async fn look_up(drone: &Drone, identity: &Identity, addresses: &mut Addresses) -> Option<String> {
    if addresses.failures % 8 != 2 {
        return None;
    }
    for controller in &identity.controllers {
        let url = format!("{}/internal/drones/{}", controller.trim_end_matches('/'), drone.id);
        match identity.client.get::<DroneAddress>(&url, LOOKUP_MAX).await {
            Ok(found) => return Some(found.advertise),
            Err(reason) => tracing::debug!(drone = %drone.id, %reason, "no address from a controller"),
        }
    }
    None
}

async fn connect(drone: &Drone, identity: &Identity, address: &str) -> Result<(Socket, bool), Broken> {
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
        hello(&mut socket, drone, identity).await?;
        let direct = welcome(&mut socket, drone).await?;
        Ok((socket, direct))
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
    let mut heard = Instant::now();
    let mut ping = tokio::time::interval(jittered(Duration::from_secs(PING_SECONDS) * 9 / 10));
    let mut merging: Option<Instant> = None;
    loop {
        let timer = [merging, drone.next_linger()].into_iter().flatten().min();
        let woken = tokio::select! {
            message = socket.next() => Woken::Message(message),
            () = drone.wake.notified() => Woken::News,
            () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => Woken::News,
            _ = ping.tick() => Woken::Ping,
            () = sleep_until(heard + Duration::from_secs(DEADLINE_SECONDS)) => return Err(Broken::Silent),
        };
        if !drone.turns() {
            return Err(Broken::StoodStill);
        }
        match woken {
            Woken::Message(message) => {
                heard = Instant::now();
                if let Some(message) = read(message)? {
                    handle(drone, message);
                }
            }
            Woken::News => {}
            Woken::Ping => {
                if drone.sweep(UNUSED_MAX) {
                    return Ok(Unused);
                }
                send(&mut socket, &[ToDrone::Ping]).await?;
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
        ToProxy::Ended { backend, fencing_token, end } => {
            drone.ended(&BackendKey { backend, fencing_token }, &end);
        }
        ToProxy::Revoked { backend, fencing_token, grants } => {
            drone.revoked(&BackendKey { backend, fencing_token }, &grants);
        }
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

    fn as_uses(message: &ToDrone) -> Uses {
        match message {
            ToDrone::Uses(uses) => uses.clone(),
            other => panic!("{other:?}"),
        }
    }
}
