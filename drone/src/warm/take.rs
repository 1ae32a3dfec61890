//! Giving what is ready to a session: the fastest thing that serves it, once. Everything is decided under one lock, and what
//! was given is its backend's before it is not this module's any more.

use std::sync::Arc;

use jetway_protocol::ids::BackendId;
use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, NotAhead, SlotTier, Tier};
use tokio::time::Instant;

use super::slot::ReadySlot;
use super::{Inner, Sandbox};
use crate::agent::Agent;
use crate::books::admission::{NoRoom, Reservation};
use crate::teardown;

/// A slot for a session.
pub struct Taken {
    pub tier: Tier,
    pub slot: ReadySlot,
    /// Why it was not a faster one, where there could have been one.
    pub why: String,
}

/// A session is about to start: what it could use is noted, and what it needs goes before what is only kept ready.
pub fn asked(agent: &Agent, executable: &Executable) {
    let mut inner = agent.warm.inner();
    inner.last_start = Some(Instant::now());
    for kind in
        [SlotTier::Hot, SlotTier::Parked].into_iter().filter_map(|tier| Kind::of(tier, executable).ok())
    {
        inner.book.asked(&kind);
    }
}

/// The fastest slot that is ready for it; else why there is none.
pub fn take_slot(agent: &Arc<Agent>, id: &BackendId, executable: &Executable) -> Result<Taken, String> {
    let mut dead = Vec::new();
    let mut why = Vec::new();
    let mut inner = agent.warm.inner();
    let mut found = None;
    for tier in [SlotTier::Hot, SlotTier::Parked] {
        let kind = match Kind::of(tier, executable) {
            Ok(kind) => kind,
            Err(NotAhead::NotHot) => continue,
            Err(error) => {
                why = vec![error.to_string()];
                continue;
            }
        };
        found = take_of(agent, &mut inner, &kind, &mut dead);
        if let Some(slot) = &found {
            // Its new owner first: nobody may find it to be nobody's.
            agent.holders.slots.insert(slot.slot, id.clone());
            inner.noted.remove(&slot.slot);
            break;
        }
        why = vec![none_ready(tier).to_owned()];
    }
    drop(inner);
    agent.warm.changed.notify_one();
    dead.into_iter().for_each(|slot| teardown::unclaimed(agent, slot.slot, slot.address));
    let why = why.join("; ");
    match found {
        Some(slot) => {
            let tier = if slot.kind.tier == SlotTier::Hot { Tier::Hot } else { Tier::Parked };
            Ok(Taken { tier, slot, why })
        }
        None => Err(why),
    }
}

fn none_ready(tier: SlotTier) -> &'static str {
    match tier {
        SlotTier::Hot => "no hot slot was ready",
        SlotTier::Parked => "no slot was ready",
    }
}

fn take_of(agent: &Agent, inner: &mut Inner, kind: &Kind, dead: &mut Vec<ReadySlot>) -> Option<ReadySlot> {
    let now = Instant::now();
    loop {
        let known = dead.len();
        let taken = inner.shelf.take(kind, now, dead);
        for slot in &dead[known..] {
            inner.wasted(slot, now);
        }
        let mut slot = taken?;
        // Where nobody knows what the tag means now, it was right a moment ago.
        let present = agent.engine.runtime.image_id(&slot.image_name);
        if present.is_some_and(|id| id != slot.image.id) {
            inner.wasted(&slot, now);
            dead.push(slot);
            continue;
        }
        inner.book.claimed(kind, now - slot.since, now);
        // The session has room of its own.
        slot.reservation = None;
        return Some(slot);
    }
}

/// A namespace to start in, if one is ready.
pub fn take_sandbox(agent: &Agent, id: &BackendId) -> Option<Sandbox> {
    let mut inner = agent.warm.inner();
    let sandbox = inner.sandboxes.pop_front()?;
    agent.holders.sandboxes.insert(sandbox.id, id.clone());
    inner.noted.remove(&sandbox.id);
    drop(inner);
    agent.warm.changed.notify_one();
    Some(sandbox)
}

/// For a session that does not fit beside what is only kept ready: as many unused hot slots go as are in its way, if that
/// makes room at all. One that would serve it stays, and only what was set aside for it goes.
pub fn make_room(agent: &Arc<Agent>, executable: &Executable) -> Result<Reservation, NoRoom> {
    let own = Kind::of(SlotTier::Hot, executable).ok();
    loop {
        let outcome = agent.admission.admit(executable);
        let Err(no_room) = outcome else { return outcome };
        if !agent.admission.would_fit(executable, agent.warm.set_aside()) {
            return Err(no_room);
        }
        let now = Instant::now();
        let mut inner = agent.warm.inner();
        let Some(mut slot) = inner.shelf.pop_set_aside(own.as_ref()) else { return Err(no_room) };
        slot.reservation = None;
        if Some(&slot.kind) == own.as_ref() {
            inner.shelf.put_first(slot);
            continue;
        }
        inner.wasted(&slot, now);
        drop(inner);
        teardown::unclaimed(agent, slot.slot, slot.address);
    }
}
