//! The end of an agent: what was only kept ready goes, whether sessions stay or not, and quickly.
//! What cannot be removed in time the next agent's reconciler finds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jetway_protocol::ids::{BackendId, SlotId};
use tokio::time::timeout;

use crate::agent::Agent;
use crate::engine::bounded;
use crate::reconcile;
use crate::store::last_output;
use crate::warm::Noted;

/// For everything together.
const LEAVE_MAX: Duration = Duration::from_secs(4);
const AT_ONCE: usize = 8;

/// Also removes what ended sessions have left. Sessions that live, and what belongs to them, stay.
pub async fn leave(agent: &Arc<Agent>) {
    let all = async {
        agent.warm.close(&agent.lifecycle).await;
        let leftovers = leftovers(agent);
        stream::iter(leftovers).for_each_concurrent(AT_ONCE, |left| remove(agent, left)).await;
        // What an agent before this one has left, if this one was too short for it.
        reconcile::look_once(agent).await;
    };
    if timeout(LEAVE_MAX, all).await.is_err() {
        tracing::warn!("what was kept ready could not be removed in time; the next start removes it");
    }
}

/// What an ended session or none has: containers first, then what they joined.
fn leftovers(agent: &Agent) -> Vec<(Option<SlotId>, Option<SlotId>)> {
    let ended = |owner: &BackendId| agent.backend(owner).is_none();
    let mut left: Vec<(Option<SlotId>, Option<SlotId>)> = Vec::new();
    for (slot, what) in agent.warm.noted() {
        left.push(match what {
            Noted::Slot => (Some(slot), None),
            Noted::Sandbox => (None, Some(slot)),
        });
    }
    let slots: Vec<_> = agent.holders.slots.iter().map(|one| (*one.key(), one.value().clone())).collect();
    let sandboxes: Vec<_> =
        agent.holders.sandboxes.iter().map(|one| (*one.key(), one.value().clone())).collect();
    let joined = |owner| sandboxes.iter().find(|(_, one)| one == owner).map(|(sandbox, _)| *sandbox);
    for (slot, owner) in slots.iter().filter(|(_, owner)| ended(owner)) {
        left.push((Some(*slot), joined(owner)));
    }
    for (sandbox, owner) in sandboxes.iter().filter(|(_, owner)| ended(owner)) {
        if !slots.iter().any(|(_, one)| one == owner) {
            left.push((None, Some(*sandbox)));
        }
    }
    left
}

async fn remove(agent: &Agent, (slot, sandbox): (Option<SlotId>, Option<SlotId>)) {
    if let Some(slot) = slot {
        let session = agent.holders.slots.get(&slot).map(|session| session.clone());
        if let Some(session) = session {
            last_output::keep(&agent.engine, &agent.store.last_outputs, slot, &session).await;
        }
        match bounded(agent.engine.runtime.remove(slot)).await {
            Ok(()) => {
                agent.holders.slots.remove(&slot);
                agent.warm.forget(slot);
            }
            Err(error) => return tracing::warn!(%slot, %error, "a container is left to the next start"),
        }
    }
    if let Some(sandbox) = sandbox {
        match bounded(agent.engine.runtime.remove_sandbox(sandbox)).await {
            Ok(()) => {
                agent.holders.sandboxes.remove(&sandbox);
                agent.warm.forget(sandbox);
            }
            Err(error) => tracing::warn!(%sandbox, %error, "a network namespace is left to the next start"),
        }
    }
}
