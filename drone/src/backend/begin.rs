//! How a backend's task begins: with a put, or with a journal that the agent before this one left.

use std::sync::Arc;

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Begin, Handles};
use super::core::Snapshot;
use super::handle::{Backend, COMMANDS_MAX};
use crate::agent::Agent;
use crate::books::admission::Reservation;
use crate::lease::{self, Tenure};
use crate::store::journal::{Journal, Place, Record, Remembered};

/// Begins a backend that fits: the journal has it before this returns. `tenure`: where it is under
/// the lease.
pub fn put(
    agent: &Arc<Agent>,
    id: BackendId,
    put: PutBackend,
    reservation: Reservation,
    tenure: Option<Tenure>,
) -> std::io::Result<Arc<Backend>> {
    let at = UnixMicros::now();
    let entry = StatusEntry { status: Status::Scheduled, at, end: None };
    let mut first = vec![
        Record::Put { id: id.clone(), at, put: Box::new(put.clone()), boot_id: Some(agent.drone.boot_id) },
        Record::Status { entry, state: BackendState::Scheduled },
    ];
    if put.spec.use_static_token {
        first.push(Record::Grant { grant: static_grant(), at });
    }
    first.extend(put.grant.clone().map(|grant| Record::Grant { grant, at }));
    let journal = agent.store.journals.create(&id, &first)?;

    let mut records = first.into_iter();
    let remembered = records.next().and_then(Remembered::first);
    let mut remembered = remembered.ok_or(std::io::ErrorKind::InvalidData)?;
    records.for_each(|record| remembered.apply(record));
    Ok(spawn(agent, remembered, journal, Held { reservation, tenure }, Begin::Anew))
}

fn static_grant() -> Grant {
    Grant {
        id: GrantId::STATIC,
        user: None,
        auth: "{}".to_owned(),
        secret: String::new(),
        allowed_origins: Vec::new(),
    }
}

/// Takes over a backend that the agent before this one had.
pub fn adopt(agent: &Arc<Agent>, remembered: Remembered, journal: Journal) -> Arc<Backend> {
    let reservation = agent.admission.adopt(&remembered.put.spec.executable);
    // Before anybody is served: neither may its address be given away, nor its container be taken
    // for nobody's.
    if let Some(Place { slot, address, sandbox }) = remembered.place {
        agent.holders.slots.insert(slot, remembered.id.clone());
        sandbox.map(|sandbox| agent.holders.sandboxes.insert(sandbox, remembered.id.clone()));
        agent.addresses().mark_taken(address);
    }
    let tenure = lease::is_for(&remembered.put).then_some(Tenure::FOUND);
    let is_of_this_boot = remembered.boot_id.is_none_or(|boot_id| boot_id == agent.drone.boot_id);
    let begin = if is_of_this_boot { Begin::Found } else { Begin::FoundAfterBoot };
    spawn(agent, remembered, journal, Held { reservation, tenure }, begin)
}

/// What a backend has of its agent's.
struct Held {
    reservation: Reservation,
    tenure: Option<Tenure>,
}

fn spawn(
    agent: &Arc<Agent>,
    remembered: Remembered,
    journal: Journal,
    held: Held,
    begin: Begin,
) -> Arc<Backend> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let kill = CancellationToken::new();
    let outward = watch::Sender::new(Snapshot {
        state: remembered.state.clone(),
        history: remembered.history.clone(),
        timeline: remembered.timeline.clone(),
        hint: None,
    });
    let backend = Arc::new(Backend {
        id: remembered.id.clone(),
        fencing_token: remembered.put.fencing_token,
        key: remembered.put.key.clone(),
        image: remembered.put.spec.executable.image.clone(),
        ports: remembered.put.spec.executable.all_ports(),
        tenure: held.tenure,
        commands: sender,
        kill: kill.clone(),
        outward: outward.subscribe(),
    });
    agent.backends.by_id.insert(backend.id.clone(), backend.clone());
    tell_what_is_unacknowledged(agent, &remembered, &backend.snapshot().timeline);
    let handles = Handles { journal, outward, commands, kill, reservation: held.reservation };
    let actor = Actor::new(agent.clone(), remembered, held.tenure, handles);
    agent.backends.arrivals.send_modify(|count| *count += 1);
    // An agent's stop is no end of a session: the task is dropped where it stands, and the next
    // agent adopts.
    agent.lifecycle.spawn_until_stopped(actor.run(begin));
    backend
}

/// Statuses that no controller is known to have go out again.
fn tell_what_is_unacknowledged(agent: &Agent, remembered: &Remembered, timeline: &[Stage]) {
    for entry in remembered.unacknowledged() {
        agent.reports.outbox.push(BackendEvent {
            backend: remembered.id.clone(),
            fencing_token: remembered.put.fencing_token,
            entry: entry.clone(),
            timeline: timeline.to_vec(),
        });
    }
}
