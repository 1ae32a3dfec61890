//! Making one slot or one namespace, through the same engine calls as a session's start. What cannot be made leaves nothing.
//!
//! A task of its own each, which a stop waits for a moment: an engine goes on with what it was asked, whether anybody listens or
//! not, and what it makes must be found.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::ids::SlotId;
use jetway_protocol::init::{Ahead, FromInit, Hello, ToInit};
use jetway_protocol::warm::{Kind, SlotTier};
use tokio::time::{Instant, timeout};

use super::allot::Target;
use super::slot::{Parts, ReadySlot};
use super::{Make, Noted, Sandbox};
use crate::agent::Agent;
use crate::backend::ready;
use crate::books::admission::Reservation;
use crate::engine::{PULL_SECONDS_MAX, bounded};
use crate::runtime::{CreateRequest, Image, InitLine, LineEvent};
use crate::teardown;

/// For the first hello of init, once its container runs.
const FIRST_HELLO_MAX: Duration = Duration::from_secs(10);
/// What is under way when the agent stops may take so long.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
const STOPPING: &str = "the drone is stopping";

pub fn spawn(agent: &Arc<Agent>, what: Make) {
    let agent = agent.clone();
    let lifecycle = agent.lifecycle.clone();
    lifecycle.clone().spawn(async move {
        let mut making = pin!(make(&agent, what));
        tokio::select! {
            () = &mut making => return,
            () = lifecycle.stopping() => {}
        }
        let _what_is_not_done_the_next_agent_finds = timeout(STOP_PATIENCE, making).await;
    });
}

async fn make(agent: &Arc<Agent>, what: Make) {
    let (kind, started) = (what.kind(), Instant::now());
    let images = *agent.engine.runtime.image_changes().borrow();
    let made = match what {
        Make::Slot(target) => make_slot(agent, &target).await.map(Made::Slot),
        Make::Sandbox => make_sandbox(agent).await.map(Made::Sandbox),
    };
    let images_changed = *agent.engine.runtime.image_changes().borrow() != images;
    let leftover = {
        let (mut inner, now) = (agent.warm.inner(), Instant::now());
        inner.done(&kind);
        inner.images_changed |= images_changed;
        match made {
            Ok(made) if inner.closed => Some(made),
            Ok(made) => {
                inner.retries.remove(&kind);
                if let Some(kind) = &kind {
                    inner.book.made(kind, now - started, now);
                }
                match made {
                    Made::Slot(slot) => inner.shelf.put(slot),
                    Made::Sandbox(sandbox) => inner.sandboxes.push_back(sandbox),
                }
                None
            }
            Err(error) => {
                if !agent.lifecycle.is_stopping() {
                    tracing::warn!(
                        kind = kind.as_ref().map(text),
                        error,
                        "what is to be kept ready cannot be made"
                    );
                }
                inner.failed(kind, &error, now);
                None
            }
        }
    };
    match leftover {
        Some(Made::Slot(slot)) => teardown::unclaimed(agent, slot.slot, slot.address),
        Some(Made::Sandbox(sandbox)) => teardown::unused_sandbox(agent, sandbox.id, sandbox.address),
        None => {}
    }
    agent.warm.changed.notify_one();
    agent.warm.made.notify_waiters();
}

#[expect(clippy::large_enum_variant, reason = "it lives for a few lines")]
enum Made {
    Slot(ReadySlot),
    Sandbox(Sandbox),
}

fn text(kind: &Kind) -> String {
    format!("{:?} {}", kind.tier, kind.hash)
}

async fn make_sandbox(agent: &Arc<Agent>) -> Result<Sandbox, String> {
    let address = agent.take_address().map_err(|error| error.to_string())?;
    let id = SlotId::random();
    agent.warm.note(id, Noted::Sandbox);
    match bounded(agent.engine.runtime.make_sandbox(id, address)).await {
        Ok(()) => Ok(Sandbox { id, address, since: Instant::now() }),
        Err(error) => {
            teardown::unused_sandbox(agent, id, address);
            Err(error.to_string())
        }
    }
}

async fn make_slot(agent: &Arc<Agent>, target: &Target) -> Result<ReadySlot, String> {
    let image =
        timeout(Duration::from_secs(PULL_SECONDS_MAX), agent.engine.runtime.ensure_image(&target.executable));
    let image = image.await.map_err(|_| "the pull took too long".to_owned())?;
    let image = Image { pulled: None, ..image.map_err(|error| error.to_string())? };
    go_on(agent)?;
    let reservation = match target.kind.tier {
        SlotTier::Parked => None,
        SlotTier::Hot => Some(agent.admission.admit(&target.executable).map_err(|error| error.to_string())?),
    };
    let address = agent.take_address().map_err(|error| error.to_string())?;
    let slot = SlotId::random();
    agent.warm.note(slot, Noted::Slot);
    let request = CreateRequest {
        slot,
        backend: None,
        executable: target.executable.clone(),
        image,
        address,
        sandbox: None,
    };
    match start(agent, target, &request, reservation).await {
        Ok(ready) => Ok(ready),
        Err(error) => {
            teardown::unclaimed(agent, slot, address);
            Err(error)
        }
    }
}

fn go_on(agent: &Agent) -> Result<(), String> {
    let is_over = agent.lifecycle.is_stopping() || agent.warm.inner().closed;
    if is_over { Err(STOPPING.to_owned()) } else { Ok(()) }
}

async fn start(
    agent: &Arc<Agent>,
    target: &Target,
    request: &CreateRequest,
    reservation: Option<Reservation>,
) -> Result<ReadySlot, String> {
    let text = |error: crate::runtime::RuntimeError| error.to_string();
    let CreateRequest { slot, address, image, .. } = request.clone();
    let mut line = bounded(agent.engine.runtime.open_line(slot)).await.map_err(text)?;
    bounded(agent.engine.runtime.create(request)).await.map_err(text)?;
    go_on(agent)?;
    bounded(agent.engine.runtime.start(slot)).await.map_err(text)?;
    let hello = timeout(FIRST_HELLO_MAX, hello(&mut line)).await;
    let hello = hello.map_err(|_| "its init did not come".to_owned())?.ok_or("its line broke")?;
    if target.kind.tier == SlotTier::Hot {
        let patience = Duration::from_secs(target.start_timeout_seconds.into());
        let port = target.executable.port;
        let ready = timeout(patience, heat(target, request, &mut line)).await;
        ready.map_err(|_| {
            let seconds = target.start_timeout_seconds;
            format!("it was not ready on port {port} within {seconds} seconds")
        })??;
    }
    let (kind, image_name) = (target.kind.clone(), target.executable.image.clone());
    let parts = Parts { slot, address, kind, image_name, image, line, hello, reservation };
    Ok(ReadySlot::new(parts, Instant::now()))
}

async fn hello(line: &mut InitLine) -> Option<Hello> {
    loop {
        match line.events.recv().await? {
            LineEvent::Connected(hello) => return Some(hello),
            LineEvent::Message(_) | LineEvent::Disconnected { .. } => {}
        }
    }
}

/// Runs the application, and waits until it listens.
async fn heat(target: &Target, request: &CreateRequest, line: &mut InitLine) -> Result<(), String> {
    let port = target.executable.port;
    let mut env = target.executable.env.clone();
    env.insert("PORT".to_owned(), port.to_string());
    let ahead = Ahead { env, port, addresses: vec![request.address.into()] };
    line.commands.send(ToInit::Ahead(Box::new(ahead))).await.map_err(|_| "its line broke".to_owned())?;
    loop {
        match line.events.recv().await.ok_or("its line broke")? {
            LineEvent::Message(FromInit::AheadReady { .. }) => break,
            LineEvent::Message(FromInit::AheadFailed { message }) => return Err(message),
            LineEvent::Disconnected { .. } => return Err("it ended before it was ready".to_owned()),
            LineEvent::Message(_) | LineEvent::Connected(_) => {}
        }
    }
    if let Some(path) = &target.executable.ready_http_path {
        ready::answers((request.address, port).into(), path).await;
    }
    Ok(())
}
