//! `GET /attach`: one proxy's stream. Messages in, pushes out, and a deadline for silence. What asks and uses mean is
//! the backend's business; this only carries them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::attach::{
    DEADLINE_SECONDS, GRACE_SECONDS, MESSAGE_BYTES_MAX, Outcome, PING_SECONDS, ToDrone, ToProxy, Uses,
};
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::status::{End, EndReason};
use jetway_protocol::timeline::{Stage, StageName};
use jetway_service::backoff::jittered;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::refusal::{No, Serving, no};
use crate::agent::Agent;
use crate::backend::Asking;
use crate::streams::Stream;

/// Small: there are many streams, and tungstenite's own default is 128 KiB each.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// A controller may still be delivering the backend that a client already asks for.
const BACKEND_PATIENCE: Duration = Duration::from_secs(2);
/// A proxy that does not take what is sent for this long is gone.
const SEND_SECONDS_MAX: u64 = DEADLINE_SECONDS;
/// Asks of one stream that wait for an unknown backend, at most.
const UNKNOWN_ASKS_MAX: usize = 256;

pub async fn attach(
    Serving(agent): Serving,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, No> {
    let upgrade = upgrade.map_err(|error| no(RefusalCode::Invalid, error.body_text()))?;
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let lifecycle = agent.lifecycle.clone();
        let _shutdown_waits_for_it = lifecycle.spawn_until_stopped(run(agent, socket)).await;
    }))
}

async fn run(agent: Arc<Agent>, mut socket: WebSocket) {
    let Some(ToDrone::Hello { proxy, name, boot_id, netns, uses, .. }) = hear(&mut socket).await else {
        return;
    };
    let (stream, pushes) = agent.streams.open(proxy);
    tracing::info!(%proxy, name, "a proxy attached");
    let direct = boot_id == agent.boot_id && netns == agent.netns;
    stream.push(ToProxy::Welcome { protocol: PROTOCOL_VERSION, drone: agent.id, direct });
    let unseen = agent.addresses().stream_back(proxy);
    for ended in unseen {
        let (backend, fencing_token, end) = (ended.backend, ended.fencing_token, ended.end);
        stream.push(ToProxy::Ended { backend, fencing_token, end });
    }
    compare_uses(&agent, &stream, uses).await;
    talk(&agent, &mut socket, &stream, pushes).await;

    if agent.streams.remove(&stream) {
        tracing::info!(%proxy, name, "a proxy's stream is lost");
        agent.addresses().stream_lost(proxy, Instant::now());
        let closed_at = Instant::now() + Duration::from_secs(GRACE_SECONDS);
        for backend in agent.all_backends() {
            backend.stream_lost(proxy, closed_at).await;
        }
    }
}

/// The proxy says everything that it has open: what it does not name is closed.
async fn compare_uses(agent: &Arc<Agent>, stream: &Stream, uses: Vec<Uses>) {
    for backend in agent.all_backends() {
        let named =
            uses.iter().find(|one| one.backend == backend.id && one.fencing_token == backend.fencing_token);
        let (count, connections) = named.map_or((0, 0), |one| (one.uses, one.connections));
        let _its_end_is_pushed = backend.uses(stream.proxy, count, connections).await;
    }
    for one in uses {
        if agent.backend(&one.backend).is_none_or(|backend| backend.fencing_token != one.fencing_token) {
            tell_ended(agent, stream, one.backend, one.fencing_token);
        }
    }
}

async fn talk(
    agent: &Arc<Agent>,
    socket: &mut WebSocket,
    stream: &Arc<Stream>,
    mut pushes: mpsc::Receiver<ToProxy>,
) {
    let unknown_asks = Arc::new(tokio::sync::Semaphore::new(UNKNOWN_ASKS_MAX));
    let mut ping = tokio::time::interval(jittered(Duration::from_secs(PING_SECONDS).mul_f64(0.9)));
    let mut heard = Instant::now();
    loop {
        let deadline = heard + Duration::from_secs(DEADLINE_SECONDS);
        let sent = tokio::select! {
            message = socket.recv() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Text(text))) => match serde_json::from_str(text.as_str()) {
                        Ok(message) => {
                            handle(agent, stream, &unknown_asks, message).await;
                            true
                        }
                        Err(error) => {
                            tracing::debug!(proxy = %stream.proxy, %error, "a message that this version does not know");
                            true
                        }
                    },
                    Some(Ok(Message::Close(_)) | Err(_)) | None => false,
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => true,
                }
            }
            Some(push) = pushes.recv() => send(socket, &push).await,
            _ = ping.tick() => send(socket, &ToProxy::Ping).await,
            () = tokio::time::sleep_until(deadline) => false,
            () = stream.closed() => false,
        };
        if !sent {
            return;
        }
    }
}

async fn handle(
    agent: &Arc<Agent>,
    stream: &Arc<Stream>,
    unknown_asks: &Arc<tokio::sync::Semaphore>,
    message: ToDrone,
) {
    match message {
        ToDrone::Ask { ask, backend, fencing_token, grant } => {
            let asking = Asking { stream: stream.clone(), ask, grant };
            if agent.backend(&backend).is_some() || agent.tombstones().get(&backend).is_some() {
                return put_question(agent, &backend, fencing_token, asking).await;
            }
            let Ok(permit) = unknown_asks.clone().try_acquire_owned() else {
                stream.push(ToProxy::Answer { ask, outcome: Outcome::Unknown });
                return;
            };
            let waiting_agent = agent.clone();
            agent.lifecycle.spawn_until_stopped(async move {
                waiting_agent.awaited_backend(&backend, BACKEND_PATIENCE).await;
                put_question(&waiting_agent, &backend, fencing_token, asking).await;
                drop(permit);
            });
        }
        ToDrone::Forget { ask } => {
            for backend in agent.all_backends() {
                backend.forget(stream.proxy, ask).await;
            }
        }
        ToDrone::Uses(uses) => {
            match agent.backend(&uses.backend).filter(|one| one.fencing_token == uses.fencing_token) {
                Some(backend) => {
                    let _its_end_is_pushed = backend.uses(stream.proxy, uses.uses, uses.connections).await;
                }
                None if uses.uses > 0 => tell_ended(agent, stream, uses.backend, uses.fencing_token),
                None => {}
            }
        }
        ToDrone::EndedSeen { backend, fencing_token } => {
            agent.addresses().end_seen(stream.proxy, &backend, fencing_token);
        }
        ToDrone::FirstByte { backend, fencing_token, start, length_us } => {
            if let Some(backend) = agent.backend(&backend).filter(|one| one.fencing_token == fencing_token) {
                let stage = StageName::FirstByte;
                backend.first_byte(Stage { stage, start, length_us, note: String::new() }).await;
            }
        }
        ToDrone::Hello { .. } | ToDrone::Ping => {}
    }
}

/// To the live backend; a dead one's tombstone answers for it.
async fn put_question(agent: &Agent, id: &BackendId, fencing_token: FencingToken, asking: Asking) {
    let (stream, ask) = (asking.stream.clone(), asking.ask);
    if let Some(backend) = agent.backend(id).filter(|one| one.fencing_token == fencing_token)
        && backend.ask(asking).await.is_ok()
    {
        return;
    }
    let outcome = ended(agent, id, fencing_token).map_or(Outcome::Unknown, |end| Outcome::Ended { end });
    stream.push(ToProxy::Answer { ask, outcome });
}

fn tell_ended(agent: &Agent, stream: &Stream, backend: BackendId, fencing_token: FencingToken) {
    let end = ended(agent, &backend, fencing_token).unwrap_or_else(|| End {
        reason: EndReason::Lost,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: "the drone does not know it".to_owned(),
        output: String::new(),
    });
    stream.push(ToProxy::Ended { backend, fencing_token, end });
}

fn ended(agent: &Agent, id: &BackendId, fencing_token: FencingToken) -> Option<End> {
    let tombstones = agent.tombstones();
    let tombstone = tombstones.get(id)?;
    let same = tombstone.fencing_token.is_none_or(|known| known == fencing_token);
    same.then(|| tombstone.end.clone())
}

async fn hear(socket: &mut WebSocket) -> Option<ToDrone> {
    match timeout(Duration::from_secs(DEADLINE_SECONDS), socket.recv()).await {
        Ok(Some(Ok(Message::Text(text)))) => serde_json::from_str(text.as_str()).ok(),
        _ => None,
    }
}

async fn send(socket: &mut WebSocket, message: &ToProxy) -> bool {
    let Ok(text) = serde_json::to_string(message) else { return false };
    let sent = timeout(Duration::from_secs(SEND_SECONDS_MAX), socket.send(Message::Text(text.into()))).await;
    matches!(sent, Ok(Ok(())))
}
