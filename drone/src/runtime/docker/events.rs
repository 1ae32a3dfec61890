//! The engine's event streams, turned into "look now": containers of this drone, and images. A stream makes no calls;
//! only a liveness check goes out every ten seconds, because a half-dead engine leaves a stream open and silent.
//!
//! Events are not a log. Whenever the streams are opened, at the start and after any break, every slot that is known
//! here or listed by the engine gets a hint, and everything learned about images is forgotten: so nothing that was
//! missed meanwhile stays unseen. Not its business: what a slot's owner does with a hint.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::ids::SlotId;
use jetway_service::backoff::{Backoff, jittered};
use serde_json::Value;
use tokio::time::Instant;

use super::answer::text;
use super::shared::Shared;
use super::{container, names};
use crate::runtime::RuntimeError;

const PING_EVERY: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// One event has a container's labels; this is far more than any.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Image events come in bursts: one list for all that came within this time.
const IMAGES_SETTLE: Duration = Duration::from_millis(300);
/// In case an event was lost all the same.
const IMAGES_REFRESH: Duration = Duration::from_secs(600);

/// Follows the streams for ever.
pub async fn follow(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
    loop {
        let opened = Instant::now();
        let error = match follow_once(&shared).await {
            // The engine ends no stream while it is well.
            Ok(()) => {
                shared.losses.send_modify(|count| *count += 1);
                "a stream ended".to_owned()
            }
            Err(error) => {
                if let RuntimeError::Unreachable(_) = error {
                    shared.losses.send_modify(|count| *count += 1);
                }
                error.to_string()
            }
        };
        tracing::warn!(error, "the engine's events are lost; opening them again");
        shared.images.forget();
        if opened.elapsed() > PING_EVERY {
            backoff.reset();
        }
        backoff.wait().await;
    }
}

/// Keeps the list of images fresh for ever.
pub async fn keep_images(shared: Arc<Shared>) {
    loop {
        if let Err(error) = shared.images.refresh().await {
            tracing::debug!(%error, "the images cannot be listed");
        }
        let _either = tokio::time::timeout(jittered(IMAGES_REFRESH), shared.images.changed()).await;
        tokio::time::sleep(IMAGES_SETTLE).await;
    }
}

async fn follow_once(shared: &Shared) -> Result<(), RuntimeError> {
    let config = &shared.config;
    let mut ours = names::filter(config.installation, config.drone, None);
    ours["type"] = serde_json::json!(["container"]);
    ours["event"] = serde_json::json!(["die", "oom", "stop", "kill", "pause", "unpause", "destroy"]);
    let images = serde_json::json!({ "type": ["image"] });
    let mut containers = Lines::of(shared.engine.open("/events", &[("filters", &ours.to_string())]).await?);
    let mut images = Lines::of(shared.engine.open("/events", &[("filters", &images.to_string())]).await?);
    // Only now, with the streams open: what happens after this list is on them.
    hint_all(shared).await?;
    shared.images.forget();
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.tick().await;
    loop {
        tokio::select! {
            line = containers.next() => match line? {
                Some(line) => note(shared, &line),
                None => return Ok(()),
            },
            line = images.next() => match line? {
                Some(_) => shared.images.forget(),
                None => return Ok(()),
            },
            _ = ping.tick() => shared.engine.ping().await?,
        }
    }
}

async fn hint_all(shared: &Shared) -> Result<(), RuntimeError> {
    let mut slots: HashSet<SlotId> = shared.slots.iter().map(|entry| *entry.key()).collect();
    for role in [names::ROLE_SLOT, names::ROLE_SANDBOX] {
        let listed = container::list(&shared.engine, &shared.config, role).await?;
        slots.extend(listed.into_iter().map(|found| found.slot));
    }
    for slot in slots {
        hint(shared, slot);
    }
    shared.sandbox_died.notify_one();
    Ok(())
}

fn note(shared: &Shared, line: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return };
    let slot = text(&event["Actor"]["Attributes"][names::LABEL_SLOT]);
    let Ok(slot) = slot.parse::<SlotId>() else { return };
    let is_sandbox = event["Actor"]["Attributes"][names::LABEL_ROLE].as_str() == Some(names::ROLE_SANDBOX);
    match event["Action"].as_str() {
        Some("die") if is_sandbox && !shared.sandboxes_leaving.contains(&slot) => {
            shared.sandboxes_dead.insert(slot);
            shared.sandbox_died.notify_one();
        }
        Some("destroy") if is_sandbox => drop(shared.sandboxes_dead.remove(&slot)),
        _ if is_sandbox => {}
        // Also of a container that an earlier process made; its record goes with it.
        Some("oom") => shared.slots.entry(slot).or_default().note_oom(),
        Some("destroy") => {
            shared.slots.remove(&slot);
            shared.readable.forget(slot);
        }
        _ => {}
    }
    if event["Action"].as_str().is_some_and(is_worth_a_look) {
        hint(shared, slot);
    }
}

/// A container can run out of memory in a loop and live on. Its death is an event of its own.
fn is_worth_a_look(action: &str) -> bool {
    action != "oom"
}

fn hint(shared: &Shared, slot: SlotId) {
    let _nobody_listens = shared.hints.send(slot);
}

/// Lines of a stream, each bounded.
struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    fn of(response: reqwest::Response) -> Self {
        Self { response, buffer: Vec::new() }
    }

    /// Safe to drop and call again: what was read stays in the buffer.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, RuntimeError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(RuntimeError::Engine("an event is too long".to_owned()));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => return Ok(None),
                Err(error) => return Err(super::answer::broken(&error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_nothing_is_worth_no_look() {
        for action in ["die", "stop", "kill", "pause", "unpause", "destroy"] {
            assert!(is_worth_a_look(action), "{action}");
        }
        assert!(!is_worth_a_look("oom"));
    }
}
