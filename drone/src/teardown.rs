//! Taking away what nobody needs any more, off everybody's way: containers that have ended, slots and namespaces that were
//! never used. A container goes before the namespace that it joined, and an address is given again only after both.
//!
//! A task each, that repeats until the engine has done it; at an agent's stop they are dropped where they stand, and what is
//! left is found by [`crate::reconcile::leave`] or by the next agent.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::ids::{BackendId, SlotId};
use jetway_service::backoff::Backoff;

use crate::agent::Agent;
use crate::engine::bounded;
use crate::runtime::RuntimeError;
use crate::store::journal::Place;
use crate::store::last_output;

const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What becomes of the address.
enum Then {
    /// Nobody was ever told of it.
    GiveBack,
    /// Proxies may know it: it was released when its session ended, and rests as long as they need.
    Vacate,
}

struct Teardown {
    slot: Option<SlotId>,
    sandbox: Option<SlotId>,
    address: Ipv4Addr,
    then: Then,
    /// Whose last output is kept before the container goes.
    session: Option<BackendId>,
}

/// A container that had no session, and maybe was never made.
pub fn unclaimed(agent: &Arc<Agent>, slot: SlotId, address: Ipv4Addr) {
    let (slot, sandbox, then, session) = (Some(slot), None, Then::GiveBack, None);
    spawn(agent, Teardown { slot, sandbox, address, then, session });
}

pub fn unused_sandbox(agent: &Arc<Agent>, sandbox: SlotId, address: Ipv4Addr) {
    let (slot, sandbox, then, session) = (None, Some(sandbox), Then::GiveBack, None);
    spawn(agent, Teardown { slot, sandbox, address, then, session });
}

/// Where a backend was to run, and did not.
pub fn unused(agent: &Arc<Agent>, place: Place) {
    let Place { slot, address, sandbox } = place;
    let (slot, then, session) = (Some(slot), Then::GiveBack, None);
    spawn(agent, Teardown { slot, sandbox, address, then, session });
}

/// Where a session was: its address has been released. `is_there`: what is left of its container.
/// `session`: where its application was executed, so that there may be output to keep.
pub fn ended(agent: &Arc<Agent>, place: Place, is_there: bool, session: Option<BackendId>) {
    let Place { slot, address, sandbox } = place;
    if !is_there {
        agent.holders.slots.remove(&slot);
    }
    let left = is_there.then_some(slot);
    if left.is_none() && sandbox.is_none() {
        return agent.addresses().vacated(address);
    }
    spawn(agent, Teardown { slot: left, sandbox, address, then: Then::Vacate, session });
}

fn spawn(agent: &Arc<Agent>, teardown: Teardown) {
    let agent = agent.clone();
    let lifecycle = agent.lifecycle.clone();
    lifecycle.spawn_until_stopped(async move { teardown.run(&agent).await });
}

impl Teardown {
    async fn run(self, agent: &Agent) {
        if let Some(slot) = self.slot {
            if let Some(session) = &self.session {
                last_output::keep(&agent.engine, &agent.store.last_outputs, slot, session).await;
            }
            until_done(agent, || agent.engine.runtime.remove(slot)).await;
            agent.holders.slots.remove(&slot);
            agent.warm.forget(slot);
        }
        if let Some(sandbox) = self.sandbox {
            until_done(agent, || agent.engine.runtime.remove_sandbox(sandbox)).await;
            agent.holders.sandboxes.remove(&sandbox);
            agent.warm.forget(sandbox);
        }
        match self.then {
            Then::GiveBack => agent.addresses().give_back(self.address),
            Then::Vacate => agent.addresses().vacated(self.address),
        }
    }
}

async fn until_done<T>(agent: &Agent, call: impl Fn() -> T)
where
    T: Future<Output = Result<(), RuntimeError>>,
{
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        let outcome = {
            let _permit = agent.engine.removals.acquire().await;
            bounded(call()).await
        };
        match outcome {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "what nobody needs cannot be removed yet"),
        }
        backoff.wait().await;
    }
}
