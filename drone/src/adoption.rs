//! An agent's start: everything that the one before it had gets a task again, before anybody is served. Each task then
//! asks its own init and engine; containers that nobody's journal knows are the reconciler's.

use std::sync::Arc;

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::state::BackendState;
use jetway_protocol::time::UnixMicros;

use crate::agent::Agent;
use crate::backend::begin;
use crate::store::journal::{Remembered, Tombstone};

/// How many backends were taken over.
pub fn adopt_all(agent: &Arc<Agent>) -> std::io::Result<usize> {
    let mut adopted = 0;
    for (remembered, journal) in agent.store.journals.load()? {
        if let BackendState::Terminated { end } = &remembered.state {
            let end = end.clone();
            report_end_again(agent, &remembered, end)?;
            continue;
        }
        begin::adopt(agent, remembered, journal);
        adopted += 1;
    }
    Ok(adopted)
}

/// It ended, and no controller is known to have heard of it.
fn report_end_again(
    agent: &Agent,
    remembered: &Remembered,
    end: jetway_protocol::status::End,
) -> std::io::Result<()> {
    let fencing_token = remembered.put.fencing_token;
    if agent.tombstones().get(&remembered.id).is_none() {
        let (id, at) = (remembered.id.clone(), UnixMicros::now());
        agent.tombstones().set(Tombstone { id, fencing_token: Some(fencing_token), end, at })?;
    }
    for entry in remembered.unacknowledged() {
        agent.reports.outbox.push(BackendEvent {
            backend: remembered.id.clone(),
            fencing_token,
            entry: entry.clone(),
            timeline: remembered.timeline.clone(),
        });
    }
    Ok(())
}
