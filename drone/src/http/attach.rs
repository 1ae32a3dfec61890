//! `GET /attach`: one proxy's stream. Messages in, pushes out, and a deadline for silence. What asks and uses mean is
//! the backend's business; this only carries them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::attach::{
    DEADLINE_SECONDS, GRACE_SECONDS, MESSAGE_BYTES_MAX, PING_SECONDS, ToDrone, ToProxy, Uses,
};
use jetway_protocol::drone_api::RefusalCode;
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::status::{End, EndReason};
use jetway_protocol::timeline::{Stage, StageName};
use jetway_service::backoff::jittered;
use jetway_service::server::Place;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::pending::{Pending, Question, ended};
use super::refusal::{No, Serving, no};
use crate::agent::Agent;
use crate::backend::Asking;
use crate::books::streams::Stream;

/// Small: there are many streams, and tungstenite's own default is 128 KiB each.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// A proxy that does not take what is sent for this long is gone.
const SEND_SECONDS_MAX: u64 = DEADLINE_SECONDS;

pub async fn attach(
    Serving(agent): Serving,
    place: Option<Extension<Place>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, No> {
    let upgrade = upgrade.map_err(|error| no(RefusalCode::Invalid, error.body_text()))?;
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _place = place;
        let lifecycle = agent.lifecycle.clone();
        let _shutdown_waits_for_it = lifecycle.spawn_until_stopped(run(agent, socket)).await;
    }))
}

async fn run(agent: Arc<Agent>, mut socket: WebSocket) {
    let Some(ToDrone::Hello { proxy, name, boot_id, netns, uses, more, .. }) = hear(&mut socket).await else {
        return;
    };
    let direct = boot_id == agent.drone.boot_id && netns == agent.drone.netns;
    let welcome = ToProxy::Welcome { protocol: PROTOCOL_VERSION, drone: agent.drone.id, direct };
    let (stream, pushes) = agent.attach(proxy, welcome);
    tracing::info!(%proxy, name, "a proxy attached");
    compare_uses(&agent, &stream, uses, more).await;
    talk(&agent, &mut socket, &stream, pushes).await;

    if agent.detach(&stream) {
        tracing::info!(%proxy, name, "a proxy's stream is lost");
        lost(&agent, &stream).await;
    }
}

/// What a proxy has open counts for a grace: its next stream may say it again.
pub(super) async fn lost(agent: &Agent, stream: &Arc<Stream>) {
    let closed_at = Instant::now() + Duration::from_secs(GRACE_SECONDS);
    for backend in agent.all_backends() {
        backend.stream_lost(stream, closed_at).await;
    }
}

/// The proxy says everything that it has open: what it does not name is closed, or is named soon where more follows.
async fn compare_uses(agent: &Arc<Agent>, stream: &Arc<Stream>, uses: Vec<Uses>, more: bool) {
    let named: HashMap<_, _> = uses.iter().map(|one| ((&one.backend, one.fencing_token), one)).collect();
    let closed_at = Instant::now() + Duration::from_secs(GRACE_SECONDS);
    for backend in agent.all_backends() {
        match named.get(&(&backend.id, backend.fencing_token)) {
            Some(one) => {
                let _its_end_is_pushed = backend.uses(stream, one.uses, one.connections).await;
            }
            None if more => backend.stream_lost(stream, closed_at).await,
            None => {
                let _its_end_is_pushed = backend.uses(stream, 0, 0).await;
            }
        }
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
    let mut pending = Pending::new(agent);
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
                            handle(agent, stream, &mut pending, message).await;
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
            () = pending.is_due() => {
                pending.settle().await;
                true
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

async fn handle(agent: &Arc<Agent>, stream: &Arc<Stream>, pending: &mut Pending, message: ToDrone) {
    match message {
        ToDrone::Ask { ask, backend, fencing_token, grant } => {
            let asking = Asking { stream: stream.clone(), ask, grant };
            pending.put(Question { backend, fencing_token, asking, is_followed: false }).await;
        }
        ToDrone::Forget { ask, backend } => {
            if pending.forget(ask) {
                return;
            }
            let asked = match backend {
                Some(id) => agent.backend(&id).into_iter().collect(),
                // A proxy of an older version does not say which.
                None => agent.all_backends(),
            };
            for backend in asked {
                backend.forget(stream, ask).await;
            }
        }
        ToDrone::Follow { ask, backend } => {
            if pending.follow(ask) {
                return;
            }
            if let Some(backend) = agent.backend(&backend) {
                backend.follow_ask(stream, ask).await;
            }
        }
        ToDrone::Uses(uses) => {
            match agent.backend(&uses.backend).filter(|one| one.fencing_token == uses.fencing_token) {
                Some(backend) => {
                    let _its_end_is_pushed = backend.uses(stream, uses.uses, uses.connections).await;
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
