//! Small tasks that compare what is with what should be: each may run at any time, twice, or after a crash.
//!
//! | task | woken by | does |
//! |---|---|---|
//! | [`follow_hints`] | the engine's events | tells the backend whose container may have changed to look |
//! | [`look_at_everything`] | a slow clock | finds backends without container, and containers and namespaces without backend |
//! | [`ping`] | a clock; an event stream that broke, a call that met nobody | notes whether the engine answers |
//! | [`collect_images`] | a slow clock | has the engine's disk cleared of images that nobody needs |
//!
//! [`leave`] is the last look of an agent that ends.
//!
//! A container without backend is ended only when nothing can prove that somebody owns it: its init holds no session,
//! or is silent for [`INIT_SILENCE_MAX`] while the container runs and is not paused.

pub mod leave;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jetway_protocol::ids::SlotId;
use jetway_protocol::init::SessionState;
use jetway_protocol::slot::{Holder, Stray};
use jetway_service::backoff::jittered;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout};

use crate::agent::Agent;
use crate::engine::bounded;
use crate::runtime::init_line::INIT_SILENCE_MAX;
use crate::runtime::{ContainerStatus, Found, LineEvent, RuntimeError};
use crate::store::last_output;
use crate::warm::keeper;

const FULL_LOOK: Duration = Duration::from_secs(60);
/// Between looks at the disk.
const COLLECT: Duration = Duration::from_secs(60);
const PING: Duration = Duration::from_secs(5);
/// Where it does not answer: nothing is taken until it does.
const PING_DOWN: Duration = Duration::from_millis(500);
const PING_SECONDS_MAX: u64 = 3;
/// Containers and namespaces without backend that are dealt with at once.
const JUDGED_AT_ONCE: usize = 8;

pub async fn follow_hints(agent: Arc<Agent>) {
    let mut hints = agent.engine.runtime.hints();
    loop {
        match hints.recv().await {
            Ok(slot) => {
                // First what is kept ready: what leaves there is a backend's already.
                if agent.warm.has(slot) {
                    keeper::suspect(&agent, slot);
                }
                let owner = agent.holders.slots.get(&slot).map(|owner| owner.clone());
                if let Some(backend) = owner.and_then(|id| agent.backend(&id)) {
                    backend.look();
                }
            }
            Err(RecvError::Lagged(_)) => {
                agent.all_backends().iter().for_each(|backend| backend.look());
                agent.strays.look_now.notify_one();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

pub async fn look_at_everything(agent: Arc<Agent>) {
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = agent.strays.look_now.notified() => {}
        }
        wait = jittered(FULL_LOOK);
        look_once(&agent).await;
    }
}

pub async fn look_once(agent: &Arc<Agent>) {
    match timeout(FULL_LOOK, list(agent)).await {
        Ok(Ok(listed)) => compare(agent, listed).await,
        Ok(Err(error)) => tracing::warn!(%error, "containers cannot be listed"),
        Err(_) => tracing::warn!("the engine does not list its containers"),
    }
}

/// Slots are noted before their containers are made, so what was listed and is not noted is nobody's.
struct Listed {
    asked: Instant,
    sandboxes: Vec<Found>,
    containers: Vec<Found>,
}

/// Namespaces first: a container that has joined one by then is listed, too.
async fn list(agent: &Agent) -> Result<Listed, RuntimeError> {
    let asked = Instant::now();
    let sandboxes = agent.engine.runtime.list_sandboxes().await?;
    Ok(Listed { asked, sandboxes, containers: agent.engine.runtime.list().await? })
}

pub async fn ping(agent: Arc<Agent>) {
    let mut losses = agent.engine.runtime.losses();
    let mut was_ok = true;
    loop {
        let answer = timeout(Duration::from_secs(PING_SECONDS_MAX), agent.engine.runtime.ping()).await;
        let ok = matches!(answer, Ok(Ok(())));
        agent.engine.ok.store(ok, Ordering::Relaxed);
        if was_ok != ok {
            tracing::warn!(ok, "the engine's health changed");
        }
        was_ok = ok;
        tokio::select! {
            () = tokio::time::sleep(jittered(if ok { PING } else { PING_DOWN })) => {}
            // Not more often than that, whatever its callers meet.
            () = agent.engine.look.notified(), if ok => {}
            Ok(()) = losses.changed() => agent.engine.ok.store(false, Ordering::Relaxed),
        }
    }
}

pub async fn collect_images(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(jittered(COLLECT)).await;
        let mut keep = agent.warm.images();
        keep.extend(agent.all_backends().into_iter().map(|backend| backend.image.clone()));
        keep.sort();
        keep.dedup();
        match agent.engine.runtime.collect_images(&keep).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => {
                tracing::info!(?removed, "the disk is nearly full: removed images that nobody needs")
            }
            Err(error) => tracing::warn!(%error, "images cannot be removed"),
        }
    }
}

async fn compare(agent: &Arc<Agent>, listed: Listed) {
    let Listed { asked, sandboxes, containers: found } = listed;
    let joined: Vec<(SlotId, SlotId)> =
        found.iter().filter_map(|found| Some((found.slot, found.sandbox?))).collect();
    let mut owned: HashMap<SlotId, ContainerStatus> = HashMap::new();
    let mut strays = Vec::new();
    let present: HashSet<SlotId> = found.iter().map(|found| found.slot).collect();
    agent.strays.sessions.retain(|_, slot| present.contains(slot));
    for found in found {
        match Holder::of(|holder| has_slot(agent, holder, found.slot)) {
            Some(Holder::Keeper) => {
                if !matches!(found.status, ContainerStatus::Running { paused: false, .. }) {
                    keeper::suspect(agent, found.slot);
                }
            }
            Some(Holder::Backend) => {
                owned.insert(found.slot, found.status);
            }
            None => {
                mark_taken(agent, &found);
                strays.push(found);
            }
        }
    }
    // The address of a stray that joined a namespace is the namespace's.
    let is_owned = |sandbox| Holder::of(|holder| has_sandbox(agent, holder, sandbox)).is_some();
    sandboxes.iter().filter(|one| !is_owned(one.slot)).for_each(|one| mark_taken(agent, one));
    let slots: Vec<_> =
        agent.holders.slots.iter().map(|entry| (*entry.key(), entry.value().clone())).collect();
    for (slot, id) in slots {
        let runs = matches!(owned.get(&slot), Some(ContainerStatus::Running { .. }));
        if let (false, Some(backend)) = (runs, agent.backend(&id)) {
            backend.look();
        }
    }
    let left = Mutex::new(HashSet::new());
    let judged = stream::iter(strays).for_each_concurrent(JUDGED_AT_ONCE, |stray| {
        let (left, slot) = (&left, stray.slot);
        async move {
            if !judge(agent, stray).await {
                left.lock().insert(slot);
            }
        }
    });
    judged.await;
    agent.strays.looked.store(true, Ordering::Release);
    let left = left.into_inner();
    let needed: HashSet<SlotId> =
        joined.into_iter().filter(|(slot, _)| left.contains(slot)).map(|(_, sandbox)| sandbox).collect();
    keeper::compare_sandboxes(agent, &sandboxes, asked);
    remove_unowned(agent, sandboxes, &needed).await;
}

fn has_slot(agent: &Agent, holder: Holder, slot: SlotId) -> bool {
    match holder {
        Holder::Keeper => agent.warm.has(slot),
        Holder::Backend => agent.holders.slots.contains_key(&slot),
    }
}

fn has_sandbox(agent: &Agent, holder: Holder, sandbox: SlotId) -> bool {
    match holder {
        Holder::Keeper => agent.warm.has(sandbox),
        Holder::Backend => agent.holders.sandboxes.contains_key(&sandbox),
    }
}

/// Proxies of an earlier agent's session may know the address, and what is left alone goes on using
/// it: it is not given in this agent's life.
fn mark_taken(agent: &Agent, found: &Found) {
    if let ContainerStatus::Running { address: Some(IpAddr::V4(address)), .. } = found.status {
        agent.addresses().mark_taken(address);
    }
}

/// Namespaces of an earlier agent, that no session and no container is in.
async fn remove_unowned(agent: &Agent, found: Vec<Found>, needed: &HashSet<SlotId>) {
    let is_owned = |sandbox| Holder::of(|holder| has_sandbox(agent, holder, sandbox)).is_some();
    let unowned = found.into_iter().filter(|one| !is_owned(one.slot) && !needed.contains(&one.slot));
    let removed =
        stream::iter(unowned).for_each_concurrent(JUDGED_AT_ONCE, async |Found { slot: sandbox, .. }| {
            match bounded(agent.engine.runtime.remove_sandbox(sandbox)).await {
                Ok(()) => tracing::info!(%sandbox, "removed a network namespace that belonged to nobody"),
                Err(error) => tracing::warn!(%sandbox, %error, "a network namespace cannot be removed"),
            }
        });
    removed.await;
}

/// Whether it is gone.
async fn judge(agent: &Arc<Agent>, stray: Found) -> bool {
    let slot = stray.slot;
    if let ContainerStatus::Absent = stray.status {
        return true;
    }
    if let ContainerStatus::Running { paused, .. } = stray.status {
        // A paused init cannot say whose it is; its label can.
        let said = if paused { None } else { session_of(agent, slot).await.map(|session| session.backend) };
        let session = said.or(stray.backend.clone().filter(|_| paused));
        let is_deleted = session.as_ref().is_some_and(|id| agent.tombstones().get(id).is_some());
        let has_session = session.is_some();
        // Until it is removed for certain, nobody is told that it has gone.
        let backend = session.or(stray.backend.clone());
        backend.clone().map(|backend| agent.strays.sessions.insert(backend, slot));
        if !(Stray { runs: true, is_paused: paused, has_session, is_deleted }).may_go() {
            tracing::warn!(%slot, paused, ?backend, "a container runs whose session no journal knows; it is left alone");
            return false;
        }
    }
    // A backend may have been given this slot since the list was made.
    if has_slot(agent, Holder::Backend, slot) {
        return false;
    }
    // The agent before this one may have died over it.
    if let Some(session) = stray.backend.filter(|_| matches!(stray.status, ContainerStatus::Exited { .. })) {
        last_output::keep(&agent.engine, &agent.store.last_outputs, slot, &session).await;
    }
    match agent.engine.remove(slot).await {
        Ok(()) => {
            agent.strays.sessions.retain(|_, stray| *stray != slot);
            tracing::info!(%slot, "removed a container that belonged to nobody");
            true
        }
        Err(error) => {
            tracing::warn!(%slot, %error, "a container that belongs to nobody cannot be removed");
            false
        }
    }
}

/// Whose the container is, as its init says.
async fn session_of(agent: &Agent, slot: SlotId) -> Option<SessionState> {
    let mut line = agent.engine.runtime.open_line(slot).await.ok()?;
    let hello = async {
        loop {
            match line.events.recv().await {
                Some(LineEvent::Connected(hello)) => return hello.session,
                Some(LineEvent::Message(_) | LineEvent::Disconnected { .. }) => {}
                None => return None,
            }
        }
    };
    timeout(INIT_SILENCE_MAX, hello).await.ok().flatten()
}
