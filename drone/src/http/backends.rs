//! What controllers tell a drone to do with backends. Each command may be repeated; each carries
//! the term, except from controllers before the lease.

use std::path::{Component, Path};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use jetway_protocol::drone_api::{
    AddGrant, AddGrants, BackendView, DeleteBackend, DeleteReply, Draining, GrantAnswer, GrantReply, GrantTo,
    GrantsReply, Inventory, InventoryEntry, PutBackend, RefusalCode, Revoke, RevokeReply, Stop,
};
use jetway_protocol::ids::BackendId;
use jetway_protocol::lease::{Denial, Objection, denial};
use jetway_protocol::spec::Executable;
use jetway_protocol::status::{EndReason, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use tokio::time::timeout;

use super::gate::Gate;
use super::refusal::{
    Body, Id, No, Serving, check_fencing, check_term, check_term_if_said, ended, live, no, not_live,
};
use crate::agent::Agent;
use crate::backend::{Backend, NotAdded, begin};
use crate::lease;
use crate::store::journal::Tombstone;
use crate::warm::take;

const GRANTS_TOGETHER_MAX: usize = 64;
/// Less than a controller waits for the answer.
const GRANT_WAIT_MAX: Duration = Duration::from_millis(200);
/// From the word to its clients to the signal to the application: for a close frame to go out.
const TOLD_BEFORE: Duration = Duration::from_millis(300);
const NO_LEASE: &str =
    "the drone has no lease now, and takes no key: try again once a controller has heard of it";

/// The same while there is no agent yet: it is put off, or refused for good where that is wanted.
pub async fn put_or_decline(
    State(gate): State<Gate>,
    Id(id): Id,
    body: Result<Body<PutBackend>, No>,
) -> Result<Json<BackendView>, No> {
    let starting = match Serving::at(&gate) {
        Ok(serving) => return put(serving, Id(id), body).await,
        Err(starting) => starting,
    };
    if body.is_ok_and(|Body(put)| put.or_never) && gate.decline(&id) {
        return Err(starting.or_never());
    }
    match Serving::at(&gate) {
        Ok(_it_serves_by_now) => Err(no(RefusalCode::Unavailable, "the drone has just started")),
        Err(starting) => Err(starting),
    }
}

pub async fn put(
    Serving(agent): Serving,
    Id(id): Id,
    put: Result<Body<PutBackend>, No>,
) -> Result<Json<BackendView>, No> {
    let or_never = put.as_ref().is_ok_and(|Body(put)| put.or_never);
    let taken = put.and_then(|Body(put)| take(&agent, &id, put));
    let backend = taken.map_err(|reason| not_taken(&agent, &id, or_never, reason))?;
    backend.view(None).await.map(Json).map_err(ended(&agent, &backend.id))
}

fn take(agent: &Arc<Agent>, id: &BackendId, mut put: PutBackend) -> Result<Arc<Backend>, No> {
    check_term(agent, put.term)?;
    if let Some(backend) = agent.backend(id) {
        check_fencing(&backend, put.fencing_token)?;
        return Ok(backend);
    }
    check_offered(agent, &put.spec.executable)?;
    if !put.timeline.iter().any(|stage| stage.stage == StageName::Dispatched) {
        let (stage, start) = (StageName::Dispatched, UnixMicros::now());
        put.timeline.push(Stage { stage, start, length_us: 0, note: String::new() });
    }
    admit(agent, id.clone(), put)
}

/// What is said of a `PUT` that was not taken. A backend that is refused for good may be here all the
/// same: a copy of its `PUT` was quicker, and the drone has registered since, say. Where a tombstone
/// cannot be written, nothing final is said.
fn not_taken(agent: &Agent, id: &BackendId, or_never: bool, reason: No) -> No {
    let is_final = reason.is_final();
    if !(is_final || or_never && reason.is_put_off()) {
        return reason;
    }
    let _one_at_a_time = agent.admitting();
    let word = denial(Objection {
        is_final,
        or_never,
        lives: agent.backend(id).is_some() || agent.strays.sessions.contains_key(id),
        is_buried: agent.tombstones().get(id).is_some(),
    });
    match word {
        Denial::PutOff => {
            no(RefusalCode::Unavailable, format!("{id} is here, and this PUT is not for it as it is"))
        }
        Denial::Refuse => reason.or_never(),
        Denial::BuryAndRefuse => match set_never_ran(agent, id, EndReason::Refused, "the drone refused it") {
            Ok(()) => reason.or_never(),
            Err(unwritten) => unwritten,
        },
    }
}

/// From the check to the journal nothing is awaited, so a caller that hangs up leaves either all or nothing.
fn admit(agent: &Arc<Agent>, id: BackendId, put: PutBackend) -> Result<Arc<Backend>, No> {
    let _one_at_a_time = agent.admitting();
    if let Some(backend) = agent.backend(&id) {
        check_fencing(&backend, put.fencing_token)?;
        return Ok(backend);
    }
    if agent.tombstones().get(&id).is_some() {
        return Err(not_live(agent, &id));
    }
    if agent.membership.is_draining() {
        return Err(no(RefusalCode::Draining, "the drone is draining"));
    }
    if !agent.engine.ok.load(Ordering::Relaxed) {
        return Err(no(RefusalCode::NoCapacity, "the drone's engine does not answer"));
    }
    let tenure = match lease::is_for(&put) {
        true => Some(agent.lease.take().ok_or_else(|| no(RefusalCode::Unavailable, NO_LEASE))?),
        false => None,
    };
    let reservation = take::make_room(agent, &put.spec.executable);
    let reservation = reservation.map_err(|error| no(RefusalCode::NoCapacity, error.to_string()))?;
    begin::put(agent, id, put, reservation, tenure).map_err(|error| {
        tracing::error!(%error, "a journal cannot be begun");
        no(RefusalCode::Unavailable, format!("the journal cannot be written: {error}"))
    })
}

/// What this drone does not do for anybody is refused before anything is made.
fn check_offered(agent: &Agent, executable: &Executable) -> Result<(), No> {
    if let Some(mount) = &executable.mount {
        if !agent.drone.capacity.mounts {
            return Err(no(RefusalCode::NotOffered, "this drone offers no mounts: it has no --mount-base"));
        }
        let is_below = |component| matches!(component, Component::Normal(_));
        if mount.is_empty() || !Path::new(mount).components().all(is_below) {
            return Err(no(RefusalCode::NotOffered, "a mount must be a relative path without .."));
        }
    }
    if executable.resource_limits.disk_limit_bytes.is_some() && agent.drone.capacity.no_disk_limit {
        return Err(no(
            RefusalCode::NotOffered,
            "this drone cannot limit a session's disk: its engine's storage does not",
        ));
    }
    if let Some(network) = &executable.network_name
        && !agent.drone.capacity.networks.contains(network)
    {
        return Err(no(
            RefusalCode::NotOffered,
            format!("this drone does not allow the network {network:?}"),
        ));
    }
    Ok(())
}

pub async fn list(Serving(agent): Serving) -> Result<Json<Inventory>, No> {
    let term = agent.membership.term();
    let term = term.ok_or_else(|| no(RefusalCode::Unavailable, "the drone is not registered yet"))?;
    if !agent.strays.looked.load(Ordering::Acquire) {
        return Err(no(RefusalCode::Unavailable, "the drone has not asked every container yet whose it is"));
    }
    let entry = |backend: Arc<Backend>| InventoryEntry {
        id: backend.id.clone(),
        fencing_token: backend.fencing_token,
        key: backend.key.clone(),
        status: backend.status(),
    };
    let backends = agent.all_backends().into_iter().map(entry).collect();
    Ok(Json(Inventory { term, backends }))
}

/// A tombstone is set first, so that a `PUT` that comes after it starts nothing.
pub async fn delete(
    Serving(agent): Serving,
    Id(id): Id,
    Body(delete): Body<DeleteBackend>,
) -> Result<Json<DeleteReply>, No> {
    check_term(&agent, delete.term)?;
    let backend = {
        let _one_at_a_time = agent.admitting();
        let backend = agent.backend(&id);
        if backend.is_none() && agent.tombstones().get(&id).is_none() {
            set_never_ran(&agent, &id, EndReason::External, "it was deleted before it was put")?;
        }
        backend
    };
    let Some(backend) = backend else {
        let gone = is_gone(&agent, &id);
        if !gone {
            // With its tombstone set, a session that no journal knows is the reconciler's to remove.
            agent.strays.look_now.notify_one();
        }
        return Ok(Json(DeleteReply { gone }));
    };
    let stopped = backend.stop(TerminationKind::Hard, EndReason::External).await;
    // Without a tombstone its task is gone because the agent stops, and its process goes on.
    let gone = stopped.is_err() && agent.tombstones().get(&id).is_some();
    Ok(Json(DeleteReply { gone }))
}

/// For an id without backend: whether it ended here, or surely runs in no container that no journal knows.
fn is_gone(agent: &Agent, id: &BackendId) -> bool {
    let ended_here = agent.tombstones().get(id).is_some_and(|tombstone| tombstone.fencing_token.is_some());
    (ended_here || agent.strays.looked.load(Ordering::Acquire)) && !agent.strays.sessions.contains_key(id)
}

/// A tombstone for what no container was made for.
fn set_never_ran(agent: &Agent, id: &BackendId, reason: EndReason, message: &str) -> Result<(), No> {
    let set = agent.tombstones().set(Tombstone::of_what_never_ran(id, reason, message));
    set.map_err(|error| no(RefusalCode::Unavailable, format!("a tombstone cannot be written: {error}")))
}

pub async fn add_grant(
    Serving(agent): Serving,
    Id(id): Id,
    Body(add): Body<AddGrant>,
) -> Result<Json<GrantReply>, No> {
    check_term(&agent, add.term)?;
    grant_to(&agent, GrantTo { backend: id, fencing_token: add.fencing_token, grant: add.grant })
        .await
        .map(Json)
}

/// Each as if it had come alone: none waits for the backend of another.
pub async fn add_grants(
    Serving(agent): Serving,
    Body(add): Body<AddGrants>,
) -> Result<Json<GrantsReply>, No> {
    check_term(&agent, add.term)?;
    if add.grants.len() > GRANTS_TOGETHER_MAX {
        return Err(no(RefusalCode::Invalid, format!("more than {GRANTS_TOGETHER_MAX} grants at once")));
    }
    let each = add.grants.into_iter().map(async |one| {
        let added = timeout(GRANT_WAIT_MAX, grant_to(&agent, one)).await;
        match added.unwrap_or_else(|_| Err(no(RefusalCode::Unavailable, "its backend is busy"))) {
            Ok(reply) => GrantAnswer::Added(reply),
            Err(refusal) => GrantAnswer::Refused(refusal.into()),
        }
    });
    Ok(Json(GrantsReply { answers: join_all(each).await }))
}

async fn grant_to(agent: &Agent, one: GrantTo) -> Result<GrantReply, No> {
    let backend = live(agent, &one.backend)?;
    check_fencing(&backend, one.fencing_token)?;
    let added = backend.add_grant(one.grant).await.map_err(ended(agent, &one.backend))?;
    let status = added.map_err(|NotAdded::Journal(reason)| {
        no(RefusalCode::Unavailable, format!("the grant cannot be written to the journal: {reason}"))
    })?;
    let holds = |tenure| agent.lease.terms().is_some() && agent.lease.admits(tenure);
    let holds_key = !status.is_ending() && backend.tenure.is_some_and(holds);
    Ok(GrantReply { status, holds_key, hint: backend.hint() })
}

pub async fn revoke(
    Serving(agent): Serving,
    Id(id): Id,
    Body(revoke): Body<Revoke>,
) -> Result<Json<RevokeReply>, No> {
    check_term_if_said(&agent, revoke.term)?;
    let revoked = live(&agent, &id)?.revoke(revoke.user).await.map_err(ended(&agent, &id))?;
    Ok(Json(RevokeReply { revoked }))
}

pub async fn stop(
    Serving(agent): Serving,
    Id(id): Id,
    Body(stop): Body<Stop>,
) -> Result<Json<BackendView>, No> {
    check_term_if_said(&agent, stop.term)?;
    let backend = live(&agent, &id)?;
    if stop.leave && !backend.status().is_ending() {
        agent.tell_to_leave(&backend);
        tokio::time::sleep(TOLD_BEFORE).await;
    }
    backend.stop(stop.kind, stop.reason).await.map(Json).map_err(ended(&agent, &id))
}

pub async fn draining(Serving(agent): Serving, Body(draining): Body<Draining>) -> Result<Json<()>, No> {
    check_term_if_said(&agent, draining.term)?;
    agent.membership.order_draining(draining.draining);
    Ok(Json(()))
}
